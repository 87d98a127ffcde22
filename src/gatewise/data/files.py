"""Tables from CSV and TSV files, plain or compressed, and from Parquet files."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewise.data.paths import check_exists
from gatewise.errors import DataError, need

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")
"""Texts that mean "no value" in a column of numbers."""

_SHOWN_TEXT = 40
_LONGEST_HEADER = 1 << 24  # bytes

# Arrow types on which polars panics, or which it changes, such as -03:00 to Etc/GMT+3.
_FOREIGN = re.compile(r"decimal256|tz=[+-]")

Names = frozenset[str]


def read(path: Path, text: Names, labels: Names) -> tuple[Any, int]:
    """The frame in a file, and the number of empty lines before its header.

    The frame is of polars, or of pyarrow where polars has no type for a column.

    Args:
        text, labels: the arguments of ``gatewise.data.table.load``.

    Raises:
        DataError: the file is missing, empty, damaged or of an unknown kind.
    """
    import polars as pl

    try:
        reader = _reader(path)
        return reader(path, text, labels)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except (
        *(OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error),
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),  # a panic is not an Exception
    ) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read {path}: {reason}") from error


def twice(names: Iterable[object]) -> str:
    """The text of a message about a repeated column name, the most frequent of ``names``."""
    name, count = Counter(names).most_common(1)[0]
    return f"{count} columns named {name!r}; names must be unique"


def _reader(path: Path) -> Callable[[Path, Names, Names], tuple[Any, int]]:
    check_exists(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a table")
    ending = next((end for end in _READERS if path.name.lower().endswith(end)), None)
    if ending is None:
        raise DataError(
            f"{path} has an unknown file type '{path.suffix}': give a file of type {', '.join(_READERS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    return _READERS[ending]


def _read_parquet(path: Path, text: Names, labels: Names) -> tuple[Any, int]:
    """Reads with pyarrow, which refuses damaged files that crash polars' reader."""
    import polars as pl

    need("pyarrow", "tasks")
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
        # without the fields' metadata, because polars panics on some bytes there
        table = pa.Table.from_arrays(table.columns, table.column_names)
    except pa.ArrowException as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if any(_FOREIGN.search(str(field.type)) for field in table.schema):
        return table, 0
    try:
        return pl.from_arrow(table), 0
    except pl.exceptions.ComputeError:  # another type that polars does not have, such as list_view
        return table, 0


def _read_csv(path: Path, text: Names, labels: Names) -> tuple[Any, int]:
    import polars as pl

    separator = "\t" if ".tsv" in path.name.lower() else ","
    # gzip is unpacked here, because Python detects a truncated or damaged end, which polars ignores.
    packed = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else None

    def parse(**options: Any) -> pl.DataFrame:
        return pl.read_csv(path if packed is None else packed, separator=separator, **options)

    with path.open("rb") if packed is None else io.BytesIO(packed) as file:
        header, blank = _header(file)
    missing = list(MISSING)
    try:
        frame = parse(infer_schema_length=10_000, null_values=missing)
    except pl.exceptions.ComputeError:
        # A later row breaks the type of the first ones: look at all of them. A column with a
        # stray text then comes as text, so that `numbers` can name the row.
        frame = parse(infer_schema_length=None, null_values=missing)
    _check_names(path, frame.columns, header)
    if packed is None:  # a checksum protects the end of a compressed file
        _check_last_line(path, separator, len(frame.columns))
    written = [
        name
        for name, kind in frame.schema.items()
        if name in text or (name in labels and kind == pl.String)
    ]
    if written:  # unchanged: NA is a name; only an empty cell is missing
        frame = frame.with_columns(parse(columns=written, infer_schema=False))
    while frame.height and all(value is None for value in frame.row(-1)):
        frame = frame[:-1]  # blank lines at the end
    return frame, blank


def _header(file: Any) -> tuple[str, int]:
    """The first line that is not empty, which has the names, and the number of empty lines before it."""
    blank = 0
    while (line := file.readline(_LONGEST_HEADER)) in (b"\n", b"\r\n", b"\xef\xbb\xbf\n"):
        blank += 1
    return line.decode("utf-8-sig", "strict").rstrip("\r\n"), blank


def _check_names(path: Path, names: list[str], header: str) -> None:
    again = Counter(  # polars names the second of two columns "a" a_duplicated_0
        match[1]
        for name in names
        if name not in header and (match := re.fullmatch(r"(.*)_duplicated_\d+", name, re.DOTALL))
    )
    if again:
        raise DataError(f"{path} has {twice([*again.elements(), *again])}")
    if len(names) == 1 and any(other in header for other in ",;\t"):
        raise DataError(
            f"the header of {path} has one column, {header[:_SHOWN_TEXT]!r}: "
            "separate columns by commas in .csv files and by tabs in .tsv files"
        )


def _check_last_line(path: Path, separator: str, columns: int) -> None:
    """Raises DataError for a short last line: the file is truncated. polars would fill the line with nulls."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        last = file.read().rpartition(b"\n")[2].decode("utf-8", "replace")
    if not last.strip() or '"' in last:  # a quoted field may span lines
        return
    fields = last.count(separator) + 1
    if fields < columns:
        raise DataError(
            f"{path} is truncated: its last line, {last[:_SHOWN_TEXT]!r}, has {fields} of {columns} "
            f"columns. Copy the file again"
        )


_READERS: dict[str, Callable[[Path, Names, Names], tuple[Any, int]]] = {
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".tsv": _read_csv,
    ".tsv.gz": _read_csv,
    ".parquet": _read_parquet,
}
