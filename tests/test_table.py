"""Tables: every way in gives the same columns, and every fault is named with its place."""

from __future__ import annotations

import datetime as dt
import gzip
from decimal import Decimal
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gatewise.data.table import Table, categories, load, numbers, times
from gatewise.errors import DataError, OptionError

CSV = "id,ds,y\n007,2024-01-01,1.5\n007,2024-01-02,NA\nb,2024-01-01,3\n"
ARRAYS = {
    "id": np.array(["a", "b", "a"]),
    "ds": np.array(["2024-01-01", "2024-01-01", "2024-01-02"], dtype="datetime64[us]"),
    "y": np.array([1.5, np.nan, -3.0]),
}


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def one(values: object, dtype: object = None) -> Table:
    return load(pd.DataFrame({"y": pd.Series(values, dtype=dtype)}))


@pytest.mark.parametrize(
    "source",
    [
        ARRAYS,
        pd.DataFrame(ARRAYS),
        pl.DataFrame(ARRAYS),
        pa.table(pd.DataFrame(ARRAYS)),
        nw.from_native(pl.DataFrame(ARRAYS)),
    ],
    ids=["dict", "pandas", "polars", "pyarrow", "narwhals"],
)
def test_every_kind_of_frame_gives_the_same_columns(source: object) -> None:
    table = load(source)
    labels, codes = categories(table, "id")
    assert labels == ["a", "b"]
    assert codes.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(numbers(table, "y"), ARRAYS["y"])
    found = times(table, "ds")
    assert found.zone is None
    np.testing.assert_array_equal(found.values, ARRAYS["ds"])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.CSV", "t.parquet"])
def test_every_kind_of_file_gives_the_same_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = CSV.replace(",", "\t") if ".tsv" in name else CSV
    if name.endswith(".parquet"):
        pl.DataFrame({"id": ["007", "007", "b"], "y": [1.5, None, 3.0]}).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    table = load(str(path), text=["id", "not there"])
    assert categories(table, "id")[0] == ["007", "b"]
    np.testing.assert_array_equal(numbers(table, "y"), [1.5, np.nan, 3.0])


