"""The data sets of the text classifier's benchmark: SST-2, SST-5, MR and TREC.

    python benchmarks/sentiment.py            # the commands that fit the models
    python benchmarks/sentiment.py --tables   # write the tables that they read

The data are in the folder GATEWISE_DATA, those of Kim 2014 in ``sentiment_sentences`` and the trees of Socher et al.
2013 in ``sst_trees``. Splits: SST has its own; TREC has a test part, of its training part a tenth is for
validation; of MR a tenth is for validation and a tenth is the test part, both drawn with the seed 0. Where a name
ends in "phrases", the labelled phrases of the training trees are training texts too, each once. "unlabelled" has
the sentences of SST, MR, SUBJ, CR, MPQA and TREC's training part without their labels, those of the test parts too.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

DATA = Path(os.environ.get("GATEWISE_DATA", Path.home() / ".cache/gatewise/data"))
SENTENCES, TREES, TABLES = DATA / "sentiment_sentences", DATA / "sst_trees", DATA / "sentiment"
UNLABELLED = ("stsa.fine.train", "stsa.fine.dev", "stsa.fine.test", "rt-polarity.all", "subj.all",
              "custrev.all", "mpqa.all", "TREC.train.all")  # fmt: skip

PHRASES = dict(batch=128, learning_rate=3e-3, epochs=3)
# The sentences are split into words already, by spaces.
OPTIONS = dict(text="text", label="label", punctuation=False)
PRETRAIN = dict(pretrain=[TABLES / "unlabelled.txt"], pretrain_epochs=3, min_count=2)

# For each run its table, and options beside OPTIONS. The test and validation parts are files where there are any.
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "trec": ("trec", dict(embedding=250, smoothing=0.1, dropout=0.6, batch=48, epochs=7)),
    "sst2": ("sst2", dict(epochs=6)),
    "sst2_phrases": ("sst2_phrases", PHRASES),
    "sst2_pretrained": ("sst2", PRETRAIN | dict(epochs=6, learning_rate=4e-3)),
    "mr": ("mr", dict(epochs=6)),
    "mr_pretrained": ("mr", PRETRAIN | dict(epochs=6, learning_rate=4e-3)),
    "sst5_phrases": ("sst5_phrases", PHRASES),
}


def labelled(name: str) -> tuple[list[str], list[int]]:
    """The texts and the labels of a file with a label and a text in each line."""
    data = (SENTENCES / name).read_bytes()
    try:
        lines = data.decode().split(
            "\n"
        )  # some lines have the byte 0x85, at which splitlines splits
    except UnicodeDecodeError:
        lines = data.decode("latin1").split("\n")
    pairs = [line.split(" ", 1) for line in lines if line]
    return [text.strip() for _, text in pairs], [int(label) for label, _ in pairs]


def nodes(tree: str) -> Iterator[tuple[str, int]]:
    """The text and the label of each node of a tree such as ``(3 (2 It) (4 works))``; the root comes last."""
    open_: list[tuple[int, list[str]]] = []
    for label, word, closing in re.findall(r"\((\d) ?|([^()\s]+)|(\))", tree):
        if label:
            open_.append((int(label), []))
        elif word:
            open_[-1][1].append(word)
        elif closing:
            own, words = open_.pop()
            if open_:
                open_[-1][1].extend(words)
            yield " ".join(words), own


def sst(part: str, two: bool, phrases: bool) -> tuple[list[str], list[int]]:
    """The sentences of a part of SST, with its phrases if asked for; for two classes without neutral ones."""
    found: list[tuple[str, int]] = []
    for tree in (TREES / f"{part}.txt").read_text().splitlines():
        every = list(nodes(tree))
        found += every if phrases else every[-1:]
    kept = [(text, label) for text, label in dict.fromkeys(found) if not two or label != 2]
    return [text for text, _ in kept], [int(k > 2) if two else k for _, k in kept]


def write(name: str, texts: list[str], labels: list[int]) -> None:
    pl.DataFrame({"text": texts, "label": labels}).write_parquet(TABLES / f"{name}.parquet")


def write_tables() -> None:
    TABLES.mkdir(exist_ok=True)
    for name, two in (("sst2", True), ("sst5", False)):
        write(name, *sst("train", two, phrases=False))
        write(f"{name}_phrases", *sst("train", two, phrases=True))
        for part in ("dev", "test"):
            write(f"{name}-{part}", *sst(part, two, phrases=False))
    write("trec", *labelled("TREC.train.all"))
    write("trec-test", *labelled("TREC.test.all"))
    write("mr", *labelled("rt-polarity.all"))
    texts = [text for name in UNLABELLED for text in labelled(name)[0]]
    (TABLES / "unlabelled.txt").write_text("\n".join(dict.fromkeys(texts)) + "\n")


def parts(table: str) -> dict[str, Path | float]:
    """The validation and the test part of a run on a table."""
    name = table.partition("_")[0]
    found = {
        part: TABLES / f"{name}-{file}.parquet"
        for part, file in (("validation", "dev"), ("test", "test"))
    }
    return {part: path if path.exists() else 0.1 for part, path in found.items()}


def command(name: str) -> str:
    """The command that fits the model of a run."""
    table, options = RUNS[name]
    words = [f"gatewise fit classify {TABLES / table}.parquet --out runs/{name} --quiet"]
    for option, value in (OPTIONS | options | parts(table)).items():
        flag = option.replace("_", "-")
        if isinstance(value, list):
            value = " ".join(map(str, value))
        words.append(f"--no-{flag}" if value is False else f"--{flag} {value}")
    return " ".join(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", action="store_true", help="write the tables")
    if parser.parse_args().tables:
        write_tables()
    else:
        print(*map(command, RUNS), sep="\n")
