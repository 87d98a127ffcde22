"""Mean, standard deviation and range of rows with missing values, and detection of rounding errors."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# A deviation of at most this many rounding errors of the largest value counts as rounding.
_ROUNDINGS = 8


def rounding(values: Array, axis: int = -1) -> Array:
    """The largest variation along an axis that counts as rounding. NaN is a missing value.

    The rounding error is that of float32 where all values are exact in float32 and not integers, because such
    values were computed or stored in float32.
    """
    seen = np.where(np.isnan(values), 0.0, values)
    with np.errstate(over="ignore"):
        single = (seen.astype(np.float32) == seen).all(axis)
    single &= ~(np.rint(seen) == seen).all(axis)
    error = np.where(single, np.finfo(np.float32).eps, np.finfo(np.float64).eps)
    largest: Array = np.abs(seen).max(axis, initial=0.0)
    return _ROUNDINGS * error * largest


def moments(values: Array) -> tuple[Array, Array, Array]:
    """Mean, deviation and number of the observed values in each row of N×R ``values``.

    The deviation is 0 where it is only rounding. The mean of no values is NaN. Neither overflows or
    underflows for values up to 1e150.
    """
    seen = ~np.isnan(values)
    count = seen.sum(-1)
    low, high = extremes(values)
    middle, reach = np.nan_to_num(low / 2 + high / 2), np.nan_to_num(high / 2 - low / 2)
    unit = np.where(reach > 0, reach, 1.0)
    apart = np.where(seen, (values - middle[:, None]) / unit[:, None], 0.0)
    number = np.maximum(count, 1)
    mean = apart.sum(-1) / number
    apart = np.where(seen, apart - mean[:, None], 0.0)
    deviation = unit * np.sqrt((apart**2).sum(-1) / number)
    deviation = np.where(deviation > rounding(values), deviation, 0.0)
    return np.where(count > 0, middle + unit * mean, np.nan), deviation, count


def extremes(values: Array) -> tuple[Array, Array]:
    """The smallest and the largest value of each row; NaN for a row without values."""
    seen = ~np.isnan(values)
    low = np.where(seen, values, np.inf).min(-1, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(-1, initial=-np.inf)
    some = seen.any(-1)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)
