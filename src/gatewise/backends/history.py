"""A trace with a gradient, at about the price of a training step.

The kernels return what the equations of a step read, for all steps: the states after each step (the history)
and the pre-activations. The named values follow from these by the cell's point-wise graph, in torch
operations on all steps at once, so autograd has their gradients down to the history and the pre-activations.
The kernels' backward pass adds these gradients where they belong in its loop over time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Outcome, valid_steps
from gatewise.backends.engine import Arguments, computed_in
from gatewise.backends.gradient import arguments_of, differentiated_again, gradients_of, spec_of
from gatewise.cells.language import Value, topological
from gatewise.emit.steps import layout


class HistoryEngine(Protocol):
    """The functions that an engine needs for a differentiable trace; see native/calls.py."""

    def forward_saving_history(self, given: Arguments) -> list[Any]: ...

    def backward_of_history(
        self,
        given: Arguments,
        activations: Any,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
        after: bool,
    ) -> tuple[list[Tensor | None], list[Tensor]]: ...


@dataclass(eq=False)
class _Watch:
    """Tells the backward pass to keep the whole gradients of the states, and has them afterwards."""

    wanted: bool = False
    found: list[Tensor] = field(default_factory=list)


class RunHistory(torch.autograd.Function):
    """The output, the final states, the history of the states but the first, and the pre-activations: a tensor
    for each state and accumulator."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: HistoryEngine,
        given: Arguments,
        watch: _Watch,
        anchor: Tensor,
        *tensors: Tensor | None,
    ) -> Any:
        """``tensors`` are those of ``given``. Only autograd reads them. The gradient of ``anchor`` is zero; it
        is there so that the backward pass can be asked for alone."""
        found = engine.forward_saving_history(given)
        first = 1 + len(given.state)
        ctx.engine, ctx.cell, ctx.reverse, ctx.watch = engine, given.cell, given.reverse, watch
        ctx.save_for_backward(*tensors, found[first], *given.masks.listed())
        ctx.set_materialize_grads(False)
        return (*found[:first], *found[first + 1 :])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        count = len(wanted)
        given = arguments_of(
            ctx.cell, ctx.reverse, saved[:count], Masks.from_list(saved[count + 1 :])
        )
        anchor = given.x.new_zeros(())
        if differentiated_again(grads):
            return None, None, None, anchor, *gradients_of(_by_reference, given, grads, wanted)
        plain = [None if g is None else g.resolve_neg() for g in grads]
        found, ctx.watch.found = ctx.engine.backward_of_history(
            given, saved[count], plain, wanted, ctx.watch.wanted
        )
        return None, None, None, anchor, *found


def traced_differentiably(engine: Any, given: Arguments) -> Outcome:
    """The outcome, with a trace that has a gradient."""
    watch, anchor = _Watch(), given.x.new_zeros((), requires_grad=True)
    found = RunHistory.apply(engine, given, watch, anchor, *given.tensors())
    outcome, nodes, known, valid = _of_results(given, found)
    return replace(outcome, adjoints=_Adjoints(given, watch, anchor, nodes, known, valid))


def history(engine: Any, given: Arguments) -> list[Tensor]:
    """The results of ``RunHistory``, for a graph."""
    return list(RunHistory.apply(engine, given, _Watch(), given.x.new_zeros(()), *given.tensors()))


def outcome_of(given: Arguments, found: Sequence[Tensor]) -> Outcome:
    """The outcome from the results of ``RunHistory``. Its trace has a gradient, but no adjoints."""
    return _of_results(given, found)[0]


def _of_results(
    given: Arguments, found: Sequence[Tensor]
) -> tuple[Outcome, _Nodes, dict[Value, Tensor], Tensor | None]:
    """The outcome; and the nodes, the tensors that the trace was made of, and the mask of real steps."""
    cell, count = given.cell, len(given.cell.state)
    output, *final = found[: 1 + count]
    states = output, *found[1 + count : 2 * count]
    nodes = _Nodes(given, states, found[2 * count :])
    known = nodes.of([value for name, value in cell.values.items() if name not in cell.state])
    lengths, shape = given.masks.lengths, (*given.x.shape[:2], given.hidden_size)
    valid = None if lengths is None else valid_steps(given.x.shape[0], lengths)[..., None]
    named = dict(zip(cell.state, states, strict=True))
    for name, value in cell.values.items():
        if name not in named:
            whole = known[value].to(given.x.dtype).expand(shape)
            named[name] = whole if valid is None else torch.where(valid, whole, 0)
    in_order = {name: named[name] for name in cell.values}
    return Outcome(output, tuple(final), in_order), nodes, known, valid


