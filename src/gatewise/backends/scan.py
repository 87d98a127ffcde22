"""The backend ``scan``: all steps at once by an associative scan, for cells that are linear in their state.

The backend runs cells without recurrent parts whose new state is affine in its old value:
s_t = a_t * s_{t-1} + b_t (minGRU, minLSTM: Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201).
Then a_t and b_t depend on the input only, and two steps together have the same form. A scan (Blelloch
1990, "Prefix Sums and Their Applications", section 1.4) computes all states in about 2 log2 T rounds of
operations over all sequences and units. This is twice the work of a loop, so it suits a GPU. On a CPU the
loop of the kernels is faster.

a_t and b_t are derived from the cell's graph.
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
    """A new state as coefficient * old value + rest. The coefficient is None if the old value is not used."""

    name: str
    coefficient: Value | None
    rest: Value


@dataclass(frozen=True)
class _Plan:
    """The recurrences of a cell's states. Each depends only on old values of states before it."""

    recurrences: tuple[_Recurrence, ...]
    values: Mapping[str, Value]


def supports(spec: Spec) -> str | None:
    if spec.recorded:
        return UNROLLED
    plan = _plan(spec.cell)
    return plan if isinstance(plan, str) else None


def describe(spec: Spec) -> str:
    precision = ", in double precision" if is_widened(spec) else ""
    return f"a scan over all steps at once in torch operations, as the states are linear recurrences{precision}"


def _plan(cell: Cell) -> _Plan | str:
    """The recurrences of the cell, or the reason why it has none."""
    if torch.compiler.is_dynamo_compiling():  # a strict export warns about lru_cache
        return _new_plan(cell)
    return _cached_plan(cell)


def _new_plan(cell: Cell) -> _Plan | str:
    nodes = topological(cell.values.values())
    recurrent = {node.name for node in nodes if node.op in ("gate", "gate.h", "recurrent")}
    if recurrent:
        names = ", ".join(gate for gate in cell.gates if gate in recurrent)
        return f"runs cells without recurrent weights, and {names} have some"
    others = {name: _states_used(cell.values[name]) - {name} for name in cell.state}
    try:
        order = tuple(graphlib.TopologicalSorter(others).static_order())
    except graphlib.CycleError as error:
        cycle = ", ".join(sorted(set(error.args[1]), key=cell.state.index))
        return f"computes one state after the other, and {cycle} depend on each other's old values"
    recurrences = []
    for name in order:
        split = _split(cell.values[name], name)
        if isinstance(split, str):
            return (
                f"runs states that are affine in their own old value, and {name} depends on it through "
                f"'{split}'"
            )
        recurrences.append(_Recurrence(name, *split))
    return _Plan(tuple(recurrences), cell.values)


_cached_plan = lru_cache(maxsize=256)(
    _new_plan
)  # equal cells share a plan, so it has no cell's name


def _states_used(value: Value) -> set[str]:
    return {node.name for node in topological([value]) if node.op == "state"}


_ZERO, _ONE = constant(0), constant(1)


def _split(new: Value, name: str) -> tuple[Value | None, Value] | str:
    """The coefficient and the rest of ``new``, for the old value of the state ``name``; or the name of an
    operation on the old value that is not affine."""
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
    """The coefficient and the rest of an operation whose arguments are pairs of both; None if not affine."""
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
    """The tensors of a call. Their steps are in the order in which this direction runs them.

    The values of a state over time are (T + 1)×B×(its width): the initial state, then that of each step.
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
        """T×B×H: the value of a node at all steps. The states that it depends on must be known."""
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
        if coefficient is None:  # the new state does not depend on the old one
            rest = rest if self.valid is None else torch.where(self.valid, rest, initial)
            return torch.cat([initial[None], rest])
        if self.valid is not None:
            coefficient = torch.where(self.valid, coefficient, 1)
            rest = torch.where(self.valid, rest, 0)
        scan: Callable[..., Tensor] = _plain if self.spec.transformed else _Scan.apply
        return scan(coefficient, torch.cat([initial[None], rest]), self.cut)

    def seen(self, states: Tensor) -> Tensor:
        """The old values that each step's equations read: zero after a reset."""
        old = states[:-1]
        return old if self.cut is None else torch.where(self.cut, 0, old)

    def final(self, states: Tensor) -> Tensor:
        """The state after the last step of each sequence. A reversed call runs the padding first."""
        if self.lengths is None or self.spec.reverse:
            return states[-1]
        return states[self.lengths, torch.arange(states.shape[1], device=states.device)]

    def given_back(self, values: Tensor) -> Tensor:
        """The values with zeros in the padding, in the order of the sequence."""
        kept = values if self.valid is None else torch.where(self.valid, values, 0)
        return _in_order_of_run(self.spec, kept)


def _run(spec: Spec, x: Tensor, weights: Weights, masks: Masks) -> _Run:
    steps, batch = x.shape[:2]
    valid = cut = zoneout = None
    if masks.lengths is not None:
        valid = _in_order_of_run(spec, valid_steps(steps, masks.lengths)[..., None])
    if masks.reset is not None:
        cut = _in_order_of_run(spec, masks.reset[..., None])
        cut = cut if valid is None else cut & valid
    if masks.zoneout is not None:
        each = enumerate(masks.zoneout)
        whole = [share.expand(steps, batch, spec.state_size(k)) for k, share in each]
        zoneout = tuple(_in_order_of_run(spec, share) for share in whole)
    x = _in_order_of_run(spec, x)
    if valid is not None:
        x = torch.where(valid, x, 0)  # a NaN in the padding would reach the weights' gradient
    inputs = _input_parts(x, weights).chunk(len(spec.cell.gates), -1)
    leaves = {("gate.x", gate): part for gate, part in zip(spec.cell.gates, inputs, strict=True)}
    leaves |= {("parameter", name): value for name, value in weights.per_unit.items()}
    shape = (steps, batch, spec.hidden_size)
    return _Run(spec, shape, leaves, {}, weights.projection, masks.lengths, valid, cut, zoneout)


def _in_order_of_run(spec: Spec, values: Tensor) -> Tensor:
    """The values, reversed in time for a reversed call. The inverse is the function itself."""
    return values.flip(0) if spec.reverse else values


def _input_parts(x: Tensor, weights: Weights) -> Tensor:
    """T×B×G·H: the input parts of all pre-activations. These cells have no recurrent parts."""
    norm_weight, bias = weights.norm_input, weights.input_bias
    if norm_weight is None:
        return linear(x, weights.input, bias)
    product = linear(x, weights.input)
    return layer_norm(product, norm_weight.shape, norm_weight, bias, NORM_EPSILON)


class _Scan(torch.autograd.Function):
    """``_plain`` with its gradient, which is the same scan from the end. It saves only a and the states."""

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
    """The states s with s[0] = b[0] and s[t+1] = a[t] * s[t] + b[t+1], for T values of a and T + 1 of b.

    Two steps together lead from each odd state to the next odd one. These are half as many steps, and are
    scanned in the same way. Each even state then follows from the one before it. Where ``cut`` is true the
    old state has no influence, even if it is NaN.
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
