"""Back-propagation through time by a cell's derived gradient, in plain torch operations.

It is the middle rung between autograd over the reference and a kernel: where the derived gradient agrees
with autograd and a kernel does not agree with it, the fault is the kernel's and not the mathematics'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatewise.backends.contract import NORM_EPSILON, Masks, Spec, Weights, valid_steps
from gatewise.backends.reference import (
    after_reset,
    dropped_out,
    evaluate,
    fed_back_states,
    first_stage,
    gate_rows,
    input_part,
    second_stage,
    step,
    step_leaves,
    step_order,
    zoneout_shares,
)
from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological


@dataclass(frozen=True)
class Gradients:
    """The gradient of the loss with respect to the arguments of ``forward``. Masks have none."""

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
    """The gradients of one layer in one direction.

    The forward pass is run once more to have each step's states. Then the recurrent gradients are found
    step by step; those of the weights are single products over all steps.
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
    for t in reversed(step_order(steps, spec.reverse)):
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
    """What ``backward`` needs of the forward pass, over all steps.

    The states are those that each step's equations saw: after the reset.
    """

    from_input: Tensor
    old: Mapping[int, tuple[Tensor, ...]]
    first_stage_input: Tensor  # the recurrent input of the first stage's gates
    second_stage_input: Tensor  # and of the second stage's
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
    from_input, shares = input_part(x, weights), zoneout_shares(masks, x, state)
    before: dict[int, tuple[Tensor, ...]] = {}
    first_stage_input = x.new_zeros(steps, batch, weights.recurrent.shape[1])
    second_stage_input, unprojected = (
        x.new_zeros(steps, batch, spec.hidden_size) for _ in range(2)
    )
    for t in step_order(steps, spec.reverse):
        before[t] = old = after_reset(state, masks, t)
        first_stage_input[t] = fed_back_states(spec.cell, old, masks)
        named, new = step(spec.cell, from_input[t], old, weights, masks)
        unprojected[t] = named[spec.cell.state[0]]
        if spec.cell.second_stage_input is not None:
            second_stage_input[t] = _second_stage_input(spec, from_input[t], old, weights, masks)
        if shares is not None:
            each = zip(new, old, shares, strict=True)
            new = tuple(share[t] * was + (1 - share[t]) * n for n, was, share in each)
        state = tuple(torch.where(valid[t], n, was) for n, was in zip(new, state, strict=True))
    return _Run(from_input, before, first_stage_input, second_stage_input, unprojected, shares)


