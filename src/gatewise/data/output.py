"""Output tables: made from columns, and written to files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatewise.atomic import write_atomically
from gatewise.errors import OptionError, need


def table_like(columns: Mapping[str, Any], like: Any) -> Any:
    """The columns as a table of the same library as ``like`` if that is pandas or pyarrow, else of polars."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "pandas":
        return need("pandas", "tasks").DataFrame(dict(columns))
    if kind == "pyarrow":
        return need("pyarrow", "tasks").table(dict(columns))
    return need("polars", "tasks").DataFrame(dict(columns))


def check_table_name(path: Path) -> None:
    """Raises OptionError unless ``path`` ends in .csv or .parquet."""
    if path.suffix not in (".csv", ".parquet"):
        raise OptionError(
            f"the name of the output file must end in .csv or .parquet, not '{path.name}'"
        )


def write_table(table: Any, path: Path) -> None:
    """Writes a polars table to a .csv or .parquet file, which is replaced atomically.

    Raises:
        OptionError: the name has another ending.
        ModelFileError: the file cannot be written. A file that is already there is not changed.
    """
    check_table_name(path)
    buffer = io.BytesIO()
    {".csv": table.write_csv, ".parquet": table.write_parquet}[path.suffix](buffer)
    write_atomically(path.parent, {path.name: buffer.getvalue()})
