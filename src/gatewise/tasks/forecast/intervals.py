"""Sorted quantiles, and prediction intervals with their nominal coverage (conformal calibration)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gatewise.errors import DataError
from gatewise.report.words import with_unit

Array = np.ndarray


def sorted_quantiles(forecast: Array, levels: Sequence[float]) -> Array:
    """N×K×(1 + Q) forecasts with sorted quantiles. Those below the level 0.5 are at most the point forecast,
    those above are at least the point forecast, and that of 0.5 is the point forecast."""
    point, quantiles = forecast[..., :1], np.sort(forecast[..., 1:], -1)
    below, above = np.asarray(levels) < 0.5, np.asarray(levels) > 0.5
    quantiles = np.where(below, np.minimum(quantiles, point), quantiles)
    quantiles = np.where(above, np.maximum(quantiles, point), quantiles)
    quantiles = np.where(below | above, quantiles, point)
    return np.concatenate([point, quantiles], -1)


def pairs(levels: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """For each interval, the outermost first: the indices of its lower and upper level, and its coverage."""
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        yield low, high, levels[high] - levels[low]


def check_enough(observed: Array, levels: Sequence[float]) -> None:
    """Checks that each of K steps has enough ``observed`` values to calibrate the intervals.

    Raises:
        DataError: a step has too few values. The message has the numbers.
    """
    for low, high, coverage in pairs(levels):
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        if observed.min() < needed:
            step = int(observed.argmin())
            raise DataError(
                f"conformal=True needs at least {with_unit(needed, 'observed value')} in the validation part for each "
                f"step of the horizon, for the interval from {levels[low]:g} to {levels[high]:g}; step "
                f"{step + 1} has {int(observed[step])}. Increase validation= by at least "
                f"{with_unit(needed - int(observed[step]), 'row')}, give quantiles closer to each other, or "
                f"conformal=False"
            )


def conformal_offsets(gaps: Array, levels: Sequence[float]) -> Array:
    """K×Q: the offset of each quantile with which its interval has its nominal coverage (conformalised
    quantile regression, Romano, Patterson & Candès 2019).

    Args:
        gaps: N×K×Q, the actual value minus the quantile; NaN where there is no actual value.
    """
    offsets = np.zeros(gaps.shape[1:])
    for low, high, coverage in pairs(levels):
        outside = np.sort(np.maximum(-gaps[..., low], gaps[..., high]), axis=0)  # NaN comes last
        number = (~np.isnan(outside)).sum(0)
        rank = np.ceil(np.round((number + 1) * coverage, 9)).astype(np.int64)
        wider = outside[rank - 1, np.arange(len(rank))]
        offsets[:, low], offsets[:, high] = -wider, wider
    return offsets
