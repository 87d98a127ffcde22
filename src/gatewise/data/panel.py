"""Many series on one regular grid of steps, stored in flat arrays. The table is checked once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gatewise.data import frequency
from gatewise.data.moments import moments
from gatewise.data.stamps import Times
from gatewise.data.table import Table, categories, load, name_of, names_of, numbers, times
from gatewise.data.timeline import Integers, OffGridError, Timeline
from gatewise.data.zones import show
from gatewise.errors import DataError, OptionError, near, some
from gatewise.options import choice

Columns = Any  # a column name, or a list or tuple of names; a name is text, or any name of pandas
Floats = NDArray[np.float64]
Integer = NDArray[np.int64]

_SHOWN_SERIES = 3
_NEARLY = 1e-4  # a range below this share of the values may be rounding, and is checked
# With masked gaps a panel may become this many times longer, and a small one this many rows longer. Beyond
# that a time is probably mistyped.
_ROOM_FOR_GAPS, _ROOM_FOR_FEW = 20, 1_000_000


@dataclass(frozen=True)
class Panel:
    """S series on one grid of steps. Row r of series s is step ``starts[s] + r``.

    Attributes:
        names: the series' names as text; [""] without a series column.
        labels: the S names as in the table, so that integers stay integers.
        offsets: S + 1 bounds; the rows of series s are ``offsets[s]:offsets[s + 1]``.
        starts: the step number of each series' first row.
        timeline: the grid and its calendar.
        time, series: the names of the time and series columns, or None. A pandas index with times counts as
            a column.
        targets, past, known: names of the V, Cp and Ck columns below.
        target, past_values, known_values: (V | Cp | Ck, rows), NaN for missing values.
        static: (S, Cs), a number or a one-hot label for each of ``static_names``.
        static_labels: for each static column of labels, the labels that ``static`` encodes.
    """

    names: list[str]
    labels: NDArray[Any]
    offsets: Integer
    starts: Integer
    timeline: Timeline
    time: str | None
    series: str | None
    targets: tuple[str, ...]
    past: tuple[str, ...]
    known: tuple[str, ...]
    target: Floats
    past_values: Floats
    known_values: Floats
    static: Floats
    static_names: tuple[str, ...]
    static_labels: dict[str, list[str]]

    @classmethod
    def from_table(
        cls,
        source: object,
        *,
        target: Columns,
        time: Any = None,
        series: Any = None,
        past: Columns = (),
        known: Columns = (),
        static: Columns = (),
        freq: Any = None,
        time_format: str | None = None,
        gaps: str = "error",
        timeline: Timeline | None = None,
        static_labels: Mapping[str, Sequence[str]] | None = None,
    ) -> Self:
        """The panel of a table, which is anything that ``table.load`` accepts.

        Rows of different series may be mixed, but the times of each series must increase.

        Args:
            target, past, known: numeric columns: the values to forecast, covariates known up to now, and
                covariates known for the future too.
            time: the column of timestamps or integers. The default is the index of a pandas frame if it has
                times; else each row is a step.
            series: the column with the series' names. Without one, the table is one series.
            static: columns with one number or label for each series.
            freq: the step, as ``Timeline.parse`` reads it; the default is the most common step.
            time_format: the format of times in text, if it is not ISO.
            gaps: the treatment of missing steps: "error", or "mask" to insert rows of NaN.
            timeline, static_labels: those of the panel that a model was fitted to, to be used here too.
                ``freq`` is then ignored, and an unknown label is encoded as zeros.

        Raises:
            DataError: the table is not valid. The message names the column, series and row.
            OptionError: an argument is not valid, or a column has two roles.
        """
        time, series = _one(time), _one(series)
        roles = {"target": names_of(target), "past": names_of(past), "known": names_of(known)}
        roles |= {"static": names_of(static), "time": _tuple(time), "series": _tuple(series)}
        _check_roles(roles, gaps)
        labelled = list(static_labels or ())
        table = load(
            source,
            text=[*roles["series"], *labelled],
            labels=roles["static"],
            time_format=time_format,
        )
        if time is None:
            time = _index_of(table, roles)
            if time is None and time_format is not None:
                raise OptionError(
                    f"time_format={time_format!r} needs a column of times: name it with time=, or give a "
                    f"table whose index has times in this format"
                )
        table.check(column for columns in roles.values() for column in columns)
        rows = _group(table, series)
        timeline, steps = _grid(table, rows, time, freq, time_format, timeline)
        starts, places = _place(rows, steps, timeline, gaps)
        del steps
        statics, static_names, vocabulary = _statics(table, rows, roles["static"], static_labels)
        return cls(
            names=rows.names,
            labels=rows.labels,
            offsets=places.offsets,
            starts=starts,
            timeline=timeline,
            time=time,
            series=series,
            targets=roles["target"],
            past=roles["past"],
            known=roles["known"],
            target=_values(table, roles["target"], rows, places),
            past_values=_values(table, roles["past"], rows, places),
            known_values=_values(table, roles["known"], rows, places),
            static=statics,
            static_names=static_names,
            static_labels=vocabulary,
        )

    def in_order(self, names: Sequence[str]) -> Self:
        """The panel with its series in the order of these names, which are all of its series."""
        place = {name: s for s, name in enumerate(self.names)}
        order = np.array([place[name] for name in names])
        ends = zip(self.offsets[order], self.offsets[order + 1], strict=True)
        rows = np.concatenate([np.arange(first, end) for first, end in ends])
        return replace(
            self,
            names=list(names),
            labels=self.labels[order],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[order])]),
            starts=self.starts[order],
            target=self.target[:, rows],
            past_values=self.past_values[:, rows],
            known_values=self.known_values[:, rows],
            static=self.static[order],
        )

    @property
    def lengths(self) -> Integer:
        """The number of rows of each series."""
        return np.diff(self.offsets)

    def check_learnable(self) -> None:
        """Raises DataError where a target of a series has no value, or only one value apart from rounding."""
        for column, values in zip(self.targets, self.target, strict=True):
            least = np.fmin.reduceat(values, self.offsets[:-1])
            most = np.fmax.reduceat(values, self.offsets[:-1])
            near = ~(most - least > _NEARLY * np.maximum(np.abs(least), np.abs(most)))
            still = [s for s in map(int, np.flatnonzero(near)) if not self._varies(values, s)]
            if not still:
                continue
            s = still[0]
            what = "has no value"
            if self.lengths[s] == 1:
                what = "has one row"
            elif not np.isnan(least[s]):
                what = f"is {least[s]:g} in every row" + (
                    "" if least[s] == most[s] else ", apart from rounding"
                )
            others = f" ({len(still)} series are like this)" if len(still) > 1 else ""
            raise DataError(
                f"{self._called(s)}target {column!r} {what}, so there is nothing to learn{others}: "
                "leave the series out"
            )

    def _varies(self, values: Floats, s: int) -> bool:
        """Whether a series varies by more than rounding."""
        part = values[self.offsets[s] : self.offsets[s + 1]]
        return bool(moments(part[None])[1][0] > 0)

    def crop(self, first: Integer, last: Integer) -> Self:
        """The rows ``first[s]:last[s]`` of each series; each series must keep at least one row."""
        lengths = last - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        kept = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1] + first - offsets[:-1], lengths)
        return replace(
            self,
            offsets=offsets,
            starts=self.starts + first,
            target=self.target[:, kept],
            past_values=self.past_values[:, kept],
            known_values=self.known_values[:, kept],
        )

    def tail(self, rows: int) -> Self:
        """The last rows of each series; all rows of a series that has fewer."""
        return self.crop(np.maximum(self.lengths - rows, 0), self.lengths)

    def future_steps(self, horizon: int) -> Integer:
        """The step numbers of the H steps after each series' end, (S, H)."""
        return np.asarray((self.starts + self.lengths)[:, None] + np.arange(horizon))

    def future_table(
        self,
        source: object,
        horizon: int,
        *,
        time: Any = None,
        series: Any = None,
        time_format: str | None = None,
    ) -> Floats:
        """The known columns for the H steps after each series' end, (Ck, S * H).

        Args:
            source: a table with the time, series and known columns, and exactly one row for each of these
                steps, in any order (in order without a time column).
            time, series: the names of these columns, if they differ from the panel's.

        Raises:
            DataError: a step or series is missing, repeated or unexpected, or a value is missing.
        """
        time = self.time if time is None else name_of(time)
        series = self.series if series is None else name_of(series)
        table = load(source, text=_tuple(series), time_format=time_format)
        if time is not None and time not in table.frame.columns and len(table.indexes) == 1:
            time = table.indexes[0]
        table.check([*_tuple(time), *_tuple(series), *self.known])
        rows = _group(table, series)
        owner = self._owners(rows, series)
        if time is None:
            ahead = np.arange(rows.offsets[-1]) - np.repeat(rows.offsets[:-1], rows.lengths)
        else:
            found = _read_times(table, time, time_format, None, self.timeline)
            hint = _in_utc(found)
            steps = _steps(rows, rows.gather(found.values), self.timeline, hint)
            ahead = steps - (self.starts + self.lengths)[owner]
        self._check_future(rows, owner, ahead, horizon)
        values = np.empty((len(self.known), len(self.names) * horizon))
        for index, column in enumerate(self.known):
            given = rows.gather(numbers(table, column))
            missing = np.isnan(given)
            if missing.any():
                where = rows.where(int(missing.argmax()))
                raise DataError(
                    f"future column {column!r}, {where}: the value is missing; give a value for each step"
                )
            values[index, owner * horizon + ahead] = given
        return values

    def _owners(self, rows: _Rows, series: str | None) -> Integer:
        """The index of the series of each row of a future table, in the order of ``rows``."""
        index = {name: s for s, name in enumerate(self.names)}
        strange = [name for name in rows.names if name not in index]
        if strange:
            hint = near(strange[0], self.names)
            raise DataError(
                f"the future table has series {strange[0]!r}{hint}, which is not in the data: leave it out"
            )
        absent = sorted(set(self.names) - set(rows.names), key=index.__getitem__)
        if absent:
            shown = some(map(repr, absent), _SHOWN_SERIES)
            raise DataError(f"the future table lacks series {shown}: it must have every series")
        owners = np.array([index[name] for name in rows.names], dtype=np.int64)
        return np.repeat(owners, rows.lengths)

    def _check_future(self, rows: _Rows, owner: Integer, ahead: Integer, horizon: int) -> None:
        outside = (ahead < 0) | (ahead >= horizon)
        if outside.any():
            index = int(outside.argmax())
            asked = self._span(owner[index], 0, horizon - 1)
            given = self._span(owner[index], ahead[index], ahead[index])
            raise DataError(
                f"the future table, {rows.where(index)}: {given} is not one of the {horizon} steps after "
                f"the end of the data, {asked}"
            )
        times_given = np.bincount(owner * horizon + ahead, minlength=len(self.names) * horizon)
        wrong = np.flatnonzero(times_given != 1)
        if wrong.size:
            s, step = divmod(int(wrong[0]), horizon)
            what = "lacks" if times_given[wrong[0]] == 0 else "has twice"
            raise DataError(
                f"the future table {what} {self._called(s)}{self._span(s, step, step)}: give each of "
                f"the {horizon} steps {self._span(s, 0, horizon - 1)} once"
            )

    def _span(self, s: int, first: int, last: int) -> str:
        """The times of steps after the end of series s, as text for messages."""
        if self.time is None:
            return f"step {first + 1}" if first == last else f"{first + 1} to {last + 1}"
        end = self.starts[s] + self.lengths[s]
        shown = [
            self.timeline.show(time) for time in self.timeline.times(end + np.array([first, last]))
        ]
        return shown[0] if first == last else f"{shown[0]} to {shown[1]}"

    def listed(self, series: Sequence[int] | Integer) -> str:
        """The names of series for a message; only the first few of many."""
        if self.series is None:
            return "the series"
        return f"series {some([repr(self.names[s]) for s in series], _SHOWN_SERIES)}"

    def _called(self, s: int) -> str:
        return f"series {self.names[s]!r}, " if self.series is not None else ""


