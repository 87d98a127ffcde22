"""The benchmark: every cell, mode and shape; all contenders take turns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gatewise.backends.registry import BACKENDS
from gatewise.bench.contenders import Apart, Contender, Here
from gatewise.bench.machine import cores, describe
from gatewise.bench.peers import PEERS, builder
from gatewise.bench.problem import (
    Builder,
    Problem,
    disagreement,
    draw,
    expected,
    gatewise_layer,
    prepared,
)
from gatewise.bench.shapes import DEFAULT, MODES, Shape, flop
from gatewise.bench.timing import (
    GEMM_SIZE,
    Budget,
    gemm_gflops,
    gemm_milliseconds,
    geometric_mean,
    interleave,
)
from gatewise.cells.catalogue import lstm
from gatewise.cells.language import Cell
from gatewise.errors import BackendError
from gatewise.memory import check
from gatewise.options import integer, number

OURS = "gw."  # prefix of a backend's name in tables and files
_THREADS_PER_CORE = 4  # with more threads the benchmark would measure the operating system
_GEMM_CALLS = 3  # before each row and after it


@dataclass(frozen=True)
class Plan:
    """The measurements of a run. ``backends`` are gatewise's backends besides the one that "auto" chooses."""

    cells: tuple[Cell, ...] = (lstm,)
    shapes: tuple[Shape, ...] = DEFAULT
    modes: tuple[str, ...] = MODES
    peers: tuple[str, ...] = tuple(name for name, peer in PEERS.items() if peer.usual)
    backends: tuple[str, ...] = tuple(n for n in BACKENDS if n not in ("reference", "triton"))
    dtype: str = "float32"
    threads: int | None = None
    budget: Budget = field(default_factory=Budget)
    gemm_size: int = GEMM_SIZE

    def __post_init__(self) -> None:
        if self.threads is not None:
            integer("threads", self.threads, most=_THREADS_PER_CORE * (os.cpu_count() or 1))
        for shape in self.shapes:
            check(f"the shape {shape}", shape.bytes)
        if self.budget.rounds is not None:
            integer("repeats", self.budget.rounds)
        number("seconds", self.budget.seconds, "a number above 0", above=0)


class Listener:
    """Receives the results during a run. The printer of tables is one."""

    def block(self, cell: Cell, mode: str, names: list[str]) -> None: ...

    def row(self, row: dict[str, Any]) -> None: ...

    def means(self, means: dict[str, Any]) -> None: ...


def run(plan: Plan, listener: Listener | None = None) -> dict[str, Any]:
    """Measures everything in the plan.

    Returns:
        data for JSON: ``machine``, ``settings``, ``gemm_gflops``, ``rows``, ``means``
        (of each cell and mode, the geometric means of the rows' ratios) and ``notes``.
    """
    listener = listener or Listener()
    with torch_threads(plan.threads) as threads:
        bench = _Bench(plan, threads)
        try:
            for cell in plan.cells:
                for mode in plan.modes:
                    bench.block(cell, mode, listener)
        finally:
            bench.close()
        return bench.report()


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Sets the number of torch's threads within the block; yields the number it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


