"""Sequences of equal or unequal length as one array, its scale, and batches cut from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.scaling import rounding
from gatewise.errors import DataError

Array = np.ndarray


@dataclass(frozen=True)
class Sequences:
    """N sequences of I features, one after the other.

    Attributes:
        values: ΣT×I.
        starts: N + 1 rows of ``values``: where each sequence begins, and where the last one ends.
    """

    values: Array
    starts: Array

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
        known = ~np.isnan(values)
        share = weights[:, None] * known
        share /= np.maximum(share.sum(0), np.finfo(float).tiny)
        with np.errstate(over="ignore", invalid="ignore"):
            location = (share * np.where(known, values, 0.0)).sum(0)
            apart = np.where(known, values - location, 0.0)
            spread = np.sqrt((share * apart**2).sum(0))
        if not np.isfinite(spread).all():
            column = int(np.argmin(np.isfinite(spread)))
            raise DataError(f"column {column} holds numbers too large to compute with; rescale it")
        return cls(location, np.where(spread > rounding(values, axis=0), spread, 1.0))

    def applied(self, values: Array) -> Array:
        return ((values - self.location) / self.spread).astype(np.float32)


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


def ragged(X: Any) -> list[Array] | None:
    """The arrays of a list (or an array of objects) of sequences; None where X is something else.

    A list of rows of one length, all of numbers, is a table and so something else.

    Raises:
        DataError: a member is neither; the message names it.
    """
    objects = isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1
    if not (objects or isinstance(X, (list, tuple))) or not len(X):
        return None
    parts = []
    for sample, each in enumerate(X):
        try:
            parts.append(np.asarray(as_array(each)))
        except ValueError as error:
            raise DataError(f"sample {sample} of X is no array T×I: {error}") from error
    if any(part.ndim == 0 for part in parts):
        return None
    rows = all(part.ndim == 1 for part in parts)
    return None if rows and len({len(part) for part in parts}) == 1 else parts


def as_array(given: Any) -> Any:
    """A tensor as the array that it is; anything else as it was given."""
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else given
