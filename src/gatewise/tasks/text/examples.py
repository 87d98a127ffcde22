"""Texts as sequences of symbols, and their batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatewise.data.buckets import BucketBatches, padded_ids, sorted_batches
from gatewise.data.spool import flat
from gatewise.data.tokens import BEGIN, END, UNKNOWN, Tokenizer
from gatewise.report.words import percent, with_unit
from gatewise.train.processes import SharedBatches, own_share

Array = np.ndarray

VALIDATION_BATCH = 256
_MANY = 0.2  # unknown words above this share are many


@dataclass(frozen=True)
class Encoded:
    """N texts as symbols, each with a beginning and an end.

    Attributes:
        values: ΣT symbols.
        starts: N+1, where each text starts.
        cut: the number of texts that were longer than the longest that is read.
    """

    values: Array
    starts: Array
    cut: int = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Iterable[str], longest: int) -> Encoded:
        """The texts; of a longer one the first ``longest`` symbols."""
        cut = 0

        def framed() -> Iterator[Array]:
            nonlocal cut
            for ids in tokenizer.encoded(texts):
                cut += len(ids) > longest
                yield _framed(ids[:longest])

        values, starts = flat(framed())
        return cls(values, starts, cut)

    @classmethod
    def parts_of(cls, tokenizer: Tokenizer, texts: Iterable[str], longest: int) -> Encoded:
        """The texts; a longer one as several of ``longest`` symbols."""
        parts = (
            _framed(ids[first : first + longest])
            for ids in tokenizer.encoded(texts)
            for first in range(0, len(ids), longest)
        )
        return cls(*flat(parts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Array:
        """N lengths, with the beginning and the end."""
        found: Array = np.diff(self.starts)
        return found

    @property
    def empty(self) -> int:
        """The number of texts without a symbol of their own."""
        return int((self.lengths == 2).sum())

    @property
    def unknown_share(self) -> float:
        """The share of unknown symbols among the texts' own."""
        own = len(self.values) - 2 * len(self)
        return float((self.values == UNKNOWN).sum()) / max(own, 1)

    @property
    def unknown_shares(self) -> Array:
        """N: the share of unknown symbols in each text; 0 for an empty one."""
        unknown = np.add.reduceat(self.values == UNKNOWN, self.starts[:-1])
        found: Array = unknown / np.maximum(self.lengths - 2, 1)
        return found

    def chosen(self, which: Array) -> Encoded:
        """The texts with the indices ``which``."""
        return Encoded(*flat(self.values[self.starts[k] : self.starts[k + 1]] for k in which))

    def notes(self, unit: str, longest: int) -> tuple[str, ...]:
        """Sentences on unknown symbols, empty texts and texts that were cut."""
        share = f"{percent(self.unknown_share)} of the {unit}s are unknown to the model"
        if self.unknown_share > _MANY and unit == "word":
            share += "; a model of subwords or characters (unit) reads their parts"
        return (share, *self.cautions(unit, longest))

    def cautions(self, unit: str, longest: int) -> tuple[str, ...]:
        """Sentences on empty texts and texts that were cut."""
        found = []
        if self.empty:
            found.append(f"{with_unit(self.empty, 'text')} without any {unit}")
        if self.cut:
            found.append(
                f"of {with_unit(self.cut, 'text')} only the first {longest} {unit}s were read"
            )
        return tuple(found)

    def padded(self, chosen: Array) -> tuple[Tensor, Tensor]:
        """B×T symbols of the chosen texts, and their B lengths."""
        return padded_ids(self.values, self.starts, chosen)


def _framed(ids: Array) -> Array:
    return np.concatenate([[BEGIN], ids, [END]])


class TextBatch(NamedTuple):
    symbols: Tensor  # B×T
    lengths: Tensor  # B
    target: Tensor  # B classes
    weight: Tensor  # B
    sample: Tensor  # B, the indices of the texts


class TextExamples(Dataset):
    """Texts with their classes and weights; indexing with an array of indices gives a batch."""

    def __init__(self, encoded: Encoded, target: Array, weight: Array) -> None:
        self.encoded = encoded
        self.target = torch.from_numpy(target.astype(np.int64))
        self.weight = torch.from_numpy(weight.astype(np.float32))

    def __getitem__(self, chosen: Array) -> TextBatch:
        at = torch.from_numpy(chosen)
        return TextBatch(*self.encoded.padded(chosen), self.target[at], self.weight[at], at)


def loaders(
    examples: Dataset, lengths: Array, trained: Array, held: Array, batch: int, seed: int
) -> tuple[DataLoader, DataLoader | None]:
    """The batches for training, and those for validation (None without validation texts)."""
    buckets = BucketBatches(lengths, trained, batch, seed, own_share)
    training = DataLoader(examples, batch_size=None, sampler=buckets)
    if not len(held):
        return training, None
    parts = SharedBatches(sorted_batches(lengths, held, VALIDATION_BATCH))
    return training, DataLoader(examples, batch_size=None, sampler=parts)
