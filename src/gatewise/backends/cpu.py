"""The backend ``cpu``: gatewise's C++ kernels for any cell, whose step is printed from its equations."""

from __future__ import annotations

from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights, recorded
from gatewise.backends.engine import Arguments, unfit
from gatewise.backends.history import states_before
from gatewise.backends.native import calls, cells, factors
from gatewise.backends.native.library import core, loaded_level
from gatewise.backends.native.network import Network
from gatewise.backends.ops import run
from gatewise.backends.precision import is_widened, widened
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
        return f"is not available: {error}"
    return cells.unusable(spec.cell)


def describe(spec: Spec) -> str:
    how = "built in" if cells.built_in(spec.cell) else "compiled for this machine"
    precision = ", in double precision" if is_widened(spec) else ""
    return f"gatewise's kernels, {spec.cell.name} {how}, level {loaded_level()}{precision}"


def settings(spec: Spec) -> str | None:
    return None if is_widened(spec) else factors.described(spec.dtype)


@widened
def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    return run(calls, spec, x, state, weights, masks)


def run_with_output(
    spec: Spec,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    output: Tensor,
) -> Outcome | None:
    given = Arguments(spec.cell, spec.reverse, x, state, weights, masks)
    if recorded(given.tensors()) or not calls.takes_recurrent_input(given):
        return None
    if output.dtype != x.dtype or output.shape != (*x.shape[:2], *state[0].shape[1:]):
        return None
    (found, *final), trace = calls.traced(given, states_before(given, 0, output))
    if spec.proj_size:
        trace[spec.cell.state[0]] = found
    return Outcome(found, tuple(final), trace)


network, stream = Network, calls.stream  # see contract.WholeNetworks
