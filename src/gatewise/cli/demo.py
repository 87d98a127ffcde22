"""The verb demo: a task on data that comes with the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from gatewise.cli.parsing import PATH
from gatewise.cli.tasks import finish


def add_demo(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_demo)
    verb.add_argument(
        "what", nargs="?", choices=DEMOS, default="forecast", help="(default: forecast)"
    )
    verb.add_argument(
        "--out",
        type=PATH,
        help="output folder (default: runs/demo, and runs/demo-text and so on for the others)",
    )


def _run_demo(given: argparse.Namespace) -> None:
    from gatewise.train.folder import FolderLock

    name = "demo" if given.what == "forecast" else f"demo-{given.what}"
    out = given.out or Path("runs") / name
    file, run = DEMOS[given.what]
    with as_file(files("gatewise.data") / "examples" / file) as data, FolderLock(out) as lock:
        lock.acquire()
        run(data, out)


def _forecast(data: Path, out: Path) -> None:
    from gatewise.data.output import write_table
    from gatewise.tasks.forecast.forecaster import Forecaster
    from gatewise.train.run import Run

    print("Weekly CO2 at Mauna Loa, 1958 to 2001 (Keeling & Whorf 2004): a year ahead, by weeks.\n")
    forecaster = Forecaster(52, "co2", "date", conformal=True)
    forecaster.fit(data, run=Run(quiet=not sys.stderr.isatty()))
    finish(forecaster, data, None, out)
    write_table(forecaster.predict(data), out / "forecast.csv")
    print(f"\nforecast  {out / 'forecast.csv'}\ngates     {out / 'gates.png'}")
    _write_gates(forecaster, data, out)


def _text(data: Path, out: Path) -> None:
    from gatewise.tasks.text.generate import LanguageModel
    from gatewise.train.run import Run

    print("Sonnets of Shakespeare (1609), character by character.\n")
    model = LanguageModel(
        "char",
        hidden=256,
        layers=1,
        dropout=0.5,
        learning_rate=1e-2,
        epochs=16,
        batch=4,
        window=50,
        patience=16,
    )
    model.fit(data, validation=0.1, test=0.1, run=Run(quiet=not sys.stderr.isatty()))
    finish(model, data, None, out)
    samples = model.generate(prompt="Shall I compare ", length=600, temperature=0.7)
    model.write_samples(samples, out / "samples.txt")
    _write_gates(model, data, out)
    print(f"samples   {out / 'samples.txt'}\n")
    model.write_samples(samples, None)


def _music(data: Path, out: Path) -> None:
    from gatewise.data.music.tune import shares
    from gatewise.tasks.music.generate import MusicModel
    from gatewise.train.run import Run

    print("Folk songs, carols and dances in ABC notation, event by event.\n")
    model = MusicModel("event", transpose="common", units=64, batch=2, patience=20)
    model.fit(data, validation=4, test=4, run=Run(quiet=not sys.stderr.isatty()))
    finish(model, data, 4, out)
    tunes = model.generate(samples=8, shortest=60, temperature=0.7)
    model.write_samples(tunes, out / "tune.mid")
    print()
    _write_gates(model, data, out)
    print(f"samples   {out / 'tune-1.mid'} to tune-{len(tunes)}.mid")
    own, given = shares(tunes), shares(model.source().read(data).tunes)
    print(f"notes in the key: {own['notes_in_key']:.0%} (in the data {given['notes_in_key']:.0%})")
    print(
        f"bars that add up: {own['bars_that_add_up']:.0%} (in the data {given['bars_that_add_up']:.0%})"
    )


def _write_gates(model: Any, data: Path, out: Path) -> None:
    print(f"page      {model.write_gates(data, out / 'gates.html', limit=4, steps=500)}")


# Each demo: its file in data/examples, and what is done with it.
DEMOS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "forecast": ("co2.csv", _forecast),
    "text": ("sonnets.txt", _text),
    "music": ("tunes.abc", _music),
}
