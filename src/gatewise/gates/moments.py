"""Counts and moments of values, unit by unit, that are added up batch by batch and merged exactly.

Means and squares are merged by the formulas of Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", in double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gatewise.cells.bounds import ANY, Interval

Array = np.ndarray

BINS = 20  # of a histogram
_TENTH = BINS // 10  # the bins of a tenth of the range
_MOST = 1 << 21  # values that are counted at a time


@dataclass
class ValueStatistics:
    """The statistics of one value of a cell. Arrays have one entry for each unit.

    Attributes:
        range: the value's bounds in the cell's equations; infinite where there are none.
        count: the number of steps.
        mean, squares: the mean, and the sum of squared differences from it.
        least, greatest: the extremes.
        low, high: the numbers of steps in the lowest and the highest tenth of the range: below .1 and above .9
            for a gate. None if the range is not finite.
        histogram: H×``BINS``, numbers of steps; ``edges`` has the bins' edges. A bin contains its lower edge,
            and the last bin its upper edge too.
    """

    range: Interval
    count: int
    mean: Array
    squares: Array
    least: Array
    greatest: Array
    low: Array | None
    high: Array | None
    histogram: Array = field(repr=False)

    @property
    def units(self) -> int:
        return len(self.mean)

    @property
    def bounded(self) -> bool:
        return _finite(self.range)

    @property
    def edges(self) -> Array:
        """The ``BINS`` + 1 edges of the histogram.

        They are equally spaced over a finite range. Without one they are equally spaced in x / (1 + |x|), which
        has fine bins around zero and ends in infinity.
        """
        return _edges(self.range)

    @property
    def std(self) -> Array:
        return np.sqrt(self.squares / max(self.count, 1))

    def merged(self, other: ValueStatistics) -> ValueStatistics:
        """The statistics of the steps of both, which have the same units."""
        total = max(self.count + other.count, 1)
        apart = other.mean - self.mean
        return ValueStatistics(
            self.range,
            self.count + other.count,
            self.mean + apart * (other.count / total),
            self.squares + other.squares + apart**2 * (self.count * other.count / total),
            np.minimum(self.least, other.least),
            np.maximum(self.greatest, other.greatest),
            _sum(self.low, other.low),
            _sum(self.high, other.high),
            self.histogram + other.histogram,
        )


@dataclass
class Scatter:
    """Mean and scatter matrix (the sum of outer products of differences from the mean) of vectors."""

    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(0))
    matrix: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @staticmethod
    def of(x: Tensor) -> Scatter:
        """That of the rows of N×H."""
        if not len(x):
            return Scatter()
        wide = x.double()
        mean = wide.mean(0)
        wide = wide - mean
        return Scatter(len(x), _array(mean), _array(wide.mT @ wide))

    def merged(self, other: Scatter) -> Scatter:
        """That of the vectors of both."""
        if not self.count or not other.count:
            return self if self.count else other
        total = self.count + other.count
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.count * other.count / total)
        mean = self.mean + apart * (other.count / total)
        return Scatter(total, mean, self.matrix + other.matrix + between)

    def effective_rank(self) -> float:
        """exp of the entropy of the singular values; 0 if nothing varies."""
        if self.count < 2:
            return 0.0
        square = np.linalg.eigvalsh(self.matrix)
        # rounding leaves eigenvalues around 1e-16 of the greatest where they are zero
        singular = np.sqrt(np.where(square > 1e-13 * square[-1], square, 0.0))
        if not singular.any():
            return 0.0
        share = singular[singular > 0] / singular.sum()
        return float(np.exp(-(share * np.log(share)).sum()))


def statistics_of(x: Tensor, range_of: Interval | None = None) -> ValueStatistics:
    """The statistics of N×H values, which must be finite. ``range_of`` are their bounds."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    pieces = x.split(max(1, _MOST // max(1, x.shape[1]))) if len(x) else [x]
    found = [_of_piece(piece, ANY if range_of is None else range_of) for piece in pieces]
    total = found[0]
    for other in found[1:]:
        total = total.merged(other)
    return total


def _of_piece(x: Tensor, range_of: Interval) -> ValueStatistics:
    count, units = x.shape
    edges = torch.from_numpy(_edges(range_of)).to(x)  # rounded as the values are
    ends = (x < edges[_TENTH], x > edges[-1 - _TENTH]) if _finite(range_of) else ()
    low, high = (_array(end.sum(0)) for end in ends) if ends else (None, None)
    place = _bins(x, range_of, edges).view(x.shape) + torch.arange(units, device=x.device) * BINS
    histogram = _array(torch.bincount(place.flatten(), minlength=units * BINS))
    wide = x.double()
    mean = wide.mean(0) if count else wide.sum(0)
    least, greatest = torch.aminmax(wide, dim=0) if count else (mean + math.inf, mean - math.inf)
    return ValueStatistics(
        range_of,
        count,
        _array(mean),
        _array((wide - mean).square_().sum(0)),
        _array(least),
        _array(greatest),
        low,
        high,
        histogram.reshape(units, BINS),
    )


def _bins(x: Tensor, range_of: Interval, edges: Tensor) -> Tensor:
    """The bin of each value: a guess by arithmetic, moved by one where the edges say so.

    It is that of ``torch.bucketize`` and seven times as fast."""
    low, high = range_of if _finite(range_of) else (-1.0, 1.0)
    x = x.flatten()
    even = x if _finite(range_of) else x / (1 + x.abs())
    found = ((even - low) * (BINS / (high - low))).int().clamp_(0, BINS - 1)
    inner = torch.cat([edges[:1] - math.inf, edges[1:-1], edges[-1:] + math.inf])
    found += (x >= inner[1:].index_select(0, found)).int()
    found -= (x < inner.index_select(0, found)).int()
    return found


def _edges(range_of: Interval) -> Array:
    if _finite(range_of):
        return np.linspace(*range_of, BINS + 1)
    share = np.linspace(-1, 1, BINS + 1)[1:-1]
    return np.concatenate([[-np.inf], share / (1 - abs(share)), [np.inf]])


def _finite(range_of: Interval) -> bool:
    return all(map(math.isfinite, range_of))


def _sum(a: Array | None, b: Array | None) -> Array | None:
    return None if a is None or b is None else a + b


def _array(x: Tensor) -> Array:
    found: Array = x.cpu().numpy()
    return found
