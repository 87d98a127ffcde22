"""The verb demo: a task on data that come with the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from gatewise.cli.parsing import PATH
from gatewise.cli.tasks import finish


def add_demo(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_demo)
    verb.add_argument(
        "what",
        nargs="?",
        choices=DEMOS,
        default="forecast",
        help=f"the demo: {', '.join(DEMOS)} (default: forecast)",
    )
    verb.add_argument(
        "--out", type=PATH, help="output folder (default: runs/demo, or runs/demo-music and so on)"
    )


def _run_demo(given: argparse.Namespace) -> None:
    usual = "demo" if given.what == "forecast" else f"demo-{given.what}"
    DEMOS[given.what](given.out or Path("runs") / usual)


def _forecast(out: Path) -> None:
    from gatewise.data.output import write_table
    from gatewise.tasks.forecast.forecaster import Forecaster
    from gatewise.train.folder import FolderLock
    from gatewise.train.run import Run

    print("Weekly CO2 at Mauna Loa, 1958 to 2001 (Keeling & Whorf 2004): a year ahead, by weeks.\n")
    with (
        as_file(files("gatewise.data") / "examples" / "co2.csv") as data,
        FolderLock(out) as lock,
    ):
        lock.acquire()
        forecaster = Forecaster(52, "co2", "date", conformal=True)
        forecaster.fit(data, run=Run(quiet=not sys.stderr.isatty()))
        finish(forecaster, data, None, out)
        write_table(forecaster.predict(data), out / "forecast.csv")
    print(f"\nforecast  {out / 'forecast.csv'}\ngates     {out / 'gates.png'}")


def _music(out: Path) -> None:
    from gatewise.data.music.tune import shares
    from gatewise.tasks.music.generate import MusicModel
    from gatewise.train.folder import FolderLock
    from gatewise.train.run import Run

    print("Folk songs, carols and dances in ABC notation: new tunes, event by event.\n")
    with (
        as_file(files("gatewise.data") / "examples" / "tunes.abc") as data,
        FolderLock(out) as lock,
    ):
        lock.acquire()
        model = MusicModel("event", transpose="common", units=64, batch=2, patience=20)
        model.fit(data, test=4, validation=4, run=Run(quiet=not sys.stderr.isatty()))
        finish(model, data, 4, out)
        given = shares(model.source().read(data).tunes)
    tunes = model.generate(samples=8, temperature=0.7)
    own = shares(tunes)
    model.write_samples(tunes, out / "tune.mid")
    print(f"\ntunes     {out / 'tune-1.mid'} to {out / 'tune-8.mid'}")
    for name, text in (
        ("notes_in_key", "notes in the key"),
        ("bars_that_add_up", "bars that add up"),
    ):
        print(f"{text}: {own[name]:.0%} (in the data {given[name]:.0%})")


DEMOS: dict[str, Callable[[Path], None]] = {"forecast": _forecast, "music": _music}
