"""Quantiles in their order, and intervals that have their coverage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gatewise.errors import DataError

Array = np.ndarray


def ordered(forecast: Array, levels: Sequence[float]) -> Array:
    """N×K×(1 + Q) with the quantiles, in rising order, on their side of the point, which is the median."""
    point, quantiles = forecast[..., :1], np.sort(forecast[..., 1:], -1)
    below, above = np.asarray(levels) < 0.5, np.asarray(levels) > 0.5
    quantiles = np.where(below, np.minimum(quantiles, point), quantiles)
    quantiles = np.where(above, np.maximum(quantiles, point), quantiles)
    quantiles = np.where(below | above, quantiles, point)
    return np.concatenate([point, quantiles], -1)


def pairs(levels: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """The places of the lower and upper end of each interval, the outermost first, and its coverage."""
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        yield low, high, levels[high] - levels[low]


def check_enough(observed: Array, levels: Sequence[float]) -> None:
    """That each of K steps has so many ``observed`` values that intervals can be calibrated by them.

    Raises:
        DataError: one has not; the message has the numbers.
    """
    for low, high, coverage in pairs(levels):
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        if observed.min() < needed:
            step = int(observed.argmin())
            raise DataError(
                f"conformal=True needs {needed} observed values of the validation part at each step of "
                f"the horizon for the interval from {levels[low]:g} to {levels[high]:g}, and step "
                f"{step + 1} has {int(observed[step])}: give validation= at least "
                f"{needed - int(observed[step])} more rows, levels nearer to each other, or conformal=False"
            )


def widened(gaps: Array, levels: Sequence[float]) -> Array:
    """K×Q: by how much each quantile must move for its interval to have its coverage (conformalised
    quantile regression, Romano, Patterson & Candès 2019).

    Args:
        gaps: N×K×Q, truth less quantile; NaN where there is no truth.
    """
    moved = np.zeros(gaps.shape[1:])
    for low, high, coverage in pairs(levels):
        outside = np.sort(np.maximum(-gaps[..., low], gaps[..., high]), axis=0)  # NaN comes last
        number = (~np.isnan(outside)).sum(0)
        rank = np.ceil(np.round((number + 1) * coverage, 9)).astype(np.int64)
        wider = outside[rank - 1, np.arange(len(rank))]
        moved[:, low], moved[:, high] = -wider, wider
    return moved
