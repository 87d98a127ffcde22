"""Rows of a table, read one after the other: CSV and TSV, JSON lines, Parquet, or a table in memory."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gatewise.data.lines import Problems, decoded, pieces, text_files
from gatewise.data.table import load
from gatewise.errors import DataError, near, need, some

LONGEST_FIELD = 1 << 24  # characters of a text in a table
_SHOWN_COLUMNS = 20
_TOGETHER = 4096  # rows of a Parquet file that are read at once

_TSV = (".tsv", ".tsv.gz")
CSV = (".csv", ".csv.gz", *_TSV)
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
PARQUET = (".parquet",)
TABLES = (*CSV, *JSON_LINES, *PARQUET)


class Row(NamedTuple):
    """The values of a row's columns, its number, and where it is, for messages.

    The number is that of the row in the data from 1 on, and of the line for JSON lines. Rows that were left out
    and have no :class:`Row` count too.
    """

    values: tuple[Any, ...]
    number: int
    place: str


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return path.name.lower().endswith(TABLES)


def rows(data: Any, columns: Sequence[str], problems: Problems | None = None) -> Iterator[Row]:
    """The values of ``columns`` in each row of ``data``. A file is read a piece at a time.

    Values of CSV are texts, and an empty field is an empty text. A missing value elsewhere is None.

    Args:
        data: a path of one of :data:`TABLES`, or a table as :func:`gatewise.data.table.load` takes it.
        problems: what is done with a row that is not valid.

    Raises:
        DataError: the file is missing, damaged or of an unknown kind, a column is missing, or a row is not
            valid. The message has the file, the row and the line.
    """
    problems = problems or Problems()
    if not isinstance(data, (str, os.PathLike)):
        table = load(data)
        table.check(columns)
        lists = (table.frame[column].to_list() for column in columns)
        for k, values in enumerate(zip(*lists, strict=True)):
            yield Row(values, k + 1, f"row {k + 1}")
        return
    (path,) = text_files([data]) if not os.path.isdir(data) else (Path(data),)
    name = path.name.lower()
    if path.is_dir() or not is_table(path):
        what = "is a folder" if path.is_dir() else f"has an unknown file type '{path.suffix}'"
        raise DataError(f"{path} {what}: give a table of type {', '.join(TABLES)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    read = _csv if name.endswith(CSV) else _json_lines if name.endswith(JSON_LINES) else _parquet
    yield from read(path, columns, problems)


def check_columns(path: Path, present: Sequence[str], columns: Sequence[str]) -> None:
    """Raises DataError for the first of ``columns`` that is not among those ``present`` in the file."""
    for column in columns:
        if column not in present:
            raise DataError(
                f"no column {column!r}{near(column, present)} in {path}; "
                f"it has {some(map(repr, present), _SHOWN_COLUMNS)}"
            )


# ---------------------------------------------------------------------------------------------- CSV


class _Lines:
    """The lines of a CSV file as texts, and what was wrong with those of the present row."""

    def __init__(self, path: Path) -> None:
        self.path, self.number, self.bad = path, 0, ""

    def __iter__(self) -> Iterator[str]:
        for offset, data in pieces(self.path, LONGEST_FIELD):
            self.number += 1
            if len(data) >= LONGEST_FIELD - 1 and not data.endswith(b"\n"):
                raise DataError(
                    f"{self.path}, line {self.number} is longer than {LONGEST_FIELD:,} bytes: is it CSV?"
                )
            try:
                yield decoded(data, self.path, self.number, offset)
            except DataError as error:
                self.bad = self.bad or str(error)
                yield data.decode("utf-8", "replace")


def _csv(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Row]:
    source = _Lines(path)
    reader = csv.reader(
        source, delimiter="\t" if path.name.lower().endswith(_TSV) else ",", strict=True
    )
    try:
        with _long_fields():
            header = next((row for row in reader if row), [])
        if source.bad:
            raise DataError(source.bad)
        check_columns(path, header, columns)
        for column in columns:
            if header.count(column) > 1:
                raise DataError(f"{path} has {header.count(column)} columns {column!r}: rename one")
        wanted = [header.index(column) for column in columns]
        number = 0
        while True:
            with _long_fields():
                row = next(reader, None)
            if row is None:
                return
            if not row and len(header) > 1:  # an empty line
                continue
            number += 1
            place = f"row {number} (line {source.number} of {path.name})"
            row = row or [""]
            if source.bad:
                problems.add("bytes that are not UTF-8", f"{place}: {source.bad}")
                source.bad = ""
            elif len(row) != len(header):
                problems.add(
                    "rows with another number of columns than the header",
                    f"{place} has {len(row)} columns, expected {len(header)}",
                )
            else:
                yield Row(tuple(row[k] for k in wanted), number, place)
    except csv.Error as error:
        raise DataError(f"{path}, line {source.number} is not CSV: {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module with fields up to LONGEST_FIELD. Its limit is one for the whole process."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# --------------------------------------------------------------------------------------- JSON lines


def _json_lines(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Row]:
    number, checked = 0, False
    for offset, data in pieces(path, LONGEST_FIELD):
        number += 1
        place = f"line {number} of {path.name}"
        if len(data) >= LONGEST_FIELD - 4 and not data.endswith(b"\n"):
            raise DataError(f"{place} is longer than {LONGEST_FIELD:,} bytes: is it JSON lines?")
        if not data.strip():
            continue
        try:
            line = decoded(data, path, number, offset)
        except DataError as error:
            problems.add("bytes that are not UTF-8", str(error))
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add("lines that are not JSON", f"{place} is not JSON: {error}")
            continue
        if not isinstance(content, dict):
            problems.add("lines that are not JSON objects", f"{place} is not a JSON object")
            continue
        if not checked:
            check_columns(path, list(content), columns)
            checked = True
        yield Row(tuple(content.get(column) for column in columns), number, place)


# ------------------------------------------------------------------------------------------ Parquet


def _parquet(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Row]:
    need("pyarrow", "tasks")
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            check_columns(path, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(_TOGETHER, columns=list(columns)):
                batch.validate(full=True)
                lists = (batch.column(column).to_pylist() for column in columns)
                for values in zip(*lists, strict=True):
                    number += 1
                    yield Row(values, number, f"row {number} of {path.name}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
