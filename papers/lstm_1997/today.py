"""The paper's tasks with today's training: any cell of the catalogue, the whole gradient, batches, Adam.

Tasks and criteria are the paper's (:mod:`.tasks`, :mod:`.criteria`). A sequence is judged by the outputs that
the network has before it learns from the sequence's batch.
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
from papers.lstm_1997.criteria import Criterion, OnFreshSequences, errors_on_fresh_sequences
from papers.lstm_1997.experiments import EXPERIMENTS, Experiment, checked_most
from papers.lstm_1997.tasks import (
    Sequences,
    SignalAndNoise,
    Task,
    TwoMarked,
    TwoSequences,
)

# One row of experiment 1, and no rows named "-closed": the others differ only in the network and the learning
# rate, which are not used here.
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
    """The options of training, the same for all tasks.

    Attributes:
        hidden: H, the number of units.
        batch: the number of sequences per update.
        rate: the learning rate of Adam.
        clip: the largest norm of the gradient (Pascanu et al. 2013, "On the Difficulty of Training
            Recurrent Neural Networks", algorithm 1).
    """

    hidden: int = 32
    batch: int = 50
    rate: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class Result:
    """The result of training one network.

    Attributes:
        solved: whether the paper's criterion was met.
        sequences: the number of training sequences until then, counted as in the paper; all of them if the
            criterion was not met.
        seconds: the time of the whole run, including the tests of the criterion.
        weights: the number of learned weights.
        wrong, tested, mean_error: on fresh sequences after success, the number of sequences that are wrong by
            the paper's bound, the number of sequences, and the mean absolute error. None if the paper has no
            such test.
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
    """A recurrent layer of any cell and a linear output layer.

    The outputs are probabilities of symbols or classes (softmax), the probability of one of two classes
    (logistic), or a value (linear). In experiment 2a most targets depend on the input of the same step only, so
    the outputs read the input too, as in the paper's network.
    """

    def __init__(self, task: Task, cell: str, hidden: int) -> None:
        super().__init__()
        self.task = task
        self.layer = Recurrent(cell, task.inputs, hidden)
        self._direct = isinstance(task, TwoSequences) and not task.random
        seen = hidden + task.inputs * self._direct
        self.head = nn.Linear(seen, task.outputs)
        initialise_(self.layer, task.longest)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The pre-activations of the outputs for x, T×n×I: n×O for the last step of each sequence, or n×T×O if the
        task judges each step."""
        output, state = self.layer(x, lengths=lengths)
        if not self.task.each_step:
            last = state if isinstance(state, Tensor) else state[0]
            made: Tensor = self.head(last[0])
        else:
            seen = torch.cat([output, x], -1) if self._direct else output
            made = self.head(seen.transpose(0, 1))
        return made

    def net(self, sequences: Sequences) -> Tensor:
        """:meth:`forward` for a batch of sequences."""
        x = torch.from_numpy(sequences.inputs(self.task.inputs))
        return self(x, torch.from_numpy(sequences.lengths))

    def activation(self, net: Tensor) -> Tensor:
        """The outputs, from their pre-activations."""
        if isinstance(self.task, TwoMarked):
            return net
        return net.sigmoid() if isinstance(self.task, SignalAndNoise) else net.softmax(-1)

    @torch.no_grad()
    def outputs(self, sequences: Sequences) -> np.ndarray:
        """The outputs: n×O for the last steps, or n×T×O."""
        parts = [self.activation(self.net(part)) for part in _parts(sequences)]
        found: np.ndarray = torch.cat(parts).numpy()
        return found

    def loss(self, net: Tensor, sequences: Sequences) -> Tensor:
        """The mean loss: the squared error of values, or the cross entropy.

        In 2a only the last of a hundred steps depends on the first symbol, so its loss has as much weight as that
        of all steps together. In 2b only this step can be predicted and is judged, so the loss is that of this
        step.
        """
        target = torch.from_numpy(sequences.targets)
        if isinstance(self.task, TwoMarked):
            return F.mse_loss(net, target)
        if isinstance(self.task, SignalAndNoise):
            # 3c has noisy targets, some outside of [0, 1]; the gradient y - target is right for these too
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
    """The sequences in small batches, because a thousand steps of a thousand symbols take much memory."""

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


def initialise_(layer: Recurrent, longest: int) -> None:
    """Initialises the weights of a layer for sequences of up to ``longest`` steps.

    A simple recurrent network gets orthogonal recurrent weights, with which gradients reach back furthest. In
    other cells the gates get the biases of :func:`gatewise.nn.init.chrono_`. Without a forget gate, only the input
    gate gets its bias."""
    if layer.cell.name.startswith("rnn"):
        orthogonal_(layer)
    elif layer.cell.name in _NO_FORGET_GATE:
        # the input gate's bias of chrono_: each step adds little to the state
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
        cell: the name of a cell of the catalogue.
        most: the default is the experiment's.

    Raises:
        OptionError: there is no such experiment or cell, or ``most`` is not a positive integer.
    """
    return train(experiment, cell, seed, most, setting)[1]


def train(
    experiment: str,
    cell: str = "lstm",
    seed: int = 0,
    most: int | None = None,
    setting: Setting | None = None,
) -> tuple[Model, Result]:
    """The trained network, and the result of :func:`run`."""
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
    """The network with which :func:`train` starts. The state of torch's generator does not change."""
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
    """Trains until the criterion is met. Returns the number of training sequences.

    It also ends if the loss is not finite, because the weights cannot recover from that."""
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
    """The errors on fresh sequences, if the paper has a bound for them."""
    if row.within is None:
        return {}
    task = criterion.task if isinstance(criterion, OnFreshSequences) else model.task
    found = errors_on_fresh_sequences(task, row.within, model.outputs, rng)
    return {name: found[name] for name in ("wrong", "tested", "mean_error")}
