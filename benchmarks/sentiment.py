"""The text classifier on SST-2, SST-5, MR and TREC: scores beside a bag of words, and its speed beside torch's layers.

    python benchmarks/sentiment.py --tables          # write the tables that the models read
    python benchmarks/sentiment.py                   # print the commands that fit the models
    python benchmarks/sentiment.py --results runs    # score the test parts, write the JSON
    python benchmarks/sentiment.py --speed           # measure the speed on SST-2, write the JSON

The data are in the folder GATEWISE_DATA, those of Kim 2014 in ``sentiment_sentences`` and the trees of Socher et al.
2013 in ``sst_trees``. Splits: SST has its own; TREC has a test part, and all other questions are training texts; of
MR a tenth is for validation and a tenth is the test part, both drawn with the seed 0. Where a name
ends in "phrases", the labelled phrases of the training trees are training texts too, each once. The unlabelled text
is that of SST's training part, MR, SUBJ, CR and MPQA. As SST and most of SUBJ's reviews are sentences of MR, a
sentence that shares six words in a row with one of the validation or test part is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.bench.machine import describe
from gatewise.tasks.sequences.training import held_for_test, held_for_validation
from gatewise.train.run import Run

OUT = Path("benchmarks/results/sentiment.json")

DATA = Path(os.environ.get("GATEWISE_DATA", Path.home() / ".cache/gatewise/data"))
SENTENCES, TREES, TABLES = DATA / "sentiment_sentences", DATA / "sst_trees", DATA / "sentiment"
UNLABELLED = ("stsa.fine.train", "rt-polarity.all", "subj.all", "custrev.all", "mpqa.all")
IN_A_ROW = 6  # words that two sentences share where one is a part of the other

PHRASES: dict[str, Any] = dict(batch=128, learning_rate=3e-3, epochs=3)
# The sentences are split into words already, by spaces.
OPTIONS: dict[str, Any] = dict(text="text", label="label", punctuation=False)
FEW: dict[str, Any] = dict(
    batch=64, learning_rate=3e-3, epochs=6, embedding_dropout=0.5, word_dropout=0.2, members=3
)


def pretrain(table: str) -> dict[str, Any]:
    """The options of a run that starts from unlabelled text."""
    return FEW | dict(pretrain=[TABLES / f"{table}-unlabelled.txt"], min_count=2)


# For each run its table, and options beside OPTIONS. The test and validation parts are files where there are any.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "trec": (
        "trec",
        dict(
            embedding=300,
            filters=100,
            hidden=50,
            members=3,
            embedding_dropout=0.5,
            word_dropout=0.0,
        )
        | dict(batch=48, learning_rate=1e-3, epochs=8),
    ),
    "sst2": ("sst2", dict(epochs=6)),
    "sst2_phrases": ("sst2_phrases", PHRASES),
    "sst2_three": ("sst2", FEW),
    "sst2_pretrained": ("sst2", pretrain("sst2")),
    "mr": ("mr", dict(epochs=6)),
    "mr_three": ("mr", FEW),
    "mr_pretrained": ("mr", pretrain("mr")),
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
    write_parts("mr", *labelled("rt-polarity.all"))
    for name in ("sst2", "mr"):
        write_unlabelled(name)


def write_parts(name: str, texts: list[str], labels: list[int]) -> None:
    """Writes the training, validation and test part that ``--validation 0.1 --test 0.1`` would draw."""
    target, weight = np.array(labels), np.ones(len(labels))
    test = held_for_test(target, 0.1, 0, "texts", of_classes=True)
    weight[test] = 0
    held = held_for_validation(target, weight, 0.1, 0)
    trained = np.setdiff1d(np.arange(len(labels)), np.union1d(test, held))
    for part, rows in ((name, trained), (f"{name}-dev", held), (f"{name}-test", test)):
        write(part, [texts[k] for k in rows], target[rows].tolist())


def in_a_row(text: str) -> set[tuple[str, ...]]:
    """All runs of IN_A_ROW words of a text, or the whole of a shorter one."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"-[lr]rb-", " ", text.lower()))
    return {tuple(words[k : k + IN_A_ROW]) for k in range(max(1, len(words) - IN_A_ROW + 1))}


def write_unlabelled(name: str) -> None:
    """Writes the unlabelled text for a table: nothing of its validation and test part, nor its training texts, which
    the pretraining reads anyway."""
    held, known = set(), set()
    for part in ("dev", "test"):
        for text in pl.read_parquet(TABLES / f"{name}-{part}.parquet")["text"]:
            held |= in_a_row(text)
    for text in pl.read_parquet(TABLES / f"{name}.parquet")["text"]:
        known.add(frozenset(in_a_row(text)))
    kept = []
    for text in (text for file in UNLABELLED for text in labelled(file)[0]):
        own = frozenset(in_a_row(text))
        if not own & held and own not in known:
            known.add(own)
            kept.append(text)
    (TABLES / f"{name}-unlabelled.txt").write_text("\n".join(kept) + "\n")


def parts(table: str) -> dict[str, Path | int]:
    """The validation and the test part of a run on a table; 0 where there is no such file."""
    name = table.partition("_")[0]
    found = {
        part: TABLES / f"{name}-{file}.parquet"
        for part, file in (("validation", "dev"), ("test", "test"))
    }
    return {part: path if path.exists() else 0 for part, path in found.items()}


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


# ------------------------------------------------------------------------------------------- scores


