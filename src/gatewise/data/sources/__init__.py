"""Sources: the kinds of data that tasks accept, one file each.

A line in :data:`SOURCES` adds a source. A task lists the kinds that it accepts in ``sources``, and must know
what the source's ``read`` returns.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Source(Protocol):
    """A reader of one kind of data. It checks the data, and its errors name the file, series and row."""

    kind: ClassVar[str]

    def read(self, data: Any) -> Any:
        """The items in ``data``, which is a path or an object in memory. Raises DataError if it is not valid."""


# Each kind of source, and the class that reads it.
SOURCES = {
    "series": "gatewise.data.sources.series:SeriesTable",
    "arrays": "gatewise.data.sources.arrays:Arrays",
    "text": "gatewise.data.sources.text:TextTable",
    "music": "gatewise.data.sources.music:Music",
}
