"""The sequences of the paper's six experiments (section 5), drawn many at a time.

A task's sequences have different lengths; targets belong to a sequence's last step, or to each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from papers.reber import ARROWS, END, SYMBOLS

Random = np.random.Generator


@dataclass(frozen=True)
class Sequences:
    """n sequences: symbols n×T (one-hot inputs) or values n×T×I; lengths n; targets n×O of the last
    step, or n×T×O of each (NaN beyond the length, and where an output isn't judged)."""

    lengths: np.ndarray
    targets: np.ndarray
    symbols: np.ndarray | None = None
    values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def put(self, k: int, x: np.ndarray) -> int:
        """Writes sequence k into the first rows of x, longest×I; gives its number of steps."""
        steps = int(self.lengths[k])
        if self.values is not None:
            x[:steps] = self.values[k, :steps]
        else:
            assert self.symbols is not None
            x[:steps] = 0
            x[np.arange(steps), self.symbols[k, :steps]] = 1
        return steps

    def inputs(self, width: int) -> np.ndarray:
        """All of them, T×n×I, zero beyond the lengths."""
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
    """inputs I, outputs O, longest T, and whether each step has a target."""

    inputs: int
    outputs: int
    longest: int
    each_step: bool

    def draw(self, rng: Random, n: int) -> Sequences: ...


class ReberString:
    """A string of the embedded grammar, and after each symbol but the last the legal next ones."""

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
    """A string of the plain grammar, and after each of its symbols but the last the legal ones."""
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
    """Experiment 1: the embedded Reber grammar. 256 training strings, drawn as the grammar gives them
    (short ones more than once), and 256 for testing that are not among them; the next symbol is to be
    predicted at each step."""

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
        """n×T×7: which symbols may come next; none beyond the end."""
        found = np.zeros((len(strings), self.longest, 7), bool)
        for k, string in enumerate(strings):
            found[k, : len(string.legal)] = string.legal
        return found


@dataclass
class TwoSequences:
    """Experiments 2a and 2b: x or y, then p-1 symbols (2a: always the same, 2b: random), then the
    first again; each next symbol is to be predicted."""

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
    """Experiment 2c: b, then x or y, then q + k random distractors out of p, then e; which of x and
    y it was is to be said at the end. After the q-th distractor each further one comes with
    probability 9/10."""

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
    """Experiment 3: the first N values say the class, +1 or -1 (3b, 3c: with noise), the rest is noise
    of variance 0.2 on the same line. ``levels``: the targets of the classes +1 and -1, to which noise
    of the variance ``target_noise`` is added."""

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
    """Experiments 4 (adding) and 5 (multiplication): pairs of a value and a marker; two values are
    marked with 1, one of the first ten and then one of the first T/2 - 1 left; the first and the last pair
    have the marker -1, and where the first is a marked one, its value counts as 0 (5: as 1). Target at
    the end: 0.5 + (X1 + X2)/4 of values in [-1, 1], or X1 X2 of values in [0, 1]."""

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
        pairs[:, 0, 1] = pairs[each, lengths - 1, 1] = -1  # so that a mark on the first isn't seen
        x1, x2 = pairs[each, first, 0], pairs[each, second, 0]
        neutral = 1.0 if self.multiply else 0.0
        x1, x2 = (np.where(at == 0, neutral, x) for at, x in ((first, x1), (second, x2)))
        targets = x1 * x2 if self.multiply else 0.5 + (x1 + x2) / 4
        return Sequences(
            lengths, targets[:, None].astype(np.float32), None, pairs.astype(np.float32)
        )


@dataclass
class TemporalOrder:
    """Experiment 6: E, distractors a to d with an X or Y at two (6a) or three (6b) places, B; the class
    at the end is which of the four or eight orders it was."""

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
