"""The paper's tasks with today's means: any cell of the catalogue, the whole gradient, batches, Adam.

Tasks and criteria are those of the paper's own runs (:mod:`.tasks`, :mod:`.criteria`), unchanged: a
sequence is judged by the outputs that the network had before it learned from its batch. What differs is
how the network learns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.errors import unknown
from gatewise.nn.init import chrono_, orthogonal_
from gatewise.nn.layers import Recurrent
from papers.lstm_1997.criteria import Criterion, OnFreshSequences, wrong_of
from papers.lstm_1997.experiments import EXPERIMENTS, Experiment, checked_most
from papers.lstm_1997.tasks import (
    Sequences,
    SignalAndNoise,
    Task,
    TwoMarked,
    TwoSequences,
)

# Rows of the first experiment, and those that begin closed, differ in network and rate alone, which are
# not used here.
ROWS: Mapping[str, Experiment] = {
    "1": EXPERIMENTS["1-4x1-0.1"],
    **{
        name: row
        for name, row in EXPERIMENTS.items()
        if not name.startswith("1-") and not name.endswith("-closed")
    },
}


@dataclass(frozen=True)
class Setting:
    """How a network learns; one for all tasks.

    Attributes:
        hidden: H, units.
        batch: sequences in a step of learning.
        rate: Adam's.
        clip: the norm to which a step's gradient is cut (Pascanu et al. 2013, "On the Difficulty of
            Training Recurrent Neural Networks", algorithm 1).
    """

    hidden: int = 32
    batch: int = 50
    rate: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class Result:
    """One network's training.

    Attributes:
        solved: whether the paper's criterion was met.
        sequences: how many were learned from before it was, counted as the paper does; where it was
            not, all.
        seconds: all of the run took, its judging too.
        weights: how many numbers were learned.
        wrong, tested, mean_error: of fresh sequences, after success: how many outputs were wrong by the
            paper's bound, and the mean absolute error. None where the paper tests no further.
    """

    experiment: str
    cell: str
    seed: int
    solved: bool
    sequences: int
    seconds: float
    weights: int
    wrong: int | None = None
    tested: int | None = None
    mean_error: float | None = None


class Model(nn.Module):
    """A layer of any cell and outputs that see it: a probability for each symbol or class (softmax), one
    of a class and its contrary (logistic), or a value (linear).

    In experiment 2a, where most steps follow from the input alone, the outputs see it directly, as in
    the paper's own network.
    """

    def __init__(self, task: Task, cell: str, hidden: int) -> None:
        super().__init__()
        self.task = task
        self.layer = Recurrent(cell, task.inputs, hidden)
        self._direct = isinstance(task, TwoSequences) and not task.random
        seen = hidden + task.inputs * self._direct
        self.head = nn.Linear(seen, task.outputs)
        begin_(self.layer, task.longest)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What goes into the outputs' function: of x, T×n×I, n×O for the last step of each sequence, or
        n×T×O where the task judges each step."""
        output, state = self.layer(x, lengths=lengths)
        if not self.task.each_step:
            last = state if isinstance(state, Tensor) else state[0]
            made: Tensor = self.head(last[0])
        else:
            seen = torch.cat([output, x], -1) if self._direct else output
            made = self.head(seen.transpose(0, 1))
        return made

    def net(self, sequences: Sequences) -> Tensor:
        """:meth:`forward` of drawn sequences."""
        x = torch.from_numpy(sequences.inputs(self.task.inputs))
        return self(x, torch.from_numpy(sequences.lengths))

    def activation(self, net: Tensor) -> Tensor:
        """The outputs' function."""
        if isinstance(self.task, TwoMarked):
            return net
        return net.sigmoid() if isinstance(self.task, SignalAndNoise) else net.softmax(-1)

    @torch.no_grad()
    def outputs(self, sequences: Sequences) -> np.ndarray:
        """n×O of the last steps, or n×T×O."""
        parts = [self.activation(self.net(part)) for part in _parts(sequences)]
        found: np.ndarray = torch.cat(parts).numpy()
        return found

    def loss(self, net: Tensor, sequences: Sequences) -> Tensor:
        """The mean loss: squared error of a value, else cross entropy.

        In 2a one step in a hundred says whether the first symbol was kept: its loss has the weight of
        all. In 2b, where the others can't be predicted and aren't judged, it stands alone.
        """
        target = torch.from_numpy(sequences.targets)
        if isinstance(self.task, TwoMarked):
            return F.mse_loss(net, target)
        if isinstance(self.task, SignalAndNoise):
            # 3c's noisy targets leave [0, 1]; the slope, y less the target, is right there too
            return F.binary_cross_entropy_with_logits(net, target)
        if not self.task.each_step:
            return F.cross_entropy(net, target.argmax(-1))
        wanted = target.nan_to_num().argmax(-1)
        wanted[target[..., 0].isnan()] = _BEYOND
        whole = F.cross_entropy(net.flatten(0, 1), wanted.flatten(), ignore_index=_BEYOND)
        if not isinstance(self.task, TwoSequences):
            return whole
        end = F.cross_entropy(net[:, -1], wanted[:, -1])
        return end if self.task.random else whole + end


