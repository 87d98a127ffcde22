"""Files: whatever is in them, they give a table or a DataError."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import io
import random
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatewise.data.panel import Panel
from gatewise.data.table import Table, categories, load, numbers, times
from gatewise.errors import DataError, GatewiseError

ROWS = 40


def table() -> pd.DataFrame:
    two = 2 * ROWS
    return pd.DataFrame(
        {
            "id": ["NA"] * ROWS + ["b,c"] * ROWS,
            "ds": [*pd.date_range("2024-01-01", periods=ROWS, freq="h")] * 2,
            "y": np.random.default_rng(0).normal(size=two).round(3),
            "x": np.arange(two),
            "s": ["u"] * ROWS + ['v"w'] * ROWS,
        }
    )


def written(kind: str) -> tuple[str, bytes]:
    """A file's name and contents."""
    data, buffer = table(), io.BytesIO()
    if kind == "parquet of pyarrow":
        pq.write_table(
            pa.Table.from_pandas(data.assign(ds=data["ds"].dt.tz_localize("UTC"))), buffer
        )
    elif kind == "parquet of polars":
        pl.DataFrame(data).write_parquet(buffer, compression="zstd")
    elif kind == "parquet, uncompressed":
        pl.DataFrame(data).write_parquet(buffer, compression="uncompressed")
    else:
        text = data.to_csv(index=False, sep="\t" if "tsv" in kind else ",").encode()
        return f"t.{kind}", gzip.compress(text, mtime=0) if kind.endswith("gz") else text
    return "t.parquet", buffer.getvalue()


STRINGS = [
    *(
        b"\0",
        b"\r",
        b'"',
        b'""',
        b'"\n',
        b"\n\n",
        b",",
        b";",
        b"\t",
        b"NA",
        b"inf",
        b"-",
        b"1e400",
        b"+",
    ),
    *(b"2024-13-01", b"\xe9", b"99999999999999999999", b"T", b"0x1", b"9" * 400, b"9" * 200_000),
]
STARTS = [b"\xef\xbb\xbf", b"\n", b"\r\n", b"\xff\xfe", b"\r"]


def mutant(contents: bytes, rng: random.Random) -> bytes:
    """One to five changes, a third of them near the end, where Parquet has its footer."""
    data = bytearray(contents)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        size = len(data)
        at = rng.randrange(size) if size else 0
        if size and rng.random() < 0.3:
            at = max(0, size - rng.randrange(1, 400))
        change = rng.randrange(7)
        if change == 0 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))
        elif change == 2:
            del data[at:]
        elif change == 3:
            data[at:at] = rng.choice(STRINGS)
        elif change == 4:
            data[:0] = rng.choice(STARTS)
        elif change == 5:
            del data[at : at + rng.randrange(1, 50)]
        elif size:
            begin = rng.randrange(size)
            data[at:at] = data[begin : begin + rng.randrange(1, 100)]
    return bytes(data)


def read(path: Path) -> None:
    panel = Panel.from_table(
        path, target="y", time="ds", series="id", known="x", static="s", gaps="mask"
    )
    assert not np.isinf(panel.target).any()
    assert panel.timeline.times(
        panel.steps_from(slice(None), panel.lengths, 3).ravel()
    ).size == 3 * len(panel.names)
    Panel.from_table(path, target="y", time="x", gaps="mask")


KINDS = ["csv", "tsv", "csv.gz", "parquet of pyarrow", "parquet of polars", "parquet, uncompressed"]


