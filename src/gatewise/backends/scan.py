"""Cells whose states are linear recurrences, all steps at once, by an associative scan.

Where no gate has a recurrent part (minGRU, minLSTM: Feng et al. 2024, "Were RNNs All We Needed?",
arXiv 2410.01201) and a new state is affine in its own old value, s_t = a_t * s_{t-1} + b_t, every a_t
and b_t follows from the input, and the composition of two steps is a step of the same kind. A scan
(Blelloch 1990, "Prefix Sums and Their Applications", section 1.4) composes them in about 2 log2 T
rounds of operations over all sequences and units, with twice the work of a loop. That is for devices
with thousands of lanes; a processor is quicker with the kernels' loop.

What a_t and b_t are is derived from the cell's graph; nothing here knows a cell by name.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from gatewise.cells.language import Cell, Value, constant, operate, topological


@dataclass(frozen=True)
class _Recurrence:
    """A new state as coefficient * its own old value + rest; no coefficient where it does not use it."""

    name: str
    coefficient: Value | None
    rest: Value


@dataclass(frozen=True)
class _Plan:
    """A cell's states in an order in which each rests on the old values of those before it alone."""

    recurrences: tuple[_Recurrence, ...]
    values: Mapping[str, Value]


def supports(spec: Spec) -> str | None:
    if spec.recorded:
        return UNROLLED
    plan = _plan(spec.cell)
    return plan if isinstance(plan, str) else None


def describe(spec: Spec) -> str:
    precision = ", in double precision" if is_widened(spec) else ""
    return f"its states are linear recurrences, scanned over all steps at once in torch operations{precision}"


def _plan(cell: Cell) -> _Plan | str:
    """How to scan the cell, or the reason why it cannot be."""
    if torch.compiler.is_dynamo_compiling():  # a strict export, which warns of caches
        return _new_plan(cell)
    return _kept_plan(cell)


def _new_plan(cell: Cell) -> _Plan | str:
    nodes = topological(cell.values.values())
    fed = {node.name for node in nodes if node.op in ("gate", "gate.h", "recurrent")}
    if fed:
        names = ", ".join(gate for gate in cell.gates if gate in fed)
        return f"runs cells without recurrent weights, which reach {names} here"
    waits = {name: _states_used(cell.values[name]) - {name} for name in cell.state}
    try:
        order = tuple(graphlib.TopologicalSorter(waits).static_order())
    except graphlib.CycleError as error:
        ring = ", ".join(sorted(set(error.args[1]), key=cell.state.index))
        return f"works out one state after the other, and {ring} rest on each other's old values"
    recurrences = []
    for name in order:
        split = _split(cell.values[name], name)
        if isinstance(split, str):
            return (
                f"runs states that are affine in their own old value, and that of {name} goes "
                f"through '{split}'"
            )
        recurrences.append(_Recurrence(name, *split))
    return _Plan(tuple(recurrences), cell.values)


_kept_plan = lru_cache(maxsize=256)(_new_plan)  # for all equal cells, so without their names


def _states_used(value: Value) -> set[str]:
    return {node.name for node in topological([value]) if node.op == "state"}


_ZERO, _ONE = constant(0), constant(1)


def _split(new: Value, name: str) -> tuple[Value | None, Value] | str:
    """Coefficient and rest of ``new`` in the old value of the state ``name``; or the operation that it
    goes through and that is not affine."""
    parts: dict[Value, tuple[Value, Value]] = {}
    for value in topological([new]):
        if (value.op, value.name) == ("state", name):
            parts[value] = (_ONE, _ZERO)
        elif any(arg in parts for arg in value.args):
            affine = _affine(value.op, *(parts.get(arg, (_ZERO, arg)) for arg in value.args))
            if affine is None:
                return value.op
            parts[value] = affine
    return parts.get(new, (None, new))


