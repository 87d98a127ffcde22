"""The naive forecasts that the model is compared with."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def last_value(context: Array, horizon: int) -> Array:
    """N×K: each window's last observed value, repeated."""
    return np.repeat(_latest(context)[:, None], horizon, 1)


def seasonal(context: Array, season: int, horizon: int) -> Array:
    """N×K: for each step the last observed value of the same phase of the season; the last observed value of
    any phase if there is none.

    Args:
        context: N×L past values, NaN where missing; L is at least ``season``.
    """
    length = context.shape[1]
    whole = context[:, length - length // season * season :].reshape(len(context), -1, season)
    last = _latest(whole.swapaxes(1, 2))
    last = np.where(np.isnan(last), _latest(context)[:, None], last)
    return np.tile(last, -(-horizon // season))[:, :horizon]


def _latest(values: Array) -> Array:
    """The last value along the last axis that is not NaN; NaN if all are NaN."""
    seen = ~np.isnan(values)
    last = values.shape[-1] - 1 - seen[..., ::-1].argmax(-1)
    latest: Array = np.take_along_axis(values, last[..., None], -1)[..., 0]
    return latest
