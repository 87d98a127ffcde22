"""Ways to divide a call among a GPU's multiprocessors, timed: what the rules of plan.py rest on, and what to
look at on another chip.

    python benchmarks/gpu_plans.py --cell lstm --dtype bf16 --units 1536 --batch 64

For each way, forward and back, the plans that fit and take no more launches than need be, those first that
are nearest to the one that is taken, for as long as --seconds allows. Microseconds a step of the loops
alone, by events, the median of seven runs over 256 steps taken by turns; what a plan gives is compared with
what the one taken gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor

from gatewise import CELLS
from gatewise.backends.contract import Masks, Weights
from gatewise.backends.engine import Arguments
from gatewise.backends.gpu import calls
from gatewise.backends.gpu.call import Backward, Call, Forward, chip_of, work
from gatewise.backends.gpu.plan import Plan, plans
from gatewise.bench.machine import describe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WAYS = ("forward", "back")
STEPS, ROUNDS, AT_ONCE = 256, 7, 6


class Timed(Call):
    """A call that is divided as it is told, and notes how long its loops take."""

    plans: ClassVar[dict[bool, Plan]] = {}  # True: the plan of the backward pass
    milliseconds: ClassVar[float] = 0

    def divide(self, back: bool) -> Plan:
        return Timed.plans.get(back) or super().divide(back)

    def forward(self, run: Forward) -> None:
        Timed.milliseconds = milliseconds(lambda: super(Timed, self).forward(run))

    def backward(self, run: Backward) -> None:
        Timed.milliseconds = milliseconds(lambda: super(Timed, self).backward(run))


@cache
def busy() -> Tensor:
    return torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)


def milliseconds(call: Callable[[], None]) -> float:
    """What the GPU takes: it is given so much to do before that the host is ahead."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    for _ in range(3):  # 1.4 ms each on an H100
        busy() @ busy()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def given(cell: str, dtype: torch.dtype, units: int, batch: int, device: str = "cuda") -> Arguments:
    """A call whose input is as wide as the layer."""
    of, generator = CELLS[cell], torch.Generator(device).manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).mul(scale).to(dtype)

    rows = len(of.gates) * units
    inputs, recurrent = (drawn(rows, units, scale=units**-0.5) for _ in range(2))
    biases = drawn(rows, scale=0.1), drawn(rows, scale=0.1)
    per_unit = {name: drawn(units, scale=0.1) for name in of.params}
    state = tuple(drawn(batch, units) for _ in of.state)
    x = drawn(STEPS, batch, units)
    weights = Weights(inputs, recurrent, *biases, per_unit=per_unit)
    return Arguments(of, False, x, state, weights, Masks())


def candidates(call: Call, back: bool) -> Iterator[Plan]:
    """Plans for a call, the one that is taken first."""
    batch, taken = call.sizes.B, call.plan
    yield taken
    found = plans(work(call.shape, call.sizes), chip_of(call.x.device), back)
    numbers = asdict(taken)

    def apart(plan: Plan) -> int:
        return sum(value != numbers[name] for name, value in asdict(plan).items())

    fewest = (p for p in found if p.launches(batch) <= taken.launches(batch) and p != taken)
    yield from sorted(dict.fromkeys(fewest), key=apart)


class Loops:
    """The loops on one call."""

    def __init__(self, of: Arguments) -> None:
        self.given = of
        output, *rest, self.tape = calls.forward_saving(of)
        generator = torch.Generator(of.x.device).manual_seed(1)
        seed = torch.randn(output.shape, generator=generator, device=of.x.device).to(output.dtype)
        self.grads = [seed, *[None] * len(rest)]

    def plans(self, back: bool) -> Iterator[Plan]:
        return candidates(Call(self.given, back), back)

    def run(self, plan: Plan, back: bool) -> tuple[float, Tensor]:
        """Microseconds a step, and what comes out."""
        Timed.plans = {back: plan}
        with mock.patch.object(calls, "Call", Timed):
            if back:
                wanted = [t is not None for t in self.given.tensors()]
                found = calls.backward(self.given, self.tape, self.grads, wanted)
                out = torch.cat([t.float().flatten() for t in found if t is not None])
            else:
                out = calls.forward(self.given)[0].float()
        return 1e3 * Timed.milliseconds / len(self.given.x), out


def measured(loops: Loops, back: bool, deadline: float) -> Iterator[dict[str, Any]]:
    """A row for each plan; a few are timed by turns with the one that is taken."""
    plans = [*loops.plans(back)]
    taken, others = plans[0], plans[1:]
    _, expected = loops.run(taken, back)
    for k in range(0, max(len(others), 1), AT_ONCE):
        if time.monotonic() > deadline:
            return
        runs: dict[int, list[float]] = {}
        rows = {}
        for n, plan in enumerate([taken, *others[k : k + AT_ONCE]]):
            rows[n] = asdict(plan) | {"taken": plan == taken}
            try:
                _, found = loops.run(plan, back)
                rows[n]["off"] = float((found - expected).norm() / expected.norm())
                runs[n] = []
            except Exception as error:
                rows[n]["failed"] = repr(error)[:300]
        for _ in range(ROUNDS):
            for n in runs:
                runs[n].append(loops.run([taken, *others[k : k + AT_ONCE]][n], back)[0])
        for n, row in rows.items():
            yield row | ({"us": statistics.median(runs[n])} if n in runs else {})


def shown(row: dict[str, Any]) -> str:
    beside = ("taken", "off", "us", "failed")
    plan = " ".join(f"{name} {value}" for name, value in row.items() if name not in beside)
    figures = f"{row['us']:8.2f} us, {row['off']:.1e} off" if "us" in row else row["failed"]
    return f"{'*' if row['taken'] else ' '} {figures} | {plan}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="for each way")
    parser.add_argument("--out", type=Path, help="JSON; what is there of other calls is kept")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU")
    name = f"{asked.cell} {asked.dtype} {asked.units} units, B {asked.batch}"
    loops = Loops(given(asked.cell, DTYPES[asked.dtype], asked.units, asked.batch))
    report = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    report["machine"] = describe() | {"gpu": torch.cuda.get_device_name()}
    for way in WAYS:
        print(f"\n{name}, {way}; * is what is taken", flush=True)
        rows = report[f"{name} {way}"] = []
        for row in measured(loops, way == "back", time.monotonic() + asked.seconds):
            rows.append(row)
            print(shown(row), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