def states_before(given: Arguments, k: int, after: Tensor) -> Tensor:
    """T×B×H: the k-th state as each step reads it, from the states after each step."""
    initial, masks = given.state[k], given.masks
    if given.reverse:
        old = torch.cat([after[1:], initial[None]])
        if masks.lengths is not None:
            last = torch.arange(after.shape[0], device=after.device)[:, None] == masks.lengths - 1
            old = torch.where(last[..., None], initial, old)
    else:
        old = torch.cat([initial[None], after[:-1]])
    return old if masks.reset is None else torch.where(masks.reset[..., None], 0, old)


class _Nodes:
    """The tensors of the cell's nodes for all steps, T×B×H, as a function of the states and pre-activations.

    They are in the dtype in which the kernels compute: float32 for bfloat16.

    Args:
        states: the states after each step.
    """

    def __init__(
        self, given: Arguments, states: Sequence[Tensor], pre_activations: Sequence[Tensor]
    ) -> None:
        self._given, self._states = given, states
        self._dtype = computed_in(given.x.dtype)
        self.accumulators = {
            (a.part, a.gate): value
            for a, value in zip(layout(given.cell).accumulators, pre_activations, strict=True)
        }

    def of(
        self, values: Iterable[Value], known: Mapping[Value, Tensor] = {}
    ) -> dict[Value, Tensor]:
        """``known`` and the tensors of these nodes, and of those that they depend on."""

        def arguments(value: Value) -> Iterable[Value]:
            # the kernels have computed the pre-activations of a second stage
            return () if value in known or value.op == "recurrent" else value.args

        program = [value for value in topological(values, arguments) if value not in known]
        leaves = {
            (value.op, value.name): self._leaf(value.op, value.name)
            for value in program
            if value.op == "recurrent" or not (value.args or value.op == "constant")
        }
        if not leaves:  # of constants alone
            leaves = {("", ""): self._states[0].new_empty(0, dtype=self._dtype)}
        operations = {"recurrent": lambda value, _: leaves["recurrent", value.name]}
        return reference.evaluate(program, leaves, operations, known=known)

    def _leaf(self, op: str, name: str) -> Tensor:
        if op == "state":
            k = self._given.cell.state.index(name)
            return states_before(self._given, k, self._states[k]).to(self._dtype)
        if op == "parameter":
            return self._given.weights.per_unit[name].to(self._dtype)
        if (op, name) in self.accumulators:
            return self.accumulators[op, name]
        parts = [self.accumulators.get((part, name)) for part in ("gate.x", "gate.h")]
        return sum(part for part in parts if part is not None)  # type: ignore[return-value]


