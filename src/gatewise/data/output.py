"""Output tables: made from columns, and written to files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gatewise.atomic import write_atomically
from gatewise.errors import OptionError, need

_PIECE = 1 << 20  # bytes that are copied at once


def table_like(columns: Mapping[str, Any], like: Any) -> Any:
    """The columns as a table of the same library as ``like`` if that is pandas or pyarrow, else of polars."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "pandas":
        return need("pandas", "tasks").DataFrame(dict(columns))
    if kind == "pyarrow":
        return need("pyarrow", "tasks").table(dict(columns))
    return need("polars", "tasks").DataFrame(dict(columns))


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of several tables, lists or arrays, put one below the other."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {
        name: np.concatenate(each) if isinstance(each[0], np.ndarray) else [*chain(*each)]
        for name, each in found.items()
    }


def check_table_name(path: Path) -> None:
    """Raises OptionError unless ``path`` ends in .csv or .parquet."""
    if path.suffix not in (".csv", ".parquet"):
        raise OptionError(
            f"the name of the output file must end in .csv or .parquet, not '{path.name}'"
        )


def write_table(table: Any, path: Path) -> None:
    """Writes a polars table to a .csv or .parquet file, see :func:`write_tables`."""
    write_tables([table], path)


def write_tables(tables: Iterable[Any], path: Path) -> int:
    """Writes polars tables, one below the other, to a .csv or .parquet file, and returns the number of their rows.

    Only one of the tables is in memory at a time. The file is replaced atomically once all are there.

    Raises:
        OptionError: the name has another ending.
        ModelFileError: the file cannot be written. A file that is already there is not changed.
    """
    check_table_name(path)
    write = _write_csv if path.suffix == ".csv" else _write_parquet
    with tempfile.TemporaryFile() as file:
        rows = write(tables, file)
        file.seek(0)
        write_atomically(path.parent, {path.name: iter(lambda: file.read(_PIECE), b"")})
    return rows


def _write_csv(tables: Iterable[Any], file: BinaryIO) -> int:
    rows = 0
    for k, table in enumerate(tables):
        table.write_csv(file, include_header=k == 0)
        rows += len(table)
    return rows


def _write_parquet(tables: Iterable[Any], file: BinaryIO) -> int:
    parquet = need("pyarrow.parquet", "tasks")
    rows, writer = 0, None
    for each in tables:
        table = each.to_arrow()
        writer = writer or parquet.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows
