"""Our own kernels on the CPU: any cell, its step printed as C++ from its equations, in a native time loop."""

from __future__ import annotations

from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights, in_double
from gatewise.backends.engine import unfit
from gatewise.backends.native import calls, cells
from gatewise.backends.native.library import core, loaded_level
from gatewise.backends.ops import run
from gatewise.errors import BackendError


def supports(spec: Spec) -> str | None:
    if spec.device.type != "cpu":
        return f"runs on the CPU, not on '{spec.device.type}'"
    if spec.dtype not in calls.DTYPES:
        return f"computes in float32, float64 and bfloat16, not in {spec.dtype}"
    if reason := unfit(spec):
        return reason
    try:
        core()
    except BackendError as error:
        return f"is not there: {error}"
    return cells.unusable(spec.cell)


def describe(spec: Spec) -> str:
    how = "built in" if cells.built_in(spec.cell) else "compiled for this machine"
    precision = ", in double precision" if _in_double(spec) else ""
    return f"gatewise's kernels, {spec.cell.name} {how}, level {loaded_level()}{precision}"


def _in_double(spec: Spec) -> bool:
    return spec.layer_norm and in_double(spec.cell, spec.hidden_size, spec.dtype)


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    if not _in_double(spec):
        return run(calls, spec, x, state, weights, masks)
    per_unit = {name: each.double() for name, each in weights.per_unit.items()}
    found = run(
        calls,
        spec,
        x.double(),
        tuple(s.double() for s in state),
        Weights(*map(_double, weights[:7]), per_unit),  # type: ignore[arg-type,call-arg]
        masks._replace(
            recurrent=_double(masks.recurrent),
            zoneout=None if masks.zoneout is None else tuple(z.double() for z in masks.zoneout),
        ),
    )
    trace = {name: value.float() for name, value in found.trace.items()}
    return Outcome(found.output.float(), tuple(s.float() for s in found.state), trace)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()
