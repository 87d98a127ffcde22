"""Our own kernels on the CPU: any cell, its step printed as C++ from its equations, in a native time loop."""

from __future__ import annotations

from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights
from gatewise.backends.native import calls, cells
from gatewise.backends.native.library import core, loaded_level
from gatewise.backends.ops import run
from gatewise.emit.steps import layout
from gatewise.errors import BackendError


def supports(spec: Spec) -> str | None:
    if spec.device.type != "cpu":
        return f"runs on the CPU, not on '{spec.device.type}'"
    if spec.dtype not in calls.DTYPES:
        return f"computes in float32, float64 and bfloat16, not in {spec.dtype}"
    if spec.transformed:
        return "has no rule for vmap, jvp and other transforms of torch.func, nor for jit.trace"
    if spec.trace and spec.differentiated:
        return "does not differentiate what it traces"
    if spec.layer_norm and (late := spec.cell.late):
        return (
            f"normalises the recurrent product of all gates at once, and '{spec.cell.name}' takes that "
            f"of {', '.join(late)} later, with a value of the same step"
        )
    if spec.layer_norm and not _every_part(spec):
        return f"normalises every part of every gate, and '{spec.cell.name}' does not use them all"
    try:
        core()
    except BackendError as error:
        return f"is not there: {error}"
    return cells.unusable(spec.cell)


def _every_part(spec: Spec) -> bool:
    plan = layout(spec.cell)
    return plan.from_input == plan.from_state == len(spec.cell.gates)


def describe(spec: Spec) -> str:
    how = "built in" if cells.built_in(spec.cell) else "compiled for this machine"
    return f"gatewise's kernels, {spec.cell.name} {how}, level {loaded_level()}"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    return run(calls, spec, x, state, weights, masks)
