"""The specification: a cell's graph evaluated on torch tensors, step by step.

Runs any cell with everything a layer offers, on any device and dtype, and is built of plain torch
operations, so that autograd, double backward, vmap and jvp work. ``backward`` is the same through
the derived gradient, as a kernel would do it; it is what a kernel's gradient is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatewise.backends.contract import Outcome, Spec, Weights, valid_steps
from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological

_TORCH: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": torch.exp,
    "log": torch.log,
    # torch's own softplus turns linear above 20; this one is exact everywhere
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": lambda a, b: (a > b).to(a.dtype),
    "detach": torch.Tensor.detach,
}


def supports(spec: Spec) -> str | None:
    return None


def describe(spec: Spec) -> str:
    return "the cell's equations in plain torch operations, a step at a time"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, lengths: Tensor | None
) -> Outcome:
    steps = len(x)
    valid = None if lengths is None else valid_steps(steps, lengths)[..., None]
    if valid is not None:
        x = torch.where(valid, x, 0)  # or a NaN in the padding would reach the weights' gradient
    from_input = _input_parts(x, weights)
    seen: list[dict[str, Tensor]] = [{} for _ in range(steps)]
    for t in reversed(range(steps)) if spec.reverse else range(steps):
        named, new = _step(spec, from_input[t], state, weights)
        if valid is not None:
            new = tuple(torch.where(valid[t], n, old) for n, old in zip(new, state, strict=True))
        state, seen[t] = new, named
    kept = list(spec.cell.values) if spec.trace else []
    trace = {
        name: _sequence([named[name] for named in seen], valid, x, spec.hidden_size)
        for name in kept
    }
    output = _sequence([named["output"] for named in seen], valid, x, spec.output_size)
    if spec.trace and spec.proj_size:
        trace[spec.cell.state[0]] = output
    return Outcome(output, state, trace)


def _input_parts(x: Tensor, weights: Weights) -> Tensor:
    """T×B×G·H: the input's share of every pre-activation, all steps at once."""
    return linear(x, weights.input, weights.input_bias)