def _affine(op: str, *args: tuple[Value, Value]) -> tuple[Value, Value] | None:
    """Coefficient and rest of an operation on values of which each is given as these two."""
    match op, args:
        case (("add" | "sub"), ((a, p), (b, q))):
            return operate(op, a, b), operate(op, p, q)
        case "neg", ((a, p),):
            return -a, -p
        case (("mul" | "div"), ((a, p), (b, q))) if b is _ZERO:
            return operate(op, a, q), operate(op, p, q)
        case "mul", ((a, p), (b, q)) if a is _ZERO:
            return p * b, p * q
    return None


@widened
def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    plan = _plan(spec.cell)
    assert isinstance(plan, _Plan)
    names = spec.cell.state
    run = _run(spec, x, weights, masks)
    after: dict[str, Tensor] = {}
    for each in plan.recurrences:
        k = names.index(each.name)
        after[each.name] = run.through_time(each, k, state[k])
        run.leaves["state", each.name] = run.seen(after[each.name])
    final = tuple(run.final(after[name]) for name in names)
    new = {name: states[1:] for name, states in after.items()}
    traced = list(spec.cell.values) if spec.trace else []
    trace = {n: run.given_back(new[n] if n in new else run.value(plan.values[n])) for n in traced}
    return Outcome(run.given_back(new[names[0]]), final, trace)


@dataclass(frozen=True)
class _Run:
    """One call's tensors, each with its steps in the order in which this direction takes them.

    A state's values through time are (T + 1)×B×(its width): the initial one, then each step's.
    """

    spec: Spec
    shape: tuple[int, int, int]
    leaves: dict[tuple[str, str], Tensor]
    known: dict[Value, Tensor]
    projection: Tensor | None
    lengths: Tensor | None
    valid: Tensor | None
    cut: Tensor | None
    zoneout: tuple[Tensor, ...] | None

    def value(self, value: Value) -> Tensor:
        """T×B×H: a node of the graph over all steps. Its states must be known by now."""
        for node in topological([value]):
            if node not in self.known:
                self.known[node] = self._evaluated(node)
        return self.known[value].expand(self.shape)

    def _evaluated(self, node: Value) -> Tensor:
        if node.op == "constant":
            return next(iter(self.leaves.values())).new_tensor(node.number)
        if not node.args:
            return self.leaves[node.op, node.name]
        return TORCH[node.op](*(self.known[arg] for arg in node.args))

    def through_time(self, each: _Recurrence, k: int, initial: Tensor) -> Tensor:
        coefficient = None if each.coefficient is None else self.value(each.coefficient)
        rest = self.value(each.rest)
        if k == 0 and self.projection is not None:
            rest = linear(rest, self.projection)
        if self.zoneout is not None:
            share = self.zoneout[k].expand(rest.shape)
            coefficient = share if coefficient is None else share + (1 - share) * coefficient
            rest = (1 - share) * rest
        if coefficient is None:  # nothing is carried
            rest = rest if self.valid is None else torch.where(self.valid, rest, initial)
            return torch.cat([initial[None], rest])
        if self.valid is not None:
            coefficient = torch.where(self.valid, coefficient, 1)
            rest = torch.where(self.valid, rest, 0)
        scan: Callable[..., Tensor] = _plain if self.spec.transformed else _Scan.apply
        return scan(coefficient, torch.cat([initial[None], rest]), self.cut)

    def seen(self, states: Tensor) -> Tensor:
        """What each step's equations see as the old value: zero after a reset."""
        old = states[:-1]
        return old if self.cut is None else torch.where(self.cut, 0, old)

    def final(self, states: Tensor) -> Tensor:
        """The state after each sequence's own last step; a reversed run takes the padding first."""
        if self.lengths is None or self.spec.reverse:
            return states[-1]
        return states[self.lengths, torch.arange(states.shape[1], device=states.device)]

    def given_back(self, values: Tensor) -> Tensor:
        """Zero beyond the lengths, and in the sequence's own order."""
        kept = values if self.valid is None else torch.where(self.valid, values, 0)
        return _turned(self.spec, kept)


