"""What the numbers of gatewise.gates cost, and how well they find what is known.

    OMP_NUM_THREADS=1 python benchmarks/gates_numbers.py [--only alike statistics monitor horizon time_scale]
                                                         [--out benchmarks/results/gates_numbers.json]

All times are processor seconds of one thread.

"alike": an index of 10⁷ steps × 256 units, and searches in it. "statistics": a batch's statistics beside the
trace that they are of. "monitor": training with and without it, by turns. "horizon": networks that were trained
to repeat their input N steps later, and the N that the memory horizon says; and exact norms beside sampled ones.
"time_scale": planted units.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gatewise as gw
from gatewise.bench.machine import describe
from gatewise.gates import lags
from gatewise.gates.alike import OnIndex
from gatewise.gates.horizon import memory_horizon
from gatewise.gates.monitor import Monitor
from gatewise.gates.statistics import gate_statistics
from gatewise.gates.time_scale import gradient_time_scale
from gatewise.nn.trace import Trace


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """The median processor time of a call."""
    taken = []
    for _ in range(times):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return float(np.median(taken))


def alike() -> dict[str, Any]:
    """Sequences of 10⁵ steps whose units switch every 50 steps at random, four of five units on."""
    units, steps, sequences, held = 256, 100_000, 100, 50
    generator = torch.Generator().manual_seed(0)

    def traces() -> Iterator[Trace]:
        for _ in range(sequences):
            h = torch.rand(1, steps // held, units, generator=generator)
            yield Trace({"h": [[h.repeat_interleave(held, 1)]]}, None)

    made = seconds(lambda: [None for _ in traces()])
    generator.manual_seed(0)
    index: list[OnIndex] = []
    indexed = seconds(lambda: index.append(OnIndex(traces(), above=0.2)))
    random = np.random.default_rng(0)
    found, searches, units_on = [], [], []
    for _ in range(50):
        start = held * int(random.integers(steps // held))
        sequence = int(random.integers(sequences))
        begun = time.process_time()
        found.append(len(index[0].alike(sequence, start + 5, start + 45)))
        searches.append(time.process_time() - begun)
        units_on.append(len(index[0].on(sequence, start + 5, start + 45)))
    few = [seconds(partial(index[0].where, [k, k + 1])) for k in range(0, 20, 2)]
    one = [seconds(partial(index[0].where, [k])) for k in range(10)]
    return dict(
        steps=steps * sequences,
        units=units,
        index_seconds=indexed - made,
        search_seconds=dict(median=float(np.median(searches)), greatest=max(searches)),
        units_on=dict(median=float(np.median(units_on)), greatest=max(units_on)),
        search_of_two_units_seconds=dict(median=float(np.median(few)), greatest=max(few)),
        search_of_one_unit_seconds=dict(median=float(np.median(one)), greatest=max(one)),
        ranges_of_one_unit=len(index[0].where([0])),
    )


def statistics() -> dict[str, Any]:
    found = {}
    for units in (64, 256):
        torch.manual_seed(0)
        layer: nn.Module = gw.LSTM(32, units, batch_first=True)
        x = torch.randn(16, 250, 32)
        with torch.no_grad():
            trace = layer(x, trace=True)[2]
            traced = seconds(partial(layer, x, trace=True), 5)
        counted = seconds(partial(gate_statistics, trace), 5)
        found[f"H {units}"] = dict(
            steps=16 * 250,
            trace_seconds=traced,
            statistics_seconds=counted,
            million_values_a_second=6 * 16 * 250 * units / counted / 1e6,
        )
    return found


class Sums(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.rnn, self.head = gw.LSTM(8, units, batch_first=True), nn.Linear(units, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(x)[0])
        return out


def monitor() -> dict[str, Any]:
    """Blocks of 60 training steps with and without the monitor, which looks at its default rate, by turns. Its own
    clock, by which it keeps to its share, is that of the wall."""
    found = {}
    for units, batch, steps in ((32, 16, 50), (128, 32, 100)):
        torch.manual_seed(0)
        model = Sums(units)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def block(
            watch: Monitor | None, model: Sums = model, shape: Any = (batch, steps, 8)
        ) -> None:
            for _ in range(60):
                x = torch.randn(shape)
                loss = ((model(x) - x[..., :1].cumsum(1).tanh()) ** 2).mean()
                optimizer.zero_grad()  # noqa: B023
                loss.backward()
                if watch is not None:
                    watch.step()
                optimizer.step()  # noqa: B023

        block(None)
        watch = Monitor(model)
        plain: list[float] = []
        watched: list[float] = []
        for turn in range(16):
            for taken, watcher in ((plain, None), (watched, watch))[:: 1 if turn % 2 else -1]:
                begun = time.perf_counter()
                taken.append(seconds(partial(block, watcher)))
                if watcher is None:  # training that the monitor does not see
                    watch._begun += time.perf_counter() - begun
        found[f"B {batch} T {steps} H {units}"] = dict(
            overhead=sum(watched) / sum(plain) - 1,
            overhead_of_each_turn=[w / p - 1 for w, p in zip(watched, plain, strict=True)],
            looks=len(watch.looks),
            training_steps=60 * len(watched),
            share_of_wall_clock=watch.seconds / (time.perf_counter() - watch._begun),
            warnings=watch.warnings,
        )
    return found


def copying(cell: str, delay: int, seed: int) -> tuple[nn.Module, float]:
    """A layer that was trained to hold its input for ``delay`` steps, and the loss of its linear readout."""
    torch.manual_seed(seed)
    rnn, head = gw.Recurrent(cell, 1, 24, batch_first=True), nn.Linear(24, 1)
    weights = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(600):
        x = torch.randn(16, 30, 1).sign()
        loss = ((head(rnn(x)[0]) - torch.roll(x, delay, 1))[:, delay:] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return rnn, float(loss.detach())


def horizon() -> dict[str, Any]:
    copies: list[dict[str, Any]] = []
    for cell in ("lstm", "gru"):
        for delay in (2, 5, 8):
            for seed in (0, 1):
                rnn, loss = copying(cell, delay, seed)
                (said,) = memory_horizon(rnn, torch.randn(64, 30, 1).sign()).values()
                row = dict(cell=cell, delay=delay, seed=seed, loss=loss, horizon=said.reach())
                copies.append(row)
    torch.manual_seed(0)
    layer, x = gw.LSTM(16, 256, batch_first=True), torch.randn(8, 100, 16)
    lags.EXACT = 256  # so that the exact norms are computed here too
    found: dict[str, Any] = {}

    def measure(name: str, samples: int | None) -> None:
        found[name] = memory_horizon(layer, x, samples=samples)

    took = {
        name: seconds(partial(measure, name, samples))
        for name, samples in (("exact", None), ("sampled", lags.SAMPLES))
    }
    (whole,), (some,) = found["exact"].values(), found["sampled"].values()
    off = abs(some.norm[:20] / whole.norm[:20] - 1)
    return dict(
        copies=copies,
        within_one=sum(abs(c["horizon"] - c["delay"]) <= 1 for c in copies) / len(copies),
        sizes="B 8 T 100 H 256",
        exact_seconds=took["exact"],
        sampled_seconds=took["sampled"],
        greatest_error_of_sampled=float(off.max()),
    )


def time_scale() -> dict[str, Any]:
    held = (0.5, 0.9, 0.99)
    layer = gw.LSTM(2, 3, batch_first=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0[3:6] = torch.tensor([math.log(f / (1 - f)) for f in held])
        trace = layer(torch.randn(4, 200, 2), trace=True)[2]
    (place, statistics_of_it), *_ = gate_statistics(trace).layers.items()
    measured = gradient_time_scale(layer, torch.randn(4, 200, 2))[place]["c"]
    return dict(
        forget_gates=held,
        by_formula=statistics_of_it.time_scale["c"].tolist(),
        from_gradients=measured.tolist(),
        known=[-1 / math.log(f) for f in held],
    )


PARTS = dict(
    alike=alike, statistics=statistics, monitor=monitor, horizon=horizon, time_scale=time_scale
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gates_numbers.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only:
        known[name] = PARTS[name]()
        print(name, json.dumps(known[name], indent=1))
        given.out.write_text(json.dumps({**known, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
