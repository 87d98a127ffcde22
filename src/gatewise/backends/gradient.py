"""A run's gradient: an engine's own, and the reference's where a gradient of the gradient is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Spec, Weights
from gatewise.backends.engine import Given, Job, hidden_size


class Run(torch.autograd.Function):
    """A differentiable run. ``how`` is an engine, or has its calls ``taped`` and ``backward``."""

    @staticmethod
    def forward(ctx: Any, how: Any, job: Job, masks: Masks, *tensors: Tensor | None) -> Any:
        *outcome, tape = how.taped(_given(job, tensors, masks))
        ctx.how, ctx.job, ctx.tensors = how, job, len(tensors)
        ctx.save_for_backward(*tensors, tape, *masks[:3], *(masks.zoneout or ()))
        ctx.set_materialize_grads(False)
        return tuple(outcome)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # once: hooks may allow it no second time
        tensors, tape, rest = saved[: ctx.tensors], saved[ctx.tensors], saved[ctx.tensors + 1 :]
        masks = Masks(*rest[:3], tuple(rest[3:]) or None)  # type: ignore[call-arg]
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or _batched(grads):  # a graph of the gradient is asked for, …
            found = _reference_gradients(ctx.job, masks, tensors, grads, wanted)
        else:
            plain = [None if g is None else g.resolve_neg() for g in grads]
            found = ctx.how.backward(_given(ctx.job, tensors, masks), tape, plain, wanted)
        return None, None, None, *found


def _batched(grads: Sequence[Tensor | None]) -> bool:
    """Whether many gradients come at once, as ``is_grads_batched`` has it, or none in memory."""
    keys = (repr(torch._C._dispatch_keys(g)) for g in grads if g is not None)
    return any("Batched" in key or "ZeroTensor" in key for key in keys)


def _given(job: Job, tensors: Sequence[Tensor | None], masks: Masks) -> Given:
    end = 1 + len(job.cell.state)
    return Given(job, tensors[0], tensors[1:end], tensors[end:], masks)  # type: ignore[arg-type]


def _reference_gradients(
    job: Job,
    masks: Masks,
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients through the reference: with a graph of their own, and under vmap."""
    with torch.enable_grad():
        # a view of each, so that a tensor given twice has a gradient for each place
        views = [None if t is None else t.view_as(t) for t in tensors]
        given = _given(job, views, masks)
        per_unit = dict(zip(job.cell.params, given.weights[7:], strict=True))
        weights = Weights(*given.weights[:7], per_unit)  # type: ignore[call-arg,arg-type]
        outcome = reference.forward(_spec(given), given.x, tuple(given.state), weights, masks)
    each = zip((outcome.output, *outcome.state), grads, strict=True)
    # a state that the cell cuts the gradient of rests on nothing
    pairs = [(o, g) for o, g in each if g is not None and o.requires_grad]
    places = [k for k, want in enumerate(wanted) if want]
    found: list[Tensor | None] = [None] * len(tensors)
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


def _spec(given: Given) -> Spec:
    job, x, units = given.job, given.x, hidden_size(given.weights, given.job.cell)
    return Spec(
        *(job.cell, x.shape[2], units, job.proj_size, job.reverse, given.masks.lengths is not None),
        trace=False,
        dtype=x.dtype,
        device=x.device,
    )
