"""The core's calls as torch operations: with a gradient, and whole to torch.compile and export.

In eager mode an autograd.Function calls the core directly. What torch traces calls the operator
``gatewise::run`` (see operators.py) instead: one node in the graph, whatever the number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Spec, Weights, differentiated, recorded
from gatewise.backends.native import calls, operators
from gatewise.backends.native.calls import Job
from gatewise.backends.native.gradient import Core, Run


def run(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output and the final states, differentiable."""
    flat = calls.flat(weights, spec.cell)
    tensors = (x, *state, *flat)
    if recorded(tensors):
        output, *final = torch.ops.gatewise.run(*operators.operands(spec, x, state, flat, masks))
    elif differentiated(tensors):
        output, *final = Run.apply(Core, _job(spec), masks, *tensors)
    else:
        output, *final = calls.forward(_job(spec), x, state, flat, masks, None)
    return output, tuple(final)


def traced(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """The output, the final states and every named value, each T×B×H; without a gradient."""
    flat = calls.flat(weights, spec.cell)
    if not recorded((x, *state, *flat)):
        (output, *final), trace = calls.traced(_job(spec), x, state, flat, masks)
        return output, tuple(final), trace
    given = operators.operands(spec, x, state, flat, masks)
    output, *final, values = torch.ops.gatewise.run_traced(*given)
    return output, tuple(final), dict(zip(spec.cell.values, values, strict=True))


def _job(spec: Spec) -> Job:
    return Job(spec.cell, spec.proj_size, spec.reverse, torch.get_num_threads())
