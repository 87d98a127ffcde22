"""The forecaster's loss and its batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gatewise.data.windows import Batch
from gatewise.train.processes import rank_and_count


def pinball(forecast: Tensor, batch: Batch, levels: Tensor) -> Tensor:
    """B: absolute error of the point plus twice the mean pinball loss of the quantiles, each window's
    mean over its observed steps (at least one), in units of the window's own deviation."""
    each = (batch.future - forecast[..., 0]).abs()
    if len(levels):
        gap = batch.future[..., None] - forecast[..., 1:]
        each = each + 2 * torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)
    observed = batch.future_observed
    return (each * observed).sum(1) / observed.sum(1) * batch.weight


# So many windows tell one round from another; a thousand long series have millions.
_CHECKED = 20_480


def spread(count: int) -> np.ndarray:
    """Indices of the windows that are looked at in validation: all, or so many evenly spread over them."""
    return np.unique(np.linspace(0, count - 1, min(count, _CHECKED)).round().astype(np.int64))


class Batches:
    """Index batches, drawn anew each epoch from the seed and the epoch alone; each of ``world`` processes
    takes its share of the same global batch."""

    def __init__(self, count: int, batch: int, number: int | None, seed: int) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.number = number
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number or -(-len(spread(self.count)) // self.batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        rank, world = rank_and_count()
        if self.number is None:
            chosen = spread(self.count)
            for start in range(0, len(chosen), self.batch):
                yield chosen[start : start + self.batch][rank::world]
            return
        draw = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.number):
            # with replacement between batches, without within one where the windows are few
            dense = self.count < 4 * self.batch
            chosen = (
                draw.permutation(self.count)[: self.batch]
                if dense
                else draw.integers(self.count, size=self.batch)
            )
            yield chosen[rank::world]