class _Bench:
    def __init__(self, plan: Plan, threads: int) -> None:
        self.plan = plan
        self.threads = threads
        self.rows: list[dict[str, Any]] = []
        self.means: list[dict[str, Any]] = []
        self.notes: dict[str, list[str]] = {}  # each note, with its rows
        self.gemm: list[float] = []
        self.running: dict[str, Contender] = {}
        if threads > cores():
            self.note(f"{threads} threads on {cores()} cores: times say little")
        for name in plan.peers:
            if PEERS[name].missing:
                packages = " ".join(PEERS[name].missing)
                self.note(f"{name} is not installed: pip install {packages}, or 'gatewise[bench]'")

    def note(self, text: str, problem: Problem | None = None) -> None:
        rows = self.notes.setdefault(text, [])
        if problem is not None:
            rows.append(f"{problem.cell.name} {problem.mode} {problem.shape}")

    def block(self, cell: Cell, mode: str, listener: Listener) -> None:
        """One table: a cell in one mode, for all shapes."""
        ours = automatic(draw(cell, Shape(1, 1, 1, 1), mode, self.plan.dtype))
        names = [*self._ours(cell, mode, ours), *self._peers(cell, mode)]
        listener.block(cell, mode, names)
        rows = []
        for shape in self.plan.shapes:
            rows.append(self.row(draw(cell, shape, mode, self.plan.dtype), names))
            listener.row(rows[-1])
        self.rows += rows
        self.means.append(_means(cell, mode, rows))
        listener.means(self.means[-1])

    def row(self, problem: Problem, names: list[str]) -> dict[str, Any]:
        wanted = expected(problem)
        ours = OURS + automatic(problem)
        failed: dict[str, str] = {}
        ready: dict[str, Contender] = {}
        for name in names:
            try:
                contender = self._contender(name)
                wrong = disagreement(wanted, contender.prepare(problem), problem.dtype)
            except BackendError as error:
                wrong = str(error)
            if wrong is None:
                ready[name] = contender
            else:
                failed[name] = wrong
        gemm = gemm_milliseconds(_GEMM_CALLS, self.plan.gemm_size)
        turns = {name: contender.turn for name, contender in ready.items()}
        timings, lost = interleave(turns, self.plan.budget)
        gemm += gemm_milliseconds(_GEMM_CALLS, self.plan.gemm_size)
        self.gemm += gemm
        for name, reason in {**failed, **lost}.items():
            self.note(f"{name} {reason}", problem)
            self._drop(name)
        for name, timing in timings.items():
            if not timing.slept:
                self.note(f"{name} kept a core busy between its turns", problem)
        medians = {name: timing.median for name, timing in timings.items()}
        rate = gemm_gflops(gemm, self.plan.gemm_size)
        return dict(
            cell=problem.cell.name,
            mode=problem.mode,
            dtype=problem.dtype,
            shape=asdict(problem.shape),
            flop=flop(problem.cell, problem.shape, problem.mode),
            contenders={name: timing.summary() for name, timing in timings.items()},
            failed={**failed, **lost},
            gemm_gflops=rate,
            **_compared(problem, ours, medians, rate),
        )

    def close(self) -> None:
        for name in list(self.running):
            self._drop(name)

    def report(self) -> dict[str, Any]:
        plan = self.plan
        return dict(
            machine=describe(),
            settings=dict(
                threads=self.threads,
                dtype=plan.dtype,
                seconds=None if plan.budget.rounds else plan.budget.seconds,
                rounds=plan.budget.rounds,
                peers=list(plan.peers),
            ),
            gemm_gflops=gemm_gflops(self.gemm, plan.gemm_size),
            rows=self.rows,
            means=self.means,
            notes=[f"{text} ({'; '.join(r)})" if r else text for text, r in self.notes.items()],
        )

    def _ours(self, cell: Cell, mode: str, chosen: str) -> Iterator[str]:
        """The backend that "auto" chooses, and the requested backends that can run the cell."""
        problem = draw(cell, Shape(1, 1, 1, 1), mode, self.plan.dtype)
        for name in BACKENDS:
            if name != chosen and name not in self.plan.backends:
                continue
            try:
                gatewise_layer(problem, name).choose_backend(_example(problem))
            except BackendError as error:
                self.note(f"{OURS}{name}: {error}")
            else:
                yield OURS + name

    def _peers(self, cell: Cell, mode: str) -> Iterator[str]:
        for name in self.plan.peers:
            if PEERS[name].missing:
                continue
            reason = PEERS[name].unsupported(cell, mode, self.plan.dtype)
            if reason is None:
                yield name
            else:
                self.note(f"{name} {reason}")

    def _contender(self, name: str) -> Contender:
        """The contender of that name. It is made once and kept for all rows."""
        if name not in self.running:
            self.running[name] = make(name, self.threads)
        return self.running[name]

    def _drop(self, name: str) -> None:
        if name in self.running:
            self.running.pop(name).close()


def make(name: str, threads: int) -> Contender:
    """A new contender by its name in the tables."""
    if name.startswith(OURS):
        return Here(ours(name.removeprefix(OURS)))
    return Apart(name, threads) if PEERS[name].apart else Here(builder(name, threads))


def ours(backend: str) -> Builder:
    return lambda problem: prepared(gatewise_layer(problem, backend), problem)


def automatic(problem: Problem) -> str:
    """The name of the backend that "auto" chooses."""
    return gatewise_layer(problem).choose_backend(_example(problem)).backend


def _example(problem: Problem) -> torch.Tensor:
    return torch.from_numpy(problem.x).to(getattr(torch, problem.dtype))


def _compared(
    problem: Problem, ours: str, medians: dict[str, float], gemm: float
) -> dict[str, Any]:
    """gatewise beside its peers. A ratio is a peer's time over gatewise's: above 1 where gatewise is faster."""
    peers = {name: ms for name, ms in medians.items() if not name.startswith(OURS)}
    best = min(peers, key=lambda name: peers[name], default=None)
    mine = medians.get(ours)
    if mine is None:
        return dict(ours=ours, best_peer=best, times_best=None, times_torch=None) | dict(
            gflops=None, gemm_share=None
        )
    gflops = flop(problem.cell, problem.shape, problem.mode) / mine / 1e6
    return dict(
        ours=ours,
        best_peer=best,
        times_best=None if best is None else peers[best] / mine,
        times_torch=peers["torch"] / mine if "torch" in peers else None,
        gflops=gflops,
        gemm_share=gflops / gemm,
    )


def _means(cell: Cell, mode: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = dict(cell=cell.name, mode=mode)
    for key in ("times_best", "times_torch"):
        ratios = [row[key] for row in rows if row[key] is not None]
        means[key] = geometric_mean(ratios) if ratios else None
        means[f"{key}_rows"] = len(ratios)
    return means
