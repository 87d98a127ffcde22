"""Which steps of a batch are run, and in which order: Keras's masks as lengths.

Keras lets any step be masked: the state is kept there and the output of the step before is given
again, zeros before the first. The steps that count are brought to the front, run as sequences of
these lengths, and their outputs put where they belong. A right-padded mask is lengths as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.backends.contract import valid_steps
from gatewise.backends.tracing import recorded_by


class _Reordered(torch.autograd.Function):
    """Rows in another order. Being an order of all rows, it is undone by its inverse, which is far
    quicker than the sum over repeated rows that torch would make of the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        order, inverse = ctx.saved_tensors
        return _Reordered.apply(grads[0], inverse, order), None, None


@dataclass(frozen=True)
class Steps:
    """What is run of a batch.

    Attributes:
        mask: T×B in the order in which Keras takes the steps, true where one counts; None where all
            do.
        lengths: B, how many count; None where all do.
        front: T×B, for each place the step, in time's order, that is brought there; None where they
            are run as they lie.
        reverse: whether what is run is run backwards.
    """

    mask: Tensor | None = None
    lengths: Tensor | None = None
    front: Tensor | None = None
    reverse: bool = False

    def taken(self, x: Tensor) -> Tensor:
        """Of an input B×T×I, what is to be run, T×B×I."""
        if self.front is None:
            return x.transpose(0, 1)
        batch, steps = x.shape[:2]
        order = (self.front + steps * torch.arange(batch, device=x.device)).flatten()
        if recorded_by():
            return x.flatten(0, 1).index_select(0, order).view(steps, batch, -1)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.shape[0], device=x.device)
        return _Reordered.apply(x.flatten(0, 1), order, inverse).view(steps, batch, -1)

    def outputs(self, y: Tensor, zero: bool) -> Tensor:
        """Of the outputs of what was run, T×B×H, those of Keras's steps; where ``zero``, a masked
        step's is zero."""
        if self.mask is None or (self.reverse and self.front is None):
            return y.flip(0) if self.reverse else y  # what was masked came first, and is zero
        batch = y.shape[1]
        count = self.mask.long().cumsum(0)
        rows = (count - 1).clamp(min=0) * batch + torch.arange(batch, device=y.device)
        y = F.embedding(rows, y.flatten(0, 1))
        return torch.where((self.mask if zero else count > 0)[..., None], y, 0)

    def last(self, h: Tensor, zero: bool) -> Tensor:
        """The output of the last of Keras's steps, with ``h`` B×H the state after it."""
        if self.mask is None:
            return h
        assert self.lengths is not None
        counts = self.mask[-1] if zero else self.lengths > 0
        return torch.where(counts[:, None], h, 0)


def steps_of(mask: Tensor | None, backwards: bool) -> Steps:
    """The steps to run, for a mask B×T or B×T×1, or none."""
    if mask is None:
        return Steps(reverse=backwards)
    counts = mask.bool().reshape(mask.shape[:2]).T
    lengths = counts.sum(0)
    steps = counts.shape[0]
    taken = counts.flip(0) if backwards else counts
    if not recorded_by():  # or what holds for the example's mask would be recorded for all
        if bool((lengths == steps).all()):
            return Steps(reverse=backwards)
        if torch.equal(counts, valid_steps(steps, lengths)):
            return Steps(taken, lengths, reverse=backwards)
    front = _counted_first(taken, lengths)
    return Steps(taken, lengths, steps - 1 - front if backwards else front)


def _counted_first(taken: Tensor, lengths: Tensor) -> Tensor:
    """T×B: all steps, those that count, ``lengths`` many, before the others, each kind in its order."""
    ranks, others = taken.long().cumsum(0), (~taken).long().cumsum(0)
    place = torch.where(taken, ranks, lengths + others) - 1
    step = torch.arange(taken.shape[0], device=taken.device)[:, None].expand_as(place)
    return torch.zeros_like(place).scatter(0, place, step)
