"""A trace with a gradient, at about the price of a training step.

The kernels return what the equations of a step read, for all steps: the states after each step (the history)
and the pre-activations. The named values follow from these by the cell's point-wise graph, in torch
operations on all steps at once, so autograd has their gradients down to the history and the pre-activations.
The kernels' backward pass adds these gradients where they belong in its loop over time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Outcome, valid_steps
from gatewise.backends.engine import Arguments
from gatewise.backends.gradient import arguments_of, batched, gradients_of, spec_of
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
    """The output, the final states, the history of the states but the first, and the pre-activations."""

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
        if torch.is_grad_enabled() or batched(grads):  # create_graph or vmap
            return None, None, None, anchor, *gradients_of(_by_reference, given, grads, wanted)
        plain = [None if g is None else g.resolve_neg() for g in grads]
        found, ctx.watch.found = ctx.engine.backward_of_history(
            given, saved[count], plain, wanted, ctx.watch.wanted
        )
        return None, None, None, anchor, *found


def traced_differentiably(engine: Any, given: Arguments) -> Outcome:
    """The outcome, with a trace that has a gradient."""
    cell, watch = given.cell, _Watch()
    anchor = given.x.new_zeros((), requires_grad=True)
    found = RunHistory.apply(engine, given, watch, anchor, *given.tensors())
    first = 1 + len(given.state)
    output, *final = found[:first]
    states, pre_activations = (output, *found[first:-1]), found[-1]
    leaves = _leaves(given, states, pre_activations)
    known = _evaluated(given, leaves)
    shape = pre_activations.shape[1:]
    nodes = {name: known[value] for name, value in cell.values.items()}
    named = dict(nodes)
    named |= zip(cell.state, states, strict=True)
    masks = given.masks
    valid = None if masks.lengths is None else valid_steps(len(given.x), masks.lengths)[..., None]
    for name, value in named.items():
        whole = value if value.dim() == len(shape) else value.expand(shape)
        padded = valid is not None and name not in cell.state
        named[name] = torch.where(valid, whole, 0) if padded else whole  # type: ignore[arg-type]
    second = [leaves["recurrent", gate] for gate in cell.second_stage]
    read_by_them = None if cell.second_stage_input is None else known[cell.second_stage_input]
    adjoints = _Adjoints(given, watch, anchor, nodes, valid, second, read_by_them)
    return Outcome(output, tuple(final), named, adjoints)


def states_before(given: Arguments, k: int, after: Tensor) -> Tensor:
    """T×B×H: the k-th state as each step reads it, from the states after each step."""
    initial, masks = given.state[k], given.masks
    if given.reverse:
        old = torch.cat([after[1:], initial[None]])
        if masks.lengths is not None:
            last = torch.arange(len(after), device=after.device)[:, None] == masks.lengths - 1
            old = torch.where(last[..., None], initial, old)
    else:
        old = torch.cat([initial[None], after[:-1]])
    return old if masks.reset is None else torch.where(masks.reset[..., None], 0, old)


def _leaves(
    given: Arguments, states: Sequence[Tensor], pre_activations: Tensor
) -> dict[tuple[str, str], Tensor]:
    """The tensors of the graph's leaves for all steps, T×B×H, and of the pre-activations of a second stage."""
    cell = given.cell
    leaves = {
        (part.part, part.gate): value
        for part, value in zip(layout(cell).accumulators, pre_activations.unbind(), strict=True)
    }
    for gate in cell.gates:
        x, h = (leaves.get((part, gate)) for part in ("gate.x", "gate.h"))
        if x is not None and h is not None:
            leaves["gate", gate] = x + h
    read = {v.name for v in topological(cell.values.values()) if v.op == "state"}
    leaves |= {("parameter", name): given.weights.per_unit[name] for name in cell.params}
    for k, name in enumerate(cell.state):
        if name in read:
            leaves["state", name] = states_before(given, k, states[k])
    return leaves


def _evaluated(given: Arguments, leaves: Mapping[tuple[str, str], Tensor]) -> dict[Value, Tensor]:
    program = topological(given.cell.values.values())
    return reference.evaluate(
        program, dict(leaves), {"recurrent": lambda value, _: leaves["recurrent", value.name]}
    )


class _Adjoints:
    """See ``contract.Adjoints``.

    Args:
        nodes: the named values of all steps, before zoneout and projection.
        second: the pre-activations of the second stage, and ``read_by_them`` their recurrent input.
    """

    def __init__(
        self,
        given: Arguments,
        watch: _Watch,
        anchor: Tensor,
        nodes: Mapping[str, Tensor],
        valid: Tensor | None,
        second: Sequence[Tensor],
        read_by_them: Tensor | None,
    ) -> None:
        self._given, self._watch, self._anchor = given, watch, anchor
        self._nodes, self._valid = nodes, valid
        self._second, self._read_by_them = second, read_by_them

    def inputs(self) -> list[Tensor]:
        self._watch.wanted, self._watch.found = True, []
        return [self._anchor]

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        given, after = self._given, self._watch.found
        self._watch.wanted, self._watch.found = False, []
        state, (steps, batch, _), units = given.cell.state, given.x.shape, given.hidden_size
        whole = {name: given.x.new_zeros(steps, batch, units) for name in self._nodes}
        if not after:  # the number does not depend on this layer
            whole |= {
                s: given.x.new_zeros(steps, *of.shape)
                for s, of in zip(state, given.state, strict=True)
            }
            return whole
        seeds = list(after)
        if given.masks.zoneout is not None:
            seeds = [g * (1 - share) for g, share in zip(seeds, given.masks.zoneout, strict=True)]
        if given.weights.projection is not None:
            seeds[0] = seeds[0] @ given.weights.projection
        ends = [(self._nodes[name], seed) for name, seed in zip(state, seeds, strict=True)]
        if self._read_by_them is not None:
            ends.append((self._read_by_them, self._through_second_stage(ends)))
        # a value of parameters alone has no step, and its gradient is that of the parameters
        names = [name for name, node in self._nodes.items() if node.dim() == 3]
        each = _pulled(ends, [self._nodes[name] for name in names])
        for name, gradient in zip(names, each, strict=True):
            if gradient is not None:
                valid = self._valid
                whole[name] = gradient if valid is None else torch.where(valid, gradient, 0)
        # a traced state after zoneout or projection is read by the next step only
        changed = len(state) if given.masks.zoneout is not None else 1 if given.proj_size else 0
        return whole | dict(zip(state[:changed], after, strict=False))

    def _through_second_stage(self, ends: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The gradient of the second stage's recurrent input."""
        given = self._given
        rows = reference.gate_rows(given.cell, given.cell.second_stage, given.weights.recurrent)
        each = _pulled(ends, self._second)
        zero = torch.zeros_like(self._second[0])
        found = torch.cat([zero if g is None else g for g in each], -1) @ rows
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
        valid = valid_steps(len(given.x), lengths)[..., None]
        given = given._replace(x=torch.where(valid, given.x, 0))
    _, _, x, state, weights, masks = given
    outcome = reference.forward(spec_of(given, trace=True), x, state, weights, masks)
    states = [outcome.trace[name] for name in given.cell.state]
    return [outcome.output, *outcome.state, *states[1:], _pre_activations(given, states)]


def _pre_activations(given: Arguments, states: Sequence[Tensor]) -> Tensor:
    """Accumulators×T×B×H, from the states after each step: all steps are rows of one batch."""
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
    return torch.stack(parts).unflatten(1, (steps, batch))
