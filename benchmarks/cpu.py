"""What gatewise takes on this machine's processor, beside its peers: the committed figures.

    python benchmarks/cpu.py [--only SECTION ...] [--out benchmarks/results/cpu.json] [--quick]

Sections: shapes (ten, in both modes, with every installed peer), bf16 (all of them in bfloat16, and in float32
with the factors that torch's settings allow), cells (other cells' GFLOP/s beside the LSTM's), lengths (sequences
of mixed lengths beside padded ones and torch's packed), trace (with and without), latency (one step a call), stream
(one step of a stream), busy (all cores taken by others). Each section is written as soon as it is measured, with
its machine, versions and commit; those of an older file stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.backends.native.library import loaded_level
from gatewise.bench.contenders import Contender
from gatewise.bench.loops import Loop
from gatewise.bench.machine import cores, describe
from gatewise.bench.peers import PEERS
from gatewise.bench.problem import (
    Prepared,
    Problem,
    disagreement,
    draw,
    expected,
    gatewise_layer,
    prepared,
    torch_layer,
)
from gatewise.bench.run import Plan, make, run, torch_threads
from gatewise.bench.shapes import DEFAULT, MODES, QUICK, Shape, flop
from gatewise.bench.table import Printer, closing
from gatewise.bench.timing import Budget, TakeTurn, interleave, interleave_calls, turn
from gatewise.cells.catalogue import CELLS
from gatewise.errors import BackendError
from gatewise.nn.stream import Stream

LSTM = CELLS["lstm"]


@gw.cell(gates="f n", params="rate")
def mine(a: Any, s: Any, p: Any) -> dict[str, Any]:
    """A cell that no library has: gated, with each unit's own rate of change, learned."""
    f = gw.sigmoid(a.f)
    n = gw.tanh(a.n.x + f * a.n.h)
    return dict(h=s.h + gw.sigmoid(p.rate) * f * (n - s.h))