def check_mutants(kind: str, count: int, seed: int, folder: Path) -> None:
    name, contents = written(kind)
    path = folder / name
    path.write_bytes(contents)
    read(path)  # the file itself is in order
    rng = random.Random(seed)
    refused = 0
    for number in range(count):
        path.write_bytes(changed := mutant(contents, rng))
        try:
            read(path)
        except GatewiseError:
            refused += 1
        except BaseException as error:  # polars' panics are no Exceptions
            (folder / f"kept-{name}").write_bytes(changed)
            pytest.fail(f"mutant {number} of {kind} raised {type(error).__name__}: {error}")
    assert refused > count // 2


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_give_a_table_or_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    check_mutants(kind, 40, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_mutants(kind: str, tmp_path: Path) -> None:
    check_mutants(kind, 2000, 1, tmp_path)


FAULTS: dict[str, tuple[str, bytes, str]] = {
    "lone carriage returns": ("t.csv", b"a,b\r1,2\r3,4\r", "has no rows|names must be unique"),
    "a header that never ends": (
        "t.csv",
        b"a," + b"b" * 200_000 + b"\n1\n",
        "no column 'y'|truncated",
    ),
    "a blank line before names that come twice": (
        "t.csv",
        b"\n\na,y,a\n1,2,3\n",
        "2 columns named 'a'",
    ),
    "names that come thrice": ("t.csv", b"a,y,a,a\n1,2,3,4\n", "3 columns named 'a'"),
    "empty names": ("t.csv", b",,y\n1,2,3\n", "2 columns named ''"),
    "a quote that never closes": (
        "t.csv",
        b'a,y\n"1,2\n3,4\n',
        "cannot read|no column|is not a number",
    ),
    "a damaged block": ("t.csv.gz", b"", "cannot read .*t.csv.gz: "),
    "no file of Parquet": (
        "t.parquet",
        b"PAR1" + b"\0" * 60 + b"PAR1",
        "cannot read .*t.parquet: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_are_refused(fault: str, tmp_path: Path) -> None:
    name, contents, message = FAULTS[fault]
    if fault == "a damaged block":  # zlib's own error, not gzip's
        contents = gzip.compress(b"a,y\n" + b"1,2\n" * 999)
        contents = contents[:12] + b"\xff\xff\xff" + contents[15:]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=message):
        numbers(load(tmp_path / name), "y")


def test_a_name_that_looks_like_a_second_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,a_duplicated_0\n1,2\n")
    assert load(path).frame.columns == ["a", "a_duplicated_0"]


def test_lines_are_counted_from_the_top_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n\na,y\n1,2\n3,x\n")
    with pytest.raises(DataError, match=r"row 2 \(line 5 of t.csv\): 'x' is not a number"):
        numbers(load(path), "y")


def test_whole_numbers_of_128_bits(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,y\n1,1\n99999999999999999999,2\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3 of t.csv\): 9{20} is not a time"):
        times(load(path), "t")
    assert numbers(load(path), "t").tolist() == [1.0, 1e20]


def in_parquet(folder: Path, column: pa.Array) -> Table:
    """A table of the file that holds the column as "c"."""
    path = folder / "t.parquet"
    try:
        pq.write_table(pa.table({"c": column}), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__} does not write it: {error}")
    return load(path)


def test_a_page_that_says_it_has_fewer_than_no_values(tmp_path: Path) -> None:
    """polars' reader ends the process of some such files."""
    path = tmp_path / "t.parquet"
    path.write_bytes(written("parquet, uncompressed")[1])
    assert load(path).frame.shape == (2 * ROWS, 5)
    content = bytearray(path.read_bytes())
    count = content.index(b"\x15\xa0\x01\x15", 4)  # 2 * ROWS, as the page's header writes it
    content[count + 1 : count + 3] = b"\x9f\x01"  # -2 * ROWS
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read {re.escape(str(path))}: "):
        load(path)


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    """Arrow has bytes there, and polars panics of them."""
    path = tmp_path / "t.parquet"
    field = pa.field("c", pa.float64(), metadata={b"\xff": b"\xff"})
    pq.write_table(pa.table([pa.array([1.5])], schema=pa.schema([field])), path)
    assert numbers(load(path), "c").tolist() == [1.5]


def test_a_panic_of_polars_is_an_error(tmp_path: Path) -> None:
    """It is no Exception. pyarrow takes a zone that is no text."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"c": pa.array([1], pa.timestamp("us", "America/New_York"))}), path)
    content = path.read_bytes()
    found = re.search(rb"[A-Za-z0-9+/=]{100,}", content[content.index(b"ARROW:schema") :])
    assert found
    schema = base64.b64decode(found[0]).replace(b"America", b"Amer\xffca")
    path.write_bytes(content.replace(found[0], base64.b64encode(schema)))
    with pytest.raises(DataError, match=rf"cannot read {re.escape(str(path))}: .*non-utf8"):
        load(path)


@pytest.mark.parametrize(
    ("written", "zone"),
    [
        *(("+05:30", "UTC+05:30"), ("-03:00", "UTC-03:00"), ("+00:00", "UTC"), ("UTC", "UTC")),
        *((name, name) for name in ("Europe/Berlin", "America/New_York", "Etc/GMT+5", "EST5EDT")),
    ],
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_the_zones_of_parquet(written: str, zone: str, unit: str, tmp_path: Path) -> None:
    stamps = pa.array(np.array(["2024-01-01", "2024-07-01"], f"M8[{unit}]"))
    table = in_parquet(tmp_path, stamps.cast(pa.timestamp(unit, tz=written)))
    found = times(table, "c")
    assert found.zone == zone
    np.testing.assert_array_equal(found.values, np.array(["2024-01-01", "2024-07-01"], "M8[us]"))


def test_a_zone_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    column = pa.array([1, 2], pa.timestamp("us", tz="Nowhere/City"))
    for table in (in_parquet(tmp_path, column), load(pa.table({"c": column}))):
        with pytest.raises(
            DataError, match=r"'c' has the time zone 'Nowhere/City', which is not in"
        ):
            times(table, "c")


DAYS = pa.array(["2024-01-01", "2024-07-01"])
DECIMALS = pa.array([Decimal("1.5"), Decimal("-2.25")])


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_texts_of_every_type_in_parquet(kind: pa.DataType, tmp_path: Path) -> None:
    table = in_parquet(tmp_path, DAYS.cast(kind))
    assert categories(table, "c")[0] == DAYS.to_pylist()
    assert times(table, "c").values.tolist() == [dt.datetime(2024, 1, 1), dt.datetime(2024, 7, 1)]


@pytest.mark.parametrize(
    "column",
    [
        *(DECIMALS, DECIMALS.cast(pa.decimal128(38, 4)), DECIMALS.cast(pa.decimal256(50, 2))),
        *(DECIMALS.dictionary_encode(), DECIMALS.cast(pa.float64()).dictionary_encode()),
    ],
    ids=lambda column: str(column.type),
)
def test_decimals_and_categories_of_numbers_in_parquet(column: pa.Array, tmp_path: Path) -> None:
    assert numbers(in_parquet(tmp_path, column), "c").tolist() == [1.5, -2.25]


def test_decimals_that_narwhals_has_no_type_for() -> None:
    wide = pa.array([Decimal("1.5"), None], pa.decimal256(50, 2))
    frames = (
        pa.table({"c": wide}),
        pd.DataFrame({"c": pd.Series(wide, dtype=pd.ArrowDtype(wide.type))}),
    )
    for frame in frames:
        np.testing.assert_array_equal(numbers(load(frame), "c"), [1.5, np.nan])


@pytest.mark.parametrize(
    "column",
    [
        *(pa.array([[1], [2, 3]]), pa.array([[1], [2]], pa.list_view(pa.int64()))),
        *(pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), pa.array([{"a": 1}, {"a": 2}])),
        *(pa.array([[Decimal(1)], []], pa.list_(pa.decimal256(50, 2))), pa.array([dt.time(1)])),
        *(pa.array([[1], []], pa.list_(pa.timestamp("us", "+05:30"))), pa.array([dt.timedelta(1)])),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("read", [times, numbers, categories])
def test_types_of_parquet_that_are_refused_by_name(
    read: Callable[[Table, str], Any], column: pa.Array, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"^column 'c'(, row 1: '\[1\]' is not a time| holds [LlASTD])"
    ):
        read(in_parquet(tmp_path, column), "c")


@pytest.mark.parametrize("value", ["1e160", "-1e151", "1e308"])
def test_numbers_whose_squares_cannot_be_computed(value: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"y\n1\n{value}\n")
    with pytest.raises(DataError, match=r"'y', row 2 .*e\+\d+ is too large, because its square"):
        numbers(load(path), "y")
    path.write_text("y\n1\n1e149\n-1e-300\n")
    assert numbers(load(path), "y").tolist() == [1.0, 1e149, -1e-300]
