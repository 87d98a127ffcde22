"""The place of a step in its bar: what a network is told of the metre beside the steps.

Source: Hadjeres, Pachet & Nielsen 2017, "DeepBach" (the position in the beat as an input); Huang & Yang 2020, "Pop
Music Transformer" (bars and positions).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from gatewise.data.music.tune import TICKS, Tune, bar_lines, bar_ticks

Array = np.ndarray

_CYCLE = 8  # bars are counted in eights, as the phrases of most tunes are
_CYCLES = 4  # what comes after three of them is as the fourth
UNKNOWN_LENGTH = 0  # of a bar without a metre


@dataclass(frozen=True)
class Places:
    """The places of steps in bars. A place is four integers:

    - the steps from the bar line to here;
    - the steps that are left until a bar of the metre is full;
    - the number of the bar: 0 for the first, which may be a pickup, then 1 to 8 again and again;
    - how often these eight bars have come before, up to 3.

    Attributes:
        grid: steps of a quarter note.
        meters: the metres that are known, such as "6/8". Without any, there are no places.
    """

    grid: int
    meters: tuple[str, ...] = ()

    def full(self, meter: str) -> int:
        """The steps of a bar of this metre; :data:`UNKNOWN_LENGTH` if it is not known, or not in whole steps."""
        if meter not in self.meters:
            return UNKNOWN_LENGTH
        beats, unit = map(int, meter.split("/"))
        steps, rest = divmod(bar_ticks((beats, unit)) * self.grid, TICKS)
        return UNKNOWN_LENGTH if rest else steps

    @property
    def uneven(self) -> tuple[str, ...]:
        """The metres whose bars are not whole steps."""
        return tuple(meter for meter in self.meters if not self.full(meter))

    @cached_property
    def longest(self) -> int:
        """The steps of the longest bar."""
        return max(map(self.full, self.meters), default=0)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each of the integers."""
        # what is left may also be unknown, or less than nothing
        return (self.longest + 1, self.longest + 3, _CYCLE + 1, _CYCLES) if self.meters else ()

    def place(self, since: int, full: int, bar: int) -> tuple[int, ...]:
        """The integers for ``since`` steps after the bar line of bar number ``bar``, counted from 0, in a
        metre of ``full`` steps a bar."""
        if not self.meters:
            return ()
        left = 0 if full == UNKNOWN_LENGTH else max(full - since, -1) + 2
        cycle, number = divmod(bar - 1, _CYCLE) if bar else (0, -1)
        return min(since, self.longest), left, number + 1, min(cycle, _CYCLES - 1)

    def of_tune(self, tune: Tune, steps: int) -> Array:
        """T×P: the place of each of the first ``steps`` steps of a tune; see :func:`bar_lines`. A pickup has the
        last places of a bar."""
        full = self.full(meter_name(tune.meter))
        times = bar_lines(tune, steps * TICKS // self.grid)
        lines = [round(time * self.grid / TICKS) for time in times]
        found = []
        for bar, (first, last) in enumerate(pairwise(lines)):
            missing = max(full - (last - first), 0) if bar == 0 and len(tune.bars) > 2 else 0
            found += [self.place(missing + k, full, bar) for k in range(last - first)]
        return np.array(found, np.int64).reshape(steps, len(self.sizes))


class Clock(Protocol):
    """The places of the next step of B sequences that are drawn step by step."""

    def places(self) -> Array:
        """B×P: the place of the next step."""

    def advance(self, steps: Array) -> None:
        """Reads the step of each sequence, B×K."""

    def keep(self, chosen: Array) -> None:
        """Continues with the sequences ``chosen``, B indices."""


class GridClock:
    """The places of sequences of steps of a grid, which are known beforehand, T×P, and the same for all."""

    def __init__(self, known: Array, count: int) -> None:
        self.known, self.count, self.at = known, count, 0

    def places(self) -> Array:
        return np.repeat(self.known[self.at][None], self.count, 0)

    def advance(self, steps: Array) -> None:
        self.at += 1

    def keep(self, chosen: Array) -> None:
        self.count = len(chosen)


def meter_name(meter: tuple[int, int] | None) -> str:
    """A metre as text, such as "6/8"; empty if it is not known."""
    return "" if meter is None else "{}/{}".format(*meter)


def meters_of(tunes: Iterable[Tune]) -> tuple[str, ...]:
    """The metres of tunes as text, the most frequent first."""
    counts = Counter(meter_name(tune.meter) for tune in tunes if tune.meter is not None)
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))
