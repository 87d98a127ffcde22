"""Sources: kinds of data that tasks learn from, one file each.

A line of :data:`SOURCES` adds one. A task names the kinds that it takes in ``sources``; what a source's
``read`` gives is between the two.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Source(Protocol):
    """A kind of data: reads what a user has, checks it once, and names the file, series and row at fault."""

    kind: ClassVar[str]

    def read(self, data: Any) -> Any:
        """The items in ``data``, a path or an object in memory; raises DataError where they cannot be used."""


# Each kind of source, and the class that reads it.
SOURCES = {
    "series": "gatewise.data.sources.series:SeriesTable",
    "arrays": "gatewise.data.sources.arrays:Arrays",
}
