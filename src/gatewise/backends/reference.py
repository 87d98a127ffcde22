"""The backend ``reference``: a cell's graph evaluated on torch tensors, step by step.

It is the specification, and all other backends are tested against it. It runs any cell with any option on
any device and dtype. It consists of torch operations, so autograd, double backward, vmap and jvp work. The
product is an argument of :func:`through_time`: ``linear``, or a convolution.

In the tensors of one step, dimension 0 is the batch and dimension 1 the units (or channels). The tensors
of a convolution also have the height and width of the images, after these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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
from gatewise.cells.language import Cell, Value, topological

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of values, weight and bias
Leaves = dict[tuple[str, str], Tensor]  # by operation and name
Operation = Callable[[Value, Mapping[Value, Tensor]], Tensor]
Change = Callable[[Tensor], Tensor]


def supports(spec: Spec) -> str | None:
    return UNROLLED if spec.recorded and not spec.single else None


def describe(spec: Spec) -> str:
    precision = ", in double precision" if is_widened(spec) else ""
    return f"the cell's equations in torch operations, step by step{precision}"


@widened
def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    return through_time(spec.cell, x, state, weights, masks, reverse=spec.reverse, trace=spec.trace)


def through_time(
    cell: Cell,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    product: Product = linear,
    *,
    reverse: bool = False,
    trace: bool = False,
    changes: Callable[[int], Mapping[str, Change]] = lambda t: {},
) -> Outcome:
    """The outcome of one layer in one direction over all steps of ``x``, T×B×I (or T×B×I×h×w).

    Args:
        product: computes the product of values (of one step, or of all steps) and a weight, plus a bias.
        reverse: whether the steps are run from the last to the first.
        trace: whether every named value of the cell is returned.
        changes: for each step, the changes of some named values: see :func:`step`. A state is changed again
            after its projection and zoneout.
    """
    valid = None if masks.lengths is None else _spread(valid_steps(len(x), masks.lengths), x)
    if valid is not None:
        x = torch.where(valid, x, 0)  # a NaN in the padding would reach the weights' gradient
    from_input = input_part(x, weights, product)
    shares = zoneout_shares(masks, x, state)
    output_name = cell.state[0]
    names = tuple(cell.values) if trace else (output_name,)
    of_steps: list[dict[str, Tensor]] = [{} for _ in range(len(x))]
    for t in step_order(len(x), reverse):
        old, changed = after_reset(state, masks, t), changes(t)
        named, candidate = step(cell, from_input[t], old, weights, masks, product, changed)
        new = _after_zoneout(candidate, old, shares, t)
        if changed:
            new = tuple(
                changed[name](s) if name in changed else s
                for name, s in zip(cell.state, new, strict=True)
            )
        named |= dict(zip(cell.state, new, strict=True))
        of_steps[t] = {name: named[name] for name in names}
        if valid is not None:
            pairs = zip(new, state, strict=True)
            new = tuple(torch.where(valid[t], after, before) for after, before in pairs)
        state = new
    units = from_input.shape[2] // len(cell.gates)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (x.shape[1], units, *x.shape[3:]))
    shapes[output_name] = state[0].shape
    sequences = {
        name: _sequence([values[name] for values in of_steps], valid, x, shapes[name])
        for name in names
    }
    output = sequences[output_name]
    if not trace:
        return Outcome(output, state)
    needed = torch.is_grad_enabled() and any(s.requires_grad for s in sequences.values())
    return Outcome(output, state, sequences, _Adjoints(of_steps, sequences) if needed else None)


class _Adjoints:
    """See ``contract.Adjoints``. ``of_steps`` are the named values of each step, ``like`` those of all steps."""

    def __init__(
        self, of_steps: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]
    ) -> None:
        self._of_steps, self._like = of_steps, like
        self._places = [
            (t, name)
            for t, named in enumerate(of_steps)
            for name, value in named.items()
            if value.requires_grad
        ]

    def inputs(self) -> list[Tensor]:
        return [self._of_steps[t][name] for t, name in self._places]

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        whole = {name: torch.zeros_like(value) for name, value in self._like.items()}
        for (t, name), gradient in zip(self._places, found, strict=True):
            if gradient is not None:
                whole[name][t] = gradient
        return whole


def step_order(steps: int, reverse: bool) -> Sequence[int]:
    """The indices of the steps in the order in which they run."""
    return range(steps)[::-1] if reverse else range(steps)


def input_part(x: Tensor, weights: Weights, product: Product = linear) -> Tensor:
    """T×B×G·H: the input parts of all pre-activations, computed for all steps at once."""
    return _part(x, weights.input, weights.norm_input, weights.input_bias, product)


def _part(
    values: Tensor, weight: Tensor, norm: Tensor | None, bias: Tensor | None, product: Product
) -> Tensor:
    """One part of the pre-activations: the product, normalised if there is a norm weight, plus the bias."""
    if norm is None:
        return product(values, weight, bias)
    return layer_norm(product(values, weight, None), norm.shape, norm, bias, NORM_EPSILON)


def after_reset(state: tuple[Tensor, ...], masks: Masks, t: int) -> tuple[Tensor, ...]:
    """The states, set to zero in the sequences that are reset before step ``t``."""
    if masks.reset is None:
        return state
    reset = masks.reset[t]
    return tuple(torch.where(_spread(reset, s), 0, s) for s in state)


def zoneout_shares(masks: Masks, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """For each state the share of the old value that zoneout keeps, T×B×(its width)."""
    if masks.zoneout is None:
        return None
    return tuple(
        share.expand(*x.shape[:2], s.shape[1])
        for share, s in zip(masks.zoneout, state, strict=True)
    )


def _after_zoneout(
    candidate: tuple[Tensor, ...],
    old: tuple[Tensor, ...],
    shares: tuple[Tensor, ...] | None,
    t: int,
) -> tuple[Tensor, ...]:
    """The new states: for each unit, share * old value + (1 - share) * candidate."""
    if shares is None:
        return candidate
    each = zip(candidate, old, shares, strict=True)
    return tuple(share[t] * before + (1 - share[t]) * new for new, before, share in each)


def step(
    cell: Cell,
    from_input: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    product: Product = linear,
    changes: Mapping[str, Change] = {},
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """The named values of one step; and the new states, projected and before zoneout.

    ``changes`` has for some named values a function from the value to the one that takes its place. The
    output that a layer projects is not changed here.
    """
    values, program = _program(cell)
    leaves = step_leaves(cell, from_input, state, weights, masks, product)
    recurrent = second_stage(cell, leaves, weights, masks, product)
    # by the values of the program, which may be that of an equal cell
    by_value = {
        values[name]: change
        for name, change in changes.items()
        if weights.projection is None or name != cell.state[0]
    }
    known = evaluate(program, leaves, {"recurrent": recurrent}, by_value)
    shape = leaves["gate.x", cell.gates[0]].shape
    each = {name: known[value] for name, value in values.items()}
    # a value that depends on parameters or constants only has no batch dimension yet
    named = {name: v if v.dim() == len(shape) else v.expand(shape) for name, v in each.items()}
    output = named[cell.state[0]]
    if weights.projection is not None:
        output = product(output, weights.projection, None)
    return named, (output, *(named[name] for name in cell.state[1:]))


def step_leaves(
    cell: Cell,
    from_input: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    product: Product = linear,
) -> Leaves:
    """The tensors of the graph's leaves in one step."""
    inputs = dict(zip(cell.gates, from_input.chunk(len(cell.gates), 1), strict=True))
    fed_back = fed_back_states(cell, state, masks)
    recurrent = recurrent_parts(cell, first_stage(cell), fed_back, weights, product)
    leaves = {("state", name): value for name, value in zip(cell.state, state, strict=True)}
    leaves |= {("parameter", name): value for name, value in weights.per_unit.items()}
    leaves |= {("gate.x", gate): part for gate, part in inputs.items()}
    for gate, part in recurrent.items():
        leaves |= {("gate.h", gate): part, ("gate", gate): inputs[gate] + part}
    return leaves


