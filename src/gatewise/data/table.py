"""A user's table, from a file or a data frame, and its columns as checked arrays.

Rows are counted from 1, the first row of data; the header of a file is not a row.
"""

from __future__ import annotations

import csv
import gzip
import os
import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gatewise.errors import DataError, OptionError, near, need

if TYPE_CHECKING:
    import narwhals as nw
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")
"""Texts that mean "no value"."""

_SHOWN_COLUMNS = 20
_SHOWN_TEXT = 40

_DATES = ("%Y-%m-%d", "%Y-%m", "%Y/%m/%d")
_CLOCKS = ("%H:%M:%S%.f", "%H:%M")
_NAIVE = _DATES + tuple(f"%Y-%m-%d{gap}{clock}" for gap in "T " for clock in _CLOCKS)
_AWARE = tuple(f"{form}{space}%#z" for form in _NAIVE[len(_DATES) :] for space in ("", " "))


@dataclass(frozen=True)
class Table:
    """A table and where it came from.

    Attributes:
        frame: the data, a narwhals eager frame over what the user gave (polars for files).
        path: the file it was read from, or None.
    """

    frame: nw.DataFrame[Any]
    path: Path | None = None

    @property
    def name(self) -> str:
        """What messages call the table."""
        return str(self.path) if self.path else "the table"

    def place(self, index: int | np.integer[Any]) -> str:
        """``"row 5"`` for index 4, with the line of the file where the file has lines."""
        if self.path is None or self.path.suffix.lower() == ".parquet":
            return f"row {index + 1}"
        return f"row {index + 1} (line {index + 2} of {self.path.name})"

    def check(self, columns: Iterable[str]) -> None:
        """Raise DataError for the first of ``columns`` that the table lacks."""
        present = self.frame.columns
        for column in columns:
            if column not in present:
                shown = ", ".join(repr(name) for name in present[:_SHOWN_COLUMNS])
                more = len(present) - _SHOWN_COLUMNS
                raise DataError(
                    f"no column {column!r}{near(column, map(str, present))} in {self.name}; "
                    f"it has {shown}" + (f" and {more} more" if more > 0 else "")
                )


@dataclass(frozen=True)
class Times:
    """A time column as numbers.

    Attributes:
        values: int64 step numbers, or datetime64[us] or [ns]; UTC where there is a zone.
        zone: the IANA time zone of the column, or None for stamps without one.
    """

    values: NDArray[Any]
    zone: str | None = None


# ------------------------------------------------------------------------------------- loading


def load(source: object, *, text: Iterable[str] = ()) -> Table:
    """The table in ``source``.

    Args:
        source: a path (.csv, .tsv, either with .gz, or .parquet), a pandas, polars or pyarrow
            table, or a mapping of column names to arrays. A Table is returned as it is.
        text: columns of a CSV file that stay as written, such as names like ``007``.

    Raises:
        DataError: the file is missing, empty, damaged or of an unknown kind, the source is no
            table, a column name occurs twice, or there are no rows.
    """
    if isinstance(source, Table):
        return source
    for module in ("narwhals", "polars"):
        need(module, "tasks")
    if isinstance(source, (str, os.PathLike)):
        table = _read(Path(os.fspath(source)), frozenset(text))
    else:
        table = Table(_wrap(source))
    if table.frame.shape[0] == 0:
        raise DataError(f"{table.name} has no rows")
    return table


def _wrap(source: object) -> nw.DataFrame[Any]:
    import narwhals as nw

    if isinstance(source, Mapping):
        source = _from_arrays(source)
    elif type(source).__name__ == "LazyFrame":
        raise DataError("a LazyFrame holds no data yet: give its .collect()")
    try:
        return nw.from_native(source, eager_only=True)
    except TypeError:
        raise DataError(
            "a table must be a path, a pandas, polars or pyarrow table or a dict of arrays, "
            f"not {type(source).__name__}"
        ) from None
    except nw.exceptions.DuplicateError:
        columns: Iterable[object] = getattr(source, "columns", ())
        if not all(isinstance(name, str) for name in columns):  # pyarrow lists arrays there
            columns = getattr(source, "column_names", ())
        raise DataError(f"the table has {_twice(columns)}") from None


