"""Compiles the time loops for a chip that need not be there: python triton_ahead.py 90 '[["lstm", 64, "bfloat16", {}]]'

For each cell, number of units, type and options: the way forward as training has it, and the way back.
A line of JSON for each kernel; the shared memory that it takes beside what its plan allows for.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.pop("TRITON_INTERPRET", None)

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from cases import case
from gatewise import CELLS
from gatewise.backends import triton
from gatewise.backends.gpu import call, plan
from gatewise.backends.gpu.plan import Chip

SHARED = {80: Chip(108, 166912), 90: Chip(132, 232448)}


class Absent:
    """What Triton asks a driver for before it compiles."""

    def __init__(self, chip):
        self.chip = chip

    def get_current_target(self):
        return GPUTarget("cuda", self.chip, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0


def recorded(divide, planned):
    def divided(work, chip):
        found = divide(work, chip)
        sliced = found.SLICES > 1 and found.RESIDENT
        planned.append(plan.shared(work, found) if sliced else chip.shared)
        return found

    return divided


def main(chip, wanted):
    driver.set_active(Absent(chip))
    call.chip_of = lambda device: SHARED[chip]
    run, planned = JITFunction.run, []

    def compiled(function, *given, grid, warmup, **named):
        kernel = run(function, *given, grid=grid, warmup=True, **named)
        text = kernel.asm["ptx"]
        made = dict(cell=name, units=units, loop=function.fn.__name__)
        made |= dict(shared=kernel.metadata.shared, planned=planned[-1])
        made |= dict(instructions=text.count(";"))
        print(json.dumps(made), flush=True)

    JITFunction.run = compiled
    for way in ("forward", "backward"):
        setattr(plan, way, recorded(getattr(plan, way), planned))
    for name, units, dtype, options in wanted:
        sizes = dict(T=2, B=40, inputs=4, H=units, dtype=getattr(torch, dtype))
        case(CELLS[name], **sizes | options).gradients(triton)


main(int(sys.argv[1]), json.loads(sys.argv[2]))
