"""The rows of a table, grouped by series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.data.table import Table, categories

Floats = NDArray[np.float64]
Integer = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
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


def group_rows(table: Table, series: str | None) -> Rows:
    count = table.frame.shape[0]
    if series is None:
        return Rows(table, [""], np.array([""]), np.array([0, count]), None, named=False)
    labels, codes = categories(table, series)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(labels)))])
    order = None
    if (codes[1:] < codes[:-1]).any():
        # With few labels 16 bits are enough; numpy sorts these by radix sort.
        small = codes.astype(np.uint16) if len(labels) <= 1 << 16 else codes
        order = np.argsort(small, kind="stable")
    names = [str(label) for label in labels]
    return Rows(table, names, np.array(labels), offsets, order, named=True)
