"""The naive forecasts that every score stands beside."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def last_value(context: Array, horizon: int) -> Array:
    """N×K: each window's last observed value, repeated."""
    return np.repeat(seasonal(context, 1, 1), horizon, 1)


def seasonal(context: Array, season: int, horizon: int) -> Array:
    """N×K: for each step the last observed value of the same phase; ``context`` is N×L, NaN = missing."""
    length = context.shape[1]
    whole = context[:, length - length // season * season :].reshape(len(context), -1, season)
    last = np.full((len(context), season), np.nan)
    for k in range(whole.shape[1]):
        last = np.where(np.isnan(whole[:, k]), last, whole[:, k])
    return np.tile(last, -(-horizon // season))[:, :horizon]
