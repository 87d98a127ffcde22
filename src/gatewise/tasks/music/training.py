"""Batches of tunes: windows of consecutive steps, whose network state is carried from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from gatewise.data.music.steps import Encoding
from gatewise.data.music.tune import NOTES
from gatewise.models.chords import UNKNOWN
from gatewise.processes import rank_and_count
from gatewise.tasks.music.encoding import EncodedTune

Array = np.ndarray

MOST_SEMITONES = 5  # that a tune is transposed by at random


class Window(NamedTuple):
    """The tunes of a batch, by index, with the semitones that each is transposed by, and the first step."""

    tunes: Array
    semitones: Array
    start: int


class Batch(NamedTuple):
    before: Tensor  # B×T×K, the step before each step
    steps: Tensor  # B×T×K
    places: Tensor  # B×T×P, where each step stands in its bar
    lengths: Tensor  # B, not increasing
    fresh: bool  # whether the network's state begins at zero
    tunes: Tensor  # B, the indices of the tunes
    start: int


class Windows(Dataset):
    """Encoded tunes; indexing with a :class:`Window` gives a batch.

    Args:
        length: the greatest number of steps in a window.
        share: returns those of a batch's tunes that this process takes, in a distributed run. There may be none.
    """

    def __init__(
        self,
        tunes: Sequence[EncodedTune],
        encoding: Encoding,
        length: int,
        share: Callable[[Array], Array] = lambda tunes: tunes,
    ) -> None:
        self.tunes, self.encoding, self.length, self.share = tunes, encoding, length, share

    def __getitem__(self, window: Window) -> Batch:
        order = np.argsort([-len(self.tunes[k].steps) for k in window.tunes], kind="stable")
        start, own = (
            window.start,
            [(window.tunes[k], window.semitones[k]) for k in self.share(order)],
        )
        left = [(k, s) for k, s in own if len(self.tunes[k].steps) > start]
        # a process whose tunes have ended repeats the longest one, since all processes make the same updates
        chosen = left or [(window.tunes[order[0]], window.semitones[order[0]])]
        cut = [self._cut(k, s, start) for k, s in chosen]
        before, steps, places = (
            pad_sequence(list(part), batch_first=True) for part in zip(*cut, strict=True)
        )
        return Batch(
            before,
            steps,
            places,
            torch.tensor([len(each) for each, *_ in cut]),
            start == 0 or not left,
            torch.tensor([k for k, _ in chosen]),
            start,
        )

    def _cut(self, tune: int, semitones: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """The step before each step of a tune within a window, these steps, and their places."""
        whole, places = self.tunes[tune]
        found = whole[max(0, start - 1) : start + self.length]
        if semitones:
            found = self.encoding.transposed(found, int(semitones))
        if start == 0:
            found = np.concatenate([np.full_like(found[:1], UNKNOWN), found])
        steps = torch.from_numpy(np.ascontiguousarray(found))
        return steps[:-1], steps[1:], torch.from_numpy(places[start : start + self.length])


class TuneBatches:
    """Windows over batches of tunes. In training the tunes are shuffled, and transposed at random.

    The order depends only on the seed and the epoch. The number of windows is that of every epoch, because a
    tune changes places only with tunes that need as many windows."""

    def __init__(
        self, windows: Windows, chosen: Array, batch: int, seed: int | None, transposed: bool
    ) -> None:
        self.chosen, self.batch, self.seed, self.transposed = chosen, batch, seed, transposed
        lengths = np.array([len(windows.tunes[k].steps) for k in chosen])
        self.needed = -(-lengths // windows.length)
        self.length, self.epoch = windows.length, 0
        self.room = np.array([_room(windows, k) for k in chosen])
        self.by_need = np.argsort(-self.needed, kind="stable")

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def _groups(self, order: Array) -> list[Array]:
        return np.array_split(order, -(-len(order) // self.batch))

    def __len__(self) -> int:
        return sum(int(self.needed[group].max()) for group in self._groups(self.by_need))

    def __iter__(self) -> Iterator[Window]:
        if self.seed is None:
            yield from self._windows(self._groups(self.by_need), np.zeros(len(self.chosen), int))
            return
        draw = np.random.default_rng([self.seed, self.epoch])
        shuffled = draw.permutation(len(self.chosen))
        order = shuffled[np.argsort(-self.needed[shuffled], kind="stable")]
        groups = self._groups(order)
        semitones = np.zeros(len(self.chosen), int)
        if self.transposed:
            semitones = draw.integers(-self.room[:, 0], self.room[:, 1] + 1)
        yield from self._windows([groups[k] for k in draw.permutation(len(groups))], semitones)

    def _windows(self, groups: list[Array], semitones: Array) -> Iterator[Window]:
        for group in groups:
            for k in range(int(self.needed[group].max())):
                yield Window(self.chosen[group], semitones[group], k * self.length)


def _room(windows: Windows, tune: int) -> tuple[int, int]:
    """The semitones down and up that a tune may be transposed by."""
    lowest, highest = windows.encoding.pitches(windows.tunes[tune].steps)
    return min(MOST_SEMITONES, lowest), min(MOST_SEMITONES, NOTES - 1 - highest)


def own_tunes(tunes: Array) -> Array:
    """Those of a batch's tunes that this process of a training run takes."""
    rank, count = rank_and_count()
    return tunes[rank::count]


def loader(windows: Windows, batches: TuneBatches) -> DataLoader:
    """The batches of windows."""
    return DataLoader(windows, batch_size=None, sampler=batches)


def continued(state: Any, batch: int) -> Any:
    """The state of the first ``batch`` sequences; the tunes of the others have ended."""
    return tuple(each[:, :batch].contiguous() for each in state)
