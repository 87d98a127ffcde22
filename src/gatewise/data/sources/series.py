"""Sequences in a long table, which has one row for each series and time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from gatewise.data.sequences import Sequences
from gatewise.data.table import Table, categories, load, numbers, times
from gatewise.errors import DataError, OptionError, some

Array = np.ndarray

_SHOWN = 20


@dataclass(frozen=True)
class Series:
    """N series with their classes or targets.

    Attributes:
        labels: N, the names of the series as in the table, in order of first appearance.
        sequences: the values, sorted by time.
        channels: the columns of the values.
        target: N classes, or N×K numbers; None if they were not read.
        table: the table that they were read from.
        order: ΣT, the index of the table's row of each value.
    """

    labels: Array
    sequences: Sequences
    channels: tuple[str, ...]
    target: Array | None
    table: Table
    order: Array

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def known_target(self) -> Array:
        """``target``, which must have been read."""
        assert self.target is not None
        return self.target

    def chosen(self, which: Array) -> Series:
        """The series with the indices ``which``."""
        rows = [self.order[self.sequences.rows(k)] for k in which]
        return replace(
            self,
            order=np.concatenate(rows),
            labels=self.labels[which],
            sequences=self.sequences.chosen(which),
            target=None if self.target is None else self.target[which],
        )


@dataclass(frozen=True)
class SeriesTable:
    """The reader of a long table: a file, or a data frame of pandas, polars or pyarrow.

    Args:
        series: the column with the names of the series.
        time: the column of times, by which each series is sorted. Without it the order of rows is kept.
        label: the column of classes.
        target: the columns of target numbers.
        channels: the numeric columns to read. By default all numeric columns without another role.
        time_format: the format of times that are text or integers.
    """

    series: str
    time: str | None = None
    label: str | None = None
    target: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    time_format: str | None = None

    kind: ClassVar[str] = "series"

    def read(self, data: Any, learned: bool = True) -> Series:
        """The series in ``data``.

        Args:
            learned: whether to read the classes or targets too.

        Raises:
            DataError: the table is not valid. The message names the column, series and row.
            OptionError: a column has two roles.
        """
        self._check_roles()
        text = [self.series] if self.label is None or not learned else [self.series, self.label]
        table = load(data, text=[self.series], labels=text[1:], time_format=self.time_format)
        wanted = [self.series, *([self.time] if self.time else []), *self.channels]
        table.check([*wanted, *(self._learned() if learned else ())])
        names, codes = categories(table, self.series)
        order = self._order(table, codes, names)
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(names)))])
        channels = self.channels or self._numeric(table)
        values = np.stack([numbers(table, name) for name in channels], axis=1)[order]
        target = self._target(table, codes, names) if learned else None
        sequences = Sequences(values, starts, channels)
        return Series(np.asarray(names), sequences, channels, target, table, order)

    def check_values(self, found: Series, missing: str) -> None:
        """Checks that no value is missing, unless ``missing`` is "mask".

        Raises:
            DataError: a value is missing. The message names the column, series and step.
        """
        gone = np.isnan(found.sequences.values)
        if missing == "mask" or not gone.any():
            return
        row, channel = np.argwhere(gone)[0]
        s = int(np.searchsorted(found.sequences.starts, row, side="right")) - 1
        step = int(row - found.sequences.starts[s]) + 1
        raise DataError(
            f"column {found.channels[channel]!r}, series {str(found.labels[s])!r}, step {step}, "
            f"{found.table.place(found.order[row])}: the value is missing. Fill missing values, or give "
            f"missing='mask', with which the network is told which values are missing"
        )

    def _learned(self) -> tuple[str, ...]:
        return (*(() if self.label is None else (self.label,)), *self.target)

    def _check_roles(self) -> None:
        roles: dict[str, tuple[str, ...]] = {"series": (self.series,)}
        roles |= {"time": (self.time,) if self.time else ()}
        roles |= {"label": (self.label,) if self.label else (), "target": self.target}
        roles |= {"channels": self.channels}
        given: dict[str, str] = {}
        for role, columns in roles.items():
            for column in columns:
                if column in given:
                    raise OptionError(
                        f"the column {column!r} is given as {given[column]} and as {role}: give it one role"
                    )
                given[column] = role

    def _numeric(self, table: Table) -> tuple[str, ...]:
        """The numeric columns that have no other role."""
        taken = {self.series, self.time, *self._learned()}
        found = [name for name in table.frame.columns if name not in taken]
        numeric = [name for name in found if _is_numeric(table.frame[name])]
        if not numeric:
            raise DataError(
                f"{table.name} has no numeric column besides those of series, time and targets; its other "
                f"columns are {some(map(repr, found), _SHOWN) or 'none'}. Name the columns to read with "
                f"channels="
            )
        return tuple(numeric)

    def _order(self, table: Table, codes: Array, names: Sequence[Any]) -> Array:
        """The indices of the table's rows, sorted by series and time."""
        if self.time is None:
            return np.argsort(codes, kind="stable")
        stamps = times(table, self.time, self.time_format).values.view(np.int64)
        order = np.lexsort((stamps, codes))
        same = (np.diff(codes[order]) == 0) & (np.diff(stamps[order]) == 0)
        if same.any():
            at = int(same.argmax())
            first, second = (int(row) for row in order[at : at + 2])
            raise DataError(
                f"column {self.time!r}, series {str(names[codes[first]])!r}: {table.place(first)} and "
                f"{table.place(second)} have the same time; a series must have one row for each time"
            )
        return order

    def _target(self, table: Table, codes: Array, names: Sequence[Any]) -> Array | None:
        """The class or the targets of each series, which must be constant within the series."""
        first = np.unique(codes, return_index=True)[1]
        if self.label is not None:
            classes, found = categories(
                table, self.label, "; for numbers use fit regress (Regressor)"
            )
            self._check_constant(table, self.label, found, codes, first, names)
            return np.asarray(classes)[found[first]]
        columns = []
        for column in self.target:
            values = numbers(table, column)
            if np.isnan(values).any():
                row = int(np.isnan(values).argmax())
                raise DataError(
                    f"column {column!r}, series {str(names[codes[row]])!r}, {table.place(row)}: the value is "
                    f"missing; a target needs a value in every row"
                )
            self._check_constant(table, column, values, codes, first, names)
            columns.append(values[first])
        return np.stack(columns, axis=1) if columns else None

    @staticmethod
    def _check_constant(
        table: Table, column: str, values: Array, codes: Array, first: Array, names: Sequence[Any]
    ) -> None:
        differs = values != values[first][codes]
        if differs.any():
            row = int(differs.argmax())
            before = int(first[codes[row]])
            shown = [table.frame[column][int(each)] for each in (before, row)]
            raise DataError(
                f"column {column!r} differs within series {str(names[codes[row]])!r}: {shown[0]!r} in "
                f"{table.place(before)} and {shown[1]!r} in {table.place(row)}; it must be constant within "
                f"a series"
            )


def _is_numeric(column: Any) -> bool:
    import narwhals as nw

    return bool(column.dtype.is_numeric() or column.dtype == nw.Boolean)


def digests(sequences: Sequences) -> Array:
    """N hashes of the sequences' values, with which a model recognises sequences that it was trained on."""
    values = np.where(np.isnan(sequences.values), np.nan, sequences.values + 0.0)
    found = [
        hashlib.blake2b(values[sequences.rows(k)].tobytes(), digest_size=8).digest()
        for k in range(len(sequences))
    ]
    return np.frombuffer(b"".join(found), dtype="<i8").astype(np.int64)
