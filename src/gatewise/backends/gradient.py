"""The gradient of an engine's call. Gradients of gradients come from the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Network, Spec, Weights
from gatewise.backends.engine import Arguments
from gatewise.backends.torch_private import (
    direct_apply,
    func_interpreters,
    is_batched_or_zero,
    transformed,
)
from gatewise.cells.language import Cell


class Run(torch.autograd.Function):
    """The differentiable call of an engine, or of an object with ``forward_saving`` and ``backward``."""

    @staticmethod
    def forward(ctx: Any, engine: Any, given: Arguments, *tensors: Tensor | None) -> Any:
        """``tensors`` are those of ``given``. Only autograd reads them."""
        *outcome, activations = engine.forward_saving(given)
        ctx.engine, ctx.cell, ctx.reverse = engine, given.cell, given.reverse
        ctx.save_for_backward(*tensors, activations, *given.masks.listed())
        ctx.set_materialize_grads(False)
        return tuple(outcome)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = (
            ctx.saved_tensors
        )  # read once, because saved-tensor hooks may not allow a second time
        wanted = ctx.needs_input_grad[2:]
        tensors, activations, rest = (
            saved[: len(wanted)],
            saved[len(wanted)],
            saved[len(wanted) + 1 :],
        )
        given = arguments_of(ctx.cell, ctx.reverse, tensors, Masks.from_list(rest))
        if differentiated_again(grads):
            found = gradients_of(_by_reference, given, grads, wanted)
        else:
            plain = [None if g is None else g.resolve_neg() for g in grads]
            found = ctx.engine.backward(given, activations, plain, wanted)
        return None, None, *found


class RunNetwork(torch.autograd.Function):
    """The differentiable call of a network of one layer in one direction.

    Its result is None if the network cannot use one of the tensors. Then nothing is recorded."""

    @staticmethod
    def forward(ctx: Any, network: Network, batch_first: bool, *tensors: Tensor | None) -> Any:
        """``tensors``: see ``Network.run_saving``."""
        found = network.run_saving(tensors, batch_first, torch.get_num_threads())
        if found is None:
            return None
        ctx.save_for_backward(*tensors, found[-1])
        ctx.network, ctx.batch_first = network, batch_first
        ctx.set_materialize_grads(False)
        return found[:-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        network, batch_first, saved = ctx.network, ctx.batch_first, ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        found = None
        if not (torch.is_grad_enabled() or transformed()):
            found = network.gradients(saved, batch_first, grads, wanted)
        if found is None:
            found = _of_network_by_reference(network, batch_first, saved[:-1], grads, wanted)
        return None, None, *found


run_network = direct_apply(RunNetwork)


def _of_network_by_reference(
    network: Network,
    batch_first: bool,
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of the tensors that the network was given, which can be differentiated again."""
    assert network.cell is not None
    count = sum(name is not None for name in network.names)
    x, *states = tensors[:-count]
    of_weights = iter(zip(tensors[-count:], wanted[-count:], strict=True))
    absent = None, False
    weights = [absent if name is None else next(of_weights) for name in network.names]

    def turned(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1) if batch_first else tensor

    x = turned(x)
    output, *final = grads
    plain = [None if output is None else turned(output), *(g if g is None else g[0] for g in final)]
    listed = [weight for weight, _ in weights]
    if states:
        before = [state[0] for state in states]
    else:
        of = Weights.from_list(listed, network.cell)
        sizes = Arguments(network.cell, False, x, (), of, Masks()).state_sizes()
        before = [x.new_zeros(x.shape[1], size) for size in sizes]
    given = arguments_of(network.cell, False, [x, *before, *listed], Masks())
    wants = [wanted[0], *(wanted[1 : 1 + len(states)] or [False] * len(before))]
    found = gradients_of(_by_reference, given, plain, [*wants, *(want for _, want in weights)])
    first = 1 + len(before)
    of_x, of_states = found[0], [None if g is None else g[None] for g in found[1:first]]
    those_given = [
        g for g, name in zip(found[first:], network.names, strict=True) if name is not None
    ]
    return [None if of_x is None else turned(of_x), *of_states[: len(states)], *those_given]


def differentiated_again(grads: Sequence[Tensor | None]) -> bool:
    """Whether the backward pass needs torch operations: for ``create_graph``, for a transform of torch.func or
    forward-mode differentiation, whose tangents the kernels would lose, or for a gradient that is a batch of
    gradients (``is_grads_batched``) or a zero without memory."""
    return (
        torch.is_grad_enabled()
        or transformed()
        or any(is_batched_or_zero(g) for g in grads if g is not None)
    )


def arguments_of(
    cell: Cell, reverse: bool, tensors: Sequence[Tensor | None], masks: Masks
) -> Arguments:
    """The arguments from the result of ``Arguments.tensors``."""
    first = 1 + len(cell.state)
    weights = Weights.from_list(tensors[first:], cell)
    return Arguments(cell, reverse, tensors[0], tuple(tensors[1:first]), weights, masks)  # type: ignore[arg-type]


def gradients_of(
    results: Callable[[Arguments], Sequence[Tensor]],
    given: Arguments,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of ``results``, which are torch operations: they can be differentiated again and work
    under vmap."""
    if func_interpreters() is not None:
        return _by_vjp(results, given, grads, wanted)
    with torch.enable_grad():
        # views, so that a tensor that is given twice has two gradients
        views = [None if t is None else t.view_as(t) for t in given.tensors()]
        outcome = results(arguments_of(given.cell, given.reverse, views, given.masks))
    each = zip(outcome, grads, strict=True)
    # a state behind detach requires no gradient
    pairs = [(o, g) for o, g in each if g is not None and o.requires_grad]
    places = [k for k, want in enumerate(wanted) if want]
    found: list[Tensor | None] = [None] * len(views)
    if pairs:
        some = torch.autograd.grad(
            [o for o, _ in pairs],
            [views[k] for k in places],  # type: ignore[arg-type]
            [g for _, g in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        for k, gradient in zip(places, some, strict=True):
            found[k] = gradient
    return found


def _by_vjp(
    results: Callable[[Arguments], Sequence[Tensor]],
    given: Arguments,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """``gradients_of`` within a transform of torch.func, in which autograd's graph is another transform's."""
    tensors = given.tensors()
    places = [k for k, want in enumerate(wanted) if want]

    def run(*some: Tensor) -> tuple[Tensor, ...]:
        whole = list(tensors)
        for k, tensor in zip(places, some, strict=True):
            whole[k] = tensor
        outcome = results(arguments_of(given.cell, given.reverse, whole, given.masks))
        return tuple(o for o, g in zip(outcome, grads, strict=True) if g is not None)

    seeds = tuple(g for g in grads if g is not None)
    found: list[Tensor | None] = [None] * len(tensors)
    if seeds:
        _, pull = torch.func.vjp(run, *[tensors[k] for k in places])  # type: ignore[misc]
        for k, gradient in zip(places, pull(seeds), strict=True):
            found[k] = gradient
    return found


def _by_reference(given: Arguments) -> list[Tensor]:
    _, _, x, state, weights, masks = given
    outcome = reference.forward(spec_of(given), x, state, weights, masks)
    return [outcome.output, *outcome.state]


def spec_of(given: Arguments, trace: bool = False) -> Spec:
    """The Spec of a call of the reference with these arguments."""
    return Spec(
        cell=given.cell,
        input_size=given.x.shape[2],
        hidden_size=given.hidden_size,
        proj_size=given.proj_size,
        reverse=given.reverse,
        trace=trace,
        dtype=given.x.dtype,
        device=given.x.device,
    )
