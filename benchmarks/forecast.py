"""The forecaster on ETTh1 and M4 hourly, by their published protocols.

    python benchmarks/forecast.py DATA [--out benchmarks/results/forecast.json] [--only NAME]

DATA is the folder that holds ``ett`` and ``m4``. Nothing is tuned here: every setting is the product's
default, or follows from the protocol (split, horizon). ETTh1: rows 0–8639 train, –11519 validation,
–14399 test; errors in units of the training part's deviation; every test window. M4: the official test;
the last 48 training values of each series are the validation part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import gatewise as gw
from gatewise.tasks.forecast.metrics import scores
from gatewise.train.run import Run

VARIABLES = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
PART = 2880  # four months of hours
PUBLISHED = {
    96: {"PatchTST": 0.370, "xLSTMTime": 0.368, "DLinear": 0.386},
    192: {"PatchTST": 0.413},
    336: {"PatchTST": 0.422},
    720: {"PatchTST": 0.447},
}


def etth1(data: Path, horizon: int, target: list[str], seed: int) -> dict[str, Any]:
    table = pl.read_csv(data / "ett" / "ETTh1.csv").head(5 * PART)
    begun = time.perf_counter()
    model = gw.Forecaster(horizon, target, "date", seed=seed)
    model.fit(table, validation=PART, test=PART, run=_quiet())
    windows = PART - horizon + 1
    backtest = model.backtest(table, windows=windows, stride=1)
    seconds = time.perf_counter() - begun
    assert len(backtest.actual) == windows * len(target)
    table_of = backtest.scores
    return dict(
        horizon=horizon,
        seed=seed,
        seconds=round(seconds, 1),
        published_mse=PUBLISHED.get(horizon, {}) if len(target) > 1 else {},
        validation_loss=min(model.history_.validation),
        parameters=sum(p.numel() for p in model.network_.parameters()),
        scores=table_of,
    )


def m4_hourly(data: Path, seed: int) -> dict[str, Any]:
    train, test = (_wide(data / "m4" / f"Hourly-{part}.csv") for part in ("train", "test"))
    table = pl.DataFrame(
        {
            "id": np.repeat(list(train), [len(v) for v in train.values()]),
            "step": np.concatenate([np.arange(len(v)) for v in train.values()]),
            "y": np.concatenate(list(train.values())),
        }
    )
    begun = time.perf_counter()
    model = gw.Forecaster(48, "y", "step", series="id", season=24, seed=seed)
    model.fit(table, validation=48, test=0, run=_quiet())
    forecast = model.predict(table)
    seconds = time.perf_counter() - begun
    points = {k[0]: v["forecast"].to_numpy() for k, v in forecast.group_by("id")}
    names = list(train)
    actual = np.stack([test[n] for n in names])
    shared = (
        np.array([train[n].std() for n in names]),
        np.array([np.abs(train[n][24:] - train[n][:-24]).mean() for n in names]),
    )
    naive = np.stack([np.tile(train[n][-24:], 2) for n in names])
    rows = {
        "gatewise": scores(actual, np.stack([points[n] for n in names]), *shared),
        "seasonal naive": scores(actual, naive, *shared),
    }
    published = {"ES-RNN (winner)": {"smape": 9.328, "mase": 0.893}}
    return dict(seed=seed, seconds=round(seconds, 1), published=published, scores=rows)


def _wide(path: Path) -> dict[str, np.ndarray]:
    series = {}
    for line in path.read_text().splitlines()[1:]:
        name, *values = (cell.strip('"') for cell in line.split(","))
        series[name] = np.array([float(v) for v in values if v and v != "NA"])
    return series


def _quiet() -> Run:
    return Run(Path(tempfile.mkdtemp(prefix="gatewise-bench-")), quiet=True)


def _machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return dict(
        cpu=model[0].split(":")[1].strip() if model else platform.processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        commit=commit.stdout.strip(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/forecast.json"))
    parser.add_argument("--only", help="run those whose name begins so")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    runs: dict[str, Callable[[int], dict[str, Any]]] = {}
    for horizon in (96, 192, 336, 720):
        runs[f"ETTh1-{horizon}"] = lambda s, h=horizon: etth1(given.data, h, VARIABLES, s)
    for horizon in (24, 96):
        runs[f"OT-{horizon}"] = lambda s, h=horizon: etth1(given.data, h, ["OT"], s)
    runs["M4-hourly"] = lambda s: m4_hourly(given.data, s)
    results: dict[str, Any] = {}
    for name, run in runs.items():
        if given.only and not name.startswith(given.only):
            continue
        for seed in range(given.seeds):
            result = run(seed)
            results.setdefault(name, []).append(result)
            ours = result["scores"]["gatewise"]
            shown = {k: round(v, 4) for k, v in ours.items()}
            print(f"{name} seed {seed}: {shown} in {result['seconds']} s", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(dict(machine=_machine(), results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()
