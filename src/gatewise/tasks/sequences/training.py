"""Batches of sequences, and the choice of the samples for validation and test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatewise.data.sequences import padded
from gatewise.data.sources.series import Series
from gatewise.errors import DataError
from gatewise.tasks.kinds import members_in, part_size
from gatewise.train.processes import SharedBatches, own_share

Array = np.ndarray


class Batch(NamedTuple):
    x: Tensor  # B×T×I
    lengths: Tensor | None  # B; None where all are T
    target: Tensor  # B classes, or B×K numbers
    weight: Tensor  # B
    sample: Tensor  # B, the indices of the samples
    noise: Tensor  # I, the standard deviation of the noise that training adds to each input

    def noisy(self) -> Tensor:
        """x with normal noise within each sequence's length."""
        x = self.x + self.noise * torch.randn_like(self.x)
        if self.lengths is None:
            return x
        steps = torch.arange(x.shape[1], device=x.device)
        return x * (steps < self.lengths[:, None])[..., None]


class Examples(Dataset):
    """Sequences with their targets and weights; indexing with an array of indices gives a batch.

    Args:
        values, starts: those of :class:`gatewise.data.sequences.Sequences`, scaled.
        target: N class indices, or N×K numbers.
        weight: N, the weights in the loss.
        noise: I, the standard deviation of the noise that training adds to each input.
    """

    def __init__(
        self, values: Array, starts: Array, target: Array, weight: Array, noise: Array
    ) -> None:
        self.values, self.starts = values, starts
        self.target = torch.from_numpy(target)
        self.weight = torch.from_numpy(weight.astype(np.float32))
        self.noise = torch.from_numpy(noise.astype(np.float32))

    def __getitem__(self, chosen: Array) -> Batch:
        at = torch.from_numpy(chosen)
        x, lengths = padded(self.values, self.starts, chosen)
        return Batch(x, lengths, self.target[at], self.weight[at], at, self.noise)


class ShuffledBatches:
    """Batches of indices of nearly equal size, for training.

    An epoch has each of ``chosen`` once, in an order that depends only on the seed and the epoch. Each process
    of a training run takes its share of every batch, at least one member."""

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
        yield from map(own_share, np.array_split(draw.permutation(self.chosen), self.number))


def loaders(
    examples: Examples, trained: Array, held: Array, batch: int, seed: int
) -> tuple[DataLoader, DataLoader | None]:
    """The batches for training, and those for validation (None without validation samples)."""
    training = DataLoader(examples, batch_size=None, sampler=ShuffledBatches(trained, batch, seed))
    if not len(held):
        return training, None
    batches = SharedBatches(np.array_split(held, -(-len(held) // 512)))
    return training, DataLoader(examples, batch_size=None, sampler=batches)


def drawn(target: Array, chosen: Array, size: float | int, seed: int) -> Array:
    """A random subset of the ``chosen`` samples: a share of them, or a number.

    It is stratified: drawn at even distances along the sorted targets, so that each class, or range of numbers,
    is as frequent in the subset as in all samples."""
    if not size:
        return chosen[:0]
    shuffled = np.random.default_rng(seed).permutation(chosen)
    along = shuffled[np.argsort(target[shuffled], kind="stable")]
    count = members_in(size, len(chosen))
    return along[((np.arange(count) + 0.5) * len(chosen) / count).astype(np.int64)]


def held_for_validation(target: Array, weight: Array, size: object, seed: int) -> Array:
    """The sorted indices of the samples for validation, drawn from those with a positive weight.

    Raises:
        DataError: no sample is left for training.
    """
    chosen = np.flatnonzero(weight > 0)
    order = target if target.ndim == 1 else target[:, 0]
    held = drawn(order, chosen, part_size("validation", size), seed)
    if len(held) == len(chosen):
        raise DataError(
            f"n_samples = {len(chosen)} with validation={size} leaves no sample for training: give more "
            f"samples, a smaller validation=, or validation=0"
        )
    return np.sort(held)


def without_whole_classes(held: Array, target: Array, weight: Array) -> Array:
    """The held-out samples without those of classes that the training part would lack."""
    left = np.setdiff1d(np.flatnonzero(weight > 0), held)
    return held[np.isin(target[held], target[left])]


def held_for_test(
    target: Array, size: float | int, seed: int, members: str, of_classes: bool
) -> Array:
    """The sorted indices of the members of a table for the test.

    Args:
        target: N numbers, along which the drawing is stratified.
        members: what they are, for the message.
        of_classes: whether the numbers are classes. Each class then keeps a member for training: a model cannot
            be scored on a class that it has never seen.

    Raises:
        DataError: fewer than two members are left for training, or no class has one to spare.
    """
    count = len(target)
    held = drawn(target, np.arange(count), size, seed)
    if len(held) >= count - 1:
        raise DataError(
            f"test={size} of {count} {members} leaves {count - len(held)} for training, but two are needed: give "
            f"more {members}, or a smaller test="
        )
    if of_classes and len(held):
        held = without_whole_classes(held, target, np.ones(count))
        if not len(held):
            raise DataError(
                f"test={size} of {count} {members} would hold out whole classes, because these have so few "
                f"{members}: give more {members}, or test=0"
            )
    return np.sort(held)


def without_test(found: Series, size: float | int, seed: int, of_classes: bool) -> Series:
    """The series of a table for training and validation, without those of the test part.

    Raises:
        DataError: fewer than two series are left.
    """
    if not size:
        return found
    order = np.unique(found.known_target, axis=0, return_inverse=True)[1].reshape(-1)
    held = held_for_test(order, size, seed, "series", of_classes)
    return found.chosen(np.setdiff1d(np.arange(len(found)), held))
