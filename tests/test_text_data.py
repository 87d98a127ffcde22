"""Texts from files and tables: lines, rows, pairs, what is not valid, and how much memory they take."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gatewise.data.buckets import BucketBatches, padded_ids, sorted_batches
from gatewise.data.lines import LONGEST, Problems, lines
from gatewise.data.sources.text import TextTable, lines_of, pairs
from gatewise.data.spool import SpooledTexts, flat
from gatewise.errors import DataError, OptionError

ROWS = {"review": ["good, really", 'a "bad" one', "", "two\nlines"], "stars": ["5", "1", "3", "5"]}


def texts_of(found):
    return [line.text for line in found]


# ------------------------------------------------------------------------------------------- lines


def test_lines_of_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbffirst\r\nsecond\n\nlast")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ü\n".encode()))
    (tmp_path / ".hidden").write_text("no")
    assert texts_of(lines(tmp_path / "b.txt")) == ["first\n", "second\n", "\n", "last\n"]
    assert texts_of(lines(tmp_path)) == ["ü\n", "first\n", "second\n", "\n", "last\n"]
    assert texts_of(lines([tmp_path / "b.txt"], limit=2)) == ["first\n", "second\n"]
    assert [line.number for line in lines(tmp_path / "b.txt")] == [1, 2, 3, 4]


def test_the_end_of_a_file_ends_its_last_line(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"one of {name}\ntwo of {name}")
    assert texts_of(lines(tmp_path))[1:3] == ["two of a.txt\n", "one of b.txt\n"]
    assert texts_of(lines(tmp_path, limit=3)) == texts_of(lines(tmp_path))[:3]


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "old.txt"
    path.write_bytes(b"fine\ncaf\xe9 noir\nfine too\n")
    with pytest.raises(DataError, match=r"old.txt, line 2: the byte 0xe9 at offset 8 of the file"):
        list(lines(path))
    problems = Problems("skip")
    assert texts_of(lines(path, problems)) == ["fine\n", "fine too\n"]
    assert problems.counts == {"bytes that are not UTF-8": 1}
    assert "1 left out: bytes that are not UTF-8 (the first: " in problems.notes()[0]


def test_a_long_line_comes_in_pieces(tmp_path):
    path = tmp_path / "long.txt"
    text = "word ü " * 400_000
    path.write_text(text + "\nnext\n", "utf-8")
    found = list(lines(path))
    assert "".join(line.text for line in found) == text + "\nnext\n"
    assert max(len(line.text.encode()) for line in found) <= LONGEST
    assert [line.number for line in found] == [1] * (len(found) - 1) + [2]
    assert not any(line.text.endswith("wor") for line in found)
    path.write_text("ü" * LONGEST, "utf-8")
    assert "".join(texts_of(lines(path))) == "ü" * LONGEST + "\n"


def test_a_long_line_takes_little_memory(tmp_path):
    path = tmp_path / "long.txt"
    with path.open("wb") as file:
        for _ in range(40):
            file.write(b"x" * LONGEST)
    tracemalloc.start()
    assert sum(len(line.text) for line in lines(path)) == 40 * LONGEST + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LONGEST


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "train.txt").write_text("a")
    with pytest.raises(DataError, match=r"no file .*trian.txt \(did you mean 'train.txt'\?\)"):
        list(lines(tmp_path / "trian.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder .*empty has no files"):
        list(lines(tmp_path / "empty"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"some text" * 99)[:-9])
    with pytest.raises(DataError, match=r"cannot read .*cut.gz"):
        list(lines(tmp_path / "cut.gz"))


# ------------------------------------------------------------------------------------------ tables


def tables(folder):
    """The same rows in every form."""
    frame = pl.DataFrame(ROWS)
    frame.write_csv(folder / "t.csv")
    frame.write_csv(folder / "t.tsv", separator="\t")
    frame.write_parquet(folder / "t.parquet")
    frame.write_ndjson(folder / "t.jsonl")
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    paths = [folder / f"t.{end}" for end in ("csv", "tsv", "parquet", "jsonl", "csv.gz")]
    return [*paths, frame, frame.to_pandas(), frame.to_arrow(), ROWS]


def test_every_form_of_a_table_gives_the_same(tmp_path):
    for data in tables(tmp_path):
        found = TextTable("review", "stars").read(data)
        assert list(found.texts) == ROWS["review"]
        assert found.known_labels.tolist() == [5, 1, 3, 5]
        assert found.places.tolist() == [1, 2, 3, 4]
        some = TextTable("review", limit=2).read(data, learned=False)
        assert list(some.texts) == ROWS["review"][:2]
        assert some.labels is None


def test_labels_keep_their_kind():
    texts = ["a", "b"]
    for labels in (["x", "y"], [True, False], [3, 4]):
        found = TextTable("t", "l").read({"t": texts, "l": labels}).known_labels
        assert found.tolist() == labels
    mixed = TextTable("t", "l").read(pd.DataFrame({"t": texts, "l": ["01", "2"]}))
    assert mixed.known_labels.tolist() == ["01", "2"]


def test_a_list_of_texts():
    for data in (["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"])):
        assert list(TextTable().read(data).texts) == ["a", "b"]
    with pytest.raises(DataError, match="text 2: 3 is not a text"):
        TextTable().read(["a", 3])
    with pytest.raises(DataError, match="is one text or path, expected a list of texts"):
        TextTable().read("a text")
    with pytest.raises(DataError, match="give text=, the column"):
        TextTable().read(pd.DataFrame({"t": ["a"]}))
    with pytest.raises(DataError, match="the data has no text"):
        TextTable().read([])
    with pytest.raises(DataError, match="give text=, the column"):
        TextTable().read({"t": ["a"]})
    assert list(TextTable().read(pa.chunked_array([["a"], ["b"]])).texts) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\na,1\nb\n", r"row 2 \(line 3 of a.csv\) has 1 columns, expected 2"),
        ("a.csv", b"text,label\na,1\n\xff,0\n", "line 3: the byte 0xff at offset 15"),
        ("a.csv", b"text,label\na,\n", r"column 'label', row 1 \(line 2 of a.csv\): the value is"),
        ("a.csv", b'text,label\n"a,1\nb,2\n', "a.csv, line 3 is not CSV: unexpected end of data"),
        ("a.csv", b"txt,label\na,1\n", r"no column 'text' \(did you mean 'txt'\?\) in"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"text,label,text\na,1,b\n", "a.csv has 2 columns 'text': rename one"),
        ("a.csv", b"text,label\n", "a.csv has no text"),
        ("a.xlsx", b"text", "unknown file type '.xlsx': give a table of type .csv"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"', "line 2 of a.jsonl is not JSON"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 of a.jsonl is not a JSON object"),
        ("a.jsonl", b'{"text": null, "label": 1}\n', "column 'text', line 1 of a.jsonl: the value"),
        ("a.jsonl", b'{"text": "a", "label": 1.5}\n', "1.5 is not a class; classes must be texts"),
        ("a.jsonl", b'{"texts": "a", "label": 1}\n', r"no column 'text' \(did you mean 'texts'"),
        ("a.parquet", b"PAR1 no", "cannot read .*a.parquet"),
    ],
)
def test_tables_that_are_not_valid(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        TextTable("text", "label").read(path)


def test_rows_that_are_not_valid_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\na,1\nb\n\xff,0\nc,\n\nd,0\n")
    found = TextTable("text", "label", on_error="skip").read(path)
    assert list(found.texts) == ["a", "d"]
    assert found.places.tolist() == [1, 5]  # rows that were left out count too
    assert list(TextTable("text", "label", "skip", limit=1).read(path).texts) == ["a"]
    assert list(TextTable("text", "label", "skip", limit=2).read(path).texts) == ["a", "d"]
    assert found.problems.counts == {
        "rows with another number of columns than the header": 1,
        "bytes that are not UTF-8": 1,
        "rows without a label": 1,
    }


def test_lines_that_are_not_valid_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"t": "a", "l": 1}\n{"t": "\xff", "l": 1}\n{"t"\n{"t": "b", "l": 1.5}\n{"t": "c", "l": 0}\n'
    )
    found = TextTable("t", "l", on_error="skip").read(path)
    assert list(zip(found.texts, found.places, strict=True)) == [("a", 1), ("c", 5)]
    assert found.problems.counts == {
        "bytes that are not UTF-8": 1,
        "lines that are not JSON": 1,
        "rows whose label is not a text or an integer": 1,
    }


def test_one_column_with_two_roles():
    with pytest.raises(OptionError, match="'a' is given as text and as label"):
        TextTable("a", "a").read({"a": ["x"]})


def test_a_field_larger_than_the_limit_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'text\n"{"word " * 40_000}"\n')
    assert len(TextTable("text").read(path).texts[0]) == 200_000
    import csv

    assert csv.field_size_limit() == 131_072


# ------------------------------------------------------------------------------------------- pairs


def test_pairs_of_two_files_and_of_a_table(tmp_path):
    (tmp_path / "de").write_text("ein Hund\neine Katze\n")
    (tmp_path / "en").write_text("a dog\na cat")
    wanted = [("ein Hund", "a dog"), ("eine Katze", "a cat")]
    assert list(pairs(None, tmp_path / "de", tmp_path / "en")) == wanted
    table = pa.table({"de": ["ein Hund", "eine Katze"], "en": ["a dog", "a cat"]})
    assert list(pairs(table, "de", "en")) == wanted


def test_parallel_files_of_unequal_length(tmp_path):
    (tmp_path / "de").write_text("eins\nzwei\ndrei\nvier\n")
    (tmp_path / "en").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"de has 4 lines and .*en has 2: parallel files"):
        list(pairs(None, tmp_path / "de", tmp_path / "en"))
    with pytest.raises(DataError, match=r"en has 2 lines and .*de has 4: parallel files"):
        list(pairs(None, tmp_path / "en", tmp_path / "de"))


def test_a_pair_without_a_text_is_counted(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"a": "x", "b": "y"}) + "\n" + json.dumps({"a": "x"}) + "\n")
    with pytest.raises(DataError, match=r"column 'b', line 2 of p.jsonl: the value is missing"):
        list(pairs(path, "a", "b"))
    problems = Problems("skip")
    assert list(pairs(path, "a", "b", problems)) == [("x", "y")]
    assert problems.counts == {"rows without a text": 1}


def test_unlabelled_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert list(lines_of(tmp_path / "a.txt")) == ["one\n", "two\n"]
    assert list(lines_of(["one", "two"], limit=1)) == ["one"]
    assert list(lines_of({"t": ["one", "two"]}, "t")) == ["one", "two"]


def test_texts_and_files_are_told_apart(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"line of {name}\n")
    names = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    with pytest.raises(
        DataError, match=r"are names of files .*: for the text of files give a list of pathlib"
    ):
        list(lines_of(names))
    assert list(lines_of([Path(each) for each in names])) == ["line of a.txt\n", "line of b.txt\n"]
    assert list(lines_of([*names, "no file"])) == [*names, "no file"]
    for wrong in (None, 5, [1, 2], [], ["text", tmp_path]):
        with pytest.raises(
            DataError, match="is not a text: give a file, a folder, a list of pathlib"
        ):
            list(lines_of(wrong))


# ------------------------------------------------------------------------------------------ spools


def test_spools_beyond_memory_give_the_same(monkeypatch):
    texts = ["", "ünï", "a" * 50, "\udc80"]
    numbers = [np.arange(k) for k in (3, 0, 40, 1)]
    small = list(SpooledTexts(texts)), [a.tolist() for a in flat(numbers)]
    monkeypatch.setattr("gatewise.data.spool.IN_MEMORY", 16)
    spooled = SpooledTexts(texts)
    assert (list(spooled), [a.tolist() for a in flat(numbers)]) == small
    assert small == (texts, [[0, 1, 2, *range(40), 0], [0, 3, 3, 43, 44]])
    assert (spooled[1], spooled[-1], spooled[1:3], len(spooled)) == ("ünï", "\udc80", texts[1:3], 4)
    with pytest.raises(IndexError):
        spooled[4]


# ----------------------------------------------------------------------------------------- buckets


def test_buckets_have_each_sequence_once_and_little_padding():
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    chosen = np.arange(3, 1000)
    batches = BucketBatches(lengths, chosen, 32, seed=1)
    first, again = list(batches), list(batches)
    assert len(first) == len(batches) == 32
    assert sorted(np.concatenate(first)) == chosen.tolist()
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    batches.set_epoch(1)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, batches, strict=True))
    padding = sum(lengths[each].max() * len(each) for each in first) / lengths[chosen].sum()
    assert padding < 1.1
    assert np.diff([lengths[each].mean() for each in first]).std() > 5  # not in order of length


def test_buckets_of_processes_share_each_batch():
    lengths = np.arange(10)
    parts = [
        BucketBatches(lengths, np.arange(10), 4, 0, share=lambda batch, k=k: batch[k::2])
        for k in (0, 1)
    ]
    assert sorted(np.concatenate([*parts[0], *parts[1]])) == list(range(10))


def test_sorted_batches_and_padding():
    values, starts = flat([np.array([5, 6, 7]), np.array([8]), np.array([9, 10])])
    batches = sorted_batches(np.diff(starts), np.array([0, 1, 2]), 2)
    assert [each.tolist() for each in batches] == [[1, 2], [0]]
    x, lengths = padded_ids(values, starts, batches[0])
    assert x.tolist() == [[8, 0], [9, 10]]
    assert lengths.tolist() == [1, 2]
    assert len(BucketBatches(np.diff(starts), np.array([], int), 2, 0)) == 0