def first_stage(cell: Cell) -> tuple[str, ...]:
    """The gates whose recurrent input is the states before the step."""
    return tuple(gate for gate in cell.gates if gate not in cell.second_stage)


def fed_back_states(cell: Cell, state: tuple[Tensor, ...], masks: Masks) -> Tensor:
    """B×F: the recurrent input of the first stage's gates."""
    if not cell.feedback:
        return state[0].new_zeros(state[0].shape[0], 0)
    states = torch.cat([state[cell.state.index(name)] for name in cell.feedback], 1)
    return dropped_out(states, masks)


def dropped_out(recurrent_input: Tensor, masks: Masks) -> Tensor:
    """The recurrent input, multiplied by the mask of recurrent dropout if there is one."""
    return recurrent_input if masks.recurrent is None else recurrent_input * masks.recurrent


def recurrent_parts(
    cell: Cell,
    gates: tuple[str, ...],
    recurrent_input: Tensor,
    weights: Weights,
    product: Product = linear,
) -> dict[str, Tensor]:
    """The recurrent parts of some gates' pre-activations, by gate."""
    if not gates or not cell.feedback:
        return {}
    weight, norm, bias = (
        gate_rows(cell, gates, of)
        for of in (weights.recurrent, weights.norm_recurrent, weights.recurrent_bias)
    )
    parts = _part(recurrent_input, weight, norm, bias, product)
    return dict(zip(gates, parts.chunk(len(gates), 1), strict=True))


