"""Keras's recurrent layers on torch, and gatewise.keras's in their place: training, by turns.

    python benchmarks/keras_layers.py [--threads N] [--seconds 20] [--out benchmarks/results/keras.json]

Two kinds of rows. "layer": forward and backward of one LSTM layer, with torch.nn.LSTM beside it. "fit": an
epoch of the well-known snippet on the weekly CO2 of Mauna Loa, whole: Keras's reading of batches, its Adam
and its metrics are in it, and "rest" has what a model without a recurrent layer takes for them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gatewise.keras
from gatewise.bench.machine import describe
from gatewise.bench.timing import Budget, Timing, interleave_calls
from gatewise.errors import need

keras = need("keras", "keras")

LIBRARIES = {"keras": keras.layers, "gatewise": gatewise.keras}
LAYERS = ((100, 32, 64, 128), (60, 32, 1, 50))  # T, B, I, H
STEPS, BATCH = 60, 32
Call = Callable[[], object]


def series() -> np.ndarray:
    """The CO2, weeks without a value filled in between their neighbours, brought to 0…1."""
    with (files("gatewise.data") / "examples" / "co2.csv").open(encoding="utf-8") as file:
        values = np.array([float(row["co2"] or "nan") for row in csv.DictReader(file)])
    known = np.flatnonzero(~np.isnan(values))
    whole = np.interp(np.arange(len(values)), known, values[known])
    return (whole - whole.min()) / np.ptp(whole)


def windows() -> tuple[np.ndarray, np.ndarray]:
    """Each STEPS values and the one after them, those of the first four fifths of the time."""
    values = series()
    values = values[: len(values) * 4 // 5].astype("float32")
    x = np.lib.stride_tricks.sliding_window_view(values[:-1], STEPS)
    return x[..., None].copy(), values[STEPS:, None]


def batches() -> int:
    """Of an epoch."""
    return -(-len(windows()[0]) // BATCH)


def of_a_layer(steps: int, batch: int, inputs: int, units: int) -> dict[str, Call]:
    x = torch.randn(batch, steps, inputs)
    layers: dict[str, Any] = {
        name: library.LSTM(units, return_sequences=True) for name, library in LIBRARIES.items()
    }
    theirs = torch.nn.LSTM(inputs, units, batch_first=True)

    def trained(layer: Any) -> Call:
        layer(x)  # built

        def call() -> None:
            layer.zero_grad()
            layer(x, training=True).sum().backward()

        return call

    calls = {name: trained(layer) for name, layer in layers.items()}
    return calls | {"torch": lambda: theirs(x)[0].sum().backward()}


def of_a_fit(layers: int) -> dict[str, Call]:
    x, y = windows()

    def fitted(made: Callable[[], list[Any]]) -> Call:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((STEPS, 1)), *made(), keras.layers.Dense(1)])
        model.compile(optimizer="adam", loss="mse")
        return lambda: model.fit(x, y, epochs=1, batch_size=BATCH, verbose=0).history["loss"][0]

    def recurrent(library: Any) -> list[Any]:
        return [library.LSTM(50, return_sequences=k < layers - 1) for k in range(layers)]

    calls = {name: fitted(partial(recurrent, library)) for name, library in LIBRARIES.items()}
    losses = {}
    for name, call in calls.items():  # an epoch from the same weights
        keras.utils.set_random_seed(0)  # and with the windows in the same order
        losses[name] = call()
    if abs(losses["keras"] / losses["gatewise"] - 1) > 1e-3:  # type: ignore[operator]
        raise SystemExit(f"the two did not learn the same: {losses}")
    return calls | {"rest": fitted(lambda: [keras.layers.Flatten()])}


def row(name: str, calls: dict[str, Call], seconds: float) -> dict[str, Any]:
    timings: dict[str, Timing] = interleave_calls(calls, Budget(seconds))
    medians = {contender: timing.median for contender, timing in timings.items()}
    ratio = medians["keras"] / medians["gatewise"]
    shown = ", ".join(f"{contender} {median:.2f} ms" for contender, median in medians.items())
    print(f"{name}: {shown}; {ratio:.1f} times as fast", flush=True)
    summaries = {contender: timing.summary() for contender, timing in timings.items()}
    return dict(times_as_fast=ratio, timings=summaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/keras.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = os.getloadavg()[0]  # what else the machine had to do
    rows = {}
    for sizes in LAYERS:
        name = "layer, T {} B {} I {} H {}".format(*sizes)
        rows[name] = row(name, of_a_layer(*sizes), given.seconds)
    for layers in (1, 2):
        name = f"fit, {layers} × LSTM(50)"
        rows[name] = row(name, of_a_fit(layers), given.seconds)
    settings = dict(
        threads=given.threads, seconds=given.seconds, load_before=round(load, 1), batches=batches()
    )
    report = dict(machine=describe(), settings=settings, rows=rows)
    given.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
