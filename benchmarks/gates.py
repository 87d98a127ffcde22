"""What a trace costs: beside the model's own pass, and in training beside a step without one. Processor time.

    python benchmarks/gates.py [--rounds 9] [--out benchmarks/results/gates.json]

Each row runs its two calls in turns on one thread, and compares the least times. The rows "by the reference" are what
a differentiable trace took before the kernels computed its gradient.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import gatewise as gw
from gatewise.bench.machine import describe

Call = Callable[[], object]
TRACED = {"gw.LSTM": gw.LSTM, "torch.nn.LSTM": nn.LSTM, "gw.GRU": gw.GRU, "torch.nn.GRU": nn.GRU}
TRAINED = (
    (1000, 1, 256),
    (200, 16, 256),
    (100, 32, 128),
    (100, 64, 64),
)  # T, B, H; the input has H features


def traces(rows: dict[str, tuple[Call, Call]]) -> None:
    """gw.trace beside a pass of the model without gradients."""
    for name, kind in TRACED.items():
        model, x = kind(256, 256), torch.randn(1000, 1, 256)

        def plain(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        def traced(model: nn.Module = model, x: torch.Tensor = x) -> None:
            gw.trace(model, x)

        rows[f"gw.trace of {name} 1000,1,256"] = traced, plain


def gradients(rows: dict[str, tuple[Call, Call]]) -> None:
    """A training step with a loss on traced values beside one without."""
    for cell in ("lstm", "gru"):
        for steps, batch, units in TRAINED:
            x = torch.randn(steps, batch, units)
            layer, slow = (
                gw.Recurrent(cell, units, units, backend=backend)
                for backend in ("auto", "reference")
            )
            size = f"{cell} {steps},{batch},{units}"
            gate = "f" if cell == "lstm" else "z"
            plain, one = step(layer, x, ()), step(layer, x, (gate,))
            rows[f"training with a loss on {gate}, {size}"] = one, plain
            rows[f"training with a loss on all values, {size}"] = (
                step(layer, x, tuple(layer.cell.values)),
                plain,
            )
            if batch == 1:
                rows[f"training with a loss on {gate}, by the reference, {size}"] = (
                    step(slow, x, (gate,)),
                    plain,
                )


def step(layer: gw.Recurrent, x: torch.Tensor, names: tuple[str, ...]) -> Call:
    def call() -> None:
        layer.zero_grad()
        if names:
            output, _, trace = layer(x, trace=True)
            loss = output.square().mean() + sum(trace[n][0][0].square().mean() for n in names)
        else:
            loss = layer(x)[0].square().mean()
        loss.backward()

    return call


def least(calls: tuple[Call, Call], rounds: int) -> list[float]:
    """The least processor time of each call in milliseconds, of calls in turns."""
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for call, of in zip(calls, times, strict=True):
            begun = time.process_time()
            call()
            of.append((time.process_time() - begun) * 1e3)
    return [min(of[1:]) for of in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    calls: dict[str, tuple[Call, Call]] = {}
    traces(calls)
    gradients(calls)
    rows = {}
    for name, pair in calls.items():
        with_trace, without = least(pair, given.rounds)
        rows[name] = dict(
            with_ms=round(with_trace, 3), without_ms=round(without, 3), ratio=with_trace / without
        )
        print(f"{name}: {with_trace / without:.2f}", flush=True)
    if given.out:
        text = json.dumps({"rows": rows, "machine": describe()}, indent=1)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
