"""Sequences of equal or unequal length as one array, its scale, and batches cut from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.moments import rounding
from gatewise.data.table import load, name_of, numbers
from gatewise.errors import DataError
from gatewise.forks import check_polars

Array = np.ndarray
Names = tuple[str, ...]


class NotNumbersError(DataError, TypeError):
    """X holds objects that are no numbers; scikit-learn's checks expect a TypeError."""


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
    def framed(cls, frames: Sequence[Any], names: Names | None) -> Sequences:
        """Of N frames T×I of pandas, polars or pyarrow, whose columns are brought to the order of
        ``names``, or of the first frame where that is None.

        Raises:
            DataError: a sample is no frame, or has other columns; the message names it.
        """
        parts = []
        for sample, frame in enumerate(frames):
            if (found := frame_names(frame)) is None:
                raise DataError(
                    f"sample {sample} of X is {type(frame).__name__} and sample 0 a frame with named "
                    f"columns; give frames alone, or arrays alone"
                )
            _check_columns(sample, found, names or found)
            names = names or found
            order = [found.index(name) for name in names]
            parts.append(_frame_values(sample, frame, found)[:, order])
        return replace(cls.listed(parts), names=names)

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


def listed(X: Any) -> list[Any] | None:
    """The members of a list, an array of objects or a series of pandas or polars; None where X is
    something else, or empty."""
    if isinstance(X, np.ndarray):
        members = X.dtype == object and X.ndim == 1
    else:
        members = isinstance(X, (list, tuple)) or (
            hasattr(X, "to_list") and hasattr(X, "dtype") and not hasattr(X, "columns")
        )
    if not members or not len(X):
        return None
    return X.to_list() if hasattr(X, "to_list") else list(X)


def ragged(members: Sequence[Any]) -> list[Array] | None:
    """The arrays of a list of sequences; None where it is something else.

    A list of rows of one length, all of numbers, is a table and so something else.

    Raises:
        DataError: a member is neither; the message names it.
    """
    parts = []
    for sample, each in enumerate(members):
        try:
            parts.append(np.asarray(as_array(each)))
        except ValueError as error:
            raise DataError(f"sample {sample} of X is no array T×I: {error}") from error
    if any(part.ndim == 0 for part in parts):
        return None
    rows = all(part.ndim == 1 for part in parts)
    return None if rows and len({len(part) for part in parts}) == 1 else parts


def as_array(given: Any) -> Any:
    """A tensor as the array that it is; anything else as it was given.

    Raises:
        ForkError: it is polars' and this process lacks polars' threads.
    """
    parts = given if isinstance(given, list | tuple) else (given,)
    if parts and type(parts[0]).__module__.startswith("polars"):
        check_polars()
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else given


def frame_names(frame: Any) -> Names | None:
    """The names of a frame's columns, as texts; None where it is no frame of pandas, polars or pyarrow."""
    if (
        isinstance(frame, np.ndarray)
        or not hasattr(frame, "columns")
        or not hasattr(frame, "shape")
    ):
        return None
    columns = getattr(frame, "column_names", frame.columns)  # pyarrow lists arrays under columns
    return tuple(name_of(name) for name in columns)


def _check_columns(sample: int, found: Names, wanted: Names) -> None:
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(
            f"sample {sample} of X has two columns named {twice!r}; names must be unique"
        )
    lacking = [name for name in wanted if name not in found]
    strange = [name for name in found if name not in wanted]
    if lacking or strange:
        said = [f"lacks the column {lacking[0]!r}"] if lacking else []
        said += [f"has a column {strange[0]!r} that is not expected"] if strange else []
        raise DataError(
            f"sample {sample} of X {' and '.join(said)}; frames are matched by the names of their "
            f"columns, here {', '.join(map(repr, wanted[:20]))}"
        )


def _frame_values(sample: int, frame: Any, names: Names) -> Array:
    """T×I numbers, NaN where one is missing."""
    values = np.asarray(frame)
    if values.dtype.kind in "fiub":
        return values
    try:
        table = load(frame)
        return np.stack([numbers(table, name) for name in names], axis=1)
    except DataError as error:
        raise DataError(f"sample {sample} of X: {error}") from None