class _Adjoints:
    """See ``contract.Adjoints``. ``known`` are the tensors of ``nodes`` that the trace was made of."""

    def __init__(
        self,
        given: Arguments,
        watch: _Watch,
        anchor: Tensor,
        nodes: _Nodes,
        known: Mapping[Value, Tensor],
        valid: Tensor | None,
    ) -> None:
        self._given, self._watch, self._anchor = given, watch, anchor
        self._nodes, self._known, self._valid = nodes, known, valid

    def inputs(self) -> list[Tensor]:
        self._watch.wanted, self._watch.found = True, []
        return [self._anchor]

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        given, after = self._given, self._watch.found
        self._watch.wanted, self._watch.found = False, []
        cell, (steps, batch, _), units = given.cell, given.x.shape, given.hidden_size
        whole = {name: given.x.new_zeros(steps, batch, units) for name in cell.values}
        if not after:  # the number does not depend on this layer
            whole |= {
                s: given.x.new_zeros(steps, *of.shape)
                for s, of in zip(cell.state, given.state, strict=True)
            }
            return whole
        with torch.enable_grad():  # the states' nodes are made now, for the first time
            fed = () if cell.second_stage_input is None else (cell.second_stage_input,)
            known = self._nodes.of((*cell.values.values(), *fed), self._known)
        seeds = [g.to(computed_in(g.dtype)) for g in after]
        if given.masks.zoneout is not None:
            seeds = [g * (1 - share) for g, share in zip(seeds, given.masks.zoneout, strict=True)]
        if given.weights.projection is not None:
            seeds[0] = seeds[0] @ given.weights.projection.to(seeds[0].dtype)
        ends = [(known[value], seed) for value, seed in zip(cell.new_state, seeds, strict=True)]
        if cell.second_stage_input is not None:
            ends.append((known[cell.second_stage_input], self._through_second_stage(ends)))
        # a value of parameters alone has no step, and its gradient is that of the parameters
        names = [name for name, value in cell.values.items() if known[value].dim() == 3]
        each = _pulled(ends, [known[cell.values[name]] for name in names])
        for name, gradient in zip(names, each, strict=True):
            if gradient is not None:
                real = gradient if self._valid is None else torch.where(self._valid, gradient, 0)
                whole[name] = real.to(given.x.dtype)
        # a traced state after zoneout or projection is read by the next step only
        changed = (
            len(cell.state) if given.masks.zoneout is not None else 1 if given.proj_size else 0
        )
        return whole | dict(zip(cell.state[:changed], after, strict=False))

    def _through_second_stage(self, ends: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The gradient of the second stage's recurrent input."""
        given, second = self._given, self._given.cell.second_stage
        nodes = [self._nodes.accumulators["recurrent", gate] for gate in second]
        rows = reference.gate_rows(given.cell, second, given.weights.recurrent)
        each = _pulled(ends, nodes)
        zero = torch.zeros_like(nodes[0])
        found = torch.cat([zero if g is None else g for g in each], -1) @ rows.to(zero.dtype)
        return found if given.masks.recurrent is None else found * given.masks.recurrent


def _pulled(ends: Sequence[tuple[Tensor, Tensor]], to: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of ``to`` for the given gradients of nodes."""
    places = [k for k, node in enumerate(to) if node.requires_grad]
    nodes, seeds = zip(*[end for end in ends if end[0].requires_grad], strict=True)
    found = torch.autograd.grad(
        nodes, [to[k] for k in places], seeds, retain_graph=True, allow_unused=True
    )
    by_place = dict(zip(places, found, strict=True))
    return [by_place.get(k) for k in range(len(to))]


def _by_reference(given: Arguments) -> list[Tensor]:
    """The results of ``RunHistory`` in torch operations."""
    lengths = given.masks.lengths
    if lengths is not None:  # a NaN in the padding would reach the weights' gradient
        valid = valid_steps(given.x.shape[0], lengths)[..., None]
        given = given._replace(x=torch.where(valid, given.x, 0))
    _, _, x, state, weights, masks = given
    outcome = reference.forward(spec_of(given, trace=True), x, state, weights, masks)
    states = [outcome.trace[name] for name in given.cell.state]
    return [outcome.output, *outcome.state, *states[1:], *_pre_activations(given, states)]


def _pre_activations(given: Arguments, states: Sequence[Tensor]) -> list[Tensor]:
    """T×B×H of each accumulator, from the states after each step: all steps are rows of one batch."""
    cell, weights, masks = given.cell, given.weights, given.masks
    steps, batch, _ = given.x.shape
    old = tuple(states_before(given, k, state).flatten(0, 1) for k, state in enumerate(states))
    factor = masks.recurrent
    rows = Masks(recurrent=None if factor is None else factor.repeat(steps, 1))
    from_input = reference.input_part(given.x.flatten(0, 1), weights)
    leaves = reference.step_leaves(cell, from_input, old, weights, rows)
    second = reference.second_stage(cell, leaves, weights, rows)
    program = topological(cell.values.values())
    known = reference.evaluate(program, leaves, {"recurrent": second})
    found: dict[tuple[str, str], Tensor] = dict(leaves)
    found |= {("recurrent", v.name): value for v, value in known.items() if v.op == "recurrent"}
    parts = [found[a.part, a.gate] for a in layout(cell).accumulators]
    return [part.unflatten(0, (steps, batch)).to(computed_in(part.dtype)) for part in parts]
