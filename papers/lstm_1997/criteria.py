"""The paper's criteria of success.

A criterion gets the outputs of each training sequence before the update of the weights. It says after how many
sequences the task was solved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from papers.lstm_1997.tasks import Reber, ReberString, SignalAndNoise, Task

Outputs = Callable[[Any], np.ndarray]  # of sequences: the network's outputs for all of them


class Criterion(Protocol):
    """``solved`` is the number of training sequences that were needed; None while the task is not solved."""

    solved: int | None

    def see(self, seen: int, output: np.ndarray, target: np.ndarray, outputs: Outputs) -> bool:
        """Whether to stop after ``seen`` sequences. The arguments are those of the last sequence."""


@dataclass
class Successive:
    """``needed`` successive training sequences have errors below ``within``. These do not count as needed.

    at_end: whether only the last step is judged (2b), or all steps (2a, 2c)."""

    within: float
    at_end: bool = False
    needed: int = 10_000
    solved: int | None = None
    _right: int = 0

    def see(self, seen: int, output: np.ndarray, target: np.ndarray, outputs: Outputs) -> bool:
        if self.at_end:
            output, target = output[-1], target[-1]
        self._right = self._right + 1 if np.abs(output - target).max() < self.within else 0
        if self._right == self.needed:
            self.solved = seen - self.needed
        return self.solved is not None


@dataclass
class Recent:
    """Among the last ``window`` training sequences, fewer than ``allowed`` have an error of at least
    ``within``, and the mean error is below ``mean`` (if given)."""

    within: float
    mean: float | None = None
    allowed: int = 1
    window: int = 2000
    solved: int | None = None
    _errors: deque[tuple[bool, float]] = field(default_factory=deque)
    _wrong: int = 0
    _sum: float = 0.0

    def see(self, seen: int, output: np.ndarray, target: np.ndarray, outputs: Outputs) -> bool:
        off = np.abs(output - target)
        this = bool(off.max() >= self.within), float(off.mean())
        self._errors.append(this)
        self._wrong, self._sum = self._wrong + this[0], self._sum + this[1]
        if len(self._errors) > self.window:
            wrong, error = self._errors.popleft()
            self._wrong, self._sum = self._wrong - wrong, self._sum - error
        full = len(self._errors) == self.window and self._wrong < self.allowed
        if full and (self.mean is None or self._sum / self.window < self.mean):
            self.solved = seen
        return self.solved is not None


@dataclass
class OnFreshSequences:
    """Among 256 fresh sequences, fewer than ``allowed`` have an error of at least ``within`` (ST1), and the mean
    error is below ``mean`` (ST2). This is tested after each ``every`` training sequences."""

    task: SignalAndNoise  # without noise on the targets
    within: float
    allowed: int
    mean: float
    rng: np.random.Generator
    every: int = 200
    first: int | None = None  # ST1
    solved: int | None = None  # ST2

    def see(self, seen: int, output: np.ndarray, target: np.ndarray, outputs: Outputs) -> bool:
        if seen % self.every:
            return False
        test = self.task.draw(self.rng, 256)
        off = np.abs(outputs(test) - test.targets)
        if int((off >= self.within).sum()) < self.allowed:
            self.first = self.first or seen
            if off.mean() < self.mean:
                self.solved = seen
        return self.solved is not None


@dataclass
class Grammar:
    """For every symbol of all training and test strings, the outputs of the legal next symbols are the largest.

    This is tested after each ``every`` sequences, if the last 100 training strings were right."""

    task: Reber
    every: int = 20
    solved: int | None = None
    _right: int = 0

    def see(self, seen: int, output: np.ndarray, target: np.ndarray, outputs: Outputs) -> bool:
        # a cheap necessary condition: the next symbol is among the two with the largest outputs
        came = np.take_along_axis(output, target[: len(output)].argmax(1)[:, None], 1)
        self._right = self._right + 1 if ((output > came).sum(1) < 2).all() else 0
        if self._right >= 100 and seen % self.every == 0 and self.all_right(outputs):
            self.solved = seen
        return self.solved is not None

    def all_right(self, outputs: Outputs) -> bool:
        return self._strings_right(self.task.testing, outputs) and self._strings_right(
            self.task.training, outputs
        )

    def _strings_right(self, strings: list[ReberString], outputs: Outputs) -> bool:
        found, legal = outputs(self.task.sequences(strings)), self.task.legal(strings)
        least = np.where(legal, found, np.inf).min(-1)
        most = np.where(legal, -np.inf, found).max(-1)
        return bool((least > most)[legal.any(-1)].all())


def errors_on_fresh_sequences(
    task: Task, within: float, outputs: Outputs, rng: np.random.Generator
) -> dict[str, float]:
    """The errors on 2560 fresh sequences: how many sequences have an error of at least ``within``, the mean
    absolute error and the mean squared error of the outputs."""
    test = task.draw(rng, 2560)
    off = np.abs(outputs(test) - test.targets)
    return {
        "wrong": int((off.max(-1) >= within).sum()),
        "tested": 2560,
        "mean_error": float(off.mean()),
        "mean_squared_error": float((off**2).mean()),
    }
