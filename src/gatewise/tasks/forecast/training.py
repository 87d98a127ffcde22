"""What of the training is the forecaster's: loss and batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gatewise.data.windows import Batch, Windows
from gatewise.tasks.forecast.network import PatchLSTM, Shape
from gatewise.train.fitting import Fitting, History, Recipe, Run, fit


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
        rank, world = _process()
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


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Training(Fitting):
    """The forecaster's network with the pinball loss."""

    def __init__(self, shape: Shape, levels: list[float], recipe: Recipe, names: list[str]) -> None:
        super().__init__(recipe)
        self.network = PatchLSTM(shape)
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(levels))
        self.names = names

    def losses(self, batch: Batch) -> Tensor:
        return pinball(self.network(batch), batch, self.levels)

    def place(self, batch: Batch, at: int) -> str:
        series = self.names[int(batch.series[at])] or "the series"
        return (
            f"a window of series '{series}' that begins its horizon at row "
            f"{int(batch.origin[at])}; the last good checkpoint is kept. Try a lower learning rate "
            f"(--lr), or look at the values there"
        )


def train(
    shape: Shape,
    levels: list[float],
    recipe: Recipe,
    run: Run,
    windows: Windows,
    validation: Windows,
) -> tuple[PatchLSTM, History]:
    """Fit a network on ``windows``; the weights kept are those with the least loss on ``validation``.

    Raises:
        TrainingError: the loss is not a number any more.
    """
    per_round = -(-recipe.steps // recipe.rounds)
    module = Training(shape, levels, recipe, windows.panel.names)
    training, checks = (
        DataLoader(each, batch_size=None, sampler=sampler)
        for each, sampler in (
            (windows, Batches(len(windows), recipe.batch, per_round, recipe.seed)),
            (validation, Batches(len(validation), 2048, None, recipe.seed)),
        )
    )
    return fit(module, training, checks, recipe, run), module.history