_BEYOND = -100
_AT_ONCE = 128  # sequences whose outputs are computed together


def _parts(sequences: Sequences) -> list[Sequences]:
    """The same, few at a time: a thousand steps of a thousand symbols are large."""

    def cut(of: np.ndarray | None, k: int) -> np.ndarray | None:
        return None if of is None else of[k : k + _AT_ONCE]

    return [
        Sequences(
            sequences.lengths[k : k + _AT_ONCE],
            sequences.targets[k : k + _AT_ONCE],
            cut(sequences.symbols, k),
            cut(sequences.values, k),
        )
        for k in range(0, len(sequences), _AT_ONCE)
    ]


_NO_FORGET_GATE = ("lstm_1997", "lstm_1997_truncated", "nfg")


def begin_(layer: Recurrent, longest: int) -> None:
    """How the weights begin: a simple network's recurrent ones orthogonal, with which a gradient goes
    back furthest; of others the gates, so that memories of up to ``longest`` steps are there
    (:func:`gatewise.nn.init.chrono_`), in cells without a forget gate the input gate alone."""
    if layer.cell.name.startswith("rnn"):
        orthogonal_(layer)
    elif layer.cell.name in _NO_FORGET_GATE:
        # the bias of chrono_: what is let in at each step is little beside what stands
        rows = slice(0, layer.hidden_size)
        with torch.no_grad():
            layer.bias_ih_l0[rows] = -torch.empty(layer.hidden_size).uniform_(1, longest - 1).log()
            layer.bias_hh_l0[rows] = 0
    else:
        chrono_(layer, longest)


def run(
    experiment: str,
    cell: str = "lstm",
    seed: int = 0,
    most: int | None = None,
    setting: Setting | None = None,
) -> Result:
    """Trains one network until the paper's criterion is met, or for ``most`` sequences.

    Args:
        experiment: a row of :data:`ROWS`: "1", "2a", "2c-100-100", "4-100", ….
        cell: a cell of the catalogue, by name.
        most: as in the paper's own runs if not given.

    Raises:
        OptionError: there is no such experiment or cell, or ``most`` is less than 1.
    """
    return train(experiment, cell, seed, most, setting)[1]


def train(
    experiment: str,
    cell: str = "lstm",
    seed: int = 0,
    most: int | None = None,
    setting: Setting | None = None,
) -> tuple[Model, Result]:
    """:func:`run`, with the network that came of it."""
    row, setting = _row(experiment), setting or Setting()
    most = checked_most(most, row)
    begin = time.perf_counter()
    rng = np.random.default_rng([2026, seed])
    model = untrained(experiment, cell, seed, setting)
    criterion = row.criterion(model.task, rng)
    seen = _learn(model, criterion, rng, most, setting)
    solved = criterion.solved is not None
    tested = _tested(model, row, criterion, rng) if solved else {}
    return model, Result(
        experiment,
        cell,
        seed,
        solved,
        criterion.solved if criterion.solved is not None else seen,
        time.perf_counter() - begin,
        sum(p.numel() for p in model.parameters()),
        **tested,  # type: ignore[arg-type]
    )


def untrained(
    experiment: str, cell: str = "lstm", seed: int = 0, setting: Setting | None = None
) -> Model:
    """The network that :func:`train` begins with. torch's own generator is left as it was."""
    task = _row(experiment).task(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(task, cell, (setting or Setting()).hidden)


def _row(name: str) -> Experiment:
    if name not in ROWS:
        raise unknown("experiment", name, ROWS)
    return ROWS[name]


def _learn(
    model: Model,
    criterion: Criterion,
    rng: np.random.Generator,
    most: int,
    setting: Setting,
) -> int:
    """Steps of learning until the criterion is met; gives the number of sequences seen.

    It ends too where a loss is no longer a number, which nothing learned after it can mend."""
    task, seen = model.task, 0
    optimizer = torch.optim.Adam(model.parameters(), lr=setting.rate)
    while seen < most and criterion.solved is None:
        drawn = task.draw(rng, min(setting.batch, most - seen))
        net = model.net(drawn)
        loss = model.loss(net, drawn)
        if not math.isfinite(loss.item()):
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
        optimizer.step()
        outputs = model.activation(net.detach()).numpy()
        for k, (output, target) in enumerate(zip(outputs, drawn.targets, strict=True)):
            steps = drawn.lengths[k] if task.each_step else None
            seen += 1
            if criterion.see(seen, output[:steps], target[:steps], model.outputs):
                break
    return seen


def _tested(
    model: Model, row: Experiment, criterion: Criterion, rng: np.random.Generator
) -> Mapping[str, float]:
    """The solved task's errors on fresh sequences, where the paper has a bound for them."""
    if row.within is None:
        return {}
    task = criterion.task if isinstance(criterion, OnFreshSequences) else model.task
    found = wrong_of(task, row.within, model.outputs, rng)
    return {name: found[name] for name in ("wrong", "tested", "mean_error")}
