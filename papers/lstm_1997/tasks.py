"""The tasks of the paper's six experiments (section 5). Each draws many random sequences at a time.

The sequences of a task have different lengths. Targets belong to the last step of a sequence, or to each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from papers.reber import ARROWS, END, SYMBOLS

Random = np.random.Generator


@dataclass(frozen=True)
class Sequences:
    """A batch of n sequences.

    lengths: n. symbols: n×T, for one-hot inputs; or values: n×T×I. targets: n×O for the last step, or n×T×O
    for each step, with NaN in the padding and for outputs that are not judged."""

    lengths: np.ndarray
    targets: np.ndarray
    symbols: np.ndarray | None = None
    values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def put(self, k: int, x: np.ndarray) -> int:
        """Writes sequence k into the first rows of x, longest×I. Returns its number of steps."""
        steps = int(self.lengths[k])
        if self.values is not None:
            x[:steps] = self.values[k, :steps]
        else:
            assert self.symbols is not None
            x[:steps] = 0
            x[np.arange(steps), self.symbols[k, :steps]] = 1
        return steps

    def inputs(self, width: int) -> np.ndarray:
        """The inputs of all sequences, T×n×I, zero in the padding."""
        if self.values is not None:
            return np.ascontiguousarray(self.values.transpose(1, 0, 2))
        assert self.symbols is not None
        steps = self.symbols.shape[1]
        real = np.arange(steps)[:, None] < self.lengths
        x = np.zeros((steps, len(self), width), np.float32)
        t, k = np.nonzero(real)
        x[t, k, self.symbols.T[t, k]] = 1
        return x


class Task(Protocol):
    """A task with I ``inputs``, O ``outputs`` and sequences of at most ``longest`` steps.

    each_step: whether each step has a target, or only the last one."""

    inputs: int
    outputs: int
    longest: int
    each_step: bool

    def draw(self, rng: Random, n: int) -> Sequences: ...


class ReberString:
    """A string of the embedded grammar, with the legal next symbols after each symbol except the last."""

    def __init__(self, rng: Random) -> None:
        outer = "TP"[rng.integers(2)]
        inner, legal_inner = _reber(rng)
        self.symbols = np.array([SYMBOLS.index(s) for s in ("B", outer, *inner, outer, "E")])
        each = [{"T", "P"}, {"B"}, *legal_inner, {outer}, {"E"}]
        self.legal = np.array([[s in legal for s in SYMBOLS] for legal in each])

    @property
    def text(self) -> str:
        return "".join(SYMBOLS[s] for s in self.symbols)


def _reber(rng: Random) -> tuple[list[str], list[set[str]]]:
    """A string of the plain grammar, with the legal next symbols after each symbol except the last."""
    node, string, legal = 0, [], []
    while node != END:
        arrows = ARROWS[node]
        symbol, node = arrows[rng.integers(len(arrows))]
        string.append(symbol)
        if node != END:
            legal.append({s for s, _ in ARROWS[node]})
    return string, legal


@dataclass
class Reber:
    """Experiment 1: predict the next symbol of strings of the embedded Reber grammar, at each step.

    There are 256 training strings, drawn from the grammar (so short ones repeat), and 256 test strings that are
    not among them."""

    seed: int
    inputs: int = 7
    outputs: int = 7
    each_step: bool = True

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.training = [ReberString(rng) for _ in range(256)]
        known = {string.text for string in self.training}
        self.testing: list[ReberString] = []
        while len(self.testing) < 256:
            string = ReberString(rng)
            if string.text not in known:
                self.testing.append(string)
        self.longest = max(len(s.symbols) for s in (*self.training, *self.testing)) - 1

    def draw(self, rng: Random, n: int) -> Sequences:
        return self.sequences([self.training[k] for k in rng.integers(256, size=n)])

    def sequences(self, strings: list[ReberString]) -> Sequences:
        lengths = np.array([len(s.symbols) - 1 for s in strings])
        symbols = np.zeros((len(strings), self.longest), np.int64)
        targets = np.full((len(strings), self.longest, 7), np.nan, np.float32)
        for k, (string, steps) in enumerate(zip(strings, lengths, strict=True)):
            symbols[k, :steps] = string.symbols[:-1]
            targets[k, :steps] = np.eye(7)[string.symbols[1:]]
        return Sequences(lengths, targets, symbols)

    def legal(self, strings: list[ReberString]) -> np.ndarray:
        """n×T×7: true for the legal next symbols; false in the padding."""
        found = np.zeros((len(strings), self.longest, 7), bool)
        for k, string in enumerate(strings):
            found[k, : len(string.legal)] = string.legal
        return found


@dataclass
class TwoSequences:
    """Experiments 2a and 2b: predict each next symbol of a sequence.

    A sequence is x or y, then p - 1 symbols (2a: always the same ones, 2b: random ones), then its first symbol
    again."""

    p: int
    random: bool
    each_step: bool = True

    def __post_init__(self) -> None:
        self.inputs = self.outputs = self.p + 1
        self.longest = self.p

    def draw(self, rng: Random, n: int) -> Sequences:
        p = self.p
        whole = np.empty((n, p + 1), np.int64)
        whole[:, 1:p] = rng.integers(p - 1, size=(n, p - 1)) if self.random else np.arange(p - 1)
        whole[:, 0] = whole[:, p] = p - 1 + rng.integers(2, size=n)
        targets = np.eye(p + 1, dtype=np.float32)[whole[:, 1:]]
        return Sequences(np.full(n, p), targets, whole[:, :-1])


@dataclass
class LongLag:
    """Experiment 2c: say at the end whether the second symbol was x or y.

    A sequence is b, then x or y, then q + k random ones of p distractors, then e. After the q-th distractor, each
    further one comes with probability 9/10."""

    q: int
    p: int
    each_step: bool = False
    outputs: int = 2

    def __post_init__(self) -> None:
        self.inputs = self.p + 4
        self.longest = self.q + 3 + 200  # one in 10⁹ would be longer

    def draw(self, rng: Random, n: int) -> Sequences:
        q, p = self.q, self.p
        lengths = np.minimum(q + rng.geometric(0.1, size=n) - 1 + 3, self.longest)
        symbols = rng.integers(p, size=(n, int(lengths.max())))
        which = rng.integers(2, size=n)
        symbols[:, 0], symbols[:, 1] = p + 1, p + 2 + which
        symbols[np.arange(n), lengths - 1] = p
        return Sequences(lengths, np.eye(2, dtype=np.float32)[which], symbols)


@dataclass
class SignalAndNoise:
    """Experiment 3: say the class at the end. The first N values are the class, +1 or -1 (3b, 3c: with noise).

    The other values are noise of variance 0.2. ``levels`` are the targets of the classes +1 and -1, to which
    noise of the variance ``target_noise`` is added."""

    steps: int
    informative: int
    noisy_signal: bool = False
    levels: tuple[float, float] = (1.0, 0.0)
    target_noise: float = 0.0
    inputs: int = 1
    outputs: int = 1
    each_step: bool = False

    def __post_init__(self) -> None:
        self.longest = self.steps + self.steps // 10

    def draw(self, rng: Random, n: int) -> Sequences:
        lengths = rng.integers(self.steps, self.longest + 1, size=n)
        first = rng.integers(2, size=(n, 1))
        values = rng.normal(0, np.sqrt(0.2), (n, self.longest))
        if not self.noisy_signal:
            values[:, : self.informative] = 0
        values[:, : self.informative] += np.where(first, 1.0, -1.0)
        targets = np.where(first, *self.levels)
        targets = targets + rng.normal(0, np.sqrt(self.target_noise), (n, 1))
        return Sequences(
            lengths, targets.astype(np.float32), None, values[..., None].astype(np.float32)
        )


@dataclass
class TwoMarked:
    """Experiments 4 (adding) and 5 (multiplication): add or multiply the two marked values.

    Each step has a value and a marker. The marker is 1 for two values: one of the first ten, and one of the first
    T/2 - 1 others. It is -1 for the first and the last step. If the first step is one of the two, its value
    counts as 0 (in experiment 5: as 1). The target at the end is 0.5 + (X1 + X2)/4 for values in [-1, 1], or
    X1 X2 for values in [0, 1]."""

    steps: int
    multiply: bool = False
    inputs: int = 2
    outputs: int = 1
    each_step: bool = False

    def __post_init__(self) -> None:
        self.longest = self.steps + self.steps // 10

    def draw(self, rng: Random, n: int) -> Sequences:
        lengths = rng.integers(self.steps, self.longest + 1, size=n)
        pairs = np.zeros((n, self.longest, 2))
        pairs[..., 0] = rng.uniform(0.0 if self.multiply else -1.0, 1.0, (n, self.longest))
        each = np.arange(n)
        first = rng.integers(10, size=n)
        second = rng.integers(self.steps // 2 - 1, size=n)
        second += second >= first  # one of those that are left
        pairs[each, first, 1] = pairs[each, second, 1] = 1
        pairs[:, 0, 1] = pairs[each, lengths - 1, 1] = -1  # overwrites a mark on the first step
        x1, x2 = pairs[each, first, 0], pairs[each, second, 0]
        neutral = 1.0 if self.multiply else 0.0
        x1, x2 = (np.where(at == 0, neutral, x) for at, x in ((first, x1), (second, x2)))
        targets = x1 * x2 if self.multiply else 0.5 + (x1 + x2) / 4
        return Sequences(
            lengths, targets[:, None].astype(np.float32), None, pairs.astype(np.float32)
        )


@dataclass
class TemporalOrder:
    """Experiment 6: say at the end in which order the symbols X and Y came.

    A sequence is E, then distractors a to d with X or Y at two (6a) or three (6b) positions, then B. There are
    four or eight classes."""

    places: int  # 2 or 3
    inputs: int = 8
    longest: int = 110
    each_step: bool = False

    def __post_init__(self) -> None:
        self.outputs = 2**self.places

    def draw(self, rng: Random, n: int) -> Sequences:
        spans = ((10, 20), (50, 60)) if self.places == 2 else ((10, 20), (33, 43), (66, 76))
        lengths = rng.integers(100, 111, size=n)
        symbols = rng.integers(4, size=(n, self.longest))  # a, b, c, d; X, Y: 4, 5; E, B: 6, 7
        each, kind = np.arange(n), np.zeros(n, np.int64)
        for low, high in spans:
            which = rng.integers(2, size=n)
            symbols[each, rng.integers(low, high + 1, size=n)] = 4 + which
            kind = 2 * kind + which
        symbols[:, 0], symbols[each, lengths - 1] = 6, 7
        return Sequences(lengths, np.eye(self.outputs, dtype=np.float32)[kind], symbols)
