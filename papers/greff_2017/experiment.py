"""The paper's comparison: which of nine cells predicts the chorales' next step best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from gatewise.cells.catalogue import find as find_cell
from gatewise.errors import need, unknown
from gatewise.nn.recurrent import Recurrent
from papers.greff_2017.chorales import KEYS, Chorales, batches, padded

VANILLA = "peephole"
VARIANTS: Mapping[str, str] = {
    VANILLA: "vanilla: three gates, peepholes",
    "nig": "no input gate",
    "nfg": "no forget gate",
    "nog": "no output gate",
    "niaf": "no input activation function",
    "noaf": "no output activation function",
    "cifg": "coupled input and forget gate",
    "np": "no peepholes",
    "fgr": "full gate recurrence",
}

# The loss, in nats per step, of a model that gives each key the probability 1/2.
IGNORANCE = KEYS * math.log(2)


class Predictor(nn.Module):
    """One hidden layer and a logistic output for each key (the paper's section IV).

    Args:
        cell: a cell, or the name of a built-in one.
        units: H, the number of units.
        generator: draws all weights from a normal distribution with standard deviation 0.1. Gates have one bias,
            as in the paper; the layer's recurrent biases stay zero.
    """

    def __init__(
        self, cell: Any, units: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.layer = Recurrent(cell, KEYS, units, dtype=dtype)
        self.output = nn.Linear(units, KEYS, dtype=dtype)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.1, generator=generator)
        nn.init.zeros_(self.layer.bias_hh_l0).requires_grad_(False)

    @property
    def weights(self) -> int:
        """How many are learned: without those of a restricted connection that stand for nothing."""
        cell, H = self.layer.cell, self.layer.hidden_size
        fed = sum(len(cell.connections[state]) for state in cell.feedback)
        return H * (fed * H + len(cell.gates) * (KEYS + 1) + len(cell.params)) + KEYS * (H + 1)

    def loss(self, x: Tensor, following: Tensor, lengths: Tensor) -> Tensor:
        """The negative log-likelihood of the following steps, in nats, summed over all steps without padding."""
        whole = len(lengths) == 1
        hidden = self.layer(x, lengths=None if whole else lengths)[0]
        each = F.binary_cross_entropy_with_logits(self.output(hidden), following, reduction="none")
        if whole:
            return each.sum()
        return each.sum(-1)[torch.arange(len(x))[:, None] < lengths].sum()


def nll(model: Predictor, rolls: Sequence[Tensor]) -> float:
    """The mean negative log-likelihood over all chorales, in nats per step."""
    with torch.inference_mode():
        x, following, lengths = padded(rolls)
        return float(model.loss(x, following, lengths)) / int(lengths.sum())


@dataclass(frozen=True)
class Protocol:
    """The options of training.

    Attributes:
        optimizer: a function from the parameters and the learning rate to an optimizer.
        rates: the learning rates of which each variant gets the best by validation.
        batch: the number of chorales per update. The loss is the mean over chorales of the sum over steps.
        clip: the largest norm of the gradient; None for no limit.
        trying: the number of epochs for each rate.
        epochs: the most epochs with the chosen rate.
        patience: the number of epochs without a lower validation loss after which a training ends.
    """

    optimizer: Callable[[list[Parameter], float], torch.optim.Optimizer]
    rates: tuple[float, ...]
    batch: int
    clip: float | None
    trying: int
    epochs: int
    patience: int = 15


def _nesterov(parameters: list[Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True)


def _adam(parameters: list[Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, rate)


PROTOCOLS: Mapping[str, Protocol] = {
    # the paper's: a step after each sequence, Nesterov's momentum, rates up to 1e-2, nothing clipped; from
    # its random search there are the rates alone
    "paper": Protocol(_nesterov, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 1, None, 60, 150),
    # as it is done today
    "adam": Protocol(_adam, (1e-3, 3e-3, 1e-2, 3e-2), 16, 60.0, 60, 200),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        OptionError: there is no such protocol. The message lists the names.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Run:
    """The result of one training.

    valid, test: the losses in nats per step after the epoch with the lowest validation loss; infinite if no epoch
    was better than IGNORANCE. best: that epoch, counted from 1. epochs: the number of epochs."""

    rate: float
    seed: int
    valid: float
    test: float
    best: int
    epochs: int
    seconds: float


def train(
    cell: Any, units: int, data: Chorales, how: Protocol, rate: float, seed: int, epochs: int
) -> Run:
    """One training. It ends early if the validation loss stops falling or is not finite."""
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    model = Predictor(cell, units, generator)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = how.optimizer(learned, rate)
    valid = test = math.inf
    best = epoch = 0
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(data.train), generator=generator).tolist()
        for x, following, lengths in batches(data.train, how.batch, order):
            optimizer.zero_grad()
            (model.loss(x, following, lengths) / len(lengths)).backward()
            if how.clip is not None:
                nn.utils.clip_grad_norm_(learned, how.clip)
            optimizer.step()
        now = nll(model, data.valid)
        if not math.isfinite(now):
            break
        if now < min(valid, IGNORANCE):
            valid, test, best = now, nll(model, data.test), epoch
        elif epoch - best >= how.patience:
            break
    return Run(rate, seed, valid, test, best, epoch, time.perf_counter() - begin)


@dataclass(frozen=True)
class Found:
    """The trainings of a variant: one for each learning rate, and with the best rate one for each seed."""

    weights: int
    tried: tuple[Run, ...]
    runs: tuple[Run, ...]


def compare(
    name: str, units: int, data: Chorales, how: Protocol, seeds: int, say: Callable[[str], None]
) -> Found:
    """The trainings of a variant: the learning rate is chosen by validation, then the seeds 0, 1, … are run.

    Raises:
        OptionError: the paper has no such variant.
    """
    if name not in VARIANTS:
        raise unknown("variant", name, VARIANTS)
    cell = find_cell(name)
    tried = tuple(train(cell, units, data, how, rate, 0, how.trying) for rate in how.rates)
    for run in tried:
        say(f"  {name:<9} rate {run.rate:g}: valid {run.valid:.3f} in {run.seconds:.0f} s")
    rate = min(tried, key=lambda run: run.valid).rate
    runs = tuple(train(cell, units, data, how, rate, seed, how.epochs) for seed in range(seeds))
    for run in runs:
        say(f"  {name:<9} seed {run.seed}: test {run.test:.3f} in {run.seconds:.0f} s")
    return Found(Predictor(cell, units, torch.Generator()).weights, tried, runs)


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p-value of Welch's t-test, as in the paper; None if a number is infinite or there are fewer than
    two.

    Raises:
        MissingExtraError: scipy, which comes with ``gatewise[tasks]``, is not installed.
    """
    a, b = np.asarray(one, float), np.asarray(other, float)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    if a.var() + b.var() == 0:
        return float(a.mean() == b.mean())
    stats = need("scipy.stats", "tasks")
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def ranking(found: Mapping[str, Found]) -> list[dict[str, Any]]:
    """The variants, best first: mean and standard deviation of the test loss in nats per step, the difference from
    vanilla, and Welch's p-value of this difference."""
    tests = {name: [run.test for run in each.runs] for name, each in found.items()}
    rows = []
    for name, test in tests.items():
        finite = all(map(math.isfinite, test))
        row: dict[str, Any] = {
            "variant": name,
            "weights": found[name].weights,
            "rate": found[name].runs[0].rate,
            "mean": float(np.mean(test)),
            "spread": float(np.std(test, ddof=1)) if finite and len(test) > 1 else None,
        }
        if VANILLA in tests:
            row["more"] = row["mean"] - float(np.mean(tests[VANILLA]))
            row["p"] = welch(test, tests[VANILLA])
        rows.append(row)
    return sorted(rows, key=lambda row: row["mean"])
