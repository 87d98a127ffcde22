"""Gers, Schmidhuber & Cummins 2000, table 2: the continual embedded Reber grammar.

    python -m papers.benchmarks.gers_2000 [--minutes 40] [--networks 100] [--rows NAME ...] [--seed 0]
        [--out benchmarks/results/paper_gers_2000.json]

The minutes, of one core, are divided among the rows: four parts each for the row with resets and the row with forget
gates, five for forget gates with a decaying learning rate, and one for each of the others, which fail in the paper.
The paper gave each network 30,000 training streams; the number given here is printed. Before the rows, what one
symbol of training takes in several ways. Other rows of the file stay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gatewise.bench.machine import describe
from gatewise.nn.recurrent import Recurrent
from papers.gers_2000.cells import forgetting
from papers.gers_2000.experiment import ROWS, Trial, find, summary
from papers.gers_2000.grammar import LEGAL, walk
from papers.gers_2000.network import CELLS, SIZE, SYMBOLS, Design, Networks
from papers.online import Online

PARTS = {"reset": 4, "standard": 1, "state_decay": 1, "forget": 4, "forget_decay": 5}


def speed() -> dict[str, float]:
    """The time per symbol of one network with forget gates in microseconds, the best of many measurements."""
    rng = np.random.default_rng(0)
    calls: dict[str, tuple[int, Callable[[], object]]] = {}
    for count in (1, 10, 100):
        calls[f"NumPy, {count} networks"] = count, _learning(count, rng)
    for steps in (1, 12):
        run = Online(forgetting, SYMBOLS, CELLS, steps)
        calls[f"core, {steps} steps there and back, no outputs"] = 1, _there_and_back(run, steps)
    calls["layer with autograd, one step, no outputs"] = 1, _autograd()
    fixed = Networks(Design(forget=True), 1, rng).fixed(0)
    symbols, _ = walk(rng, np.zeros(10, int), 4096)
    calls["core, weights fixed, 10 streams of 4096"] = symbols.size, lambda: fixed.outputs(symbols)
    return {name: 1e6 * _best(call) / of for name, (of, call) in calls.items()}


def _learning(count: int, rng: np.random.Generator) -> Callable[[], object]:
    networks = Networks(Design(forget=True), count, rng)
    symbols, places = walk(rng, np.zeros(count, int), 1)
    target, rate = np.ascontiguousarray(LEGAL[places[0]].T), np.full(count, 0.01, np.float32)
    return lambda: networks.learn(symbols[0], target, rate)


def _there_and_back(run: Online, steps: int) -> Callable[[], None]:
    def call() -> None:
        run.forward(steps)
        run.backward(steps)

    for weight in run.weights.values():
        weight[...] = 0.1
    run.x[:, 0] = run.grad_output[...] = 1
    return call


def _autograd() -> Callable[[], None]:
    layer = Recurrent(forgetting, SYMBOLS, CELLS, block_size=SIZE)
    x, state = torch.eye(SYMBOLS)[:1, None], None

    def call() -> None:
        nonlocal state
        output, new = layer(x, state)
        output.sum().backward()
        state = tuple(s.detach() for s in new)

    return call


def _best(call: Callable[[], object], seconds: float = 1.5) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    with np.errstate(all="ignore"):
        while time.perf_counter() < end:
            begin = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - begin)
    return best


def row(name: str, networks: int, seed: int, seconds: float) -> dict[str, Any]:
    trial = Trial(find(name), networks, seed)
    begin, used = time.perf_counter(), time.process_time()
    outcomes = trial.run(seconds)
    return {
        "title": trial.row.title,
        "seed": seed,
        "weights": trial.row.design.weights,
        "seconds": time.process_time() - used,
        "seconds_of_the_clock": time.perf_counter() - begin,
        "ticks": trial.ticks,
        "found": summary(outcomes),
        "paper": asdict(trial.row.paper),
        "streams_allowed": trial.streams,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _line(whose: str, of: Mapping[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}"

    shares = "  ".join(f"{kind} {100 * of[kind]:3.0f} %" for kind in ("perfect", "good", "rest"))
    return (
        f"    {whose:<6} {shares}   streams to perfect {number(of['streams'])}, lengths of the good "
        f"{number(of['good_length'])}, of the rest {number(of['rest_length'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_gers_2000.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    older = json.loads(given.out.read_text())["rows"] if given.out.exists() else {}
    machine = describe()
    results: dict[str, Any] = {
        "machine": machine, "microseconds_a_symbol": speed(), "rows": older,
    }  # fmt: skip
    for name, taken in results["microseconds_a_symbol"].items():
        print(f"{name:<48} {taken:8.2f} µs a symbol", flush=True)
    part = 60 * given.minutes / sum(PARTS[name] for name in given.rows)
    for name in given.rows:
        found = row(name, given.networks, given.seed, part * PARTS[name])
        results["rows"][name] = {"machine": machine, **found}
        others = found["found"]["streams_of_others"]
        given_up = "" if others is None else f"; the others had {others:,.0f} streams on average"
        print(f"{found['title']}: {found['seconds']:.0f} s, {found['ticks']:,} symbols{given_up}")
        print(_line("here", found["found"]))
        print(_line("paper", found["paper"]), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