def _short(value: object) -> str:
    """An option as text; of files their names alone."""
    files = value if isinstance(value, list) else [value]
    return " ".join(each.name if isinstance(each, Path) else str(each) for each in files)


def scores(name: str, folder: Path) -> dict[str, Any]:
    """The scores of a fitted model and of its baselines on the test part, and its losses."""
    table, options = RUNS[name]
    model: Any = gw.load(folder)
    evaluation = model.evaluate(parts(table)["test"])
    history = model.history_
    pretraining = model.pretraining_
    return evaluation.record() | dict(
        options={key: _short(value) for key, value in options.items()},
        weights=sum(weight.numel() for weight in model.network_.parameters()),
        validation=history.validation,
        best=history.best,
        pretraining=None if pretraining is None else pretraining.validation,
        seconds=round(history.seconds),
    )


# -------------------------------------------------------------------------------------------- speed


class TorchLayer(nn.Module):
    """torch's bidirectional LSTM with the weights of a layer of gatewise's, over packed or padded sequences."""

    def __init__(self, own: Any, packed: bool) -> None:
        super().__init__()
        self.layer = nn.LSTM(own.input_size, own.hidden_size, batch_first=True, bidirectional=True)
        self.layer.load_state_dict(own.state_dict())
        self.packed = packed

    def forward(self, x: Tensor, lengths: Tensor, trace: bool = False) -> Any:
        if not self.packed:
            return self.layer(x)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, state = self.layer(packed)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], state


# gatewise's layer and batches of similar length; torch's layer with the same batches, and with batches in any order.
CONTENDERS = (
    *("gatewise", "torch, packed", "torch, padded"),
    *("torch, packed, any order", "torch, padded, any order"),
)


def updates(name: str, contender: str, pipe: Any) -> None:
    """Trains as many updates as the pipe asks for; answers with their seconds, at the end with the memory."""
    torch.set_num_threads(1)
    table, options = RUNS[name]
    model = gw.TextClassifier(**(OPTIONS | options))
    model.options_ = model.checked()
    given = parts(table)
    data = model.prepare(TABLES / f"{table}.parquet", given["validation"], given["test"], Run())
    network: Any = model.build()
    if contender != "gatewise":
        for encoder in network.encoders:
            encoder.first = TorchLayer(encoder.first, "packed" in contender)
    optimizer, schedule = model.optimizer(network, data.recipe)
    batches: Any = data.training
    if "any order" in contender:
        order = np.random.default_rng(0).permutation(batches.sampler.chosen)
        examples: Any = data.training.dataset
        batches = (examples[part] for part in np.array_split(order, len(data.training)))
    batches = iter(batches)
    pipe.send(len(data.training))
    while number := pipe.recv():
        times = []
        for _ in range(number):
            batch = next(batches)
            begun = time.perf_counter(), time.process_time()
            loss = model.loss(network, batch, None)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), data.recipe.clip)
            optimizer.step()
            times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            schedule.step()
        pipe.send(times)
    # of this process alone: getrusage has the peak of the process that started it, too
    status = Path("/proc/self/status").read_text()
    pipe.send(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))  # type: ignore[index]


def speed(name: str, turns: int = 6, number: int = 6) -> dict[str, Any]:
    """Seconds an epoch and peak memory of each contender, whose updates take turns, in one thread.

    "processor_seconds_an_epoch" is the time that the processor worked, which other programs on the machine disturb
    less."""
    context = multiprocessing.get_context("spawn")
    pipes, epochs = {}, {}
    for contender in CONTENDERS:
        pipes[contender], other = context.Pipe()
        context.Process(target=updates, args=(name, contender, other)).start()
        epochs[contender] = pipes[contender].recv()
    times: dict[str, list[tuple[float, float]]] = {contender: [] for contender in CONTENDERS}
    for turn in range(turns):
        for contender, pipe in pipes.items():
            pipe.send(number)
            times[contender] += pipe.recv()[turn == 0 :]
    found = {}
    for contender, pipe in pipes.items():
        pipe.send(0)
        wall, own = (
            epochs[contender] * statistics.median(t) for t in zip(*times[contender], strict=True)
        )
        found[contender] = dict(
            seconds_an_epoch=round(wall, 2),
            processor_seconds_an_epoch=round(own, 2),
            peak_memory=pipe.recv(),
        )
    return found


def results() -> dict[str, Any]:
    """The results so far. Each score has its commit; the machine is that of the speed."""
    found: dict[str, Any] = json.loads(OUT.read_text())
    return found


def write_results(runs: Path) -> None:
    """Replaces the scores of the runs that are in a folder."""
    found, commit = results(), describe()["commit"]
    for name in RUNS:
        if (runs / name / "model.json").exists():
            found["scores"][name] = scores(name, runs / name) | {"commit": commit}
            print(name, found["scores"][name]["scores"], flush=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


def write_speed() -> None:
    found = results() | {"machine": describe(), "speed": {"sst2": speed("sst2")}}
    print(json.dumps(found["speed"], indent=1), flush=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", action="store_true", help="write the tables")
    parser.add_argument("--results", type=Path, help="the folder of the fitted models")
    parser.add_argument("--speed", action="store_true", help="measure the speed on SST-2")
    given = parser.parse_args()
    if given.tables:
        write_tables()
    elif given.results:
        write_results(given.results)
    elif given.speed:
        write_speed()
    else:
        print(*map(command, RUNS), sep="\n")
