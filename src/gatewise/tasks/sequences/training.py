"""Fits the network that reads sequences: the part held out, the batches and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatewise.cells.language import Cell
from gatewise.memory import check_network
from gatewise.tasks.sequences.arrays import padded
from gatewise.tasks.sequences.network import Reader, Shape
from gatewise.train.fitting import Fitting, History, Recipe, Run, fit

Array = np.ndarray
Loss = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    x: Tensor  # B×T×I
    lengths: Tensor | None  # B; None where all are T
    target: Tensor  # B classes, or B×K numbers
    weight: Tensor  # B
    sample: Tensor  # B, which of the samples given


class Examples(Dataset):
    """Sequences with what is to be learned of them, cut into batches by index.

    Args:
        values, starts: as of :class:`Sequences`, scaled.
        target: N classes, or N×K numbers.
        weight: N.
    """

    def __init__(self, values: Array, starts: Array, target: Array, weight: Array) -> None:
        self.values, self.starts = values, starts
        self.target = torch.from_numpy(target)
        self.weight = torch.from_numpy(weight.astype(np.float32))

    def __getitem__(self, chosen: Array) -> Batch:
        at = torch.from_numpy(chosen)
        x, lengths = padded(self.values, self.starts, chosen)
        return Batch(x, lengths, self.target[at], self.weight[at], at)


class Passes:
    """Index batches of nearly one size, each epoch all of ``chosen`` once in an order of the seed and the
    epoch alone."""

    def __init__(self, chosen: Array, batch: int, seed: int) -> None:
        self.chosen, self.seed = chosen, seed
        self.number = -(-len(chosen) // batch)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Array]:
        draw = np.random.default_rng([self.seed, self.epoch])
        yield from np.array_split(draw.permutation(self.chosen), self.number)


class Reading(Fitting):
    """The network with its task's loss, weighted."""

    def __init__(self, cell: Cell | str, shape: Shape, loss: Loss, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.network = Reader(cell, shape)
        self.loss = loss

    def losses(self, batch: Batch) -> Tensor:
        return self.loss(self.network(batch.x, batch.lengths), batch.target) * batch.weight

    def place(self, batch: Batch, at: int) -> str:
        return f"sample {int(batch.sample[at])}. Try a lower learning_rate, or look at the values there"


def held_out(target: Array, chosen: Array, fraction: float, seed: int) -> Array:
    """Which of the ``chosen`` samples stop the training: drawn at even distances along the sorted
    targets, so that classes and sizes are as frequent among them as among all."""
    if not fraction:
        return chosen[:0]
    shuffled = np.random.default_rng(seed).permutation(chosen)
    along = shuffled[np.argsort(target[shuffled], kind="stable")]
    count = max(1, round(fraction * len(chosen)))
    return along[((np.arange(count) + 0.5) * len(chosen) / count).astype(np.int64)]


def train(
    cell: Cell | str,
    shape: Shape,
    loss: Loss,
    recipe: Recipe,
    examples: Examples,
    parts: tuple[Array, Array],
    progress: bool,
) -> tuple[Reader, History]:
    """Fit a network on the first of the ``parts``, indices of examples; the second, which may be
    empty, stops it.

    Raises:
        TrainingError: the loss is not a number any more.
    """
    check_network(lambda: Reader(cell, shape), f"hidden={shape.hidden}, layers={shape.layers}")
    trained, held = parts
    training = DataLoader(
        examples, batch_size=None, sampler=Passes(trained, recipe.batch, recipe.seed)
    )
    checks = None
    if len(held):
        chunks = np.array_split(held, -(-len(held) // 512))
        checks = DataLoader(examples, batch_size=None, sampler=chunks)
    with torch.random.fork_rng(devices=[]):
        module = Reading(cell, shape, loss, recipe)
        network: Reader = fit(module, training, checks, recipe, Run(progress=progress))
    return network, module.history
