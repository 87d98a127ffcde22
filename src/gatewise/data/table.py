"""A user's table, from a file or a data frame, and its columns as checked arrays.

Rows are counted from 1, the first row of data; the header of a file is not a row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gatewise.data import stamps
from gatewise.data.files import MISSING, read, twice
from gatewise.data.stamps import BadTimeError, Times, clip, texts_of, type_of
from gatewise.errors import DataError, near, need, some
from gatewise.forks import check_polars

if TYPE_CHECKING:
    import narwhals as nw
    import polars as pl
    from narwhals.typing import IntoDataFrame

# A data frame of the user's library, for functions that return one of the same library.
Frame = TypeVar("Frame", bound="IntoDataFrame")

_SHOWN_COLUMNS = 20
_LARGEST = 1e150  # of a number: its square and a sum of such squares can be computed with
_INDEX = "time"  # the name of an unnamed index with times


@dataclass(frozen=True)
class Table:
    """A table and its source.

    A column is identified by the text of its name: 0 is "0", and ``("a", "b")`` is "('a', 'b')".

    Attributes:
        frame: the data, a narwhals eager frame of the user's table (of polars for files).
        path: the file that the table was read from, or None.
        blank: the number of empty lines before the file's header.
        names: the user's names of the columns, where they are not text.
        indexes: the columns that were levels of a pandas frame's index and hold times.
    """

    frame: nw.DataFrame[Any]
    path: Path | None = None
    blank: int = 0
    names: Mapping[str, Any] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The table's name in messages."""
        return str(self.path) if self.path else "the table"

    def place(self, index: int | np.integer[Any]) -> str:
        """``"row 5"`` for index 4, with the line of the file where the file has lines."""
        if self.path is None or self.path.suffix.lower() == ".parquet":
            return f"row {index + 1}"
        return f"row {index + 1} (line {index + 2 + self.blank} of {self.path.name})"

    def check(self, columns: Iterable[str]) -> None:
        """Raises DataError for the first of ``columns`` that the table does not have."""
        present = self.frame.columns
        for column in columns:
            if column not in present:
                raise DataError(
                    f"no column {column!r}{near(column, map(str, present))} in {self.name}; "
                    f"it has {some(map(repr, present), _SHOWN_COLUMNS)}"
                )


# ------------------------------------------------------------------------------------- loading


def load(
    source: object,
    *,
    text: Iterable[str] = (),
    labels: Iterable[str] = (),
    time_format: str | None = None,
) -> Table:
    """The table in ``source``.

    Args:
        source: a path (.csv, .tsv, either with .gz, or .parquet), a pandas, polars or pyarrow
            table, or a mapping of column names to arrays. A Table is returned as it is. The index of a
            pandas frame is read as columns where it has names or holds times.
        text: columns of a CSV file to read as text, such as names like ``007`` or ``NA``.
        labels: columns to read as text where they have texts; they may have numbers.
        time_format: the format of times in the index of a pandas frame, if it is not ISO.

    Raises:
        DataError: the file is missing, empty, damaged or of an unknown kind, the source is not a
            table, a column name occurs twice, or the table has no rows.
    """
    if isinstance(source, Table):
        return source
    for module in ("narwhals", "polars"):
        need(module, "tasks")
    check_polars()
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fspath(source))
        frame, blank = read(path, frozenset(text), frozenset(labels))
        table = Table(_wrap(frame), path, blank)
    else:
        table = _given(source, time_format)
    if table.frame.shape[0] == 0:
        raise DataError(f"{table.name} has no rows; it needs at least one")
    return table


def name_of(name: Any) -> str:
    """The text of a column's name, which identifies the column."""
    if isinstance(name, tuple):  # of columns in levels, whose lower ones may be empty
        parts = [part for part in name if part != ""]
        name = parts[0] if len(parts) == 1 else tuple(parts) or ""
    return str(name)


def names_of(given: Any) -> tuple[str, ...]:
    """The texts of one name, or of a list or tuple of names; empty for None.

    A tuple means several names. A single column whose name is a tuple must be given in a list.
    """
    if given is None:
        return ()
    if isinstance(given, (list, tuple, set, frozenset)) or getattr(given, "ndim", None):
        return tuple(name_of(name) for name in given)
    return (name_of(given),)


def _given(source: Any, time_format: str | None) -> Table:
    if isinstance(source, Mapping):
        return Table(_wrap(_from_arrays(source)))
    if type(source).__name__ == "LazyFrame":
        raise DataError("a LazyFrame has no data yet: call its .collect() and give the result")
    native = source.to_native() if hasattr(source, "to_native") else source
    if not (
        hasattr(native, "index") and hasattr(native, "columns") and hasattr(native, "set_axis")
    ):
        return Table(_wrap(source))
    named, indexes = _with_index(native, time_format)
    columns = list(named.columns)
    texts = [name_of(name) for name in columns]
    if len(set(texts)) < len(texts):
        raise DataError(f"the table has {twice(texts)}")
    if texts == columns:
        return Table(_wrap(named), indexes=indexes)
    names = dict(zip(texts, columns, strict=True))
    return Table(_wrap(named.set_axis(texts, axis=1)), names=names, indexes=indexes)


