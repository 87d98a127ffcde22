"""What the estimators on sequences have learned, as it is saved: checks of its entries, and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.sequences import Scale
from gatewise.errors import ModelFileError
from gatewise.models.sequence import POOLINGS
from gatewise.options import flag, probability
from gatewise.tasks.described import (
    Check,
    agree,
    count,
    label,
    listed,
    maybe,
    one_of,
    record,
    text,
)
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences.baselines import PER_CHANNEL

_WIDEST = 1 << 16  # bytes of a class's label, of which numpy gives each class so many


def learned_checks(saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
    """What the entries of ``learned`` must be, and what those that may be absent."""
    size = count(1, saved.most)
    shape = dict(
        inputs=size,
        outputs=size,
        hidden=size,
        layers=count(1, len(saved.stored)),  # each has a tensor or more
        bidirectional=flag,
        dropout=probability,
        pooling=one_of(*POOLINGS),
    )
    common: dict[str, Check] = dict(
        shape=record(shape), n_features_in=count(1), steps=maybe(count(1))
    )
    own: dict[str, dict[str, Check]] = {
        "classify": dict(classes=listed(label), dtype=text),
        "regress": dict(single=flag),
    }
    return {**common, **own[saved.task]}, dict(feature_names_in=listed(text))


def classes_of(labels: list[Any], kind: str) -> np.ndarray:
    """The classes as an array of the type that y had."""
    try:
        dtype = np.dtype(kind)
        if dtype.kind not in "biufMUO" or dtype.itemsize > _WIDEST:
            raise ModelFileError(f"labels of the type {kind!r} cannot be kept")
        classes = np.array(labels, dtype)
        rising = bool((classes[1:] > classes[:-1]).all())
    except (OverflowError, SyntaxError, TypeError, ValueError) as error:
        raise ModelFileError(f"the classes are no {kind!r}: {error}") from error
    same = (classes.astype(str) if dtype.kind == "M" else classes).tolist() == labels
    if not same or len(labels) < 2 or not rising:
        raise ModelFileError(f"classes must be two labels or more, sorted, of the type {kind!r}")
    return classes


def expected_tensors(estimator: Any, saved: Saved) -> dict[str, Tensor]:
    """The tensors beside the network's, as meta tensors."""
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
    """The scale of this name that the tensors hold."""
    location, spread = (tensors.pop(f"{name}.{part}").numpy() for part in ("location", "spread"))
    if not (spread > 0).all():
        raise ModelFileError(f"'{name}.spread' holds {spread.min()}; expected numbers above 0")
    return Scale(location, spread)


def check_fit(estimator: Any) -> None:
    """That the estimator's options, its network's sizes and what it has learned go together.

    Raises:
        ModelFileError: they do not; the message says which two.
    """
    shape = estimator.shape_
    widths = 2 if estimator.missing == "mask" else 1
    features = 1 if estimator.steps_ is not None else estimator.n_features_in_
    together = [
        ("the number of features", features * widths, shape.inputs),
        ("the pooling", estimator.pooling, shape.pooling),
    ]
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
    agree(together)
