"""Keras's masks as lengths: the steps of a batch that are run, and their order.

Keras can mask any step. A masked step keeps the state and repeats the output of the step before it, or
zero before the first step. Here the unmasked steps are moved to the front and run as sequences with
lengths; then the outputs are moved back. A mask of right padding needs no move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import has_torch_function_unary

from gatewise.backends.contract import valid_steps
from gatewise.backends.tracing import recorded_by


class _Reordered(torch.autograd.Function):
    """Rows in another order. The gradient uses the inverse order, which is much faster than torch's
    gradient of indexing, a sum over repeated rows."""

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
    """The steps of a batch that are run.

    Attributes:
        mask: T×B in Keras's order of the steps, true for an unmasked step; None without a mask.
        lengths: B, the numbers of unmasked steps; None without a mask.
        front: T×B, the step that is moved to each place; None where no step moves.
        reverse: whether the steps are run backward.
        backwards: whether Keras's order of the steps is from the last to the first.
    """

    mask: Tensor | None = None
    lengths: Tensor | None = None
    front: Tensor | None = None
    reverse: bool = False
    backwards: bool = False

    def taken(self, x: Tensor) -> Tensor:
        """The part of an input B×T×I that is run, T×B×I."""
        if self.front is None:
            return x.transpose(0, 1)
        batch, steps = x.shape[:2]
        order = (self.front + steps * torch.arange(batch, device=x.device)).flatten()
        # the values of an attribution have rules for torch's own functions only
        if recorded_by() or has_torch_function_unary(x):
            return x.flatten(0, 1).index_select(0, order).view(steps, batch, -1)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.shape[0], device=x.device)
        return _Reordered.apply(x.flatten(0, 1), order, inverse).view(steps, batch, -1)

    def outputs(self, y: Tensor, zero: bool) -> Tensor:
        """The outputs of Keras's steps, from the outputs of the steps that were run, T×B×H. With ``zero``
        the output of a masked step is zero."""
        if self.mask is None or (self.reverse and self.front is None):
            return y.flip(0) if self.reverse else y  # masked steps came first, and are zero
        batch = y.shape[1]
        count = self.mask.long().cumsum(0)
        rows = (count - 1).clamp(min=0) * batch + torch.arange(batch, device=y.device)
        each = y.flatten(0, 1)
        y = each[rows] if has_torch_function_unary(y) else F.embedding(rows, each)
        return torch.where((self.mask if zero else count > 0)[..., None], y, 0)

    @property
    def moved(self) -> bool:
        """Whether unmasked steps were moved to the front, so that they have other places than in the input."""
        return self.front is not None

    def in_time(self, y: Tensor) -> Tensor:
        """The values of the steps of the input, T×B×…, from those of the steps that were run; zero where masked."""
        if self.front is None:
            return y
        in_order = self.outputs(y, zero=True)
        return in_order.flip(0) if self.backwards else in_order

    def last(self, h: Tensor, zero: bool) -> Tensor:
        """The output of Keras's last step; ``h``, B×H, is the state after it."""
        if self.mask is None:
            return h
        assert self.lengths is not None
        counts = self.mask[-1] if zero else self.lengths > 0
        return torch.where(counts[:, None], h, 0)


def steps_of(mask: Tensor | None, backwards: bool) -> Steps:
    """The steps to run for a mask B×T or B×T×1, or for None."""
    if mask is None:
        return Steps(reverse=backwards)
    counts = mask.bool().reshape(mask.shape[:2]).T
    lengths = counts.sum(0)
    steps = counts.shape[0]
    taken = counts.flip(0) if backwards else counts
    if not recorded_by():  # a recorded graph must hold for every mask
        if bool((lengths == steps).all()):
            return Steps(reverse=backwards)
        if torch.equal(counts, valid_steps(steps, lengths)):
            return Steps(taken, lengths, reverse=backwards)
    front = _counted_first(taken, lengths)
    place = steps - 1 - front if backwards else front
    return Steps(taken, lengths, place, backwards=backwards)


def _counted_first(taken: Tensor, lengths: Tensor) -> Tensor:
    """T×B: all steps, with the unmasked ones first; masked and unmasked steps each keep their order."""
    ranks, others = taken.long().cumsum(0), (~taken).long().cumsum(0)
    place = torch.where(taken, ranks, lengths + others) - 1
    step = torch.arange(taken.shape[0], device=taken.device)[:, None].expand_as(place)
    return torch.zeros_like(place).scatter(0, place, step)
