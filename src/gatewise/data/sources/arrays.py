"""Sequences in memory: arrays, tensors, lists and data frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_array
from torch import Tensor

from gatewise.data.sequences import Names, Sequences
from gatewise.data.table import load, name_of, numbers
from gatewise.errors import DataError
from gatewise.forks import check_polars

Array = np.ndarray

# The arguments for scikit-learn's checks.
CHECKS: dict[str, Any] = dict(dtype=[np.float64, np.float32], ensure_all_finite=False)


class NotNumbersError(DataError, TypeError):
    """X holds objects that are not numbers. It is a TypeError too, as scikit-learn's estimator checks expect."""


class Arrays:
    """The reader of N sequences: an array N×T×I or N×T, or a list of N arrays or data frames T×I.

    Args:
        estimator: the estimator that messages name.
        names: the column order for data frames; None for that of the first frame.
        check_table: scikit-learn's check of a table N×T; None to check it like any array.
    """

    kind: ClassVar[str] = "arrays"

    def __init__(
        self,
        estimator: Any = None,
        names: Names | None = None,
        check_table: Callable[[Any], Array] | None = None,
    ) -> None:
        self.estimator, self.names, self.check_table = estimator, names, check_table

    def read(self, data: Any) -> tuple[Sequences, bool]:
        """The sequences in ``data``, and whether they were a table N×T."""
        X = as_array(data)
        members = members_of(X)
        if members is not None and frame_names(members[0]) is not None:
            return framed(members, self.names), False
        if members is not None and (parts := ragged(members)) is not None:
            return Sequences.listed(parts), False
        array, table = self._array(X if members is None else members)
        return Sequences.stacked(array[..., None] if table else array), table

    def _array(self, X: Any) -> tuple[Array, bool]:
        """X as an array N×T×I or N×T, and whether it is N×T."""
        try:
            table = len(X.shape if hasattr(X, "shape") else np.asarray(X).shape) == 2
            if table and self.check_table is not None:
                array = self.check_table(X)
            else:
                names = dict(estimator=self.estimator, input_name="X")
                array = check_array(X, allow_nd=True, **names, **CHECKS)
        except (ValueError, TypeError, OverflowError) as error:
            if "setting an array element" in str(error) or isinstance(error, TypeError):
                raise NotNumbersError(
                    f"X holds values that are not numbers ({error}); expected N×T×I or N×T numbers, or a "
                    f"list of N arrays or data frames T×I"
                ) from error
            raise DataError(str(error)) from error
        if array.ndim > 3:
            raise DataError(
                f"X has the shape {array.shape}; expected N×T×I, N×T, or a list of N arrays T×I"
            )
        return array, table


def framed(frames: Sequence[Any], names: Names | None) -> Sequences:
    """The sequences of N data frames T×I of pandas, polars or pyarrow.

    Args:
        names: the order of the columns; None for that of the first frame.

    Raises:
        DataError: a sample is not a data frame, or has other columns. The message names it.
    """
    parts = []
    for sample, frame in enumerate(frames):
        if (found := frame_names(frame)) is None:
            raise DataError(
                f"sample {sample} of X is {type(frame).__name__}, but sample 0 is a data frame: give only "
                f"data frames, or only arrays"
            )
        _check_columns(sample, found, names or found)
        names = names or found
        order = [found.index(name) for name in names]
        parts.append(_frame_values(sample, frame, found)[:, order])
    return replace(Sequences.listed(parts), names=names)


def members_of(X: Any) -> list[Any] | None:
    """The members of a list, an array of objects, or a series of pandas or polars. None if X is empty or
    something else."""
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
    """The arrays of a list of sequences. None if the members are numbers, or rows of equal length: that is a
    table.

    Raises:
        DataError: a member is not an array. The message names it.
    """
    parts = []
    for sample, each in enumerate(members):
        try:
            parts.append(np.asarray(as_array(each)))
        except ValueError as error:
            raise DataError(f"sample {sample} of X is not an array T×I: {error}") from error
    if any(part.ndim == 0 for part in parts):
        return None
    rows = all(part.ndim == 1 for part in parts)
    return None if rows and len({len(part) for part in parts}) == 1 else parts


def as_array(given: Any) -> Any:
    """A tensor as a NumPy array; anything else unchanged.

    Raises:
        ForkError: ``given`` is a polars object and this process lacks polars' threads.
    """
    parts = given if isinstance(given, list | tuple) else (given,)
    if parts and type(parts[0]).__module__.startswith("polars"):
        check_polars()
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else given


def frame_names(frame: Any) -> Names | None:
    """The names of a data frame's columns as text; None if ``frame`` is not one of pandas, polars or pyarrow."""
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
        problems = [f"lacks the column {lacking[0]!r}"] if lacking else []
        problems += [f"has an unexpected column {strange[0]!r}"] if strange else []
        raise DataError(
            f"sample {sample} of X {' and '.join(problems)}; every data frame must have the columns "
            f"{', '.join(map(repr, wanted[:20]))}"
        )


def _frame_values(sample: int, frame: Any, names: Names) -> Array:
    """The T×I values of a data frame, NaN where missing."""
    values = np.asarray(frame)
    if values.dtype.kind in "fiub":
        return values
    try:
        table = load(frame)
        return np.stack([numbers(table, name) for name in names], axis=1)
    except DataError as error:
        raise DataError(f"sample {sample} of X: {error}") from None
