"""The core's calls as torch operations: with a gradient, and whole to torch.compile and export.

In eager mode an autograd.Function calls the core directly. While torch traces, the operator
``gatewise::run`` stands in the graph as one node, whatever the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Spec, Weights
from gatewise.backends.native import calls
from gatewise.backends.native.calls import Job
from gatewise.cells.catalogue import CELLS
from gatewise.cells.language import Cell

# The cells that graphs may hold, by the text that stands for them there.
_CELLS: dict[str, Cell] = dict(CELLS)


def run(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output and the final states, differentiable."""
    flat = calls.flat(weights, spec.cell)
    if torch.compiler.is_compiling():
        output, *final = _run_traced(spec, x, state, flat, masks)
    else:
        tensors = [x, *state, *flat]
        job = Job(spec.cell, spec.proj_size, spec.reverse, torch.get_num_threads())
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            output, *final = _Run.apply(spec, job, masks, *tensors)
        else:
            output, *final = calls.forward(job, x, state, flat, masks, None)
    return output, tuple(final)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: Spec, job: Job, masks: Masks, *tensors: Tensor | None) -> Any:
        x, state, weights = _parts(spec.cell, tensors)
        tape = calls.tape_like(job, x, weights, masks.recurrent is not None)
        ctx.spec, ctx.job, ctx.masks, ctx.tape = spec, job, masks, tape
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(calls.forward(job, x, state, weights, masks, tape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, state, weights = _parts(ctx.spec.cell, ctx.saved_tensors)
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            found = _reference_gradients(ctx.spec, ctx.masks, ctx.saved_tensors, grads, wanted)
        else:
            found = calls.backward(
                ctx.job, x, state, weights, ctx.masks, ctx.tape, grads, wanted
            )
        return None, None, None, *found


def _parts(
    cell: Cell, tensors: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    end = 1 + len(cell.state)
    return tensors[0], list(tensors[1:end]), list(tensors[end:])  # type: ignore[return-value,arg-type]


def _reference_gradients(
    spec: Spec,
    masks: Masks,
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients with a graph of their own: second derivatives go through the reference."""
    x, state, flat = _parts(spec.cell, tensors)
    per_unit = dict(zip(spec.cell.params, flat[7:], strict=True))
    weights = Weights(*flat[:7], per_unit)  # type: ignore[arg-type]
    outcome = reference.forward(spec, x, tuple(state), weights, masks)
    pairs = [(o, g) for o, g in zip((outcome.output, *outcome.state), grads, strict=True) if g is not None]
    places = [k for k, want in enumerate(wanted) if want]
    found: list[Tensor | None] = [None] * len(tensors)
    if pairs:
        some = torch.autograd.grad(
            [o for o, _ in pairs],
            [tensors[k] for k in places],  # type: ignore[misc]
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
        for k, gradient in zip(places, some, strict=True):
            found[k] = gradient
    return found


# What torch traces ---------------------------------------------------------------------------------


def _run_traced(
    spec: Spec, x: Tensor, state: Sequence[Tensor], weights: list[Tensor | None], masks: Masks
) -> list[Tensor]:
    zoneout = list(masks.zoneout or ())
    *outcome, _ = torch.ops.gatewise.run(
        *(x, list(state), weights, masks.lengths, masks.reset, masks.recurrent, zoneout),
        *(_key(spec.cell), spec.proj_size, spec.reverse),
    )
    return outcome


def _key(cell: Cell) -> str:
    """A text that stands for ``cell`` in a graph: the name of a built-in one, else its equations."""
    key = cell.name if CELLS.get(cell.name) == cell else cell.signature
    _CELLS.setdefault(key, cell)
    return key


def _job(key: str, proj_size: int, reverse: bool) -> Job:
    return Job(_CELLS[key], proj_size, reverse, torch.get_num_threads())


def _masks(
    lengths: Tensor | None, reset: Tensor | None, recurrent: Tensor | None, zoneout: list[Tensor]
) -> Masks:
    return Masks(lengths, reset, recurrent, tuple(zoneout) or None)


@torch.library.custom_op("gatewise::run", mutates_args=())
def _run_op(
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor | None],
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent: Tensor | None,
    zoneout: list[Tensor],
    cell: str,
    proj_size: int,
    reverse: bool,
) -> list[Tensor]:
    """The output, the final states and the tape."""
    job = _job(cell, proj_size, reverse)
    masks = _masks(lengths, reset, recurrent, zoneout)
    tape = calls.tape_like(job, x, weights, recurrent is not None)
    return [*calls.forward(job, x, state, weights, masks, tape), tape]


@_run_op.register_fake
def _(
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor | None],
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent: Tensor | None,
    zoneout: list[Tensor],
    cell: str,
    proj_size: int,
    reverse: bool,
) -> list[Tensor]:
    job = _job(cell, proj_size, reverse)
    output = x.new_empty(x.shape[0], x.shape[1], state[0].shape[1])
    final = [s.new_empty(s.shape) for s in state]
    return [output, *final, calls.tape_like(job, x, weights, recurrent is not None)]


@torch.library.custom_op("gatewise::run_back", mutates_args=())
def _back_op(
    grads: list[Tensor],
    tape: Tensor,
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor | None],
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent: Tensor | None,
    zoneout: list[Tensor],
    cell: str,
    proj_size: int,
    reverse: bool,
) -> list[Tensor]:
    """The gradients of x, the states and those weights that there are."""
    job = _job(cell, proj_size, reverse)
    masks = _masks(lengths, reset, recurrent, zoneout)
    wanted = [t is not None for t in (x, *state, *weights)]
    found = calls.backward(job, x, state, weights, masks, tape, grads, wanted)
    return [g for g in found if g is not None]


@_back_op.register_fake
def _(
    grads: list[Tensor],
    tape: Tensor,
    x: Tensor,
    state: list[Tensor],
    weights: list[Tensor | None],
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent: Tensor | None,
    zoneout: list[Tensor],
    cell: str,
    proj_size: int,
    reverse: bool,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (x, *state, *weights) if t is not None]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, state, weights, lengths, reset, recurrent, zoneout, *rest = inputs
    ctx.rest, ctx.states, ctx.zoneouts = rest, len(state), len(zoneout)
    ctx.there = [w is not None for w in weights]
    ctx.masks = [m is not None for m in (lengths, reset, recurrent)]
    optional = [t for t in (*weights, lengths, reset, recurrent) if t is not None]
    ctx.save_for_backward(output[-1], x, *state, *optional, *zoneout)


def _gradient(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    saved = iter(ctx.saved_tensors)
    tape, x = next(saved), next(saved)
    state = [next(saved) for _ in range(ctx.states)]
    weights = [next(saved) if there else None for there in ctx.there]
    lengths, reset, recurrent = (next(saved) if there else None for there in ctx.masks)
    zoneout = list(saved)
    given = (x, state, weights, lengths, reset, recurrent, zoneout, *ctx.rest)
    found = iter(torch.ops.gatewise.run_back(grads[:-1], tape, *given))
    grad_x, grad_state = next(found), [next(found) for _ in state]
    grad_weights = [next(found) if there else None for there in ctx.there]
    nothing: tuple[Any, ...] = (None, None, None, [None] * ctx.zoneouts, None, None, None)
    return grad_x, grad_state, grad_weights, *nothing


_run_op.register_autograd(_gradient, setup_context=_keep_for_backward)