def _step(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """One step's named values, with the layer's output as "output", and the new state."""
    cell = spec.cell
    values, program = _program(cell)
    known = _evaluate(program, _leaves(spec, from_input, state, weights))
    shape = (len(from_input), spec.hidden_size)
    each = {name: known[value] for name, value in values.items()}
    # what rests on parameters or numbers alone has no batch of its own
    named = {name: v if v.dim() == 2 else v.expand(shape) for name, v in each.items()}
    output = named[cell.state[0]]
    if weights.projection is not None:
        output = linear(output, weights.projection)
    return {**named, "output": output}, (output, *(named[name] for name in cell.state[1:]))


def _leaves(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights
) -> dict[tuple[str, str], Tensor]:
    """What the graph's leaves stand for in one step, by operation and name."""
    cell = spec.cell
    previous = dict(zip(cell.state, state, strict=True))
    fed_back = torch.cat([previous[name] for name in cell.feedback], -1)
    from_state = linear(fed_back, weights.recurrent, weights.recurrent_bias)
    inputs = from_input.chunk(len(cell.gates), -1)
    recurrents = from_state.chunk(len(cell.gates), -1)
    leaves = {("state", name): value for name, value in previous.items()}
    leaves |= {("parameter", name): value for name, value in weights.per_unit.items()}
    for gate, of_input, of_state in zip(cell.gates, inputs, recurrents, strict=True):
        leaves |= {("gate.x", gate): of_input, ("gate.h", gate): of_state}
        leaves["gate", gate] = of_input + of_state
    return leaves


def _sequence(values: list[Tensor], valid: Tensor | None, x: Tensor, width: int) -> Tensor:
    if not values:
        return x.new_zeros(0, x.shape[1], width)
    stacked = torch.stack(values)
    return stacked if valid is None else torch.where(valid, stacked, 0)


@lru_cache(maxsize=256)
def _program(cell: Cell) -> tuple[Mapping[str, Value], list[Value]]:
    """The named values and the nodes in order; both of the first of all equal cells."""
    return cell.values, topological(cell.values.values())


@lru_cache(maxsize=256)
def _backward_program(cell: Cell) -> tuple[Gradient, list[Value]]:
    gradient = derive(cell)
    return gradient, topological([*cell.values.values(), *gradient.leaves.values()])


def _evaluate(
    program: list[Value], leaves: Mapping[tuple[str, str], Tensor]
) -> dict[Value, Tensor]:
    """Every node's tensor. Constants become 0-dimensional, like the leaves otherwise."""
    like = next(iter(leaves.values()))
    known: dict[Value, Tensor] = {}
    for value in program:
        if value.op == "constant":
            known[value] = like.new_tensor(value.number)
        elif not value.args:
            known[value] = leaves[value.op, value.name]
        else:
            known[value] = _TORCH[value.op](*(known[arg] for arg in value.args))
    return known


@dataclass(frozen=True)
class Gradients:
    """The gradient of the loss with respect to what ``forward`` was given."""

    x: Tensor
    state: tuple[Tensor, ...]
    weights: Weights


@torch.no_grad()
def backward(
    spec: Spec,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    lengths: Tensor | None,
    grad_output: Tensor,
    grad_state: tuple[Tensor, ...],
) -> Gradients:
    """Back-propagation through time by the cell's derived gradient.

    Runs forward once more to have each step's state; the weights' gradients are single products
    over all steps, the recurrent ones alone go step by step.
    """
    steps, cell = len(x), spec.cell
    valid = torch.ones(steps, *x.shape[1:2], 1, dtype=torch.bool, device=x.device)
    if lengths is not None:
        valid = valid_steps(steps, lengths)[..., None]
        x = torch.where(valid, x, 0)
    from_input = _input_parts(x, weights)
    order = list(reversed(range(steps))) if spec.reverse else list(range(steps))
    before: dict[int, tuple[Tensor, ...]] = {}
    unprojected = x.new_zeros(steps, x.shape[1], spec.hidden_size)
    fed_back = x.new_zeros(steps, x.shape[1], weights.recurrent.shape[1])
    for t in order:
        before[t] = state
        fed_back[t] = torch.cat([state[cell.state.index(name)] for name in cell.feedback], -1)
        named, new = _step(spec, from_input[t], state, weights)
        unprojected[t] = named[cell.state[0]]
        state = tuple(torch.where(valid[t], n, old) for n, old in zip(new, state, strict=True))

    width = len(cell.gates) * spec.hidden_size
    grad_input_part = x.new_zeros(steps, x.shape[1], width)
    grad_recurrent_part = torch.zeros_like(grad_input_part)
    grad_projected = torch.zeros_like(grad_output)
    grad_per_unit = {name: torch.zeros_like(value) for name, value in weights.per_unit.items()}
    for t in reversed(order):
        back = _step_back(spec, from_input[t], before[t], weights, grad_output[t], grad_state)
        keep = valid[t]
        grad_input_part[t] = torch.where(keep, back.input_part, 0)
        grad_recurrent_part[t] = torch.where(keep, back.recurrent_part, 0)
        grad_projected[t] = torch.where(keep, back.projected, 0)
        for name, gradient in back.per_unit.items():
            grad_per_unit[name] += torch.where(keep, gradient, 0).sum(0)
        grad_state = tuple(
            torch.where(keep, new, old) for new, old in zip(back.state, grad_state, strict=True)
        )
    gradients = Weights(
        torch.einsum("tbg,tbi->gi", grad_input_part, x),
        torch.einsum("tbg,tbf->gf", grad_recurrent_part, fed_back),
        None if weights.input_bias is None else grad_input_part.sum((0, 1)),
        None if weights.recurrent_bias is None else grad_recurrent_part.sum((0, 1)),
        None
        if weights.projection is None
        else torch.einsum("tbp,tbh->ph", grad_projected, unprojected),
        grad_per_unit,
    )
    return Gradients(grad_input_part @ weights.input, grad_state, gradients)


@dataclass(frozen=True)
class _StepGradients:
    input_part: Tensor
    recurrent_part: Tensor
    projected: Tensor
    state: tuple[Tensor, ...]
    per_unit: Mapping[str, Tensor]


def _step_back(
    spec: Spec,
    from_input: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    grad_output: Tensor,
    grad_state: tuple[Tensor, ...],
) -> _StepGradients:
    """One step of ``backward``: from its output and new state to its old state."""
    cell = spec.cell
    gradient, program = _backward_program(cell)
    projected = grad_output + grad_state[0]
    first = projected if weights.projection is None else projected @ weights.projection
    leaves = _leaves(spec, from_input, state, weights)
    for name, seed in zip(cell.state, (first, *grad_state[1:]), strict=True):
        leaves["gradient", name] = seed
    known = _evaluate(program, leaves)
    of = {(leaf.op, leaf.name): known[g] for leaf, g in gradient.leaves.items()}

    def part(kind: str) -> Tensor:
        none = torch.zeros_like(first)
        each = [of.get(("gate", g), none) + of.get((kind, g), none) for g in cell.gates]
        return torch.cat(each, -1)

    recurrent_part = part("gate.h")
    sizes = [spec.state_size(cell.state.index(name)) for name in cell.feedback]
    fed_back = dict(
        zip(cell.feedback, (recurrent_part @ weights.recurrent).split(sizes, -1), strict=True)
    )
    old = []
    for k, name in enumerate(cell.state):
        direct = of.get(("state", name), torch.zeros_like(state[k]))
        old.append(direct + fed_back.get(name, torch.zeros_like(state[k])))
    per_unit = {name: of.get(("parameter", name), torch.zeros_like(first)) for name in cell.params}
    return _StepGradients(part("gate.x"), recurrent_part, projected, tuple(old), per_unit)
