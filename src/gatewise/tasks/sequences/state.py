"""The saved state of the classifier and the regressor: checks of its entries, and its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.sequences import Scale
from gatewise.errors import ModelFileError
from gatewise.models.sequence import POOLINGS
from gatewise.options import flag, probability
from gatewise.tasks.entry_checks import (
    Check,
    check_equal,
    integer_from,
    label,
    list_of,
    object_with,
    one_of,
    or_none,
    text,
)
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences.baselines import PER_CHANNEL

_WIDEST = 1 << 16  # bytes of a label; numpy allocates the width of the widest label for every class


def learned_checks(saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
    """The checks of the required and of the optional entries of ``learned``."""
    size = integer_from(1, saved.most)
    shape = dict(
        inputs=size,
        outputs=size,
        hidden=size,
        layers=integer_from(1, len(saved.stored)),  # each has a tensor or more
        bidirectional=flag,
        dropout=probability,
        pooling=one_of(*POOLINGS),
        filters=integer_from(0, saved.most),
        members=integer_from(1, len(saved.stored)),
    )
    common: dict[str, Check] = dict(
        shape=object_with(shape), n_features_in=integer_from(1), steps=or_none(integer_from(1))
    )
    own: dict[str, dict[str, Check]] = {
        "classify": dict(classes=list_of(label), dtype=text),
        "regress": dict(single=flag),
    }
    return {**common, **own[saved.task]}, dict(feature_names_in=list_of(text))


def classes_of(labels: list[Any], kind: str) -> np.ndarray:
    """The classes as an array with the dtype of y.

    Raises:
        ModelFileError: the dtype is not valid, or the labels are not sorted labels of this dtype.
    """
    try:
        dtype = np.dtype(kind)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ModelFileError(f"{kind!r} is not a dtype: {error}") from error
    if dtype.kind not in "biufMUO" or not 0 <= dtype.itemsize <= _WIDEST:  # NumPy 1 overflows
        raise ModelFileError(f"labels cannot have the dtype {kind!r}")
    try:
        classes = np.array(labels, dtype)
        rising = bool((classes[1:] > classes[:-1]).all())
    except (OverflowError, TypeError, ValueError) as error:
        raise ModelFileError(f"the classes are not of the dtype {kind!r}: {error}") from error
    same = (classes.astype(str) if dtype.kind == "M" else classes).tolist() == labels
    if not same or len(labels) < 2 or not rising:
        raise ModelFileError(f"classes must be at least two sorted labels of the dtype {kind!r}")
    return classes


def expected_tensors(estimator: Any, saved: Saved) -> dict[str, Tensor]:
    """Meta tensors for those besides the network's weights."""
    shape = estimator.shape_
    features = shape.inputs // 2 if estimator.missing == "mask" else shape.inputs
    sizes: dict[str, tuple[int, ...]] = {}
    for name in estimator.scales():
        columns = features if name == "input_scale_" else shape.outputs
        sizes |= {f"{name}.location": (columns,), f"{name}.spread": (columns,)}
    plain = PER_CHANNEL * features + 1
    sizes |= {f"baseline_.{name}": (plain,) for name in ("location", "spread")}
    sizes |= {f"baseline_.{name}": (shape.outputs,) for name in ("bias", "prior")}
    sizes["baseline_.weight"] = (plain, shape.outputs)
    expected = {
        name: torch.empty(size, dtype=torch.float64, device="meta") for name, size in sizes.items()
    }
    for name in ("held_out_", "seen_"):  # of any length
        length = saved.stored.get(name, {"shape": [0]})["shape"][:1]
        expected[name] = torch.empty(length, dtype=torch.int64, device="meta")
    return expected


def scale_of(name: str, tensors: dict[str, Tensor]) -> Scale:
    """The scale ``name``, from tensors."""
    location, spread = (tensors.pop(f"{name}.{part}").numpy() for part in ("location", "spread"))
    if not (spread > 0).all():
        raise ModelFileError(f"'{name}.spread' holds {spread.min()}; expected positive numbers")
    return Scale(location, spread)


def check_fit(estimator: Any) -> None:
    """Checks that the estimator's options, the network's sizes and the learned attributes fit together.

    Raises:
        ModelFileError: two of them contradict each other. The message says which.
    """
    shape = estimator.shape_
    widths = 2 if estimator.missing == "mask" else 1
    features = 1 if estimator.steps_ is not None else estimator.n_features_in_
    together = [
        ("the number of features", features * widths, shape.inputs),
        ("the pooling", estimator.pooling, shape.pooling),
        ("the number of filters", estimator.filters, shape.filters),
    ]
    if estimator.members is not None:
        together.append(("the number of members", estimator.members, shape.members))
    if estimator.steps_ is not None:
        together.append(("the number of steps", estimator.n_features_in_, estimator.steps_))
    if hasattr(estimator, "feature_names_in_"):
        together.append(
            ("the number of names", len(estimator.feature_names_in_), estimator.n_features_in_)
        )
    if estimator.name == "classify":
        together.append(("the number of classes", len(estimator.classes_), shape.outputs))
    elif estimator.single_:
        together.append(("the number of targets", shape.outputs, 1))
    check_equal(together)