# ---------------------------------------------------------------------------------- grouping


@dataclass(frozen=True)
class _Rows:
    """The rows of a table, grouped by series: row i here is row ``order[i]`` of the table."""

    table: Table
    names: list[str]
    labels: NDArray[Any]
    offsets: Integer
    order: Integer | None  # None: the table has this order already
    named: bool

    @property
    def lengths(self) -> Integer:
        return np.diff(self.offsets)

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self.order is None else values[self.order]

    def series_of(self, index: int) -> int:
        return int(np.searchsorted(self.offsets, index, side="right")) - 1

    def row(self, index: int) -> str:
        return self.table.place(index if self.order is None else self.order[index])

    def where(self, index: int) -> str:
        """The series and the row, as text for messages."""
        called = f"series {self.names[self.series_of(index)]!r}, " if self.named else ""
        return called + self.row(index)

    def differences(self, values: NDArray[Any]) -> Integer:
        """The difference from each row to the next; 1 between series."""
        steps = np.asarray(np.diff(values.view(np.int64)), dtype=np.int64)
        steps[self.offsets[1:-1] - 1] = 1
        return steps


def _group(table: Table, series: str | None) -> _Rows:
    count = table.frame.shape[0]
    if series is None:
        return _Rows(table, [""], np.array([""]), np.array([0, count]), None, named=False)
    labels, codes = categories(table, series)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(labels)))])
    order = None
    if (codes[1:] < codes[:-1]).any():
        # With few labels 16 bits are enough; numpy sorts these by radix sort.
        small = codes.astype(np.uint16) if len(labels) <= 1 << 16 else codes
        order = np.argsort(small, kind="stable")
    names = [str(label) for label in labels]
    return _Rows(table, names, np.array(labels), offsets, order, named=True)


