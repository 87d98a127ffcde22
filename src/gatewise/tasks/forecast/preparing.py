"""What a forecaster learns from: sizes of its network, calendar features, and the windows of each part."""

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
from gatewise.tasks.forecast import sizes
from gatewise.tasks.kinds import is_size

Array = np.ndarray


def shape_of(
    options: SimpleNamespace, panel: Panel, trained: Array, season: int, calendar: Sequence[int]
) -> ForecasterShape:
    """The network's sizes for a panel of which so many rows of each series are learned from."""
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
    """That a part has windows; a warning names the series that have none.

    Raises:
        DataError: no series has one.
    """
    context, horizon, panel = windows.context, windows.horizon, windows.panel
    if not len(windows):
        raise DataError(
            f"the {kind} part has no window to go by: none has {least_observed(context)} "
            f"observed values of a target among the {context} steps of its context and one "
            f"among the {horizon} of its horizon. Give another split, or fill what is missing"
        )
    absent = np.setdiff1d(np.arange(len(panel.names)), windows.series())
    if absent.size:
        caution(
            f"{panel.listed(absent)}: too short, or with too few observed values, for a window "
            f"in the {kind} part, in which it takes no part"
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
    """Ck×S×K: the known columns over the horizon, from the table ``future``; None where there are none.

    Raises:
        DataError: the table is missing, or is not needed.
    """
    if not panel.known:
        if future is not None:
            raise DataError(
                "a future= table was given, and this model has no known columns to take from it"
            )
        return None
    if future is None:
        raise DataError(
            f"the known columns ({', '.join(panel.known)}) are needed over the horizon: give "
            f"predict a future= table of {horizon} rows for each series (--future FILE)"
        )
    values = panel.future_table(
        future, horizon=horizon, time=time, series=series, time_format=time_format
    )
    return values.reshape(len(panel.known), len(panel.names), horizon)


def say_short(panel: Panel, context: int) -> None:
    """Warn of series that are shorter than a context."""
    short = np.flatnonzero(panel.lengths < context)
    if short.size:
        caution(
            f"{panel.listed(short)}: shorter than the {context} steps that the model "
            f"reads; what is before the first row is taken as missing"
        )


def cycles(panel: Panel, rows: int) -> list[int]:
    """Which calendar features the training part has seen through at least twice."""
    first, last = panel.timeline.times(np.array([0, rows]))
    names = panel.timeline.calendar_names
    if not names:
        return []
    span = int((last - first) / np.timedelta64(1, "us"))
    return [k for k, name in enumerate(names) if span >= 2 * cycle_length(name)]
