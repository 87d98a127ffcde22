"""Fair timing of several contenders on a machine that runs other work too.

The contenders take turns, in a new order each round, so that other work on the machine affects all alike. A
turn ends when the contender's threads sleep, because threads that still spin would use the next contender's
cores.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from gatewise.errors import BackendError

GEMM_SIZE = 2048
_TURN_SECONDS = 0.005  # a turn of short calls has enough calls to fill this time
_MOST_CALLS = 200
_MOST_ROUNDS = 1000
_SHORT_SECONDS = 0.02  # before shorter calls one call is not timed; it wakes the threads


class Turn(NamedTuple):
    """The nanoseconds of each call, and whether the threads slept soon after."""

    nanoseconds: list[int]
    slept: bool


def turn(call: Callable[[], object], calls: int, prime: bool) -> Turn:
    """Times ``calls`` calls, after one untimed call if ``prime``, and waits until the threads sleep."""
    if prime:
        call()
    taken = []
    for _ in range(calls):
        begun = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - begun)
    return Turn(taken, after_training())


def after_training(limit: float = 0.25) -> bool:
    """Waits until this process uses no processor time; False if it still does after ``limit`` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.001)
        if time.process_time() - before < 2e-4:
            return True
    return False


@dataclass(frozen=True)
class Budget:
    """The length of a row's measurement: ``rounds``, or else ``seconds`` with at least ``least`` rounds."""

    seconds: float = 10.0
    rounds: int | None = None
    least: int = 5

    def spent(self, rounds: int, seconds: float) -> bool:
        if self.rounds is not None:
            return rounds >= self.rounds
        return rounds >= self.least and (seconds >= self.seconds or rounds >= _MOST_ROUNDS)


@dataclass
class Timing:
    """The milliseconds of every call. The tables show the median."""

    calls: list[float] = field(default_factory=list)
    rounds: int = 0
    slept: bool = True

    @property
    def median(self) -> float:
        return float(np.median(self.calls))

    def summary(self) -> dict[str, float | int]:
        low, median, high = np.quantile(self.calls, (0.25, 0.5, 0.75))
        return dict(
            median_ms=float(median),
            min_ms=min(self.calls),
            q1_ms=float(low),
            q3_ms=float(high),
            calls=len(self.calls),
            rounds=self.rounds,
        )

    def take(self, taken: Turn) -> None:
        self.calls += [ns / 1e6 for ns in taken.nanoseconds]
        self.slept &= taken.slept
        self.rounds += 1


TakeTurn = Callable[[int, bool], Turn]


def interleave(
    contenders: Mapping[str, TakeTurn], budget: Budget
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Times all contenders in turns until the budget is used.

    Returns:
        each contender's timing, and the reason of each contender that failed.
    """
    plans: dict[str, tuple[int, bool]] = {}
    timings: dict[str, Timing] = {}
    lost: dict[str, str] = {}
    for name, take in contenders.items():
        try:
            plans[name] = _calls_of_a_turn(take)
            timings[name] = Timing()
        except BackendError as error:
            lost[name] = str(error)
    order = random.Random(0)
    begun, rounds = time.monotonic(), 0
    while timings and not budget.spent(rounds, time.monotonic() - begun):
        for name in order.sample(list(timings), len(timings)):
            try:
                timings[name].take(contenders[name](*plans[name]))
            except BackendError as error:
                lost[name] = str(error)
                del timings[name]
        rounds += 1
    return timings, lost


def interleave_calls(
    calls: Mapping[str, Callable[[], object]], budget: Budget
) -> dict[str, Timing]:
    """Times calls in this process in turns, as ``interleave`` does."""

    def taker(call: Callable[[], object]) -> TakeTurn:
        return lambda count, prime: turn(call, count, prime)

    return interleave({name: taker(call) for name, call in calls.items()}, budget)[0]


def _calls_of_a_turn(take: TakeTurn) -> tuple[int, bool]:
    """After a warm-up: the number of calls in a turn, and whether an untimed call precedes them."""
    seconds = min(take(1, False).nanoseconds) / 1e9
    if seconds < 1:
        seconds = min(take(2, False).nanoseconds) / 1e9
    calls = int(_TURN_SECONDS / max(seconds, 1e-9))
    return min(max(calls, 1), _MOST_CALLS), seconds < _SHORT_SECONDS


def gemm_milliseconds(calls: int, size: int = GEMM_SIZE) -> list[float]:
    """The milliseconds of fp32 matrix products of size³ in torch, after an untimed one."""
    a, b, c = (torch.ones(size, size) for _ in range(3))
    taken = turn(lambda: torch.mm(a, b, out=c), calls, prime=True)
    return [ns / 1e6 for ns in taken.nanoseconds]


def gemm_gflops(milliseconds: Iterable[float], size: int = GEMM_SIZE) -> float:
    return 2 * size**3 / 1e6 / float(np.median(list(milliseconds)))


def geometric_mean(ratios: Iterable[float]) -> float:
    """The geometric mean; NaN for no values."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
