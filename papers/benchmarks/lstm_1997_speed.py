"""The time of one training sequence of the 1997 paper's adding problem: forward pass, backward pass and update.

The on-line call of the core is compared with a layer with autograd and with a Python loop with autograd.

    python -m papers.benchmarks.lstm_1997_speed [--seconds 10] [--out benchmarks/results/paper_1997_speed.json]

The first network is the paper's: four cells in two blocks, 93 weights. The other two have the full matrices of the
same cell, without shared gates, which does not make them slower.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gatewise import Recurrent
from gatewise.bench.loops import Loop
from gatewise.bench.machine import describe
from gatewise.bench.problem import draw
from gatewise.bench.shapes import Shape
from gatewise.bench.timing import Budget, interleave_calls
from gatewise.cells.catalogue import lstm_1997_truncated
from papers.lstm_1997.experiments import EXPERIMENTS
from papers.lstm_1997.network import Network, Topology

RATE = 1e-4  # so small that what is timed stays the same


def on_line(steps: int) -> Callable[[], object]:
    experiment, rng = EXPERIMENTS[f"4-{steps}"], np.random.default_rng(0)
    task = experiment.task(0)
    assert isinstance(experiment.topology, Topology)
    network = Network(experiment.topology, task, experiment.spread, rng)
    drawn = task.draw(rng, 1)
    return lambda: network.learn(drawn, 0, RATE)


def with_autograd(layer: nn.Module, steps: int) -> Callable[[], object]:
    head = nn.Linear(4, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, RATE)
    x, target = torch.randn(steps, 1, 2), torch.rand(1, 1)

    def step() -> None:
        optimizer.zero_grad()
        (0.5 * (head(layer(x)[0][-1]) - target) ** 2).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    out = Path("benchmarks/results/paper_1997_speed.json")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for steps in (100, 1000):
        problem = draw(lstm_1997_truncated, Shape(steps, 1, 2, 4), "training")
        calls = {
            "on-line": on_line(steps),
            "layer": with_autograd(Recurrent(lstm_1997_truncated, 2, 4), steps),
            "loop": with_autograd(Loop(problem), steps),
        }
        timings = interleave_calls(calls, Budget(given.seconds))
        found[f"T = {steps}"] = {name: t.summary() for name, t in timings.items()}
        ours = timings["on-line"].median
        for name, timing in timings.items():
            print(f"T = {steps:<5} {name:<8} {timing.median:9.3f} ms  {timing.median / ours:6.1f}")
    given.out.write_text(json.dumps({"figures": found, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
