"""Preparation of a forecast: sizes of the network, calendar features, checks of windows and future values."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gatewise.data.panel import Panel
from gatewise.data.timeline import cycle_length
from gatewise.data.windows import Windows, least_observed
from gatewise.errors import DataError, OptionError, caution, some
from gatewise.models.forecaster import ForecasterShape
from gatewise.report.words import with_unit
from gatewise.tasks.forecast import sizes
from gatewise.tasks.kinds import is_size

Array = np.ndarray


def shape_of(
    options: SimpleNamespace, panel: Panel, trained: Array, season: int, calendar: Sequence[int]
) -> ForecasterShape:
    """The network's sizes.

    Args:
        trained: the number of training rows of each series.
        season: the seasonal period in steps.
        calendar: the indices of the calendar features.
    """
    given = options.context
    patch = sizes.patch_of(season, given)
    return ForecasterShape(
        context=sizes.context_for(given, season, patch, trained, options.horizon),
        horizon=options.horizon,
        patch=patch,
        quantiles=len(options.quantiles),
        past=len(options.past),
        known=len(options.known),
        calendar=len(calendar),
        static=panel.static.shape[1],
        hidden=options.hidden,
        layers=options.layers,
        dropout=options.dropout,
    )


def check_windows(kind: str, windows: Windows) -> None:
    """Checks that a part of the data has windows. A warning names the series without windows.

    Raises:
        DataError: no series has a window.
    """
    context, horizon, panel = windows.context, windows.horizon, windows.panel
    if not len(windows):
        raise DataError(
            f"the {kind} part has no usable window: a window needs at least {least_observed(context)} "
            f"observed target values in its context of {with_unit(context, 'step')}, and one in its "
            f"horizon of {with_unit(horizon, 'step')}. Give another split, or fill missing values"
        )
    absent = np.setdiff1d(np.arange(len(panel.names)), windows.series())
    if absent.size:
        caution(
            f"{panel.listed(absent)}: not used in the {kind} part, because it is too short or has too few "
            f"observed values for a window"
        )


def check_no_test(test: Any) -> None:
    """Raise OptionError where ``test`` is a part of the data, and validation is a file."""
    if is_size(test) and test:
        raise OptionError(
            f"validation is a file with newer rows than the data, and test={test} would hold out older ones: "
            f"give test=0, or a file with rows that are newer still"
        )


def check_same_series(panel: Panel, newer: Panel) -> None:
    """Raise DataError where the validation file has other series than the data."""
    for names, others, what in (
        (panel.names, newer.names, "the validation file has no row of"),
        (newer.names, panel.names, "the validation file has rows that the data has not, of"),
    ):
        missing = [name for name in names if name not in set(others)]
        if missing:
            raise DataError(f"{what} {some(map(repr, missing), 5)}: give the same series in both")


def known_ahead(
    panel: Panel, future: Any, horizon: int, time: Any, series: Any, time_format: str | None
) -> Array | None:
    """Ck×S×K: the values of the known columns over the horizon, from the table ``future``; None if the model
    has no known columns.

    Raises:
        DataError: the table is missing, or was given to a model without known columns.
    """
    if not panel.known:
        if future is not None:
            raise DataError(
                "a future= table was given, but this model has no known columns: leave future= out"
            )
        return None
    if future is None:
        raise DataError(
            f"the values of the known columns ({', '.join(panel.known)}) are needed over the horizon: "
            f"give future= (--future FILE), a table with {with_unit(horizon, 'row')} for each series"
        )
    values = panel.future_table(
        future, horizon=horizon, time=time, series=series, time_format=time_format
    )
    return values.reshape(len(panel.known), len(panel.names), horizon)


def warn_short_series(panel: Panel, context: int) -> None:
    """Warns of series that are shorter than a context."""
    short = np.flatnonzero(panel.lengths < context)
    if short.size:
        caution(
            f"{panel.listed(short)}: shorter than the context of {context} steps; the steps before the "
            f"first row are treated as missing values"
        )


def cycles(panel: Panel, rows: int) -> list[int]:
    """The indices of the calendar features whose cycle the training part contains at least twice."""
    first, last = panel.timeline.times(np.array([0, rows]))
    names = panel.timeline.calendar_names
    if not names:
        return []
    span = int((last - first) / np.timedelta64(1, "us"))
    return [k for k, name in enumerate(names) if span >= 2 * cycle_length(name)]
