"""The forecaster on ETTh1 and M4 hourly, by their published protocols.

    python benchmarks/forecast.py DATA [--out benchmarks/results/forecast.json] [--only NAME ...]

DATA is the folder that holds ``ett`` and ``m4``. Nothing is tuned here: every setting is the product's
default, or follows from the protocol (split, horizon). ETTh1: rows 0–8639 train, –11519 validation,
–14399 test; errors in units of the training part's deviation; every test window. M4: the official test;
the last 48 training values of each series are the validation part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import gatewise as gw
from gatewise.bench.machine import describe
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


def etth1(horizon: int, target: list[str], data: Path, seed: int) -> dict[str, Any]:
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


RUNS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    **{f"ETTh1-{horizon}": partial(etth1, horizon, VARIABLES) for horizon in PUBLISHED},
    **{f"OT-{horizon}": partial(etth1, horizon, ["OT"]) for horizon in (24, 96)},
    "M4-hourly": m4_hourly,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/forecast.json"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for name in given.only:
        for seed in range(given.seeds):
            result = RUNS[name](given.data, seed)
            results.setdefault(name, []).append(result)
            ours = result["scores"]["gatewise"]
            shown = {k: round(v, 4) for k, v in ours.items()}
            print(f"{name} seed {seed}: {shown} in {result['seconds']} s", flush=True)
    machine = describe() | dict(threads=torch.get_num_threads())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(dict(machine=machine, results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()