# ---------------------------------------------------------------------------------- the grid


def _grid(
    table: Table,
    rows: _Rows,
    time: str | None,
    freq: Any,
    time_format: str | None,
    timeline: Timeline | None,
) -> tuple[Timeline, Integer]:
    """The timeline, and each row's step on it."""
    if time is None:
        return _counted(rows, freq, timeline)
    found = _read_times(table, time, time_format, freq, timeline)
    values = rows.gather(found.values)
    _check_rising(rows, values, found.zone)
    hint = ""
    if timeline is None and freq is not None:
        timeline = Timeline.parse(freq, values, found.zone)
    elif timeline is None:
        timeline = Timeline.infer(values, rows.offsets, names=rows.names, zone=found.zone)
        hint = f"; {timeline.name} is the most common step; give freq= if the step is another"
    return timeline, _steps(rows, values, timeline, hint + _in_utc(found))


def _in_utc(found: Times) -> str:
    """The note in messages for texts of different offsets, which were converted to UTC."""
    if not found.mixed:
        return ""
    offsets = " and ".join(offset.removeprefix("UTC") or "+00:00" for offset in found.mixed)
    return (
        f"; the times have the UTC offsets {offsets}, so they were converted to UTC. If days are local, give "
        "a column with a time zone (in a data frame or Parquet file), or local times without offsets"
    )


