"""Sequences of equal or unequal length as one array, its scale, and padded batches of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.data.moments import rounding
from gatewise.errors import DataError

Array = np.ndarray
Names = tuple[str, ...]


@dataclass(frozen=True)
class Sequences:
    """N sequences of I features, one after the other.

    Attributes:
        values: ΣT×I.
        starts: N + 1 rows of ``values``: where each sequence begins, and where the last one ends.
        names: of the features, where the sequences came as frames.
    """

    values: Array
    starts: Array
    names: Names | None = None

    @classmethod
    def stacked(cls, array: Array) -> Sequences:
        """Of an array N×T×I.

        Raises:
            DataError: there are no steps.
        """
        count, steps, inputs = array.shape
        if not steps:
            raise DataError(f"X has the shape {array.shape}: sequences need at least one step")
        return cls(array.reshape(-1, inputs), np.arange(count + 1) * steps)

    @classmethod
    def listed(cls, parts: Sequence[Array]) -> Sequences:
        """Of N arrays T×I, or T where I is 1.

        Raises:
            DataError: an array is no sequence, or not as wide as the first; the message names it.
        """
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        width = parts[0].shape[-1]
        for sample, part in enumerate(parts):
            if part.ndim != 2 or not len(part) or part.shape[1] != width:
                raise DataError(
                    f"sample {sample} of X has the shape {part.shape}; expected at least one step of "
                    f"{width} features, as sample 0 has"
                )
            if part.dtype.kind not in "fiub":
                raise DataError(
                    f"sample {sample} of X holds {part.dtype}, expected numbers; give float arrays"
                )
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return cls(np.concatenate(parts).astype(np.float64, copy=False), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def inputs(self) -> int:
        """I, the number of features."""
        return int(self.values.shape[1])

    def chosen(self, which: Array) -> Sequences:
        """Some of the sequences."""
        parts = [np.arange(self.starts[k], self.starts[k + 1]) for k in which]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return Sequences(self.values[np.concatenate(parts)], starts, self.names)

    def beside(self, other: Sequences) -> Sequences:
        """These sequences, then the others."""
        starts = np.concatenate([self.starts, self.starts[-1] + other.starts[1:]])
        return Sequences(np.concatenate([self.values, other.values]), starts, self.names)

    def rows(self, sample: int) -> slice:
        """The rows of ``values`` that are a sample's."""
        return slice(int(self.starts[sample]), int(self.starts[sample + 1]))

    @property
    def lengths(self) -> Array:
        return np.diff(self.starts)

    def check_values(self, missing: str) -> None:
        """That all are finite, or NaN where ``missing`` is "mask".

        Raises:
            DataError: one is not; the message has its place.
        """
        wrong = ~np.isfinite(self.values) if missing == "error" else np.isinf(self.values)
        if not wrong.any():
            return
        row, feature = np.argwhere(wrong)[0]
        sample = int(np.searchsorted(self.starts, row, side="right")) - 1
        step = row - self.starts[sample]
        at = f"at sample {sample}, step {step}, feature {feature}"
        if np.isnan(self.values[row, feature]):
            raise DataError(
                f"X holds NaN {at}; fill what is missing, or give missing='mask' to have the network "
                f"told where it is"
            )
        raise DataError(f"X holds {self.values[row, feature]} (inf) {at}; expected finite numbers")


@dataclass(frozen=True)
class Scale:
    """Location and spread of each column."""

    location: Array
    spread: Array

    @classmethod
    def of(cls, values: Array, weights: Array) -> Scale:
        """The weighted mean and deviation of R×C ``values`` where they are known; 0 and 1 for a column
        that is never known, and a spread of 1 for one that does not vary but for rounding.

        Raises:
            DataError: the values are too large to be squared.
        """
        values = np.where(weights[:, None] > 0, values, np.nan)
        known = ~np.isnan(values)
        share = weights[:, None] * known
        share /= np.maximum(share.sum(0), np.finfo(float).tiny)
        # from a value of the column, so that the sums of a constant one are exact
        first = np.nan_to_num(np.take_along_axis(values, known.argmax(0)[None], 0)[0])
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.where(known, values - first, 0.0)
            middle = (share * apart).sum(0)
            spread = np.sqrt((share * np.where(known, apart - middle, 0.0) ** 2).sum(0))
            location = first + middle
        if not np.isfinite(spread).all():
            column = int(np.argmin(np.isfinite(spread)))
            raise DataError(f"column {column} holds numbers too large to compute with; rescale it")
        return cls(location, np.where(spread > rounding(values, axis=0), spread, 1.0))

    def applied(self, values: Array) -> Array:
        """The values in units of the scale.

        Raises:
            DataError: one is too large for the network's single precision.
        """
        with np.errstate(over="ignore"):
            scaled: Array = ((values - self.location) / self.spread).astype(np.float32)
        large = np.isinf(scaled)
        if large.any():
            row, column = np.argwhere(large)[0]
            raise DataError(
                f"feature {column} holds {values[row, column]:g}, too large to compute with beside the "
                f"training part's spread of {self.spread[column]:g}; is it in another unit?"
            )
        return scaled


def masked(values: Array) -> Array:
    """R×2I: the values, 0 where one is missing, and beside them 1 where it is, else 0."""
    gone = np.isnan(values)
    return np.concatenate([np.where(gone, np.float32(0), values), gone.astype(np.float32)], 1)


def padded(values: Array, starts: Array, chosen: Array) -> tuple[Tensor, Tensor | None]:
    """B×T×I: the chosen sequences with zeros behind them, and their lengths unless all are T."""
    begin, lengths = starts[chosen], starts[chosen + 1] - starts[chosen]
    steps = np.arange(lengths.max())
    inside = steps < lengths[:, None]
    x = torch.from_numpy(values[np.where(inside, begin[:, None] + steps, 0)])
    if inside.all():
        return x, None
    return x * torch.from_numpy(inside)[..., None], torch.from_numpy(lengths)