def _with_index(frame: Any, time_format: str | None) -> tuple[Any, tuple[str, ...]]:
    """A pandas frame with the levels of its index as first columns, and the names of those with times.

    A level without a name and without times is left out."""
    levels = {}
    times = []
    taken = {name_of(column) for column in frame.columns}
    for position, name in enumerate(frame.index.names):
        values = frame.index.get_level_values(position)
        holds = _holds_times(values, time_format)
        if name is None and not holds:
            continue
        label = _INDEX if name is None else name
        if name_of(label) in taken:
            if holds and name is not None:
                raise DataError(
                    f"the table has both a column and an index named {name!r}: rename one"
                )
            continue
        levels[label] = values
        times += [name_of(label)] * holds
    if not levels:
        return frame, ()
    plain = frame.reset_index(drop=True)
    for place, (label, values) in enumerate(levels.items()):
        plain.insert(place, _padded(label, frame.columns), values)
    return plain, tuple(times)


def _padded(label: Any, columns: Any) -> Any:
    """The label as pandas wants it for columns in levels."""
    if columns.nlevels == 1 or isinstance(label, tuple):
        return label
    return (label, *[""] * (columns.nlevels - 1))


def _holds_times(values: Any, time_format: str | None) -> bool:
    """Whether a level of an index has times: timestamps, periods, or texts, objects or numbers that are times."""
    kind = str(values.dtype)
    if kind.startswith(("datetime64", "period", "timestamp", "date32")):
        return True
    texts = kind in ("object", "str", "string") or kind.startswith(("string", "large_string"))
    if not texts and (time_format is None or values.dtype.kind not in "iu"):
        return False
    import narwhals as nw

    first = values[:1].to_series().reset_index(drop=True)
    if not len(first) or first.isna().any():
        return False
    try:
        found = stamps.read(nw.from_native(first, series_only=True), time_format, True)
    except BadTimeError:
        return False
    return found.values.dtype.kind == "M"


def _wrap(source: object) -> nw.DataFrame[Any]:
    import narwhals as nw

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
        raise DataError(f"the table has {twice(columns)}") from None


def _from_arrays(arrays: Mapping[Any, Any]) -> Any:
    import polars as pl

    if any(type(values).__module__.startswith("pandas.") for values in arrays.values()):
        return _from_pandas(arrays)  # which numpy would strip of zones and categories
    columns = {}
    for name, values in arrays.items():
        text = name_of(name)
        if text in columns:
            raise DataError(f"the table has {twice([text, text])}")
        columns[text] = _to_column(text, values)
    _check_lengths({name: len(column) for name, column in columns.items()})
    return pl.DataFrame(columns)


def _from_pandas(arrays: Mapping[Any, Any]) -> Any:
    pandas = sys.modules["pandas"]
    columns = {}
    for name, values in arrays.items():
        array = values if hasattr(values, "dtype") else np.asarray(values)
        if array.ndim != 1:
            raise DataError(f"column {name!r} must be one-dimensional, not of shape {array.shape}")
        columns[name_of(name)] = pandas.Series(array).reset_index(drop=True)
    _check_lengths({name: len(column) for name, column in columns.items()})
    return pandas.DataFrame(columns)


