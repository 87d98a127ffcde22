"""Many series on one regular grid of steps, stored in flat arrays. The table is checked once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gatewise.data.grid import grid_of, place_rows, read_times, steps_of, utc_note
from gatewise.data.moments import moments
from gatewise.data.panel_values import column_values, static_values
from gatewise.data.rows import Floats, Integer, Rows, group_rows
from gatewise.data.table import Table, load, name_of, names_of, numbers
from gatewise.data.timeline import Timeline
from gatewise.errors import DataError, OptionError, near, some
from gatewise.options import choice

Columns = Any  # a column name, or a list or tuple of names; a name is text, or any name of pandas

_SHOWN_SERIES = 3
_NEARLY = 1e-4  # a range below this share of the values may be rounding, and is checked


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
        rows = group_rows(table, series)
        timeline, steps = grid_of(table, rows, time, freq, time_format, timeline)
        starts, places = place_rows(rows, steps, timeline, gaps)
        del steps
        statics, static_names, vocabulary = static_values(
            table, rows, roles["static"], static_labels
        )
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
            target=column_values(table, roles["target"], rows, places),
            past_values=column_values(table, roles["past"], rows, places),
            known_values=column_values(table, roles["known"], rows, places),
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

    def steps_from(self, series: Integer | slice, rows: Integer, horizon: int) -> Integer:
        """The numbers of the K steps that begin at these rows of these series, a line for each series."""
        return np.asarray((self.starts[series] + rows)[:, None] + np.arange(horizon))

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
        rows = group_rows(table, series)
        owner = self._owners(rows)
        if time is None:
            ahead = np.arange(rows.offsets[-1]) - np.repeat(rows.offsets[:-1], rows.lengths)
        else:
            found = read_times(table, time, time_format, None, self.timeline)
            hint = utc_note(found)
            steps = steps_of(rows, rows.gather(found.values), self.timeline, hint)
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

    def _owners(self, rows: Rows) -> Integer:
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

    def _check_future(self, rows: Rows, owner: Integer, ahead: Integer, horizon: int) -> None:
        outside = (ahead < 0) | (ahead >= horizon)
        if outside.any():
            index = int(outside.argmax())
            asked = self._span(owner[index], 0, horizon - 1)
            given = self._span(owner[index], ahead[index], ahead[index])
            raise DataError(
                f"the future table, {rows.where(index)}: {given} is not in the horizon of {horizon} "
                f"after the end of the data, {asked}"
            )
        times_given = np.bincount(owner * horizon + ahead, minlength=len(self.names) * horizon)
        wrong = np.flatnonzero(times_given != 1)
        if wrong.size:
            s, step = divmod(int(wrong[0]), horizon)
            what = "lacks" if times_given[wrong[0]] == 0 else "has twice"
            raise DataError(
                f"the future table {what} {self._called(s)}{self._span(s, step, step)}: give each "
                f"step of {self._span(s, 0, horizon - 1)} once"
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