def _second_stage_input(
    spec: Spec, from_input: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Tensor:
    """The recurrent input of one step's second stage."""
    program = topological([spec.cell.second_stage_input])
    leaves = step_leaves(spec.cell, from_input, state, weights, masks)
    value = evaluate(program, leaves, {})[program[-1]]
    return dropped_out(value.expand(from_input.shape[0], spec.hidden_size), masks)


@dataclass(frozen=True)
class _StepGradients:
    """The gradients that leave one step; also those of all steps, stacked (per_unit: summed)."""

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
    """One step of ``backward``: from the gradients of its output and new states to those of its old states."""
    cell, state = spec.cell, run.old[t]
    gradient, program = _backward_program(cell)
    new = (grad_output + grad_state[0], *grad_state[1:])
    kept = tuple(torch.zeros_like(s) for s in state)
    if run.shares is not None:
        kept = tuple(share[t] * g for share, g in zip(run.shares, new, strict=True))
    projected, *others = (g - k for g, k in zip(new, kept, strict=True))
    first = projected if weights.projection is None else projected @ weights.projection
    leaves = step_leaves(cell, run.from_input[t], state, weights, masks)
    for name, seed in zip(cell.state, (first, *others), strict=True):
        leaves["gradient", name] = seed
    operations = {
        "recurrent": second_stage(cell, leaves, weights, masks),
        "gradient.recurrent": _second_stage_gradient(cell, weights, masks, first),
    }
    known = evaluate(program, leaves, operations)
    of = {(leaf.op, leaf.name): known[g] for leaf, g in gradient.leaves.items()}

    def part(kind: str) -> Tensor:
        none = torch.zeros_like(first)
        each = [
            of.get(("gate", g), none) + of.get((kind, g), none) + of.get(("recurrent", g), none)
            for g in cell.gates
        ]
        return torch.cat(each, -1)

    recurrent_part = part("gate.h")
    fed_back = _fed_back_gradient(spec, recurrent_part, run.first_stage_input[t], weights, masks)
    old = []
    for k, name in enumerate(cell.state):
        none = torch.zeros_like(state[k])
        old.append(of.get(("state", name), none) + fed_back.get(name, none) + kept[k])
    per_unit = {name: of.get(("parameter", name), torch.zeros_like(first)) for name in cell.params}
    return _StepGradients(
        part("gate.x"), recurrent_part, projected, after_reset(tuple(old), masks, t), per_unit
    )


@lru_cache(maxsize=256)
def _backward_program(cell: Cell) -> tuple[Gradient, list[Value]]:
    gradient = derive(cell)
    return gradient, topological([*cell.values.values(), *gradient.leaves.values()])


def _second_stage_gradient(cell: Cell, weights: Weights, masks: Masks, like: Tensor):
    """The operation ``gradient.recurrent``: from the gradients of the second stage's gates to
    that of their recurrent input."""

    def back(value: Value, known: Mapping[Value, Tensor]) -> Tensor:
        gradients = torch.cat([known[arg].expand_as(like) for arg in value.args], -1)
        weight, norm = (
            gate_rows(cell, cell.second_stage, of)
            for of in (weights.recurrent, weights.norm_recurrent)
        )
        product = linear(dropped_out(known[cell.second_stage_input], masks), weight)
        return dropped_out(_before_norm(gradients, product, norm) @ weight, masks)

    return back


def _fed_back_gradient(
    spec: Spec, recurrent_part: Tensor, first_stage_input: Tensor, weights: Weights, masks: Masks
) -> dict[str, Tensor]:
    """What reaches each fed-back state through the recurrent product, from the gradient of a step's part."""
    cell = spec.cell
    first = first_stage(cell)
    if not first or not cell.feedback:
        return {}
    weight = gate_rows(cell, first, weights.recurrent)
    norm = gate_rows(cell, first, weights.norm_recurrent)
    own = gate_rows(cell, first, recurrent_part.T).T
    gradient = dropped_out(
        _before_norm(own, linear(first_stage_input, weight), norm) @ weight, masks
    )
    sizes = [spec.state_size(cell.state.index(name)) for name in cell.feedback]
    return dict(zip(cell.feedback, gradient.split(sizes, -1), strict=True))


def _over_all_steps(
    cell: Cell, x: Tensor, run: _Run, weights: Weights, back: _StepGradients
) -> Gradients:
    """From the gradients of the parts, T×B×G·H, to those of the input and of every weight."""
    from_x = linear(x, weights.input)
    grad_from_x = _before_norm(back.input_part, from_x, weights.norm_input)
    first = _recurrent_gradients(cell, first_stage(cell), run.first_stage_input, weights, back)
    second = _recurrent_gradients(cell, cell.second_stage, run.second_stage_input, weights, back)
    by_gate = [(first | second)[gate] for gate in cell.gates]
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
    cell: Cell,
    gates: tuple[str, ...],
    recurrent_input: Tensor,
    weights: Weights,
    back: _StepGradients,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradients of the recurrent and the norm weights, by gate, of gates that share a recurrent input."""
    if not gates:
        return {}
    own = gate_rows(cell, gates, back.recurrent_part.movedim(-1, 0)).movedim(0, -1)
    weight, norm = (
        gate_rows(cell, gates, of) for of in (weights.recurrent, weights.norm_recurrent)
    )
    product = linear(recurrent_input, weight)
    gradient = torch.einsum("tbg,tbf->gf", _before_norm(own, product, norm), recurrent_input)
    of_norm = (own * _standardised(product)[0]).sum((0, 1))
    pairs = zip(gradient.chunk(len(gates)), of_norm.chunk(len(gates)), strict=True)
    return dict(zip(gates, pairs, strict=True))


def _standardised(product: Tensor) -> tuple[Tensor, Tensor]:
    """n(product), and the standard deviation by which it is divided."""
    centred = product - product.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + NORM_EPSILON).sqrt()
    return centred / deviation, deviation


def _before_norm(gradient: Tensor, product: Tensor, norm: Tensor | None) -> Tensor:
    """From the gradient of norm * n(product) to that of the product."""
    if norm is None:
        return gradient
    n, deviation = _standardised(product)
    scaled = gradient * norm
    along = (scaled * n).mean(-1, keepdim=True)
    return (scaled - scaled.mean(-1, keepdim=True) - n * along) / deviation
