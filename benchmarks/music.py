"""The music model on published data, and on a folder of tunes.

    python benchmarks/music.py DATA [--only NAME …] [--out benchmarks/results/music.json]

DATA is the folder that holds ``polymusic_bl2012`` (Boulanger-Lewandowski 2012, with its splits). Every choice was made
on the validation parts; the test parts are scored here, once. The score is the mean over all steps, the first of each
tune too, of the negative log-likelihood of a step's notes, in nats. Published, with independent notes: JSB 8.45 (LSTM)
and 8.43 (GRU), Nottingham 3.29 and 3.46 (Bai et al. 2018); with the RNN-NADE 5.56 and 2.31 (their paper).

The folder of tunes is O'Neill's Music of Ireland in ABC, which comes with the package music21. New tunes are compared
with the data and with samples of a 3-gram: the share of notes in the key, and of bars that add up.

The speed of an epoch beside torch's layers is measured by benchmarks/applications.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import music21
import numpy as np
import torch

from gatewise.bench.machine import describe
from gatewise.data.music.events import END
from gatewise.data.music.tune import TICKS, Tune, shares
from gatewise.tasks.music.generate import MusicModel
from gatewise.train.run import Run

JSB = Path("polymusic_bl2012") / "JSB_Chorales.mat"
NOTTINGHAM = Path("polymusic_bl2012") / "Nottingham.mat"
PUBLISHED = {
    "jsb": {"LSTM": 8.45, "RNN-NADE": 5.56},
    "nottingham": {"LSTM": 3.29, "RNN-NADE": 2.31},
}


def fitted(data: Any, **options: Any) -> tuple[MusicModel, dict[str, Any]]:
    """A fitted model, and the record of its scores."""
    started = time.perf_counter()
    model = MusicModel(**options).fit(data, validation=0.1, test=0.1, run=Run(quiet=True))
    seconds = time.perf_counter() - started
    evaluation = model.evaluate(data)
    print(f"{options}\n{evaluation.table()}", flush=True)
    return model, {
        "options": {name: value for name, value in options.items() if name != "limit"},
        **evaluation.record(),
        "validation": model.history_.validation[model.history_.best],
        "epochs": len(model.history_.train),
        "fit_seconds": round(seconds, 1),
        "parameters": sum(weight.numel() for weight in model.network_.parameters()),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def jsb(data: Path) -> dict[str, Any]:
    return fitted(data / JSB, notes="nade", grid=1)[1] | {"published": PUBLISHED["jsb"]}


def jsb_independent(data: Path) -> dict[str, Any]:
    # the chorales of this file are in C major or A minor already
    options: dict[str, Any] = dict(notes="independent", grid=1, transpose="none")
    return fitted(data / JSB, **options)[1] | {"published": PUBLISHED["jsb"]}


def nottingham(data: Path) -> dict[str, Any]:
    options: dict[str, Any] = dict(
        grid=2, dropout=0.2, batch=16, window=100, epochs=8, learning_rate=6e-3
    )
    return fitted(data / NOTTINGHAM, **options)[1] | {"published": PUBLISHED["nottingham"]}


def tunes(data: Path) -> dict[str, Any]:
    folder = Path(music21.__file__).parent / "corpus" / "oneills1850"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tunes whose bars do not add up are skipped
        model, found = fitted(
            folder,
            unit="event",
            transpose="common",
            on_error="skip",
            hidden=384,
            units=64,
            dropout=0.4,
            batch=4,
            epochs=20,
            learning_rate=8e-3,
            limit=TUNES,
        )
        read = model.source().read(folder)
    found["skipped"] = read.problems.counts.total()
    found["tunes"] = {
        "data": shares(read.tunes),
        "model": shares(model.generate(samples=SAMPLES)),
        "model, temperature 0.7": shares(model.generate(samples=SAMPLES, temperature=0.7)),
        "model, from the fourth bar of tunes of the test part": shares(
            continued(model, read.tunes)
        ),
        "3-gram": shares(from_three_gram(model)),
    }
    print(found["tunes"], flush=True)
    return found


TUNES, SAMPLES = 300, 100


def from_three_gram(model: MusicModel) -> list[Tune]:
    """Tunes that are drawn from the 3-gram of the training part."""
    draw = np.random.default_rng(0)
    drawn = (model.ngrams_.sample(2 * model.longest_, 1, draw, END) for _ in range(SAMPLES))
    free = Tune("", (), 0)
    return [model._finished(steps, "3-gram", free, None, 100.0) for steps in drawn]


def continued(model: MusicModel, known: list[Tune]) -> list[Tune]:
    """The tunes of the test part, continued after three bars, without these bars."""
    found = []
    for tune in known:
        if tune.name in model.names_ or len(tune.bars) < 5:
            continue
        kept = tune.bars[3]
        (longer,) = model.generate(start=tune, keep=kept / TICKS)
        notes = tuple(note for note in longer.notes if note.start >= kept)
        # the first bar is not counted: it is the last that was kept
        bars = tuple(bar for bar in longer.bars if bar >= tune.bars[2])
        found.append(replace(longer, notes=notes, bars=bars))
    return found


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "jsb": jsb,
    "jsb independent": jsb_independent,
    "nottingham": nottingham,
    "tunes": tunes,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/music.json"))
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        machine = describe() | {"threads": torch.get_num_threads()}
        results[name] = RUNS[name](given.data) | {"machine": machine}
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