def _check_lengths(lengths: Mapping[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        first, last = (
            f"{name!r} has the length {count}"
            for name, count in (
                min(lengths.items(), key=lambda item: item[1]),
                max(lengths.items(), key=lambda item: item[1]),
            )
        )
        raise DataError(f"the columns differ in length: {first} and {last}")


def _to_column(name: str, values: Any) -> pl.Series:
    import polars as pl

    if isinstance(values, pl.Series):
        return values.alias(name)
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise DataError(f"column {name!r} must be one-dimensional: {error}") from None
    if array.ndim != 1:
        raise DataError(f"column {name!r} must be one-dimensional, not of shape {array.shape}")
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in ("ms", "us", "ns"):
        days = array.astype("datetime64[D]").astype(np.int64)
        if (np.abs(days) > 4_000_000)[~np.isnat(array)].any():
            raise DataError(f"column {name!r} has a time after the year 9999, which cannot be read")
        array = array.astype("datetime64[us]")  # polars knows only those and days
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind == "O":
        if any(getattr(value, "tzinfo", None) is not None for value in array):
            return pl.Series(name, array.tolist(), dtype=pl.Object)  # polars would make it UTC
        try:
            return pl.Series(name, array.tolist(), strict=False)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            return pl.Series(name, array.tolist(), dtype=pl.Object)
    return pl.Series(name, array)


# ------------------------------------------------------------------------------------- columns


def numbers(table: Table, column: str) -> NDArray[np.float64]:
    """A column as float64, with NaN for missing values. It may be a view of the table: do not write to it.

    Integers, decimals, booleans and texts of numbers are accepted.

    Raises:
        DataError: the column is missing, or a value is infinite or not a number.
    """
    table.check([column])
    values = _to_floats(table, column)
    infinite = np.isinf(values)
    if infinite.any():
        where = table.place(infinite.argmax())
        raise DataError(
            f"column {column!r}, {where}: the value is infinite; it must be finite or missing"
        )
    large = np.abs(values) > _LARGEST
    if large.any():
        where = table.place(large.argmax())
        raise DataError(
            f"column {column!r}, {where}: {values[large.argmax()]:g} is too large, because its square "
            f"overflows: convert the column to a unit with numbers below {_LARGEST:g}"
        )
    return values


def _to_floats(table: Table, column: str) -> NDArray[np.float64]:
    import narwhals as nw

    series = table.frame[column]
    kind = series.dtype
    if kind.is_numeric() or kind == nw.Boolean:
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    if kind == nw.Object:  # columns of Python objects: numbers, None, texts
        try:
            return np.array([np.nan if v is None else float(v) for v in series.to_list()])
        except (TypeError, ValueError, OverflowError):
            pass  # texts among them, of which the first that is no number is named
    if type_of(series).startswith("decimal"):  # of 32, 64 or 256 bits, which narwhals has not
        return _from_decimals(series.to_native())
    if kind not in (nw.String, nw.Categorical, nw.Enum, nw.Object):
        raise DataError(f"column {column!r} holds {type_of(series)}; it must hold numbers")
    return _parse_numbers(table, column)


def _from_decimals(native: Any) -> NDArray[np.float64]:
    """Of a column of pyarrow, or of pandas over pyarrow."""
    cast = native.cast if hasattr(native, "cast") else native.astype
    return np.asarray(cast("float64").to_numpy(), dtype=np.float64)


def _parse_numbers(table: Table, column: str) -> NDArray[np.float64]:
    import polars as pl

    texts = texts_of(table.frame[column]).str.strip_chars()
    values = texts.cast(pl.Float64, strict=False)
    bad = values.is_null() & texts.is_not_null() & ~texts.is_in(MISSING)
    if bad.any():
        index = bad.arg_max() or 0
        raise DataError(
            f"column {column!r}, {table.place(index)}: {clip(texts[index])} is not a number"
        )
    return np.asarray(values.to_numpy(), dtype=np.float64)


def categories(
    table: Table, column: str, hint: str = ""
) -> tuple[list[str] | list[int] | list[bool], NDArray[np.int32]]:
    """The labels of a column in order of first appearance, and each row's index among them.

    Args:
        hint: the end of the message for values that are not labels.

    Raises:
        DataError: the column is missing, a row has no value, or the values are not labels.
    """
    table.check([column])
    import narwhals as nw

    series = table.frame[column]
    kind = series.dtype
    _check_no_null(table, series, column)
    if not (kind.is_integer() or kind in (nw.Boolean, nw.String, nw.Categorical, nw.Enum)):
        if kind not in (nw.Object, nw.Binary):
            raise DataError(
                f"column {column!r} holds {type_of(series)}; labels must be texts, integers or categories{hint}"
            )
        series = nw.from_native(texts_of(series), series_only=True)
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


def times(
    table: Table, column: str, time_format: str | None = None, *, plain: bool = False
) -> Times:
    """A time column as integers, or as timestamps in UTC.

    The zone of texts with UTC offsets is that offset where all texts have the same one, else UTC.

    Args:
        time_format: the format of texts (or of numbers such as 20240131), in the notation of
            ``datetime.strptime``. Without it texts must be ISO dates or date-times, such as
            2024-01-31, 2024-01, 2024-01-31 17:30, 2024-01-31T17:30:00.5Z.
        plain: whether integers are step numbers even where they look like dates, such as 201512.

    Raises:
        DataError: the column is missing, a row has no time, or a value is not a time.
        OptionError: ``time_format`` is not a format.
    """
    table.check([column])
    series = table.frame[column]
    _check_no_null(table, series, column)
    try:
        return stamps.read(series, time_format, plain)
    except BadTimeError as error:
        if error.index is None:
            raise DataError(f"column {column!r} {error}") from None
        raise DataError(f"column {column!r}, {table.place(error.index)}: {error}") from None


def _check_no_null(table: Table, series: nw.Series[Any], column: str) -> None:
    if series.null_count():
        index = series.is_null().to_numpy().argmax()
        raise DataError(f"column {column!r}, {table.place(index)}: the value is missing")