def test_text_columns_keep_their_zeros_and_others_do_not(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", "id,y\n007,1\n7,2\n")
    assert categories(load(path, text=["id"]), "id")[0] == ["007", "7"]
    assert categories(load(path), "id")[0] == [7]


def test_a_table_is_returned_as_it_is() -> None:
    table = load(ARRAYS)
    assert load(table) is table


def test_byte_order_mark_and_blank_last_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n3,4\r\n\r\n\r\n")
    table = load(path)
    assert table.frame.columns == ["a", "b"]
    assert numbers(table, "b").tolist() == [2, 4]


FILE_FAULTS = {
    "empty": ("t.csv", b"", "t.csv is empty"),
    "header only": ("t.csv", b"a,b\n", "t.csv has no rows"),
    "unknown kind": (
        "t.xlsx",
        b"x",
        "unknown file type '.xlsx': give a file of type .csv, .csv.gz, .tsv",
    ),
    "too many fields": ("t.csv", b"a,b\n1,2\n3,4,5\n", "cannot read .*more fields than defined"),
    "truncated": (
        "t.csv",
        b"a,b,c\n1,2,3\n4,5",
        r"truncated: its last line, '4,5', has 2 of 3 columns",
    ),
    "cut off gzip": (
        "t.csv.gz",
        gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:30],
        "cannot read .*end",
    ),
    "no gzip": ("t.csv.gz", b"a,b\n1,2\n", "cannot read .*t.csv.gz"),
    "cut off parquet": (
        "t.parquet",
        b"PAR1 and then nothing",
        "cannot read .*t.parquet: Parquet magic",
    ),
    "latin-1": ("t.csv", "a,b\né,2\n".encode("latin-1"), "cannot read .*invalid utf-8"),
    "utf-16": ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text: save it as UTF-8"),
    "names twice": ("t.csv", b"a,b,a\n1,2,3\n", "2 columns named 'a'; names must be unique"),
    "semicolons": ("t.csv", b"a;b\n1;2\n", "one column, 'a;b': separate columns by commas"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_cannot_be_read(tmp_path: Path, fault: str) -> None:
    name, contents, message = FILE_FAULTS[fault]
    with pytest.raises(DataError, match=message) as caught:
        load(written(tmp_path, name, contents))
    assert name in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    written(tmp_path, "sales.csv", CSV)
    with pytest.raises(DataError, match=r"no file .*slaes.csv \(did you mean 'sales.csv'\?\)"):
        load(tmp_path / "slaes.csv")
    with pytest.raises(DataError, match="no file"):
        load(tmp_path / "nowhere" / "sales.csv")
    with pytest.raises(DataError, match="is a folder"):
        load(tmp_path)


FRAME_FAULTS = {
    "number": (5, "a table must be a path, .*not int"),
    "series": (pd.Series([1]), "a table must be .*not Series"),
    "lazy": (pl.LazyFrame({"a": [1]}), r"call its .collect\(\)"),
    "no rows": (pd.DataFrame({"a": []}), "the table has no rows"),
    "twice": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "2 columns named 'a'"),
    "twice in arrow": (pa.table([[1], [2]], names=["a", "a"]), "2 columns named 'a'"),
    "lengths": (
        {"a": [1], "b": [1, 2]},
        "differ in length: 'a' has the length 1 and 'b' has the length 2",
    ),
    "matrix": ({"a": [[1, 2]]}, r"'a' must be one-dimensional, not of shape \(1, 2\)"),
}


@pytest.mark.parametrize("fault", FRAME_FAULTS)
def test_sources_that_are_no_table(fault: str) -> None:
    source, message = FRAME_FAULTS[fault]
    with pytest.raises(DataError, match=message):
        load(source)


def test_a_missing_column_is_named_with_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no column 'Y' \(did you mean 'y'\?\) in the table") as it:
        numbers(load(ARRAYS), "Y")
    assert str(it.value).endswith("it has 'id', 'ds', 'y'")
    wide = load({f"c{index}": [1] for index in range(500)})
    with pytest.raises(DataError, match="and 480 more") as it:
        wide.check(["zzz"])
    assert len(str(it.value)) < 300


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([1, None], "Int64", [1, np.nan]),
        ([1, 2], "uint8", [1, 2]),
        ([True, None], "boolean", [1, np.nan]),
        ([True, None], object, [1, np.nan]),
        ([Decimal("1.25"), None], object, [1.25, np.nan]),
        ([1, "2.5", None], object, [1, 2.5, np.nan]),
        ([" 1e3", "+2", ".5", "NA", "", "nan", None], "str", [1e3, 2, 0.5] + 4 * [np.nan]),
        (["1", "2", "1"], "category", [1, 2, 1]),
    ],
)
def test_what_counts_as_a_number(values: object, dtype: object, wanted: list[float]) -> None:
    found = numbers(one(values, dtype), "y")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wanted)


def test_polars_decimals_and_nulls_are_numbers() -> None:
    frame = pl.DataFrame({"d": [Decimal("1.5"), None], "b": [None, True], "i": [None, 2]})
    table = load(frame)
    np.testing.assert_array_equal(numbers(table, "d"), [1.5, np.nan])
    np.testing.assert_array_equal(numbers(table, "b"), [np.nan, 1])
    np.testing.assert_array_equal(numbers(table, "i"), [np.nan, 2])


def test_csv_missing_markers(tmp_path: Path) -> None:
    markers = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
    rows = "".join(f"{marker},x\n" for marker in markers)
    table = load(written(tmp_path, "t.csv", f"y,z\n4,x\n{rows}"))
    assert numbers(table, "y")[0] == 4
    assert np.isnan(numbers(table, "y")[1:]).all()


@pytest.mark.parametrize("at", [3, 30_000])
def test_a_text_among_numbers_is_named_with_row_and_line(tmp_path: Path, at: int) -> None:
    rows = [f"{index},1.5" for index in range(at + 10)]
    rows[at] = "5,1.5.2"
    path = written(tmp_path, "t.csv", "x,y\n" + "\n".join(rows) + "\n")
    message = rf"column 'y', row {at + 1} \(line {at + 2} of t.csv\): '1.5.2' is not a number"
    with pytest.raises(DataError, match=message):
        numbers(load(path), "y")
    assert numbers(load(path), "x")[-1] == at + 9
    assert load(path).frame["x"].dtype == nw.Int64  # the other columns keep their types


