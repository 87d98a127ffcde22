"""Forecast scores, each over windows × steps with missing truths left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def scores(
    actual: Array,
    point: Array,
    scale: Array,
    mase_scale: Array,
    quantiles: Array | None = None,
    levels: Sequence[float] = (),
) -> dict[str, float]:
    """The score table's row of one forecast.

    Args:
        actual, point: N×K, in the data's own units; NaN where the truth is missing.
        scale: N, standard deviation of each window's series in the training part.
        mase_scale: N, mean absolute error of seasonal naive within the training part.
        quantiles: N×K×Q at the given ``levels``.

    Returns:
        MAE and RMSE in the data's units; the same and MSE over each series' own deviation ("scaled");
        MASE (Hyndman & Koehler 2006); sMAPE in percent (200·|y-f|/(|y|+|f|), as in M4); the mean pinball
        loss over the levels, scaled; coverage of the outermost interval.
    """
    error = actual - point
    scaled = error / scale[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 200 * np.abs(error) / (np.abs(actual) + np.abs(point))
        relative = np.where((actual == 0) & (point == 0), 0.0, relative)
        mase = np.abs(error) / mase_scale[:, None]
    result = {
        "MAE": _mean(np.abs(error)),
        "RMSE": _mean(error**2) ** 0.5,
        "scaled MAE": _mean(np.abs(scaled)),
        "scaled MSE": _mean(scaled**2),
        "MASE": _mean(np.where(np.isfinite(mase), mase, np.nan)),
        "sMAPE %": _mean(relative),
    }
    if quantiles is not None and levels:
        gap = (actual[..., None] - quantiles) / scale[:, None, None]
        q = np.asarray(levels)
        result["scaled pinball"] = _mean(np.maximum(q * gap, (q - 1) * gap))
        inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
        result["coverage"] = _mean(np.where(np.isnan(actual), np.nan, inside))
    return result


def _mean(values: Array) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if seen.size else float("nan")


def seasonal_error(values: Array, season: int) -> float:
    """Mean absolute difference between a series and itself one season before; NaN if there is none."""
    return (
        _mean(np.abs(values[season:] - values[:-season])) if len(values) > season else float("nan")
    )
