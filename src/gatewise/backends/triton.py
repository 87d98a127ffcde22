"""Our own kernels on a GPU: any cell, its step printed as Triton from its equations, in a native time loop."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights
from gatewise.backends.engine import unfit
from gatewise.backends.gpu.chips import unfit_chip
from gatewise.backends.ops import run

_KEPT_BY_CUDNN = 192  # units
# As many steps as take cuDNN the time by which a call of ours begins later (measured at 256 units, B = 16).
_FEW_STEPS, _FEW_IN_TRAINING = 16, 32
_TRITON = 3, 6


def supports(spec: Spec) -> str | None:
    return unfit_chip(spec, (8, 0), "A100") or unfit(spec) or _missing()


@cache
def _missing() -> str | None:
    try:
        found = version("triton")
    except PackageNotFoundError:
        found = "none"
    if found == "none" or tuple(map(int, found.split(".")[:2])) < _TRITON:
        least = ".".join(map(str, _TRITON))
        return f"needs Triton {least} or newer, here is {found}: pip install 'gatewise[gpu]'"
    return None


def outrun(spec: Spec) -> tuple[str, str] | None:
    """cuDNN was faster in float32 where it keeps small weights on chip, and where the sequences are so
    many that the loops have to run one launch after the other: see benchmarks/results/gpu.json. Where
    steps are few, what counts is what the host does before the first."""
    if 0 < spec.steps < (_FEW_IN_TRAINING if spec.differentiated else _FEW_STEPS):
        return "aten", "is slower than cuDNN for so few steps"
    if spec.dtype == torch.float32 and spec.hidden_size <= _KEPT_BY_CUDNN:
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
    from gatewise.backends.gpu.call import engine

    return run(engine, spec, x, state, weights, masks)