def gate_rows(cell: Cell, gates: tuple[str, ...], of: Tensor | None) -> Any:
    """The rows of some gates in a weight or bias that has G·H rows."""
    if of is None or gates == cell.gates:
        return of
    chunks = of.chunk(len(cell.gates))
    return torch.cat([chunks[cell.gates.index(gate)] for gate in gates])


def second_stage(
    cell: Cell, leaves: Leaves, weights: Weights, masks: Masks, product: Product = linear
) -> Operation:
    """The operation ``recurrent``: the pre-activation of a gate whose recurrent input is a value of the same
    step. All of the second stage's gates have the same recurrent input, and one product."""
    parts: dict[str, Tensor] = {}

    def recurrent(value: Value, known: Mapping[Value, Tensor]) -> Tensor:
        if not parts:
            recurrent_input = dropped_out(known[value.args[0]], masks)
            parts.update(
                recurrent_parts(cell, cell.second_stage, recurrent_input, weights, product)
            )
        return leaves["gate.x", value.name] + parts[value.name]

    return recurrent


def evaluate(
    program: list[Value],
    leaves: Leaves,
    operations: Mapping[str, Operation],
    changes: Mapping[Value, Change] = {},
    known: Mapping[Value, Tensor] = {},
) -> dict[Value, Tensor]:
    """The tensor of every node. Constants are tensors without dimensions.

    Args:
        program: the nodes, each after its arguments. Those that are ``known`` already are left out.
        operations: the operations that are not point-wise, by name.
        changes: for some nodes a function that takes the node's tensor and returns the one to use.
    """
    like = next(iter(leaves.values()))
    known = dict(known)
    for value in program:
        if value.op == "constant":
            known[value] = like.new_tensor(value.number)
        elif value.op in operations:
            known[value] = operations[value.op](value, known)
        elif not value.args:
            known[value] = leaves[value.op, value.name]
        else:
            known[value] = TORCH[value.op](*(known[arg] for arg in value.args))
        if value in changes:
            known[value] = changes[value](known[value])
    return known


def _sequence(
    values: list[Tensor], valid: Tensor | None, x: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """The values of all steps, of ``shape`` each, as one tensor with zeros in the padding."""
    if not values:
        return x.new_zeros(0, *shape)
    stacked = torch.stack(values)
    return stacked if valid is None else torch.where(valid, stacked, 0)


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    """The mask, T×B or B, with further dimensions of size 1 up to those of ``like``."""
    return mask[(..., *[None] * (like.dim() - mask.dim()))]


def _program(cell: Cell) -> tuple[Mapping[str, Value], list[Value]]:
    """The named values of the cell, and its nodes in an order in which they can be evaluated."""
    if torch.compiler.is_dynamo_compiling():  # a strict export warns about lru_cache
        return _ordered(cell)
    return _cached_program(cell)


def _ordered(cell: Cell) -> tuple[Mapping[str, Value], list[Value]]:
    return cell.values, topological(cell.values.values())


_cached_program = lru_cache(maxsize=256)(_ordered)