def _counted(rows: _Rows, freq: Any, timeline: Timeline | None) -> tuple[Timeline, Integer]:
    """The grid on which rows are steps, from 0 in each series."""
    if freq is not None and timeline is None:
        raise OptionError(f"freq={freq!r} needs a time column: name it with time=")
    if timeline is not None and timeline != Integers(every=1):
        raise OptionError(
            f"the model's time step is {timeline.name}, which needs a time column: name it with time="
        )
    steps = np.arange(rows.offsets[-1]) - np.repeat(rows.offsets[:-1], rows.lengths)
    return Integers(every=1), steps


def _read_times(
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


def _check_rising(rows: _Rows, values: NDArray[Any], zone: str | None) -> None:
    falling = rows.differences(values) <= 0
    if not falling.any():
        return
    before = int(falling.argmax())
    one, other = (show(values[index], zone) for index in (before, before + 1))
    where = rows.where(before + 1)
    if one == other:
        raise DataError(
            f"{where}: the time {one} occurs twice, also in {rows.row(before)}: remove one of the rows"
        )
    raise DataError(
        f"{where}: {other} comes after {one} of {rows.row(before)}: sort the table by time"
        + (
            ""
            if rows.named
            else ", or name the column of series names with series= if it has several"
        )
    )


def _steps(rows: _Rows, values: NDArray[Any], timeline: Timeline, hint: str) -> Integer:
    try:
        return timeline.steps(values)
    except OffGridError as error:
        raise DataError(f"{rows.where(error.index)}: {error}{hint}") from None


# ------------------------------------------------------------------------------------- gaps


@dataclass(frozen=True)
class _Places:
    """The places of the rows: row i is at ``index[i]``, or at i where that is None."""

    offsets: Integer
    index: Integer | None


def _place(rows: _Rows, steps: Integer, timeline: Timeline, gaps: str) -> tuple[Integer, _Places]:
    """The first step of each series, and the places of the rows when missing steps have rows too."""
    starts, ends = steps[rows.offsets[:-1]], steps[rows.offsets[1:] - 1]
    lengths = ends - starts + 1
    missing = float(lengths.astype(np.float64).sum()) - len(steps)
    if missing == 0:
        return starts, _Places(rows.offsets, None)
    if gaps == "error":
        _raise_gap(rows, steps, timeline)
    if missing > _ROOM_FOR_GAPS * len(steps) + _ROOM_FOR_FEW:
        _raise_gap(rows, steps, timeline, widest=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return starts, _Places(offsets, steps + np.repeat(offsets[:-1] - starts, rows.lengths))


def _raise_gap(rows: _Rows, steps: Integer, timeline: Timeline, widest: bool = False) -> None:
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


# ----------------------------------------------------------------------------------- columns


def _values(table: Table, columns: tuple[str, ...], rows: _Rows, places: _Places) -> Floats:
    size = int(places.offsets[-1])
    if places.index is not None:
        values = np.full((len(columns), size), np.nan)
        for index, column in enumerate(columns):
            values[index, places.index] = rows.gather(numbers(table, column))
        return values
    values = np.empty((len(columns), size))
    for index, column in enumerate(columns):
        if rows.order is None:
            values[index] = numbers(table, column)
        else:  # directly into the result: with "clip" numpy needs no buffer
            np.take(numbers(table, column), rows.order, out=values[index], mode="clip")
    return values


def _statics(
    table: Table,
    rows: _Rows,
    columns: tuple[str, ...],
    given: Mapping[str, Sequence[str]] | None,
) -> tuple[Floats, tuple[str, ...], dict[str, list[str]]]:
    """The static values (S, Cs), their names, and the labels of each column of labels."""
    parts: list[Floats] = [np.empty((len(rows.names), 0))]
    names: list[str] = []
    vocabulary: dict[str, list[str]] = {}
    for column in columns:
        if (column in given) if given is not None else _has_labels(table, column):
            codes, found = _static_labels(table, rows, column)
            labels = sorted(found) if given is None else list(given[column])
            vocabulary[column] = labels
            chosen = np.array(found)[codes]
            parts.append((chosen[:, None] == np.array(labels)[None, :]).astype(np.float64))
            names += [f"{column}={label}" for label in labels]
        else:
            parts.append(_static_numbers(table, rows, column)[:, None])
            names.append(column)
    return np.concatenate(parts, axis=1), tuple(names), vocabulary


def _has_labels(table: Table, column: str) -> bool:
    import narwhals as nw

    kind = table.frame[column].dtype
    return kind in (nw.String, nw.Categorical, nw.Enum, nw.Object, nw.Binary)


def _static_labels(table: Table, rows: _Rows, column: str) -> tuple[NDArray[Any], list[str]]:
    labels, codes = categories(table, column)
    return _one_each(rows, rows.gather(codes), column), [str(label) for label in labels]


def _static_numbers(table: Table, rows: _Rows, column: str) -> Floats:
    values = rows.gather(numbers(table, column))
    missing = np.isnan(values)
    if missing.any():
        where = rows.where(int(missing.argmax()))
        raise DataError(f"static column {column!r}, {where}: the value is missing")
    return _one_each(rows, values, column)


def _one_each(rows: _Rows, values: NDArray[Any], column: str) -> NDArray[Any]:
    """The value of each series, in which the column must be constant."""
    first = values[rows.offsets[:-1]]
    other = values != np.repeat(first, rows.lengths)
    if other.any():
        index = int(other.argmax())
        begin = rows.row(int(rows.offsets[rows.series_of(index)]))
        raise DataError(
            f"static column {column!r}, {rows.where(index)}: the value differs from that of {begin}; a "
            f"static column must be constant within a series"
        )
    return first


# ----------------------------------------------------------------------------------- options


def _one(column: Any) -> str | None:
    return None if column is None else name_of(column)


def _tuple(column: str | None) -> tuple[str, ...]:
    return () if column is None else (column,)


def _index_of(table: Table, roles: Mapping[str, tuple[str, ...]]) -> str | None:
    """The column of times that was the index of a pandas frame, unless it has another role; else None."""
    taken = {column for columns in roles.values() for column in columns}
    left = [column for column in table.indexes if column not in taken]
    if len(left) > 1:
        raise DataError(
            f"the index of the table has several levels of times, {left[0]!r} and {left[1]!r}: name one "
            "with time="
        )
    return left[0] if left else None


def _check_roles(roles: Mapping[str, tuple[str, ...]], gaps: str) -> None:
    choice("gaps", gaps, ("error", "mask"))
    if not roles["target"]:
        raise OptionError("target must name at least one column to forecast")
    taken: dict[str, str] = {}
    for role, columns in roles.items():
        for column in columns:
            if column in taken:
                raise OptionError(
                    f"column {column!r} is given twice: as {taken[column]} and as {role}; give it one role"
                )
            taken[column] = role
