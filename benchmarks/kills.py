"""Kills `gatewise fit` at random moments, resumes it, and compares what comes out with an uninterrupted run.

    python benchmarks/kills.py [KILLS] [--out FILE]

Each run is killed with SIGKILL. Half are killed at a random time after the start, half at a random time after
they have locked the folder. A third of the resumed ones are killed once more. A quarter begin in a folder that
has another run's model and checkpoint. What must be equal, bit by bit: weights, conformal offsets, losses of
all rounds, and which round was kept. Times are drawn with a fixed seed, but what a run is doing by then depends
on the machine: the figures count what was there. A run that had ended by then is no kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gatewise as gw
from gatewise.cli import main as main_of_gatewise
from gatewise.train.folder import checkpoint_of

RESULT = Path(__file__).parent / "results" / "kills.json"
SEED = 20
ENDED = "after its end"  # no kill
OPTIONS = ("--horizon", "7", "--hidden", "16", "--steps", "450", "--conformal", "--seed", "3")


def write_tables(folder: Path) -> tuple[Path, Path]:
    """The data of the run, and those of another one that was in the folder before."""
    rng = np.random.default_rng(SEED)
    days = np.datetime64("2023-01-01", "us") + np.arange(400) * np.timedelta64(86_400_000_000, "us")
    paths = folder / "a.csv", folder / "b.csv"
    for path in paths:
        values = 100 + 10 * np.sin(np.arange(400) * 2 * np.pi / 7) + rng.normal(0, 2, 400)
        rows = (
            f"{day},{value:.6f}" for day, value in zip(days.astype("M8[D]"), values, strict=True)
        )
        path.write_text("\n".join(["date,y", *rows]) + "\n")
    return paths


def start(data: Path, out: Path, *more: str) -> int:
    """The number of a process that runs the command line: a fork of this one, which has imported all and
    used none of it, so that no run has to import torch again."""
    columns = ["--target", "y", "--time", "date", "--quiet", "--out", str(out)]
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = main_of_gatewise(["fit", "forecast", str(data), *columns, *OPTIONS, *more])
        sys.stdout.flush()
    finally:
        os._exit(code)


def ended(process: int) -> int | None:
    """The exit code of a process that has ended."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def finish(data: Path, out: Path, *more: str) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(data, out, *more), 0)[1])


def kill(data: Path, out: Path, delay: float, begun: bool, *more: str) -> str:
    """Start a run and kill it after ``delay`` s, which begin when the run has ``begun`` to hold its
    folder, or at once; what was there when it fell."""
    (out / ".lock").unlink(missing_ok=True)  # of a killed run; it holds nobody up
    process = start(data, out, *more)
    code = None
    while begun and not (out / ".lock").exists() and (code := ended(process)) is None:
        time.sleep(0.002)
    time.sleep(delay)
    if code is not None or ended(process) is not None:
        return ENDED
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    if not (out / ".lock").exists():
        return "before it had locked the folder"
    return "with a checkpoint" if checkpoint_of(out).exists() else "before its first checkpoint"


def begun_anew(out: Path, before: Path) -> bool:
    """Whether the checkpoint is no longer the earlier run's, which a resumed run must refuse."""
    now, then = checkpoint_of(out), checkpoint_of(before)
    return not now.exists() or now.read_bytes() != then.read_bytes()


def learned(out: Path) -> dict[str, Any]:
    model = gw.load(out)
    history = model.history_
    return {
        "weights": model.network_.state_dict(),
        "offsets": torch.from_numpy(model.offsets_),
        "losses": [history.train, history.validation, history.best],
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    weights = one["weights"].keys() == other["weights"].keys() and all(
        torch.equal(value, other["weights"][name]) for name, value in one["weights"].items()
    )
    same = {
        "weights": weights,
        "offsets": torch.equal(one["offsets"], other["offsets"]),
        "losses": one["losses"] == other["losses"],
    }
    return [name for name, equal in same.items() if not equal]


def imported() -> None:
    """Load what a run loads, once for all."""
    import matplotlib.pyplot  # noqa: F401

    import gatewise.tasks.forecast.report
    import gatewise.train.loop  # noqa: F401


def measure(kills: int, folder: Path) -> dict[str, Any]:
    imported()
    torch.set_num_threads(1)
    draw = random.Random(SEED)
    data, before = write_tables(folder)
    whole = folder / "whole"
    begun = time.monotonic()
    if finish(data, whole) or finish(before, folder / "before"):
        raise SystemExit("an uninterrupted run failed")
    seconds = (time.monotonic() - begun) / 2
    expected = learned(whole)
    fell: Counter[str] = Counter()
    different: list[str] = []
    runs = 0
    while fell.total() - fell[ENDED] < kills:
        out = folder / f"run{runs}"
        used = draw.random() < 0.25
        if used:
            shutil.copytree(folder / "before", out)
        held = draw.random() < 0.5
        moment = draw.uniform(0, 0.35 * seconds if held else seconds)
        fell[kill(data, out, moment, held)] += 1
        if draw.random() < 1 / 3 and not used:
            fell[kill(data, out, draw.uniform(0, 0.2 * seconds), True, "--resume")] += 1
        code = finish(data, out, "--resume")
        if code == 2 and used and not begun_anew(out, folder / "before"):
            code = finish(data, out)
        if code:
            raise SystemExit(f"the run in {out} ended with {code}")
        different += [f"run {runs}: {name}" for name in differing(learned(out), expected)]
        shutil.rmtree(out)
        runs += 1
        print(runs, dict(fell), different, file=sys.stderr)
    return {
        "kills": fell.total() - fell[ENDED],
        "runs": runs,
        "fell": dict(sorted(fell.items())),
        "different": different,
        "seconds of an uninterrupted run": round(seconds, 1),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.kills, Path(folder))
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
