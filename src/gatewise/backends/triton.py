"""The backend ``triton``: gatewise's GPU kernels for any cell, whose step is printed from its equations."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights
from gatewise.backends.engine import unfit
from gatewise.backends.gpu.chips import unfit_chip
from gatewise.backends.ops import run

# In float32 cuDNN is faster up to this number of units, whose weights it keeps on chip.
_FEW_UNITS = 192
# Below this number of steps cuDNN is faster, because a call of Triton takes longer to start (measured with
# 256 units and B = 16).
_FEW_STEPS, _FEW_STEPS_IN_TRAINING = 16, 32
_LOWEST_TRITON = 3, 6


def supports(spec: Spec) -> str | None:
    return unfit_chip(spec) or unfit(spec) or _missing()


@cache
def _missing() -> str | None:
    try:
        found = version("triton")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or tuple(map(int, found.split(".")[:2])) < _LOWEST_TRITON:
        least = ".".join(map(str, _LOWEST_TRITON))
        return f"needs Triton {least} or newer, here is {found}: pip install 'gatewise[gpu]'"
    return None


def outrun(spec: Spec) -> tuple[str, str] | None:
    """``("aten", reason)`` if cuDNN was faster for such a call, else None.

    It was faster for few steps, for few units in float32, and for batches that take several launches: see
    benchmarks/results/gpu.json."""
    if 0 < spec.steps < (_FEW_STEPS_IN_TRAINING if spec.differentiated else _FEW_STEPS):
        return "aten", "is slower than cuDNN for so few steps"
    if spec.dtype == torch.float32 and spec.hidden_size <= _FEW_UNITS:
        return "aten", "is slower than cuDNN in float32 at so few units"
    from gatewise.backends.gpu.call import launches

    if spec.batch and launches(spec) > (2 if spec.dtype == torch.float32 else 1):
        return "aten", "is slower than cuDNN for so many sequences of so many units"
    return None


def describe(spec: Spec) -> str:
    return f"gatewise's kernels, {spec.cell.name} compiled by Triton"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    from gatewise.backends.gpu import calls

    return run(calls, spec, x, state, weights, masks)
