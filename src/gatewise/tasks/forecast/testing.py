"""The dates that a fitted forecaster can be tested on, and the backtest of its forecasts from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from gatewise.data.panel import Panel
from gatewise.data.scaling import Scaling
from gatewise.data.windows import Windows, least_observed
from gatewise.errors import DataError
from gatewise.models.forecaster import ForecasterShape
from gatewise.report.words import with_unit
from gatewise.tasks.forecast import baselines
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.forecasting import Forecasting

Array = np.ndarray

NOTHING_TO_TEST = (
    "there is nothing to test on: after the rows that the model has seen, no date has enough observed values "
    "before it and an actual value after it. Give newer rows"
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
    """The first row of each series from which the model can be tested.

    Args:
        seen: for each series the first step that the model has not seen.

    Raises:
        DataError: no series has such a row.
    """
    horizon, rows = shape.horizon, panel.lengths
    least = _least_rows(panel, shape)
    if (rows < least + horizon).all():
        raise DataError(
            f"the longest series has {with_unit(int(rows.max()), 'row')}, and a backtest needs at least "
            f"{int(least.min()) + horizon}: {with_unit(int(least.min()), 'row')} to forecast from and a horizon of "
            f"{horizon}"
        )
    first = unseen_rows(panel, shape, seen)
    if (rows - horizon < first).all():
        counted = (
            ""
            if panel.time is not None
            else (
                " (without a time column rows are counted from the first row, so give the rows of fit "
                "followed by newer rows)"
            )
        )
        raise DataError(
            f"the model has seen all of this data, up to a horizon before its end, so it cannot be tested "
            f"on it: give newer rows{counted}, fit with test=, or use refit=True"
        )
    return first


def backtest_of(
    forecasting: Forecasting,
    windows: Windows,
    shape: ForecasterShape,
    season: int,
    fitted: Collection[str],
) -> Backtest:
    """The backtest of all windows.

    Args:
        fitted: the names of the series that the model was trained on.

    Raises:
        DataError: there is no window.
    """
    if not len(windows):
        raise DataError(NOTHING_TO_TEST)
    panel, every = windows.panel, np.arange(len(windows))
    channel, series, origin = windows.place(every)
    forecast = forecasting.forecast(windows, every)
    past = windows.contexts(every, -(-shape.context // season) * season)
    context = windows.contexts(every, shape.context)
    steps = panel.steps_from(series, origin, shape.horizon)
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
    """V×S each: the units of scaled scores and of MASE.

    They are the standard deviation and the seasonal naive error of the training part. For a series that was
    not fitted they are those of the rows before the first tested date."""
    scaling, panel = windows.scaling, windows.panel
    scale, errors = scaling.target.scale, scaling.seasonal_error
    new = np.array([name not in fitted for name in panel.names])
    if np.isnan(scale).any() or new.any():
        own = Scaling.learn(panel, np.minimum(windows.first, panel.lengths), season)
        scale = np.where(np.isnan(scale), own.target.scale, scale)
        errors = np.where(new, own.seasonal_error, errors)
    return np.nan_to_num(scale, nan=1.0), errors