def test_bad_numbers_in_a_frame_have_a_row_and_no_line() -> None:
    with pytest.raises(DataError, match=r"column 'y', row 2: '1,5' is not a number$"):
        numbers(one(["1", "1,5"]), "y")
    with pytest.raises(DataError, match="row 2: the value is infinite"):
        numbers(one([1.0, -np.inf]), "y")
    with pytest.raises(DataError, match="row 1: the value is infinite"):
        numbers(one(["inf"]), "y")
    with pytest.raises(DataError, match=r"column 'ds' holds Datetime.*; it must hold numbers"):
        numbers(load(ARRAYS), "ds")
    with pytest.raises(DataError) as caught:
        numbers(one(["x" * 10_000]), "y")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (pd.Series([5, 3, 5]), [5, 3]),
        (pl.Series([5, 3, 5]), [5, 3]),
        (pd.Series(["b", "a", "b"], dtype="category"), ["b", "a"]),
        (pl.Series(["b", "a", "b"], dtype=pl.Categorical), ["b", "a"]),
        (pl.Series(["b", "a", "b"], dtype=pl.Enum(["a", "b", "c"])), ["b", "a"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a"]),
        (pa.array(["b", "a", "b"]), ["b", "a"]),
        (pd.Series(["b", 1, "b"], dtype=object), ["b", "1"]),
        (pl.Series([True, False, True]), [True, False]),
    ],
)
def test_labels_come_in_order_of_appearance_and_of_their_type(column: object, labels: list) -> None:
    frame = pa.table({"c": column}) if isinstance(column, pa.Array) else column.to_frame("c")
    table = load(frame)
    found, codes = categories(table, "c")
    assert found == labels
    assert [type(label) for label in found] == [type(label) for label in labels]
    assert codes.tolist() == [0, 1, 0]


def test_many_labels_against_numpy() -> None:
    values = np.random.default_rng(0).integers(-50, 50, 5000)
    for source in (pd.DataFrame({"c": values}), pl.DataFrame({"c": values.astype(str)})):
        labels, codes = categories(load(source), "c")
        assert len(set(labels)) == len(labels) == 100
        np.testing.assert_array_equal(np.array(labels, dtype=int)[codes], values)


def test_labels_that_are_missing_or_none(tmp_path: Path) -> None:
    for values in (["a", None], [1.0, np.nan], pd.Categorical(["a", None])):
        with pytest.raises(DataError, match=r"column 'y', row 2: the value is missing"):
            categories(one(values), "y")
    path = written(tmp_path, "t.csv", "c,y\na,1\nNA,2\n")
    with pytest.raises(
        DataError, match=r"column 'c', row 2 \(line 3 of t.csv\): the value is missing"
    ):
        categories(load(path), "c")
    with pytest.raises(DataError, match="'y' holds Float64; labels must be texts, integers"):
        categories(load(ARRAYS), "y")


@pytest.mark.parametrize(
    ("text", "wanted", "zone"),
    [
        ("2024-03", "2024-03-01", None),
        ("2024-03-05", "2024-03-05", None),
        ("2024/03/05", "2024-03-05", None),
        ("2024-03-05 17:30", "2024-03-05T17:30", None),
        ("2024-03-05T17:30:01", "2024-03-05T17:30:01", None),
        ("2024-03-05 17:30:01.25", "2024-03-05T17:30:01.25", None),
        ("2024-03-05T17:30:01Z", "2024-03-05T17:30:01", "UTC"),
        ("2024-03-05 17:30:01+02:00", "2024-03-05T15:30:01", "UTC+02:00"),
        ("2024-03-05T17:30-0130", "2024-03-05T19:00", "UTC-01:30"),
        ("2024-03-05T17:30+00", "2024-03-05T17:30", "UTC"),
    ],
)
def test_iso_times(text: str, wanted: str, zone: str | None) -> None:
    for source in (pd.DataFrame({"ds": [text]}), pl.DataFrame({"ds": [text]})):
        found = times(load(source), "ds")
        assert found.values.tolist() == [np.datetime64(wanted, "us").item()]
        assert found.zone == zone