def _from_arrays(arrays: Mapping[Any, Any]) -> pl.DataFrame:
    import polars as pl

    columns = {str(name): _to_column(str(name), values) for name, values in arrays.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        first, last = (
            f"{name!r} has {count}"
            for name, count in (
                min(lengths.items(), key=lambda item: item[1]),
                max(lengths.items(), key=lambda item: item[1]),
            )
        )
        raise DataError(f"the columns differ in length: {first} rows, {last}")
    return pl.DataFrame(columns)


def _to_column(name: str, values: Any) -> pl.Series:
    import polars as pl

    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"column {name!r} must be one-dimensional, not of shape {array.shape}")
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in ("D", "ms", "us", "ns"):
        array = array.astype("datetime64[us]")  # polars knows only those four
    if array.dtype.kind == "O":
        return pl.Series(name, array.tolist(), strict=False)
    return pl.Series(name, array)


def _read(path: Path, text: frozenset[str]) -> Table:
    import polars as pl

    reader = _reader(path)
    try:
        frame = reader(path, text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read {path}: {reason}") from error
    return Table(_wrap(frame), path)


def _reader(path: Path) -> Callable[[Path, frozenset[str]], pl.DataFrame]:
    if not path.exists():
        nearby = os.listdir(path.parent) if path.parent.is_dir() else []
        raise DataError(f"no file {path}{near(path.name, nearby)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a table")
    ending = next((end for end in _READERS if path.name.lower().endswith(end)), None)
    if ending is None:
        raise DataError(
            f"{path} has an unknown kind '{path.suffix}': a table is one of {', '.join(_READERS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    return _READERS[ending]


def _read_parquet(path: Path, text: frozenset[str]) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(path)


def _read_csv(path: Path, text: frozenset[str]) -> pl.DataFrame:
    import polars as pl

    separator = "\t" if ".tsv" in path.name.lower() else ","
    header = _header(path, separator)
    _check_last_line(path, separator, len(header))
    options: dict[str, Any] = {
        "separator": separator,
        "null_values": list(MISSING),
        "schema_overrides": {column: pl.String for column in text if column in header},
    }
    try:
        frame = pl.read_csv(path, infer_schema_length=10_000, **options)
    except pl.exceptions.ComputeError:
        # A later row breaks the type of the first ones: look at all of them. A column with a
        # stray text then comes as text, so that `numbers` can name the row.
        frame = pl.read_csv(path, infer_schema_length=None, **options)
    while frame.height and all(value is None for value in frame.row(-1)):
        frame = frame[:-1]  # blank lines at the end
    return frame


def _header(path: Path, separator: str) -> list[str]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    names = next(csv.reader([line], delimiter=separator), [])
    if len(set(names)) < len(names):
        raise DataError(f"{path} has {_twice(names)}")
    if len(names) == 1 and any(other in line for other in ",;\t"):
        raise DataError(
            f"the header of {path} has one column, {line[:_SHOWN_TEXT]!r}: "
            "separate columns by commas in .csv files and by tabs in .tsv files"
        )
    return names


def _check_last_line(path: Path, separator: str, columns: int) -> None:
    """polars fills a short line with nulls; at the end of a file it means a cut-off file."""
    if path.suffix.lower() == ".gz":  # whose end is checked by its checksum
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        last = file.read().rpartition(b"\n")[2].decode("utf-8", "replace")
    if not last.strip() or '"' in last:  # a quoted field may span lines
        return
    fields = last.count(separator) + 1
    if fields < columns:
        raise DataError(
            f"{path} is cut off: its last line, {last[:_SHOWN_TEXT]!r}, has {fields} of "
            f"{columns} columns"
        )


def _twice(names: Iterable[object]) -> str:
    name, count = Counter(names).most_common(1)[0]
    return f"{count} columns named {name!r}; names must be unique"


_READERS: dict[str, Callable[[Path, frozenset[str]], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".tsv": _read_csv,
    ".tsv.gz": _read_csv,
    ".parquet": _read_parquet,
}

# ------------------------------------------------------------------------------------- columns


def numbers(table: Table, column: str) -> NDArray[np.float64]:
    """A column as float64, NaN where there is no value. May be a view of the table: don't write.

    Integers, decimals, booleans and texts that are numbers are taken.

    Raises:
        DataError: the column is missing, or a value is infinite or not a number.
    """
    table.check([column])
    values = _to_floats(table, column)
    infinite = np.isinf(values)
    if infinite.any():
        where = table.place(infinite.argmax())
        raise DataError(f"column {column!r}, {where}: the value is infinite")
    return values


def _to_floats(table: Table, column: str) -> NDArray[np.float64]:
    import narwhals as nw

    series = table.frame[column]
    kind = series.dtype
    if kind.is_numeric() or kind == nw.Boolean:
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    if kind == nw.Object:  # pandas' columns of Python objects: numbers, None, texts
        try:
            return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
        except (TypeError, ValueError):
            pass
    if kind not in (nw.String, nw.Categorical, nw.Enum, nw.Object):
        raise DataError(f"column {column!r} holds {kind}, not numbers")
    return _parse_numbers(table, column)


def _parse_numbers(table: Table, column: str) -> NDArray[np.float64]:
    import polars as pl

    texts = _texts(table.frame[column]).str.strip_chars()
    values = texts.cast(pl.Float64, strict=False)
    bad = values.is_null() & texts.is_not_null() & ~texts.is_in(MISSING)
    if bad.any():
        index = bad.arg_max() or 0
        raise DataError(
            f"column {column!r}, {table.place(index)}: {_clip(texts[index])} is not a number"
        )
    return np.asarray(values.to_numpy(), dtype=np.float64)


def categories(
    table: Table, column: str
) -> tuple[list[str] | list[int] | list[bool], NDArray[np.int32]]:
    """The labels of a column in order of first appearance, and each row's index among them.

    Raises:
        DataError: the column is missing, a row has no value, or the values are no labels.
    """
    table.check([column])
    import narwhals as nw

    series = table.frame[column]
    kind = series.dtype
    _check_no_null(table, series, column)
    if not (kind.is_integer() or kind in (nw.Boolean, nw.String, nw.Categorical, nw.Enum)):
        if kind != nw.Object:
            raise DataError(
                f"column {column!r} holds {kind}; labels are texts, integers or categories"
            )
        series = nw.from_native(_texts(series), series_only=True)
    return _factorize(series)


def _factorize(
    series: nw.Series[Any],
) -> tuple[list[str] | list[int] | list[bool], NDArray[np.int32]]:
    native: Any = series.to_native()
    if series.implementation.is_pandas_like():
        codes, labels = native.factorize()
        return labels.tolist(), codes.astype(np.int32)
    import polars as pl

    if series.implementation.is_pyarrow():
        native = pl.from_arrow(native)
    if native.dtype == pl.String:
        native = native.cast(pl.Categorical)  # 4 bytes a row to search instead of 16
    labels = native.unique(maintain_order=True)
    index = pl.Series(range(len(labels)), dtype=pl.Int32)
    return labels.to_list(), native.replace_strict(labels, index).to_numpy()


def times(table: Table, column: str, time_format: str | None = None) -> Times:
    """A time column as integers, or as stamps in UTC.

    Args:
        time_format: how texts (or integers such as 20240131) spell a time, in the notation of
            ``datetime.strptime``. Without it texts must be ISO dates or date-times, such as
            2024-01-31, 2024-01, 2024-01-31 17:30, 2024-01-31T17:30:00.5Z.

    Raises:
        DataError: the column is missing, a row has no time, or a value is no time.
        OptionError: ``time_format`` is not a format.
    """
    table.check([column])
    import narwhals as nw

    series = table.frame[column]
    kind = series.dtype
    _check_no_null(table, series, column)
    if isinstance(kind, nw.Datetime):
        if kind.time_zone is None:
            return Times(_to_stamps(series.to_numpy()))
        utc = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return Times(_to_stamps(utc.to_numpy()), _known_zone(kind.time_zone))
    if kind == nw.Date:
        return Times(_to_stamps(series.to_numpy()))
    if kind.is_numeric() and time_format is None:
        return Times(_to_integers(table, column))
    if kind.is_float() or kind in (nw.Boolean, nw.Duration, nw.Time):
        raise DataError(f"column {column!r} holds {kind}; times are stamps, integers or texts")
    return _parse_times(table, column, time_format)


def _to_stamps(values: NDArray[Any]) -> NDArray[np.datetime64]:
    if np.datetime_data(values.dtype)[0] in ("us", "ns"):
        return values
    return values.astype("datetime64[us]")


def _known_zone(name: str) -> str:
    """A fixed offset such as UTC+01:00 is no IANA zone; its stamps are kept as UTC."""
    try:
        return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return "UTC"


def _to_integers(table: Table, column: str) -> NDArray[np.int64]:
    values = table.frame[column].to_numpy()
    if values.dtype.kind in "iu":
        return values.astype(np.int64, copy=False)
    broken = values != np.floor(values)  # an integer column that once held a null is a float one
    if broken.any():
        index = broken.argmax()
        raise DataError(
            f"column {column!r}, {table.place(index)}: {values[index]} is not a time; "
            "times are stamps or whole numbers"
        )
    return values.astype(np.int64)


def _parse_times(table: Table, column: str, time_format: str | None) -> Times:
    import polars as pl

    texts = _texts(table.frame[column]).str.strip_chars()
    if time_format is None:
        aware = any(_stamps(texts[:1], form).item() is not None for form in _AWARE)
        forms = list(_AWARE if aware else _NAIVE)
        # The spelling of the first row is most likely that of all.
        forms.sort(key=lambda form: _stamps(texts[:1], form).item() is None)
    else:
        aware = "%z" in time_format
        forms = [time_format.replace(".%f", "%.f")]  # polars reads %f as nanoseconds
    values = pl.Series(dtype=pl.Datetime("us")).extend_constant(None, len(texts))
    for form in forms:
        values = values.zip_with(values.is_not_null(), _stamps(texts, form))
        if not values.null_count():
            break
    _check_parsed(table, column, texts, values, time_format)
    return Times(values.to_numpy(), "UTC" if aware else None)


def _stamps(texts: pl.Series, form: str) -> pl.Series:
    import polars as pl

    zone = "UTC" if form.endswith("z") else None
    try:
        values = texts.str.to_datetime(form, strict=False, time_unit="us", time_zone=zone)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"time_format={form!r} is no format: {reason}") from error
    return values.dt.replace_time_zone(None)


def _check_parsed(
    table: Table, column: str, texts: pl.Series, values: pl.Series, time_format: str | None
) -> None:
    bad = values.is_null() | (values.dt.year() < 1000)  # 20-01-31 is not the year 20
    if bad.any():
        index = bad.arg_max() or 0
        wanted = (
            "is not a time: write 2024-01-31 or 2024-01-31 17:30, or give time_format"
            if time_format is None
            else f"does not follow time_format={time_format!r}"
        )
        where = table.place(index)
        raise DataError(f"column {column!r}, {where}: {_clip(texts[index])} {wanted}")


def _texts(series: nw.Series[Any]) -> pl.Series:
    import narwhals as nw
    import polars as pl

    native: Any = series.to_native()
    if isinstance(native, pl.Series) and series.dtype != nw.Object:
        return native.cast(pl.String)
    if series.dtype == nw.String:
        return pl.Series(series.to_list(), dtype=pl.String, strict=False)
    values = zip(series.is_null().to_list(), series.to_list(), strict=True)
    return pl.Series([None if gone else str(value) for gone, value in values], dtype=pl.String)


def _check_no_null(table: Table, series: nw.Series[Any], column: str) -> None:
    if series.null_count():
        index = series.is_null().to_numpy().argmax()
        raise DataError(f"column {column!r}, {table.place(index)}: there is no value")


def _clip(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…")
