"""Checks of labels, target numbers and sample weights in the forms that scikit-learn accepts."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from gatewise.data.sources.arrays import as_array
from gatewise.errors import DataError, OptionError, caution
from gatewise.report.words import with_unit

Array = np.ndarray


def labels_of(estimator: BaseEstimator, y: Any, count: int) -> Array:
    """The labels as an array of one type: texts of any library as those of NumPy.

    Raises:
        DataError: labels are missing, of several types, or not as many as the samples.
    """
    found = _labels(_given(estimator, y))
    try:
        check_classification_targets(found)
        labels = _typed(column_or_1d(found, warn=True))
    except (ValueError, TypeError) as error:
        raise DataError(str(error)) from error
    if labels.dtype.kind in "mV":
        raise DataError(
            f"y has the dtype {labels.dtype}; labels must be texts, numbers, bools or dates"
        )
    return _as_many(labels, count)


def check_classes(classes: Array, count: int, column: str, members: str) -> None:
    """Warns if a column has so many classes in ``count`` members that it rather holds names or numbers."""
    if len(classes) > max(count / 2, 10):
        caution(
            f"column {column!r} has {len(classes)} classes in {count} {members}: is it a column of classes?"
        )


def class_importance(class_weight: Any, labels: Array) -> Array:
    """N: the weight of each label's class in the loss.

    Raises:
        OptionError: ``class_weight`` does not fit the classes.
    """
    try:
        found: Array = compute_sample_weight(class_weight, labels)
    except ValueError as error:
        raise OptionError(f"class_weight={class_weight!r}: {error}") from error
    return found


def _typed(labels: Array) -> Array:
    """Objects of one type, as columns of pandas and polars give them, as an array of that type."""
    return np.array(labels.tolist()) if labels.dtype == object and labels.ndim == 1 else labels


def _labels(y: Any) -> Array:
    """The labels as an array, of objects only where it has more than one dimension.

    Raises:
        DataError: a label is missing, or labels have several types or a type that cannot be sorted and saved.
    """
    listed = isinstance(y, (list, tuple))  # numpy would convert a mix of texts and numbers to texts
    array = np.asarray(y, dtype=object) if listed else np.asarray(y)
    if array.dtype.kind == "S":
        raise DataError("y holds bytes; labels must be texts or numbers: decode the bytes")
    if array.dtype.kind == "T":  # NumPy's texts of any length, which scikit-learn does not know
        array = array.astype(object)
    if array.dtype != object or array.ndim != 1:
        return _typed(array)
    kinds: dict[str, int] = {}
    for sample, label in enumerate(array):
        if label is None or type(label).__name__ in ("NAType", "NaTType") or label != label:
            raise DataError(f"y has no label for sample {sample}: {label!r}")
        kinds.setdefault(_kind_of_label(label, sample), sample)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise DataError(
            f"y mixes {one} and {other}, such as {array[first]!r} and {array[second]!r}; all labels must "
            f"have one type"
        )
    return _typed(array)


def _kind_of_label(label: Any, sample: int) -> str:
    kinds: dict[str, Any] = {
        "texts": str,
        "booleans": (bool, np.bool_),
        "numbers": Real,
        "dates": np.datetime64,
    }
    for kind, types in kinds.items():
        if isinstance(label, types):
            return kind
    raise DataError(
        f"y holds {type(label).__name__}, such as {label!r} for sample {sample}; labels must be texts, "
        f"numbers, bools or numpy.datetime64"
    )


def numbers_of(estimator: BaseEstimator, y: Any, count: int) -> Array:
    try:
        numbers = check_array(
            _given(estimator, y), ensure_2d=False, dtype=np.float64, input_name="y"
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(str(error)) from error
    if numbers.ndim not in (1, 2):
        raise DataError(f"y has the shape {numbers.shape}; expected N or N×K numbers")
    return _as_many(numbers, count)


def _given(estimator: BaseEstimator, y: Any) -> Any:
    if y is None:
        raise DataError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None"
        )
    return as_array(y)


def _as_many(y: Array, count: int) -> Array:
    if len(y) != count:
        raise DataError(
            f"X has {with_unit(count, 'sample')} and y has {len(y)}; expected one y for each sample"
        )
    return y


def weights_of(given: Any, count: int) -> Array:
    """The N sample weights; all 1 if ``given`` is None."""
    if given is None:
        return np.ones(count)
    weight = np.array(as_array(given), np.float64)
    expected = f"expected {count} finite non-negative numbers, one for each sample"
    if weight.shape != (count,):
        raise DataError(f"sample_weight has the shape {weight.shape}; {expected}")
    wrong = ~np.isfinite(weight) | (weight < 0)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(f"sample_weight is {weight[first]:g} for sample {first}; {expected}")
    if not weight.any():
        raise DataError(
            "sample_weight is zero for every sample; at least one sample needs a positive weight"
        )
    return weight
