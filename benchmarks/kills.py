"""Kills `gatewise fit` at random moments, resumes it, and compares what comes out with an uninterrupted run.

    python benchmarks/kills.py [KILLS] [--out FILE]

Each run is killed with SIGKILL, half of them from the moment they are started and half from that at which
they have their folder; a third of the resumed ones are killed once more. A quarter begin in a folder that
has another run's model and checkpoint. What must be equal, bit by bit: weights, conformal offsets, losses of
all rounds, and which round was kept. Moments are drawn with a fixed seed, but what a moment falls on is
the machine's; the figures count what was there when it fell.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gatewise as gw

RESULT = Path(__file__).parent / "results" / "kills.json"
SEED = 20
OPTIONS = ("--horizon", "7", "--hidden", "16", "--steps", "450", "--conformal", "--seed", "3")


def write_tables(folder: Path) -> tuple[Path, Path]:
    """The data of the run, and those of another one that was in the folder before."""
    import polars as pl

    rng = np.random.default_rng(SEED)
    days = np.datetime64("2023-01-01", "us") + np.arange(400) * np.timedelta64(86_400_000_000, "us")
    paths = folder / "a.csv", folder / "b.csv"
    for path in paths:
        values = 100 + 10 * np.sin(np.arange(400) * 2 * np.pi / 7) + rng.normal(0, 2, 400)
        pl.DataFrame({"date": days, "y": values}).write_csv(path)
    return paths


def command(data: Path, out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-W", "ignore", "-m", "gatewise", "fit", "forecast", str(data)]
    columns = ["--target", "y", "--time", "date", "--quiet", "--out", str(out)]
    return [*start, *columns, *OPTIONS, *more]


def finish(data: Path, out: Path, *more: str) -> None:
    done = subprocess.run(command(data, out, *more), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run in {out} ended with {done.returncode}: {done.stderr}")


def kill(data: Path, out: Path, delay: float, begun: bool, *more: str) -> str:
    """Start a run and kill it after ``delay`` s, which begin when the run has ``begun`` to hold its
    folder, or at once; what was there when it fell."""
    (out / ".lock").unlink(missing_ok=True)  # of a killed run; it holds nobody up
    process = subprocess.Popen(
        command(data, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while begun and not (out / ".lock").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    in_time = process.poll() is None
    process.kill()
    process.wait()
    if not in_time:
        return "after its end"
    if not (out / ".lock").exists():
        return "outside of the training"
    checkpoint = (out / "checkpoints" / "last.safetensors").exists()
    return "in a later round" if checkpoint else "in the first round"


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


def measure(kills: int, folder: Path) -> dict[str, Any]:
    draw = random.Random(SEED)
    data, before = write_tables(folder)
    whole = folder / "whole"
    begun = time.monotonic()
    finish(data, whole)
    seconds = time.monotonic() - begun
    expected = learned(whole)
    finish(before, folder / "before")
    fell: Counter[str] = Counter()
    different: list[str] = []
    runs = 0
    while fell.total() < kills:
        out = folder / f"run{runs}"
        used = draw.random() < 0.25
        if used:
            shutil.copytree(folder / "before", out)
        held = draw.random() < 0.5
        moment = draw.uniform(0, 0.35 * seconds if held else seconds)
        fell[kill(data, out, moment, held)] += 1
        if draw.random() < 1 / 3 and not used:
            fell[kill(data, out, draw.uniform(0, 0.2 * seconds), True, "--resume")] += 1
        # where the other run's checkpoint is still there, this one had not begun
        other = used and begun_otherwise(data, out)
        finish(data, out, *([] if other else ["--resume"]))
        different += [f"run {runs}: {name}" for name in differing(learned(out), expected)]
        shutil.rmtree(out)
        runs += 1
        print(runs, dict(fell), different, file=sys.stderr)
    return {
        "kills": fell.total(),
        "runs": runs,
        "fell": dict(sorted(fell.items())),
        "different": different,
        "seconds of an uninterrupted run": round(seconds, 1),
        "torch": torch.__version__,
    }


def begun_otherwise(data: Path, out: Path) -> bool:
    """Whether resuming is refused, as the checkpoint there is another run's."""
    done = subprocess.run(
        command(data, out, "--resume"), capture_output=True, text=True, check=False
    )
    return done.returncode == 2 and "had others" in done.stderr


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
