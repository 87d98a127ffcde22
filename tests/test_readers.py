"""Files: whatever is in them, they give a table or a DataError."""

from __future__ import annotations

import gzip
import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatewise.data.panel import Panel
from gatewise.data.table import load, numbers, times
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
    assert panel.timeline.times(panel.future_steps(3).ravel()).size == 3 * len(panel.names)
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
        "no column 'y'|cut off",
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


def test_a_panic_of_the_reader_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panics(*_: Any, **__: Any) -> None:
        raise pl.exceptions.PanicException("called unwrap() on a None value")

    monkeypatch.setattr(pl, "read_parquet", panics)
    (tmp_path / "t.parquet").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"cannot read .*t.parquet: called unwrap\(\) on a None"):
        load(tmp_path / "t.parquet")


def test_an_offset_that_polars_has_no_type_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = pa.array(np.array(["2024-01-01"], "M8[us]")).cast(pa.timestamp("us", tz="+05:30"))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": stamps, "y": [1.0]}), path)
    assert times(load(path), "t").zone == "UTC+05:30"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        DataError, match="has a time zone that polars does not know; install pyarrow"
    ):
        load(path)


@pytest.mark.parametrize("value", ["1e160", "-1e151", "1e308"])
def test_numbers_whose_squares_cannot_be_computed(value: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"y\n1\n{value}\n")
    with pytest.raises(
        DataError, match=r"'y', row 2 .*e\+\d+ is too large to compute with \(its square"
    ):
        numbers(load(path), "y")
    path.write_text("y\n1\n1e149\n-1e-300\n")
    assert numbers(load(path), "y").tolist() == [1.0, 1e149, -1e-300]
