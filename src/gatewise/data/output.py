"""Tables that are written: a table of columns, and its file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatewise.errors import OptionError, need
from gatewise.whole import write_whole


def table_like(columns: Mapping[str, Any], like: Any) -> Any:
    """Columns as a table of the kind of ``like``: of pandas or pyarrow where that is one, else of polars."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "pandas":
        return need("pandas", "tasks").DataFrame(dict(columns))
    if kind == "pyarrow":
        return need("pyarrow", "tasks").table(dict(columns))
    return need("polars", "tasks").DataFrame(dict(columns))


def check_table_name(path: Path) -> None:
    """Raise OptionError where a table cannot be written to a file of this name."""
    if path.suffix not in (".csv", ".parquet"):
        raise OptionError(f"the table's file must end in .csv or .parquet, not '{path.name}'")


def write_table(table: Any, path: Path) -> None:
    """Write a polars table whole to a .csv or .parquet file.

    Raises:
        OptionError: the name ends in something else.
        ModelFileError: it cannot be written there; what was there stays.
    """
    check_table_name(path)
    buffer = io.BytesIO()
    {".csv": table.write_csv, ".parquet": table.write_parquet}[path.suffix](buffer)
    write_whole(path.parent, {path.name: buffer.getvalue()})
