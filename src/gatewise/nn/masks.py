"""What a run takes beside its input: lengths, cuts, and what is drawn for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from gatewise.backends.contract import Masks, Spec
from gatewise.nn.sequences import reset_reversed

if TYPE_CHECKING:
    from gatewise.nn.recurrent import Recurrent


def masks_of(
    layer: Recurrent, x: Tensor, lengths: Tensor | None, reset: Tensor | None, spec: Spec
) -> Masks:
    """The masks of one run over ``x``, T×B×…; what is random in it is drawn here."""
    if reset is not None and spec.reverse:
        reset = reset_reversed(reset, lengths)
    recurrent = zoneout = None
    if spec.recurrent_dropout:
        ones = x.new_ones(x.shape[1], sum(layer._structure.widths))
        recurrent = F.dropout(ones, layer.recurrent_dropout)
    if spec.zoneout:
        sizes = zip(layer.zoneout, layer._state_sizes(), strict=True)
        zoneout = tuple(_kept_share(x, p, size, layer.training) for p, size in sizes)
    return Masks(lengths, reset, recurrent, zoneout)


def _kept_share(x: Tensor, p: float, size: int, training: bool) -> Tensor:
    """How much of a state's old value zoneout keeps: a draw in training, else its mean."""
    if training and p:
        return x.new_empty(*x.shape[:2], size).bernoulli_(p)
    return x.new_full((1, 1, size), p)
