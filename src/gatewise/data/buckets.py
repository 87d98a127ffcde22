"""Batches of sequences of similar length, which need little padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

POOL = 50  # batches that are sorted together


class BucketBatches:
    """Batches of indices for training, of sequences of similar length.

    An epoch has each of ``chosen`` once. They are shuffled and cut into pools of :data:`POOL` batches. The
    sequences of a pool are sorted by length and cut into batches, and all batches are shuffled. The order
    depends only on the seed and the epoch.

    Args:
        lengths: N, the lengths of all sequences; of pairs the lengths by which they are sorted.
        chosen: the indices of the sequences to train on.
        batch: the greatest number of sequences in a batch.
        share: returns the part of a batch that this process takes, in a distributed run.
    """

    def __init__(
        self,
        lengths: Array,
        chosen: Array,
        batch: int,
        seed: int,
        share: Callable[[Array], Array] = lambda batch: batch,
    ) -> None:
        self.lengths, self.chosen, self.batch, self.seed = lengths, chosen, batch, seed
        self.share = share
        self.epoch = 0
        self.number = len(_cut(chosen, batch))

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Array]:
        draw = np.random.default_rng([self.seed, self.epoch])
        batches = _cut(draw.permutation(self.chosen), self.batch)
        sorted_: list[Array] = []
        for first in range(0, len(batches), POOL):
            together = batches[first : first + POOL]
            pool = np.concatenate(together)
            order = np.argsort(self.lengths[pool], kind="stable")
            sorted_ += np.split(pool[order], np.cumsum([len(each) for each in together])[:-1])
        for k in draw.permutation(len(sorted_)):
            yield self.share(sorted_[k])


def sorted_batches(lengths: Array, chosen: Array, batch: int) -> list[Array]:
    """Batches of the indices ``chosen``, sorted by length, for validation and prediction."""
    return _cut(chosen[np.argsort(lengths[chosen], kind="stable")], batch)


def padded_ids(
    values: Array, starts: Array, chosen: Array, padding: int = 0
) -> tuple[Tensor, Tensor]:
    """B×T: the chosen sequences of symbols, padded at the end to the longest, and their B lengths.

    Args:
        values, starts: as :func:`gatewise.data.spool.flat` returns them.
    """
    begin, lengths = starts[chosen], starts[chosen + 1] - starts[chosen]
    steps = np.arange(lengths.max(initial=0))
    inside = steps < lengths[:, None]
    found = np.full(inside.shape, padding, dtype=np.int64)
    found[inside] = values[(begin[:, None] + steps)[inside]]
    return torch.from_numpy(found), torch.from_numpy(lengths)


def _cut(indices: Array, batch: int) -> list[Array]:
    """The indices in batches of nearly equal size, at most ``batch``."""
    return np.array_split(indices, max(1, -(-len(indices) // batch))) if len(indices) else []
