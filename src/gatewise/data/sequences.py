"""Sequences of any lengths in one array, their scale, and padded batches."""

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
    """N sequences of I features, concatenated along time.

    Attributes:
        values: ΣT×I.
        starts: N + 1 row indices: sequence n has the rows ``starts[n]:starts[n + 1]`` of ``values``.
        names: the names of the features, or None.
    """

    values: Array
    starts: Array
    names: Names | None = None

    @classmethod
    def stacked(cls, array: Array) -> Sequences:
        """The sequences of an array N×T×I.

        Raises:
            DataError: T is 0.
        """
        count, steps, inputs = array.shape
        if not steps:
            raise DataError(f"X has the shape {array.shape}: sequences need at least one step")
        return cls(array.reshape(-1, inputs), np.arange(count + 1) * steps)

    @classmethod
    def listed(cls, parts: Sequence[Array]) -> Sequences:
        """The sequences of N arrays T×I, or T if I is 1.

        Raises:
            DataError: an array has no steps, the wrong number of features or no numbers. The message names it.
        """
        parts = [part[:, None] if part.ndim == 1 else part for part in parts]
        width = parts[0].shape[-1]
        for sample, part in enumerate(parts):
            if part.ndim != 2 or not len(part) or part.shape[1] != width:
                raise DataError(
                    f"sample {sample} of X has the shape {part.shape}; expected T×{width} with "
                    f"at least one step, as sample 0 has it"
                )
            if part.dtype.kind not in "fiub":
                raise DataError(
                    f"sample {sample} of X has the dtype {part.dtype}, expected numbers: give float arrays"
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
        """The sequences with the indices ``which``."""
        parts = [np.arange(self.starts[k], self.starts[k + 1]) for k in which]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return Sequences(self.values[np.concatenate(parts)], starts, self.names)

    def followed_by(self, other: Sequences) -> Sequences:
        """These sequences, followed by the others."""
        starts = np.concatenate([self.starts, self.starts[-1] + other.starts[1:]])
        return Sequences(np.concatenate([self.values, other.values]), starts, self.names)

    def rows(self, sample: int) -> slice:
        """The rows of ``values`` of one sequence."""
        return slice(int(self.starts[sample]), int(self.starts[sample + 1]))

    @property
    def lengths(self) -> Array:
        return np.diff(self.starts)

    def check_values(self, missing: str) -> None:
        """Checks that all values are finite; NaN is allowed if ``missing`` is "mask".

        Raises:
            DataError: a value is not valid. The message names its place.
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
                f"X holds NaN {at}: fill missing values, or give missing='mask', with which the network is "
                f"told which values are missing"
            )
        raise DataError(f"X holds {self.values[row, feature]} (inf) {at}; expected finite numbers")


@dataclass(frozen=True)
class Scale:
    """Mean (``location``) and standard deviation (``spread``) of each column."""

    location: Array
    spread: Array

    @classmethod
    def of(cls, values: Array, weights: Array) -> Scale:
        """The scale of R×C ``values`` with R weights. NaN is ignored.

        A column without values has the location 0 and the spread 1. A column that is constant apart from
        rounding has the spread 1.

        Raises:
            DataError: the square of a value overflows.
        """
        values = np.where(weights[:, None] > 0, values, np.nan)
        known = ~np.isnan(values)
        share = weights[:, None] * known
        share /= np.maximum(share.sum(0), np.finfo(float).tiny)
        # relative to one value of the column, so that sums are exact for a constant column
        first = np.nan_to_num(np.take_along_axis(values, known.argmax(0)[None], 0)[0])
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.where(known, values - first, 0.0)
            middle = (share * apart).sum(0)
            spread = np.sqrt((share * np.where(known, apart - middle, 0.0) ** 2).sum(0))
            location = first + middle
        if not np.isfinite(spread).all():
            column = int(np.argmin(np.isfinite(spread)))
            raise DataError(f"column {column} holds numbers whose squares overflow: rescale it")
        return cls(location, np.where(spread > rounding(values, axis=0), spread, 1.0))

    def applied(self, values: Array) -> Array:
        """The scaled values, in float32.

        Raises:
            DataError: a scaled value overflows float32.
        """
        with np.errstate(over="ignore"):
            scaled: Array = ((values - self.location) / self.spread).astype(np.float32)
        large = np.isinf(scaled)
        if large.any():
            row, column = np.argwhere(large)[0]
            raise DataError(
                f"feature {column} holds {values[row, column]:g}, too large relative to its standard "
                f"deviation of {self.spread[column]:g} in the training part: check its unit"
            )
        return scaled


def masked(values: Array) -> Array:
    """R×2I: the values with 0 in place of NaN, then I indicators that are 1 where a value is missing."""
    gone = np.isnan(values)
    return np.concatenate([np.where(gone, np.float32(0), values), gone.astype(np.float32)], 1)


def padded(values: Array, starts: Array, chosen: Array) -> tuple[Tensor, Tensor | None]:
    """B×T×I: the chosen sequences, padded with zeros at the end, and their lengths (None if all are T)."""
    begin, lengths = starts[chosen], starts[chosen + 1] - starts[chosen]
    steps = np.arange(lengths.max())
    inside = steps < lengths[:, None]
    x = torch.from_numpy(values[np.where(inside, begin[:, None] + steps, 0)])
    if inside.all():
        return x, None
    return x * torch.from_numpy(inside)[..., None], torch.from_numpy(lengths)
