"""Pairs of encoded texts in batches, and the parts of a parallel text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gatewise.data.buckets import padded_ids
from gatewise.data.spool import flat
from gatewise.data.tokens import BEGIN, END, PAD
from gatewise.errors import DataError, caution
from gatewise.tasks.kinds import members_in

Array = np.ndarray

LONGEST = 500  # symbols of a text that is trained on
NEVER_WRITTEN = (PAD, BEGIN)


class Batch(NamedTuple):
    """B pairs: source symbols B×T and their lengths, target symbols B×(S+2) with beginning and end, the pairs'
    indices."""

    source: Tensor
    lengths: Tensor
    target: Tensor
    pair: Tensor


class Examples(Dataset):
    """Pairs of encoded texts; indexing with an array of indices gives a batch."""

    def __init__(self, source: Iterable[Array], target: Iterable[Array]) -> None:
        self.source = flat(np.array([*each, END]) for each in source)
        self.target = flat(np.array([BEGIN, *each, END]) for each in target)
        self.lengths = np.diff(self.target[1]) * 1000 + np.diff(self.source[1]).clip(max=999)

    def short(self) -> Array:
        """The indices of the pairs for training: those without a text of more than :data:`LONGEST` symbols, which
        would need much memory. A warning has the number of the others."""
        symbols = np.diff(self.source[1]) - 1, np.diff(self.target[1]) - 2
        long = np.maximum(*symbols) > LONGEST
        if long.any():
            caution(
                f"{int(long.sum()):,} of {len(long):,} pairs have a text of more than {LONGEST} symbols and are "
                f"not trained on: split long texts into sentences"
            )
        if long.all():
            raise DataError(f"all pairs have a text of more than {LONGEST} symbols")
        return np.flatnonzero(~long)

    def __getitem__(self, chosen: Array) -> Batch:
        source, lengths = padded_ids(*self.source, chosen, PAD)
        target, _ = padded_ids(*self.target, chosen, PAD)
        return Batch(source, lengths, target, torch.from_numpy(chosen))


def split(order: Array, part: Any, total: int) -> tuple[Array, Array]:
    """The indices without those of a part of so many pairs, and those of the part."""
    size = members_in(part, total)
    return order[size:], order[:size]
