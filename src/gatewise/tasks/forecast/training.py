"""The forecaster's loss and its batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gatewise.data.windows import Batch
from gatewise.processes import rank_and_count


def pinball(forecast: Tensor, batch: Batch, levels: Tensor) -> Tensor:
    """B losses: the absolute error of the point forecast plus twice the mean pinball loss of the quantiles.

    The loss of a window is the mean over its observed steps (at least one), in units of the window's standard
    deviation."""
    each = (batch.future - forecast[..., 0]).abs()
    if len(levels):
        gap = batch.future[..., None] - forecast[..., 1:]
        each = each + 2 * torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)
    observed = batch.future_observed
    return (each * observed).sum(1) / observed.sum(1) * batch.weight


# The largest number of windows for validation. More would not make the choice of the best round more reliable.
_MOST_VALIDATED = 20_480


def evenly_spread(count: int) -> np.ndarray:
    """The indices of the windows for validation: all windows, or a limited number spread evenly over them."""
    return np.unique(
        np.linspace(0, count - 1, min(count, _MOST_VALIDATED)).round().astype(np.int64)
    )


class Batches:
    """Batches of window indices.

    The batches of an epoch depend only on the seed and the epoch. Each process takes its share of every
    batch.

    Args:
        count: the number of windows.
        batch: the number of windows of a batch.
        number: the number of random batches; None for validation, where the order is fixed.
    """

    def __init__(self, count: int, batch: int, number: int | None, seed: int) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.number = number
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number or -(-len(evenly_spread(self.count)) // self.batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        rank, world = rank_and_count()
        if self.number is None:
            chosen = evenly_spread(self.count)
            for start in range(0, len(chosen), self.batch):
                yield chosen[start : start + self.batch][rank::world]
            return
        draw = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.number):
            # A batch has no window twice if windows are few; different batches may share windows.
            dense = self.count < 4 * self.batch
            chosen = (
                draw.permutation(self.count)[: self.batch]
                if dense
                else draw.integers(self.count, size=self.batch)
            )
            yield chosen[rank::world]
