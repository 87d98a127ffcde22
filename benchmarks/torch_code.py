"""What code written for torch takes after its layers have become ours: resets against none, a loop over a cell's
steps against torch's cells, and the network of examples/convert.py before and after.

    python benchmarks/torch_code.py [--seconds 4] [--threads 1] [--out benchmarks/results/torch_code.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gatewise as gw
from gatewise.bench.machine import describe
from gatewise.bench.timing import Budget, interleave_calls

EXAMPLE = Path(__file__).parents[1] / "examples" / "convert.py"
SHAPES = ((32, 8, 16, 32), (128, 16, 64, 128), (100, 32, 128, 256))  # T, B, I, H
Calls = dict[str, Callable[[], object]]


def inference(module: nn.Module, *given: Tensor, **named: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            module(*given, **named)

    return call


def training(module: nn.Module, *given: Any, **named: Tensor) -> Callable[[], object]:
    def call() -> None:
        module.zero_grad()
        first(module(*given, **named)).sum().backward()

    return call


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else first(result[0])


MODES = {"inference": inference, "training": training}


def resets() -> dict[str, Calls]:
    """One step in fifty begins an episode; the ratio wanted is with to without."""
    rows = {}
    for name in ("LSTM", "GRU"):
        for steps, batch, inputs, units in SHAPES:
            layer, x = getattr(gw, name)(inputs, units), torch.randn(steps, batch, inputs)
            reset = torch.rand(steps, batch) < 0.02
            for mode, timed in MODES.items():
                row = f"{name} {steps},{batch},{inputs},{units} {mode}"
                rows[row] = {"with": timed(layer, x, reset=reset), "without": timed(layer, x)}
    return rows


class Steps(nn.Module):
    """A user's loop over a cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for each in x:
            state = self.cell(each, state)
        return first(state)


def cells() -> dict[str, Calls]:
    rows = {}
    for name in ("LSTMCell", "GRUCell", "RNNCell"):
        for batch, inputs, units in ((1, 32, 64), (32, 64, 128)):
            x = torch.randn(20, batch, inputs)
            theirs, ours = (Steps(getattr(of, name)(inputs, units)) for of in (nn, gw))
            for mode, timed in MODES.items():
                row = f"20 steps of {name} {batch},{inputs},{units} {mode}"
                rows[row] = {"ours": timed(ours, x), "torch": timed(theirs, x)}
    return rows


def converted() -> dict[str, Calls]:
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    given = torch.randn(8, 80, 400), torch.tensor([400, 322, 297, 290, 181, 154, 120, 88])
    rows = {}
    for mode, timed in MODES.items():
        theirs = example.DeepSpeech().train(mode == "training")
        rows[f"Deep Speech, {mode}"] = {
            "converted": timed(gw.convert(theirs), *given),
            "torch": timed(theirs, *given),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    parser.add_argument("--threads", type=int, default=1)
    out = Path("benchmarks/results/torch_code.json")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    found: dict[str, dict[str, Any]] = {}
    for row, calls in (resets() | cells() | converted()).items():
        timings = interleave_calls(calls, Budget(given.seconds))
        ours, other = timings.values()
        found[row] = {name: t.summary() for name, t in timings.items()}
        found[row]["ratio"] = ours.median / other.median
        print(f"{row:45} {ours.median:9.3f} {other.median:9.3f} ms  {found[row]['ratio']:.2f}")
    result = {"rows": found, "threads": given.threads, "machine": describe()}
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