def _run(spec: Spec, x: Tensor, weights: Weights, masks: Masks) -> _Run:
    steps, batch = x.shape[:2]
    valid = cut = zoneout = None
    if masks.lengths is not None:
        valid = _turned(spec, valid_steps(steps, masks.lengths)[..., None])
    if masks.reset is not None:
        cut = _turned(spec, masks.reset[..., None])
        cut = cut if valid is None else cut & valid
    if masks.zoneout is not None:
        each = enumerate(masks.zoneout)
        whole = [share.expand(steps, batch, spec.state_size(k)) for k, share in each]
        zoneout = tuple(_turned(spec, share) for share in whole)
    x = _turned(spec, x)
    if valid is not None:
        x = torch.where(valid, x, 0)  # or a NaN in the padding would reach the weights' gradient
    inputs = _input_parts(x, weights).chunk(len(spec.cell.gates), -1)
    leaves = {("gate.x", gate): part for gate, part in zip(spec.cell.gates, inputs, strict=True)}
    leaves |= {("parameter", name): value for name, value in weights.per_unit.items()}
    shape = (steps, batch, spec.hidden_size)
    return _Run(spec, shape, leaves, {}, weights.projection, masks.lengths, valid, cut, zoneout)


def _turned(spec: Spec, values: Tensor) -> Tensor:
    return values.flip(0) if spec.reverse else values


def _input_parts(x: Tensor, weights: Weights) -> Tensor:
    """T×B×G·H: the input's share of every pre-activation, which is all that there is of it."""
    gain, bias = weights.norm_input, weights.input_bias
    if gain is None:
        return linear(x, weights.input, bias)
    return layer_norm(linear(x, weights.input), gain.shape, gain, bias, NORM_EPSILON)


class _Scan(torch.autograd.Function):
    """``_plain``, whose gradient is the same scan from the end: only a and the states are kept."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, cut: Tensor | None) -> Tensor:
        states = _plain(a, b, cut)
        ctx.save_for_backward(a, states, cut)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a, states, cut = ctx.saved_tensors
        backwards = None if cut is None else cut.flip(0)
        of_states = _Scan.apply(a.flip(0), gradients[0].flip(0), backwards).flip(0)
        return _carried(of_states[1:], states[:-1], cut), of_states, None


def _plain(a: Tensor, b: Tensor, cut: Tensor | None) -> Tensor:
    """s with s[0] = b[0] and s[t+1] = a[t] * s[t] + b[t+1]: T coefficients, T + 1 of the others.

    Two steps in one take each state of odd place to the next such: half as many steps, which are
    scanned the same way; each state of even place then follows from the one before it. ``cut`` is
    true where nothing is carried, not even what is no number.
    """
    if len(b) == 1:
        return b.clone()
    odd_cut = even_cut = pair_cut = None
    if cut is not None:
        odd_cut, even_cut = cut[0::2], cut[1::2]
        pair_cut = odd_cut[1:] | even_cut[: len(odd_cut) - 1]
    to_odd, to_even = a[0::2], a[1::2]
    pairs = to_odd[1:] * to_even[: len(to_odd) - 1]
    steps = _step(to_odd, b[0:-1:2], b[1::2], odd_cut)
    odd = _plain(pairs, steps, pair_cut)
    even = _step(to_even, odd[: len(to_even)], b[2::2], even_cut)
    states = odd.new_empty(b.shape)
    states[0], states[1::2], states[2::2] = b[0], odd, even
    return states


def _step(a: Tensor, old: Tensor, b: Tensor, cut: Tensor | None) -> Tensor:
    return torch.addcmul(b, a, old) if cut is None else b + _carried(a, old, cut)


def _carried(a: Tensor, old: Tensor, cut: Tensor | None) -> Tensor:
    product = a * old
    return product if cut is None else torch.where(cut, 0, product)
