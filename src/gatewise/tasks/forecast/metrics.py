"""Forecast scores over all windows and steps. Steps without an actual value are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatewise.errors import DataError

Array = np.ndarray


def scores(
    actual: Array,
    point: Array,
    scale: Array,
    mase_scale: Array,
    quantiles: Array | None = None,
    levels: Sequence[float] = (),
) -> dict[str, float]:
    """The scores of one forecast, by name.

    Args:
        actual, point: N×K actual values and point forecasts, in the data's units. ``actual`` may be NaN.
        scale: N, the standard deviation of each window's series in the training part.
        mase_scale: N, the mean absolute error of the seasonal naive forecast in the training part. Windows
            where it is NaN are left out of MASE.
        quantiles: N×K×Q, the quantile forecasts at ``levels``.

    Returns:
        MAE, MSE and RMSE in the data's units; "scaled" MAE and MSE in units of each series' standard
        deviation; MASE (Hyndman & Koehler 2006); sMAPE in percent (200·|y-f|/(|y|+|f|), as in M4); the mean
        pinball loss over the levels, plain and scaled; the coverage of the outermost interval.

    Raises:
        DataError: a forecast is NaN where there is an actual value.
    """
    for forecast in (point[..., None], *([] if quantiles is None else [quantiles])):
        absent = np.isnan(forecast).any(-1) & ~np.isnan(actual)
        if absent.any():
            window, step = np.argwhere(absent)[0]
            raise DataError(
                f"{int(absent.sum())} of {int((~np.isnan(actual)).sum())} actual values have no forecast, so "
                f"it cannot be scored; the first is in window {window} at step {step + 1}"
            )
    error = actual - point
    scaled = error / scale[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = 200 * np.abs(error) / (np.abs(actual) + np.abs(point))
        relative = np.where((actual == 0) & (point == 0), 0.0, relative)
        mase = np.abs(error) / mase_scale[:, None]
    result = {
        "mae": _mean(np.abs(error)),
        "mse": _mean(error**2),
        "rmse": _mean(error**2) ** 0.5,
        "scaled_mae": _mean(np.abs(scaled)),
        "scaled_mse": _mean(scaled**2),
        "mase": _mean(np.where(np.isfinite(mase), mase, np.nan)),
        "smape": _mean(relative),
    }
    if quantiles is not None and levels:
        q = np.asarray(levels)
        gap = actual[..., None] - quantiles
        result["pinball"] = _mean(np.maximum(q * gap, (q - 1) * gap))
        gap = gap / scale[:, None, None]
        result["scaled_pinball"] = _mean(np.maximum(q * gap, (q - 1) * gap))
        inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
        result["coverage"] = _mean(np.where(np.isnan(actual), np.nan, inside))
    return result


def _mean(values: Array) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if seen.size else float("nan")
