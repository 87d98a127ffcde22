"""Dates at which a forecaster can be tested, and the backtest of its forecasts there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from gatewise.data.panel import Panel
from gatewise.data.scaling import Scaling
from gatewise.data.windows import Windows, least_observed
from gatewise.errors import DataError
from gatewise.models.forecaster import ForecasterShape
from gatewise.tasks.forecast import baselines
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.forecasting import Forecasting

Array = np.ndarray

NOTHING = (
    "there is nothing to test on: no date that the model has not seen has enough observed values before "
    "it to forecast from, and one after it to compare with"
)


def unseen_rows(panel: Panel, shape: ForecasterShape, seen: Mapping[str, int]) -> Array:
    """The first row of each series that is behind step ``seen`` and behind a context."""
    known = np.array([seen.get(name, 0) for name in panel.names]) - panel.starts
    return np.maximum(known, _least_rows(panel, shape))


def _least_rows(panel: Panel, shape: ForecasterShape) -> Array:
    """How many rows of each series come before its first forecast."""
    enough = panel.lengths >= shape.context + shape.horizon
    return np.where(enough, shape.context, least_observed(shape.context))


def first_unseen(panel: Panel, shape: ForecasterShape, seen: Mapping[str, int]) -> Array:
    """The first row of each series from which the model can be tested; ``seen`` has the step up to which
    it knows each series.

    Raises:
        DataError: there is none in any series.
    """
    horizon, rows = shape.horizon, panel.lengths
    least = _least_rows(panel, shape)
    if (rows < least + horizon).all():
        raise DataError(
            f"the longest series has {int(rows.max())} rows to backtest, and "
            f"{int(least.min()) + horizon} are needed: a horizon of {horizon} and what it is "
            f"forecast from"
        )
    first = unseen_rows(panel, shape, seen)
    if (rows - horizon < first).all():
        counted = (
            ""
            if panel.time is not None
            else (
                "; without a time column rows are counted from the table's first, so give the rows of "
                "fit too, and the newer ones behind them"
            )
        )
        raise DataError(
            f"the model has seen all of this data up to a horizon before its end, so there is "
            f"nothing to test it on: give newer rows{counted}, fit with test=, or use refit=True"
        )
    return first


def tested(
    forecasting: Forecasting,
    windows: Windows,
    shape: ForecasterShape,
    season: int,
    fitted: Collection[str],
) -> Backtest:
    """The forecasts of all windows beside the truth and the naive forecasts; ``fitted`` are the series
    that the model has learned from.

    Raises:
        DataError: there is no window.
    """
    if not len(windows):
        raise DataError(NOTHING)
    panel, every = windows.panel, np.arange(len(windows))
    channel, series, origin = windows.place(every)
    forecast = forecasting.forecast(windows, every)
    past = windows.contexts(every, -(-shape.context // season) * season)
    context = windows.contexts(every, shape.context)
    steps = (panel.starts[series] + origin)[:, None] + np.arange(shape.horizon)
    scale, errors = _score_units(windows, season, fitted)
    return Backtest(
        actual=windows.futures(every),
        point=forecast[..., 0],
        quantiles=forecast[..., 1:],
        levels=tuple(forecasting.levels),
        last_value=baselines.last_value(context, shape.horizon),
        seasonal_naive=baselines.seasonal(past, season, shape.horizon),
        context=context,
        series=np.asarray(panel.names)[series],
        target=np.asarray(panel.targets)[channel],
        origin=origin,
        times=panel.timeline.times(steps.ravel()).reshape(steps.shape),
        scale=scale[channel, series],
        mase_scale=errors[channel, series],
        left_out=windows.left_out,
    )


def _score_units(windows: Windows, season: int, fitted: Collection[str]) -> tuple[Array, Array]:
    """V×S each: the deviation and the error of seasonal naive that scores are given in, of the training
    part; of a series that was not fitted, what is before its first tested date."""
    scaling, panel = windows.scaling, windows.panel
    scale, errors = scaling.target.scale, scaling.seasonal_error
    new = np.array([name not in fitted for name in panel.names])
    if np.isnan(scale).any() or new.any():
        own = Scaling.learn(panel, np.minimum(windows.first, panel.lengths), season)
        scale = np.where(np.isnan(scale), own.target.scale, scale)
        errors = np.where(new, own.seasonal_error, errors)
    return np.nan_to_num(scale, nan=1.0), errors
