"""The specification: a cell's graph evaluated on torch tensors, step by step.

Runs any cell with everything a layer offers, on any device and dtype, and is built of plain torch
operations, so that autograd, double backward, vmap and jvp work. ``backward`` is the same through
the derived gradient, as a kernel would do it; it is what a kernel's gradient is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gatewise.backends.contract import (
    NORM_EPSILON,
    Masks,
    Outcome,
    Spec,
    Weights,
    valid_steps,
)
from gatewise.backends.operations import TORCH
from gatewise.backends.precision import is_widened, widened
from gatewise.backends.tracing import UNROLLED
from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological


def supports(spec: Spec) -> str | None:
    return UNROLLED if spec.recorded and not spec.single else None


def describe(spec: Spec) -> str:
    precision = ", in double precision" if is_widened(spec) else ""
    return f"the cell's equations in plain torch operations, a step at a time{precision}"


@widened
def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    steps, cell = len(x), spec.cell
    valid = None if masks.lengths is None else valid_steps(steps, masks.lengths)[..., None]
    if valid is not None:
        x = torch.where(valid, x, 0)  # or a NaN in the padding would reach the weights' gradient
    from_input = _input_parts(x, weights)
    shares = _kept_shares(spec, x, masks)
    seen: list[dict[str, Tensor]] = [{} for _ in range(steps)]
    for t in _order(spec, steps):
        old = _after_reset(state, masks, t)
        named, candidate = _step(spec, from_input[t], old, weights, masks)
        new = _zoned_out(candidate, old, shares, t)
        seen[t] = named | dict(zip(cell.state, new, strict=True))
        if valid is not None:
            new = tuple(torch.where(valid[t], n, was) for n, was in zip(new, state, strict=True))
        state = new

    def through_time(name: str) -> Tensor:
        width = spec.output_size if name == cell.state[0] else spec.hidden_size
        return _sequence([named[name] for named in seen], valid, x, width)

    trace = {name: through_time(name) for name in cell.values} if spec.trace else {}
    return Outcome(through_time(cell.state[0]), state, trace)


def _order(spec: Spec, steps: int) -> list[int]:
    return list(reversed(range(steps))) if spec.reverse else list(range(steps))


def _input_parts(x: Tensor, weights: Weights) -> Tensor:
    """T×B×G·H: the input's share of every pre-activation, all steps at once."""
    return _part(x, weights.input, weights.norm_input, weights.input_bias)


