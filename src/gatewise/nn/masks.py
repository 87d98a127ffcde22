"""The masks of a call: lengths, resets, and the random masks of recurrent dropout and zoneout."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from gatewise.backends.contract import Masks
from gatewise.nn.config import LayerConfig
from gatewise.nn.sequences import reset_reversed


def mask_kinds(
    reset: object, recurrent_dropout: float, zoneout: Sequence[float]
) -> tuple[str, ...]:
    """The names of the fields of :class:`Masks`, other than ``lengths``, that a call has: ``Spec.masks``.

    Args:
        reset: None for no resets.
        recurrent_dropout: the probability in this call; 0 outside of training.
    """
    kinds = () if reset is None else ("reset",)
    if recurrent_dropout:
        kinds = (*kinds, "recurrent")
    return (*kinds, "zoneout") if any(zoneout) else kinds


def make_masks(
    kinds: tuple[str, ...],
    config: LayerConfig,
    x: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    *,
    reverse: bool,
    recurrent_dropout: float,
    zoneout: Sequence[float],
    training: bool,
) -> Masks:
    """The masks of one layer in one direction over ``x``, T×B×…. Random masks are drawn here."""
    if reset is not None and reverse:
        reset = reset_reversed(reset, lengths)
    recurrent = shares = None
    if "recurrent" in kinds:
        ones = x.new_ones(x.shape[1], sum(config.structure.widths))
        recurrent = F.dropout(ones, recurrent_dropout)
    if "zoneout" in kinds:
        sizes = zip(zoneout, config.state_sizes, strict=True)
        shares = tuple(_kept_share(x, p, size, training) for p, size in sizes)
    return Masks(lengths, reset, recurrent, shares)


def _kept_share(x: Tensor, p: float, size: int, training: bool) -> Tensor:
    """The share of a state's old value that zoneout keeps: a random mask in training, otherwise ``p``."""
    if training and p:
        return x.new_empty(*x.shape[:2], size).bernoulli_(p)
    return x.new_full((1, 1, size), p)
