"""Our own kernels on a GPU: any cell, its step printed as Triton from its equations, in a native time loop."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights
from gatewise.backends.ops import run
from gatewise.emit.steps import layout

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(spec: Spec) -> str | None:
    if spec.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on '{spec.device.type}'"
    if spec.dtype not in _DTYPES:
        return f"computes in float32, bfloat16 and float16, not in {spec.dtype}"
    return unfit(spec) or _missing()


def unfit(spec: Spec) -> str | None:
    """What the loops cannot do, wherever they run."""
    if spec.transformed:
        return "has no rule for vmap, jvp and other transforms of torch.func, nor for jit.trace"
    if spec.trace and spec.differentiated:
        return "does not differentiate what it traces"
    plan = layout(spec.cell)
    if spec.layer_norm and spec.cell.late:
        return (
            f"does not normalise the gates of '{spec.cell.name}' that take a value of the same step"
        )
    if spec.layer_norm and not plan.from_input == plan.from_state == len(spec.cell.gates):
        return f"normalises every part of every gate, and '{spec.cell.name}' does not use them all"
    return None


def _missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "needs Triton: pip install triton"
    return None


def describe(spec: Spec) -> str:
    return f"gatewise's kernels, {spec.cell.name} compiled by Triton"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    from gatewise.backends.gpu import calls

    return run(calls, spec, x, state, weights, masks)
