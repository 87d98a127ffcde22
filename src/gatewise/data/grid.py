"""Placing the rows of a table on a regular grid of steps: times, step numbers and gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.data import frequency
from gatewise.data.rows import Integer, Rows
from gatewise.data.stamps import Times
from gatewise.data.table import Table, times
from gatewise.data.timeline import Integers, OffGridError, Timeline
from gatewise.data.zones import show
from gatewise.errors import DataError, OptionError

# With masked gaps a panel may become this many times longer, and a small one this many rows longer. Beyond
# that a time is probably mistyped.
_ROOM_FOR_GAPS, _ROOM_FOR_FEW = 20, 1_000_000


def grid_of(
    table: Table,
    rows: Rows,
    time: str | None,
    freq: Any,
    time_format: str | None,
    timeline: Timeline | None,
) -> tuple[Timeline, Integer]:
    """The timeline, and each row's step on it."""
    if time is None:
        return _counted(rows, freq, timeline)
    found = read_times(table, time, time_format, freq, timeline)
    values = rows.gather(found.values)
    _check_rising(rows, values, found.zone)
    hint = ""
    if timeline is None and freq is not None:
        timeline = Timeline.parse(freq, values, found.zone)
    elif timeline is None:
        timeline = Timeline.infer(values, rows.offsets, names=rows.names, zone=found.zone)
        hint = f"; {timeline.name} is the most common step; give freq= if the step is another"
    return timeline, steps_of(rows, values, timeline, hint + utc_note(found))


def utc_note(found: Times) -> str:
    """The note in messages for texts of different offsets, which were converted to UTC."""
    if not found.mixed:
        return ""
    offsets = " and ".join(offset.removeprefix("UTC") or "+00:00" for offset in found.mixed)
    return (
        f"; the times have the UTC offsets {offsets}, so they were converted to UTC. If days are local, give "
        "a column with a time zone (in a data frame or Parquet file), or local times without offsets"
    )


def _counted(rows: Rows, freq: Any, timeline: Timeline | None) -> tuple[Timeline, Integer]:
    """The grid on which rows are steps, from 0 in each series."""
    if freq is not None and timeline is None:
        raise OptionError(f"freq={freq!r} needs a time column: name it with time=")
    if timeline is not None and timeline != Integers(every=1):
        raise OptionError(
            f"the model's time step is {timeline.name}, which needs a time column: name it with time="
        )
    steps = np.arange(rows.offsets[-1]) - np.repeat(rows.offsets[:-1], rows.lengths)
    return Integers(every=1), steps


def read_times(
    table: Table, column: str, time_format: str | None, freq: Any, timeline: Timeline | None
) -> Times:
    counted = freq is not None and frequency.read(freq).unit == ""
    plain = isinstance(timeline, Integers) if timeline is not None else counted
    found = times(table, column, time_format, plain=plain)
    aware = found.zone is not None
    if timeline is not None and found.values.dtype.kind == "M" and aware != bool(timeline.zone):
        raise DataError(
            f"column {column!r} has {'a' if aware else 'no'} time zone, but the time zone of the data of fit "
            f"is {timeline.zone or 'none'}: convert the column to that"
        )
    return found


def _check_rising(rows: Rows, values: NDArray[Any], zone: str | None) -> None:
    falling = rows.differences(values) <= 0
    if not falling.any():
        return
    before = int(falling.argmax())
    one, other = (show(values[index], zone) for index in (before, before + 1))
    where = rows.where(before + 1)
    several = (
        "" if rows.named else ", or name the column of the series with series= if it has several"
    )
    if one == other:
        raise DataError(
            f"{where}: the time {one} occurs twice, also in {rows.row(before)}: remove one of the rows{several}"
        )
    raise DataError(
        f"{where}: {other} comes after {one} of {rows.row(before)}: sort the table by time"
        + several
    )


def steps_of(rows: Rows, values: NDArray[Any], timeline: Timeline, hint: str) -> Integer:
    try:
        return timeline.steps(values)
    except OffGridError as error:
        raise DataError(f"{rows.where(error.index)}: {error}{hint}") from None


# ------------------------------------------------------------------------------------- gaps


@dataclass(frozen=True)
class Places:
    """The places of the rows: row i is at ``index[i]``, or at i where that is None."""

    offsets: Integer
    index: Integer | None


def place_rows(rows: Rows, steps: Integer, timeline: Timeline, gaps: str) -> tuple[Integer, Places]:
    """The first step of each series, and the places of the rows when missing steps have rows too."""
    starts, ends = steps[rows.offsets[:-1]], steps[rows.offsets[1:] - 1]
    lengths = ends - starts + 1
    missing = float(lengths.astype(np.float64).sum()) - len(steps)
    if missing == 0:
        return starts, Places(rows.offsets, None)
    if gaps == "error":
        _raise_gap(rows, steps, timeline)
    if missing > _ROOM_FOR_GAPS * len(steps) + _ROOM_FOR_FEW:
        _raise_gap(rows, steps, timeline, widest=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return starts, Places(offsets, steps + np.repeat(offsets[:-1] - starts, rows.lengths))


def _raise_gap(rows: Rows, steps: Integer, timeline: Timeline, widest: bool = False) -> None:
    leaps = rows.differences(steps)
    index = int(leaps.argmax() if widest else (leaps > 1).argmax())
    before, after = (timeline.show(time) for time in timeline.times(steps[index : index + 2]))
    count = int(leaps[index]) - 1
    gap = (
        f"{rows.where(index + 1)}: {count} step{'s are' if count > 1 else ' is'} missing between "
        f"{before} and {after} (the step is {timeline.name})"
    )
    if widest:
        raise DataError(
            f"{gap}, too many to treat as missing values: check that the times are correct"
        )
    total = int((leaps > 1).sum())
    others = f", the first of {total} gaps" if total > 1 else ""
    raise DataError(
        f"{gap}{others}: give gaps='mask' (--gaps mask) to treat them as missing values"
    )