def _part(values: Tensor, weight: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """One share of the pre-activations: the product, normalised where there is a gain, and bias."""
    if gain is None:
        return linear(values, weight, bias)
    return layer_norm(linear(values, weight), gain.shape, gain, bias, NORM_EPSILON)


def _after_reset(state: tuple[Tensor, ...], masks: Masks, t: int) -> tuple[Tensor, ...]:
    if masks.reset is None:
        return state
    return tuple(torch.where(masks.reset[t, :, None], 0, s) for s in state)


def _kept_shares(spec: Spec, x: Tensor, masks: Masks) -> tuple[Tensor, ...] | None:
    """Zoneout's shares, T×B×(the state's width) whatever they broadcast from."""
    if masks.zoneout is None:
        return None
    return tuple(
        share.expand(*x.shape[:2], spec.state_size(k)) for k, share in enumerate(masks.zoneout)
    )


def _zoned_out(
    candidate: tuple[Tensor, ...],
    old: tuple[Tensor, ...],
    shares: tuple[Tensor, ...] | None,
    t: int,
) -> tuple[Tensor, ...]:
    """The new state: of each unit's old value the share that it keeps, of its candidate the rest."""
    if shares is None:
        return candidate
    each = zip(candidate, old, shares, strict=True)
    return tuple(share[t] * was + (1 - share[t]) * new for new, was, share in each)


def _step(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """One step's named values, and the new state: projected, and before any zoneout."""
    cell = spec.cell
    values, program = _program(cell)
    leaves = _leaves(spec, from_input, state, weights, masks)
    known = _evaluate(program, leaves, _Late(spec, weights, masks))
    shape = (from_input.shape[0], spec.hidden_size)
    each = {name: known[value] for name, value in values.items()}
    # what rests on parameters or numbers alone has no batch of its own
    named = {name: v if v.dim() == 2 else v.expand(shape) for name, v in each.items()}
    output = named[cell.state[0]]
    if weights.projection is not None:
        output = linear(output, weights.projection)
    return named, (output, *(named[name] for name in cell.state[1:]))


def _fed_back(spec: Spec, state: tuple[Tensor, ...], masks: Masks) -> Tensor:
    """B×F: what the recurrent weights multiply."""
    cell = spec.cell
    if not cell.feedback:
        return state[0].new_zeros(state[0].shape[0], 0)
    side_by_side = torch.cat([state[cell.state.index(name)] for name in cell.feedback], -1)
    return side_by_side if masks.recurrent is None else side_by_side * masks.recurrent


def _leaves(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> dict[tuple[str, str], Tensor]:
    """What the graph's leaves stand for in one step, by operation and name."""
    cell = spec.cell
    inputs = dict(zip(cell.gates, from_input.chunk(len(cell.gates), -1), strict=True))
    recurrents = _recurrent_parts(spec, _early(cell), _fed_back(spec, state, masks), weights)
    leaves = {("state", name): value for name, value in zip(cell.state, state, strict=True)}
    leaves |= {("parameter", name): value for name, value in weights.per_unit.items()}
    leaves |= {("gate.x", gate): of_input for gate, of_input in inputs.items()}
    for gate, of_state in recurrents.items():
        leaves |= {("gate.h", gate): of_state, ("gate", gate): inputs[gate] + of_state}
    return leaves


def _early(cell: Cell) -> tuple[str, ...]:
    """The gates that are fed with the states before the step."""
    return tuple(gate for gate in cell.gates if gate not in cell.second_stage)


def _recurrent_parts(
    spec: Spec, gates: tuple[str, ...], values: Tensor, weights: Weights
) -> dict[str, Tensor]:
    """Some gates' recurrent parts, by name: their product with ``values``, B×F."""
    own = partial(_rows, spec.cell, gates)
    if not gates or not spec.cell.feedback:
        return {}
    parts = _part(
        values, own(weights.recurrent), own(weights.norm_recurrent), own(weights.recurrent_bias)
    )
    return dict(zip(gates, parts.chunk(len(gates), -1), strict=True))


def _rows(cell: Cell, gates: tuple[str, ...], of: Tensor | None) -> Any:
    """What G·H rows hold for some of the gates."""
    if of is None or gates == cell.gates:
        return of
    chunks = of.chunk(len(cell.gates))
    return torch.cat([chunks[cell.gates.index(gate)] for gate in gates])


@dataclass(frozen=True)
class _Late:
    """The second round of a step's products: that of the gates which a value of the step is fed to."""

    spec: Spec
    weights: Weights
    masks: Masks

    def values(self, value: Tensor) -> Tensor:
        return value if self.masks.recurrent is None else value * self.masks.recurrent

    def parts(self, value: Tensor) -> dict[str, Tensor]:
        return _recurrent_parts(
            self.spec, self.spec.cell.second_stage, self.values(value), self.weights
        )

    def back(self, gradients: list[Tensor], value: Tensor) -> Tensor:
        """From the late gates' gradients to that of what they were fed with."""
        late = self.spec.cell.second_stage
        rows, gain = (
            _rows(self.spec.cell, late, of)
            for of in (self.weights.recurrent, self.weights.norm_recurrent)
        )
        product = linear(self.values(value), rows)
        return self.values(_before_norm(torch.cat(gradients, -1), product, gain) @ rows)


def _sequence(values: list[Tensor], valid: Tensor | None, x: Tensor, width: int) -> Tensor:
    if not values:
        return x.new_zeros(0, x.shape[1], width)
    stacked = torch.stack(values)
    return stacked if valid is None else torch.where(valid, stacked, 0)


def _program(cell: Cell) -> tuple[Mapping[str, Value], list[Value]]:
    """The named values and the nodes in order."""
    if torch.compiler.is_dynamo_compiling():  # a strict export, which warns of caches
        return _ordered(cell)
    return _kept_program(cell)


def _ordered(cell: Cell) -> tuple[Mapping[str, Value], list[Value]]:
    return cell.values, topological(cell.values.values())


_kept_program = lru_cache(maxsize=256)(_ordered)  # that of the first of all equal cells


@lru_cache(maxsize=256)
def _backward_program(cell: Cell) -> tuple[Gradient, list[Value]]:
    gradient = derive(cell)
    return gradient, topological([*cell.values.values(), *gradient.leaves.values()])


def _evaluate(
    program: list[Value], leaves: Mapping[tuple[str, str], Tensor], late: _Late
) -> dict[Value, Tensor]:
    """Every node's tensor. Constants become 0-dimensional, like the leaves otherwise."""
    like = next(iter(leaves.values()))
    known: dict[Value, Tensor] = {}
    parts: dict[str, Tensor] = {}
    for value in program:
        if value.op == "constant":
            known[value] = like.new_tensor(value.number)
        elif value.op == "recurrent":
            fed = known[value.args[0]]
            parts = parts or late.parts(fed)
            known[value] = leaves["gate.x", value.name] + parts[value.name]
        elif value.op == "gradient.recurrent":
            each = [known[arg].expand(like.shape) for arg in value.args]
            known[value] = late.back(each, fed)
        elif not value.args:
            known[value] = leaves[value.op, value.name]
        else:
            known[value] = TORCH[value.op](*(known[arg] for arg in value.args))
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
    masks: Masks,
    grad_output: Tensor,
    grad_state: tuple[Tensor, ...],
) -> Gradients:
    """Back-propagation through time by the cell's derived gradient.

    Runs forward once more to have each step's state; the weights' gradients are single products
    over all steps, the recurrent ones alone go step by step. The masks have no gradient.
    """
    steps = len(x)
    valid = torch.ones(steps, *x.shape[1:2], 1, dtype=torch.bool, device=x.device)
    if masks.lengths is not None:
        valid = valid_steps(steps, masks.lengths)[..., None]
        x = torch.where(valid, x, 0)
    run = _run_again(spec, x, state, weights, masks, valid)
    width = len(spec.cell.gates) * spec.hidden_size
    grad_input_part = x.new_zeros(steps, x.shape[1], width)
    grad_recurrent_part = torch.zeros_like(grad_input_part)
    grad_projected = torch.zeros_like(grad_output)
    grad_per_unit = {name: torch.zeros_like(value) for name, value in weights.per_unit.items()}
    for t in reversed(_order(spec, steps)):
        back = _step_back(spec, run, t, weights, masks, grad_output[t], grad_state)
        keep = valid[t]
        grad_input_part[t] = torch.where(keep, back.input_part, 0)
        grad_recurrent_part[t] = torch.where(keep, back.recurrent_part, 0)
        grad_projected[t] = torch.where(keep, back.projected, 0)
        for name, gradient in back.per_unit.items():
            grad_per_unit[name] += torch.where(keep, gradient, 0).sum(0)
        grad_state = tuple(
            torch.where(keep, new, old) for new, old in zip(back.state, grad_state, strict=True)
        )
    back = _StepGradients(
        grad_input_part, grad_recurrent_part, grad_projected, grad_state, grad_per_unit
    )
    return _over_all_steps(spec.cell, x, run, weights, back)


@dataclass(frozen=True)
class _Run:
    """What ``backward`` needs of the way forward, over all steps.

    The states are those that each step's equations saw: after the reset.
    """

    from_input: Tensor
    old: Mapping[int, tuple[Tensor, ...]]
    fed_back: Tensor
    fed_late: Tensor
    unprojected: Tensor
    shares: tuple[Tensor, ...] | None


def _run_again(
    spec: Spec,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    valid: Tensor,
) -> _Run:
    steps, batch = x.shape[:2]
    from_input, shares = _input_parts(x, weights), _kept_shares(spec, x, masks)
    before: dict[int, tuple[Tensor, ...]] = {}
    fed_back = x.new_zeros(steps, batch, weights.recurrent.shape[1])
    fed_late, unprojected = (x.new_zeros(steps, batch, spec.hidden_size) for _ in range(2))
    for t in _order(spec, steps):
        before[t] = old = _after_reset(state, masks, t)
        fed_back[t] = _fed_back(spec, old, masks)
        named, candidate = _step(spec, from_input[t], old, weights, masks)
        unprojected[t] = named[spec.cell.state[0]]
        if (late := _late_value(spec, from_input[t], old, weights, masks)) is not None:
            fed_late[t] = late
        new = _zoned_out(candidate, old, shares, t)
        state = tuple(torch.where(valid[t], n, was) for n, was in zip(new, state, strict=True))
    return _Run(from_input, before, fed_back, fed_late, unprojected, shares)


def _late_value(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Tensor | None:
    """What the late gates of one step multiply."""
    late = _Late(spec, weights, masks)
    if spec.cell.second_stage_input is None:
        return None
    program = topological([spec.cell.second_stage_input])
    known = _evaluate(program, _leaves(spec, from_input, state, weights, masks), late)
    return late.values(known[program[-1]].expand(from_input.shape[0], spec.hidden_size))


@dataclass(frozen=True)
class _StepGradients:
    """What one step gives back; also the same of all steps, stacked (per_unit: summed)."""

    input_part: Tensor
    recurrent_part: Tensor
    projected: Tensor
    state: tuple[Tensor, ...]
    per_unit: Mapping[str, Tensor]


def _step_back(
    spec: Spec,
    run: _Run,
    t: int,
    weights: Weights,
    masks: Masks,
    grad_output: Tensor,
    grad_state: tuple[Tensor, ...],
) -> _StepGradients:
    """One step of ``backward``: from its output and new state to its old state."""
    cell, state = spec.cell, run.old[t]
    gradient, program = _backward_program(cell)
    new = (grad_output + grad_state[0], *grad_state[1:])
    kept = tuple(torch.zeros_like(s) for s in state)
    if run.shares is not None:
        kept = tuple(share[t] * g for share, g in zip(run.shares, new, strict=True))
    projected, *others = (g - k for g, k in zip(new, kept, strict=True))
    first = projected if weights.projection is None else projected @ weights.projection
    leaves = _leaves(spec, run.from_input[t], state, weights, masks)
    for name, seed in zip(cell.state, (first, *others), strict=True):
        leaves["gradient", name] = seed
    known = _evaluate(program, leaves, _Late(spec, weights, masks))
    of = {(leaf.op, leaf.name): known[g] for leaf, g in gradient.leaves.items()}

    def part(kind: str) -> Tensor:
        none = torch.zeros_like(first)
        each = [
            of.get(("gate", g), none) + of.get((kind, g), none) + of.get(("recurrent", g), none)
            for g in cell.gates
        ]
        return torch.cat(each, -1)

    recurrent_part = part("gate.h")
    fed_back = _fed_back_gradient(spec, recurrent_part, run.fed_back[t], weights, masks)
    old = []
    for k, name in enumerate(cell.state):
        none = torch.zeros_like(state[k])
        old.append(of.get(("state", name), none) + fed_back.get(name, none) + kept[k])
    per_unit = {name: of.get(("parameter", name), torch.zeros_like(first)) for name in cell.params}
    return _StepGradients(
        part("gate.x"), recurrent_part, projected, _after_reset(tuple(old), masks, t), per_unit
    )


def _fed_back_gradient(
    spec: Spec, recurrent_part: Tensor, fed_back: Tensor, weights: Weights, masks: Masks
) -> dict[str, Tensor]:
    """What reaches each fed-back state through the recurrent product, from its share of a step."""
    cell = spec.cell
    early = _early(cell)
    if not early or not cell.feedback:
        return {}
    rows = _rows(cell, early, weights.recurrent)
    gain = _rows(cell, early, weights.norm_recurrent)
    own = _rows(cell, early, recurrent_part.T).T
    gradient = _before_norm(own, linear(fed_back, rows), gain) @ rows
    if masks.recurrent is not None:
        gradient = gradient * masks.recurrent
    sizes = [spec.state_size(cell.state.index(name)) for name in cell.feedback]
    return dict(zip(cell.feedback, gradient.split(sizes, -1), strict=True))


def _over_all_steps(
    cell: Cell, x: Tensor, run: _Run, weights: Weights, back: _StepGradients
) -> Gradients:
    """From the parts' gradients T×B×G·H to that of the input and of every weight."""
    from_x = linear(x, weights.input)
    grad_from_x = _before_norm(back.input_part, from_x, weights.norm_input)
    early = _recurrent_gradients(cell, _early(cell), run.fed_back, weights, back)
    late = _recurrent_gradients(cell, cell.second_stage, run.fed_late, weights, back)
    by_gate = [(early | late)[gate] for gate in cell.gates]
    grad_recurrent, grad_norm_recurrent = (torch.cat(each) for each in zip(*by_gate, strict=True))

    through_time: dict[str, Any] = {
        "input": torch.einsum("tbg,tbi->gi", grad_from_x, x),
        "recurrent": grad_recurrent,
        "input_bias": back.input_part.sum((0, 1)),
        "recurrent_bias": back.recurrent_part.sum((0, 1)),
        "projection": torch.einsum("tbp,tbh->ph", back.projected, run.unprojected),
        "norm_input": (back.input_part * _standardised(from_x)[0]).sum((0, 1)),
        "norm_recurrent": grad_norm_recurrent,
        "per_unit": back.per_unit,
    }
    absent = dict.fromkeys(name for name, weight in weights._asdict().items() if weight is None)
    gradients = Weights(**(through_time | absent))
    return Gradients(grad_from_x @ weights.input, back.state, gradients)


def _recurrent_gradients(
    cell: Cell, gates: tuple[str, ...], fed: Tensor, weights: Weights, back: _StepGradients
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each of some gates, all fed with ``fed``: the gradients of the recurrent weights and gains."""
    if not gates:
        return {}
    own = _rows(cell, gates, back.recurrent_part.movedim(-1, 0)).movedim(0, -1)
    rows, gain = (_rows(cell, gates, of) for of in (weights.recurrent, weights.norm_recurrent))
    product = linear(fed, rows)
    gradient = torch.einsum("tbg,tbf->gf", _before_norm(own, product, gain), fed)
    of_gain = (own * _standardised(product)[0]).sum((0, 1))
    pairs = zip(gradient.chunk(len(gates)), of_gain.chunk(len(gates)), strict=True)
    return dict(zip(gates, pairs, strict=True))


def _standardised(product: Tensor) -> tuple[Tensor, Tensor]:
    """n(product), and the standard deviation by which it is divided."""
    centred = product - product.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + NORM_EPSILON).sqrt()
    return centred / deviation, deviation


def _before_norm(gradient: Tensor, product: Tensor, gain: Tensor | None) -> Tensor:
    """From the gradient of gain * n(product) to that of the product."""
    if gain is None:
        return gradient
    n, deviation = _standardised(product)
    scaled = gradient * gain
    along = (scaled * n).mean(-1, keepdim=True)
    return (scaled - scaled.mean(-1, keepdim=True) - n * along) / deviation
