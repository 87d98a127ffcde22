"""The values of a panel: time series on the grid, and static columns with one value for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.data.grid import Places
from gatewise.data.rows import Floats, Rows
from gatewise.data.table import Table, categories, numbers
from gatewise.errors import DataError


def column_values(table: Table, columns: tuple[str, ...], rows: Rows, places: Places) -> Floats:
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


def static_values(
    table: Table,
    rows: Rows,
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


def _static_labels(table: Table, rows: Rows, column: str) -> tuple[NDArray[Any], list[str]]:
    labels, codes = categories(table, column)
    return _one_each(rows, rows.gather(codes), column), [str(label) for label in labels]


def _static_numbers(table: Table, rows: Rows, column: str) -> Floats:
    values = rows.gather(numbers(table, column))
    missing = np.isnan(values)
    if missing.any():
        where = rows.where(int(missing.argmax()))
        raise DataError(f"static column {column!r}, {where}: the value is missing")
    return _one_each(rows, values, column)


def _one_each(rows: Rows, values: NDArray[Any], column: str) -> NDArray[Any]:
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