def test_iso_times_may_mix_their_length() -> None:
    texts = ["2024-03-05T00:00:00", "2024-03-05T00:00:00.5", "2024-03-05 00:01", "2024-03-06"]
    found = times(load({"ds": texts}), "ds").values
    assert (found - found[0]).astype(int).tolist() == [0, 500_000, 60_000_000, 86_400_000_000]


def test_time_format() -> None:
    table = load({"de": ["31.12.2024"], "number": [20241231], "us": ["12/31/2024 01:02:03.000004"]})
    day = dt.datetime(2024, 12, 31)
    assert times(table, "de", "%d.%m.%Y").values.tolist() == [day]
    assert times(table, "number", "%Y%m%d").values.tolist() == [day]
    fine = times(table, "us", "%m/%d/%Y %H:%M:%S.%f").values.tolist()
    assert fine == [day.replace(hour=1, minute=2, second=3, microsecond=4)]
    with pytest.raises(DataError, match=r"row 1: '31.12.2024' does not follow time_format='%Y/%m'"):
        times(table, "de", "%Y/%m")
    with pytest.raises(OptionError, match="time_format='%Y-%m-%d %Q' is not a format"):
        times(table, "de", "%Y-%m-%d %Q")
    with pytest.raises(
        OptionError, match=r"time_format='%d\.%m' is not a date format: it needs a y"
    ):
        times(table, "de", "%d.%m")
    with pytest.raises(OptionError, match=" are ambiguous; give offsets and %z"):
        times(table, "de", "%Y %Z")


@pytest.mark.parametrize(
    "bad", ["31/12/2024", "2024-02-30", "soon", "24-01-31", "2024-01-01T00:00:00Z"]
)
def test_texts_that_are_no_time_are_named(tmp_path: Path, bad: str) -> None:
    path = written(tmp_path, "t.csv", f"ds,y\n2024-01-31,1\n{bad},2\n")
    with pytest.raises(
        DataError, match=r"column 'ds', row 2 \(line 3 of t.csv\): '.*' is not a time"
    ):
        times(load(path), "ds")


def test_stamps_of_every_kind_become_micro_or_nanoseconds_in_utc() -> None:
    berlin = pd.date_range("2024-07-01", periods=2, tz="Europe/Berlin")
    offset = pd.date_range("2024-07-01", periods=2, tz=dt.timezone(dt.timedelta(hours=2)))
    utc = np.array(["2024-06-30T22:00", "2024-07-01T22:00"], dtype="datetime64[us]")
    for stamps, zone in ((berlin, "Europe/Berlin"), (offset, "UTC+02:00")):
        found = times(load(pd.DataFrame({"ds": stamps})), "ds")
        assert found.zone == zone
        np.testing.assert_array_equal(found.values, utc)
    arrow = pa.table({"ds": pa.array(berlin)})
    np.testing.assert_array_equal(times(load(arrow), "ds").values, utc)
    for unit in ("D", "h", "s", "ms", "ns"):
        given = np.array(["2024-07-01", "2024-07-02"], dtype=f"datetime64[{unit}]")
        found = times(load({"ds": given}), "ds")
        assert found.values.dtype == ("M8[ns]" if unit == "ns" else "M8[us]")
        np.testing.assert_array_equal(found.values, given)
    dates = [dt.date(2024, 7, 1), dt.date(2024, 7, 2)]
    for source in (pd.DataFrame({"ds": dates}), pl.DataFrame({"ds": dates})):
        assert times(load(source), "ds").values[1] == np.datetime64("2024-07-02")
    period = pd.DataFrame({"ds": pd.period_range("2024-01", periods=2, freq="M")})
    assert times(load(period), "ds").values[1] == np.datetime64("2024-02-01")


def test_whole_numbers_are_times_and_others_are_not() -> None:
    assert times(load({"t": [3, 5]}), "t").values.tolist() == [3, 5]
    assert times(load({"t": [3.0, 5.0]}), "t").values.dtype == np.int64
    with pytest.raises(DataError, match=r"column 't', row 2: 5\.5 is not a time"):
        times(load({"t": [3.0, 5.5]}), "t")
    with pytest.raises(DataError, match="'t' holds Boolean; times must be"):
        times(load({"t": [True]}), "t")
    with pytest.raises(DataError, match="column 't', row 2: the value is missing"):
        times(load(pd.DataFrame({"t": pd.to_datetime(["2024-01-01", None])})), "t")
