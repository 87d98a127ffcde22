"""The call of an engine with its gradient, in eager mode and in graphs.

In eager mode an autograd.Function calls the engine directly. While torch traces, the operator
``gatewise::run`` (see operators.py) is called instead. It is one node in the graph for any number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.backends import operators
from gatewise.backends.contract import Masks, Outcome, Spec, Weights, differentiated, recorded
from gatewise.backends.engine import Arguments, Engine
from gatewise.backends.gradient import Run
from gatewise.backends.history import outcome_of, traced_differentiably


def run(
    engine: Engine,
    spec: Spec,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
) -> Outcome:
    """The outcome. It is differentiable."""
    given = Arguments(spec.cell, spec.reverse, x, state, weights, masks)
    tensors = given.tensors()
    in_graph = recorded(tensors)
    if spec.trace:
        if spec.differentiated and differentiated(tensors):
            if in_graph:
                return outcome_of(given, torch.ops.gatewise.run_history(*operators.operands(given)))
            return traced_differentiably(engine, given)
        return _traced(engine, spec, given, in_graph)
    if in_graph:
        output, *final = torch.ops.gatewise.run(*operators.operands(given))
    elif differentiated(tensors):
        output, *final = Run.apply(engine, given, *tensors)
    else:
        output, *final = engine.forward(given)
    return Outcome(output, tuple(final))


def _traced(engine: Engine, spec: Spec, given: Arguments, in_graph: bool) -> Outcome:
    if in_graph:
        output, *final, values = torch.ops.gatewise.run_traced(*operators.operands(given))
        trace = dict(zip(spec.cell.values, values, strict=True))
    else:
        (output, *final), trace = engine.traced(given)
    if spec.proj_size:
        trace[spec.cell.state[0]] = output
    return Outcome(output, tuple(final), trace)