@dataclass(frozen=True)
class Settings:
    threads: int
    budget: Budget
    quick: bool

    def size(self, full: Shape) -> Shape:
        return (
            Shape(min(full.T, 10), min(full.B, 4), full.I // 4, full.H // 4) if self.quick else full
        )


def shapes(given: Settings) -> dict[str, Any]:
    plan = Plan(threads=given.threads, budget=given.budget)
    return _run(replace(plan, shapes=QUICK) if given.quick else plan)


def bf16(given: Settings) -> dict[str, Any]:
    """Every shape in bfloat16, and in float32 with the factors that torch's settings allow, in the same rounds as
    torch's layers. A float32 row has its distance from float64: ‖y − true‖/‖true‖ of the output and, in
    training, of the input's gradient."""
    found: dict[str, Any] = dict(level=loaded_level(), products=_products(given))
    for cell in (LSTM, CELLS["gru"]):
        for full in DEFAULT:
            shape = given.size(full)
            for mode in MODES:
                calls, errors = {}, {}
                for dtype in ("float32", "bfloat16"):
                    problem = draw(cell, shape, mode, dtype)
                    calls[f"torch {dtype}"] = prepared(torch_layer(problem), problem).call
                    calls[f"gatewise {dtype}"] = prepared(gatewise_layer(problem), problem).call
                problem = draw(cell, shape, mode)
                for precision in ("high", "medium"):
                    ours = prepared(gatewise_layer(problem), problem)
                    calls[f"gatewise {precision}"] = _at(precision, ours.call)
                    errors[precision] = _distances(_at(precision, ours.results)(), problem)
                title = f"{cell.name}, {mode}, {shape}"
                found[title] = _contest(f"bf16, {title}", calls, given.budget)
                for precision, distances in errors.items():
                    found[title][f"gatewise {precision}"]["distances"] = distances
    return found


def _at(precision: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call with torch's precision of float32 matrix products set."""

    def run() -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return call()
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def _distances(found: Mapping[str, Any], problem: Problem) -> dict[str, float]:
    """‖y − true‖/‖true‖ of each result, from the reference in float64."""
    layer = gatewise_layer(problem, "reference").double()
    true = prepared(layer, replace(problem, dtype="float64")).results()
    return {
        name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in true.items()
    }


def _products(given: Settings) -> dict[str, float]:
    """GFLOP/s of torch's product of two square matrices, in float32 and bfloat16."""
    size = 256 if given.quick else 2048
    factors = {d: torch.randn(size, size).to(getattr(torch, d)) for d in ("float32", "bfloat16")}
    calls = {dtype: lambda x=x: x @ x for dtype, x in factors.items()}
    timed = _contest(f"product of {size}×{size} matrices", calls, given.budget)
    return {dtype: 2 * size**3 / timing["median_ms"] / 1e6 for dtype, timing in timed.items()}


def cells(given: Settings) -> dict[str, Any]:
    """GFLOP/s of each, as a share of the plain LSTM's in the same rounds; a peephole and a user's own
    cell also as a Python loop."""
    shape = given.size(Shape(100, 32, 128, 128))
    found: dict[str, Any] = {"shape": str(shape)}
    for mode in MODES:
        problems = {
            cell.name: draw(cell, shape, mode)
            for cell in (*(CELLS[name] for name in ("lstm", "gru", "peephole", "coupled")), mine)
        }
        calls = {name: prepared(gatewise_layer(p), p).call for name, p in problems.items()}
        for name in ("peephole", "mine"):
            calls[f"{name} as a loop"] = prepared(Loop(problems[name]), problems[name]).call
        for name in ("lstm", "gru"):
            calls[f"torch {name}"] = prepared(torch_layer(problems[name]), problems[name]).call
        normalised = gw.Recurrent(LSTM, shape.I, shape.H, layer_norm=True)
        calls["lstm layer_norm"] = prepared(normalised, problems["lstm"]).call
        timed = _contest(f"cells, {mode}, {shape}", calls, given.budget)
        _add_rates(timed, problems)
        found[mode] = timed
    return found


def _add_rates(timed: dict[str, Any], problems: Mapping[str, Problem]) -> None:
    """Each one's GFLOP/s, and that as a share of the plain LSTM's."""
    for name, timing in timed.items():
        words = name.split()
        problem = problems[words[1] if words[0] == "torch" else words[0]]
        work = flop(problem.cell, problem.shape, problem.mode)
        timing["gflops"] = work / timing["median_ms"] / 1e6
        timing["of_lstm"] = timing["gflops"] / timed["lstm"]["gflops"]
        print(f"    {name:<22} {timing['gflops']:9.2f} GFLOP/s, {timing['of_lstm']:.2f} of lstm's")


class Packed(nn.Module):
    """torch's layer over sequences of their own lengths, packed and unpacked as its users do it."""

    def __init__(self, layer: nn.Module, lengths: Tensor) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        packed = pack_padded_sequence(x, self.lengths, enforce_sorted=False)
        output, state = self.layer(packed)
        return pad_packed_sequence(output, total_length=len(x))[0], state


def lengths(given: Settings) -> dict[str, Any]:
    """Lengths drawn evenly from a tenth of T to T. The padded runs do the work of full sequences."""
    shape = given.size(Shape(200, 32, 128, 128))
    each = torch.randint(max(shape.T // 10, 1), shape.T + 1, (shape.B,), generator=_generator())
    found: dict[str, Any] = dict(shape=str(shape), real_share=float(each.sum()) / shape.T / shape.B)
    for mode in MODES:
        problem = draw(LSTM, shape, mode)
        ready = {
            "gatewise lengths": prepared(gatewise_layer(problem), problem, lengths=each),
            "gatewise padded": prepared(gatewise_layer(problem), problem),
            "torch packed": prepared(Packed(torch_layer(problem), each), problem),
            "torch padded": prepared(torch_layer(problem), problem),
        }
        _must_agree(ready["torch packed"], ready["gatewise lengths"])
        calls = {name: contender.call for name, contender in ready.items()}
        found[mode] = _contest(f"lengths, {mode}, {shape}", calls, given.budget)
    return found


def trace(given: Settings) -> dict[str, Any]:
    shape = given.size(Shape(100, 32, 128, 128))
    found: dict[str, Any] = {"shape": str(shape)}
    for mode in MODES:
        problem = draw(LSTM, shape, mode)
        layer = gatewise_layer(problem)
        calls = {
            "without trace": prepared(layer, problem).call,
            "with trace": prepared(layer, problem, trace=True).call,
            "torch, no trace": prepared(torch_layer(problem), problem).call,
        }
        found[mode] = _contest(f"trace, {mode}, {shape}", calls, given.budget)
    return found


def latency(given: Settings) -> dict[str, Any]:
    """A layer's call with one step of one sequence, its state carried on by the caller in torch's and
    ours; the other peers begin each call at zero."""
    problem = draw(LSTM, Shape(1, 1, 64, 64), "inference")
    x = torch.from_numpy(problem.x)
    step = nn.LSTMCell(64, 64)
    calls = {
        "gatewise": _carried(gatewise_layer(problem), x),
        "torch nn.LSTM": _carried(torch_layer(problem), x),
        "torch LSTMCell": _stepped(step, x[0]),
    }
    takers: dict[str, TakeTurn] = {name: partial(turn, call) for name, call in calls.items()}
    with _peers(problem, given.threads) as peers:
        takers |= {name: contender.turn for name, contender in peers.items()}
        timings, _ = interleave(takers, given.budget)
    found = {name: timing.summary() for name, timing in timings.items()}
    _print_times("latency, 1,1,64,64", found, unit="µs")
    return found


def stream(given: Settings) -> dict[str, Any]:
    """One step of ``layer.stream(batch=1)`` with a NumPy row, and of torch's LSTMCell."""
    found = {}
    for inputs, units in ((1, 16), (64, 64), (64, 128)):
        row = torch.randn(1, inputs, generator=_generator())
        with torch.inference_mode():
            ours = gw.LSTM(inputs, units).eval().stream(batch=1)
        numbers = row.numpy()
        calls = {
            "gatewise stream": _streamed(ours, numbers),
            "torch LSTMCell": _stepped(nn.LSTMCell(inputs, units), row),
        }
        name = f"{inputs}×{units}"
        with torch.inference_mode():
            found[name] = _contest(f"stream, {name}", calls, given.budget, unit="µs")
    return found


def busy(given: Settings) -> dict[str, Any]:
    """The same rows on a quiet machine and beside as many busy processes as it has cores."""
    sizes = (given.size(Shape(100, 1, 32, 64)), given.size(Shape(100, 32, 128, 128)))
    plan = Plan(shapes=sizes, threads=given.threads, budget=given.budget)
    quiet = _run(plan)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        loaded = _run(plan)
    finally:
        for process in others:
            process.kill()
            process.wait()
    print("\nbusy: times the quiet machine's median")
    slower: dict[str, dict[str, float]] = {}
    for before, after in zip(quiet["rows"], loaded["rows"], strict=True):
        name = f"{before['mode']} {','.join(map(str, before['shape'].values()))}"
        both = before["contenders"].keys() & after["contenders"].keys()
        slower[name] = {
            c: after["contenders"][c]["median_ms"] / before["contenders"][c]["median_ms"]
            for c in sorted(both)
        }
        print(f"    {name}: " + ", ".join(f"{c} {ratio:.1f}" for c, ratio in slower[name].items()))
    return dict(processes=len(others), slower=slower, quiet=quiet["rows"], busy=loaded["rows"])


SECTIONS: Mapping[str, Callable[[Settings], dict[str, Any]]] = {
    section.__name__: section
    for section in (shapes, bf16, cells, lengths, trace, latency, stream, busy)
}


def _run(plan: Plan) -> dict[str, Any]:
    report = run(plan, Printer(plan.dtype, plan.threads or torch.get_num_threads()))
    print(f"\n{closing(report)}")
    del report["machine"]  # each section has it once
    return report


def _contest(
    title: str, calls: Mapping[str, Callable[[], object]], budget: Budget, unit: str = "ms"
) -> dict[str, Any]:
    found = {name: timing.summary() for name, timing in interleave_calls(calls, budget).items()}
    _print_times(title, found, unit)
    return found


def _print_times(title: str, found: Mapping[str, Mapping[str, float]], unit: str) -> None:
    scale = 1000 if unit == "µs" else 1
    print(f"\n{title}: median and quartiles, {unit}")
    for name, timing in found.items():
        median, low, high = (scale * timing[key] for key in ("median_ms", "q1_ms", "q3_ms"))
        print(f"    {name:<22} {median:10.3f}   {low:.3f} to {high:.3f}")


def _must_agree(one: Prepared, other: Prepared) -> None:
    if wrong := disagreement(one.results(), other.results(), "float32"):
        raise BackendError(f"gatewise {wrong}")


def _carried(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    state: Any = None

    def call() -> None:
        nonlocal state
        with torch.inference_mode():
            state = layer(x, state)[1]

    layer.eval()
    return call


def _streamed(stream: Stream, row: np.ndarray) -> Callable[[], object]:
    def call() -> None:
        stream.step(row)

    return call


def _stepped(cell: nn.LSTMCell, row: Tensor) -> Callable[[], object]:
    state: Any = None

    def call() -> None:
        nonlocal state
        with torch.inference_mode():
            state = cell(row, state)

    return call


@contextmanager
def _peers(problem: Problem, threads: int) -> Iterator[dict[str, Contender]]:
    """Those in processes of their own that are installed and agree."""
    ready: dict[str, Contender] = {}
    wanted = expected(problem)
    for name, peer in PEERS.items():
        if not peer.apart or peer.missing:
            continue
        contender = make(name, threads)
        if wrong := disagreement(wanted, contender.prepare(problem), "float32"):
            print(f"{name} {wrong}")
            contender.close()
        else:
            ready[name] = contender
    try:
        yield ready
    finally:
        for contender in ready.values():
            contender.close()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring for each row")
    parser.add_argument("--quick", action="store_true", help="small sizes: is all in order?")
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    settings = Settings(given.threads, Budget(given.seconds), given.quick)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        with torch_threads(given.threads):
            figures = SECTIONS[name](settings)
        about = dict(machine=describe(), threads=given.threads, seconds=given.seconds)
        results[name] = {**about, "quick": given.quick, "figures": figures}
        given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
