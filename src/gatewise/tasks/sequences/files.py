"""A saved sequence estimator: what a saved forecaster has, with a cell, scales and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gatewise.cells.language import Cell, from_signature
from gatewise.errors import ModelFileError
from gatewise.options import flag, probability, real
from gatewise.tasks.described import (
    HISTORY,
    Check,
    agree,
    count,
    label,
    listed,
    maybe,
    one_of,
    record,
    text,
    wrong,
)
from gatewise.tasks.saved import Saved, write_model
from gatewise.tasks.sequences.arrays import Scale
from gatewise.tasks.sequences.network import POOLINGS, Reader, Shape
from gatewise.tasks.sequences.options import Options
from gatewise.train.fitting import History

if TYPE_CHECKING:
    from gatewise.tasks.sequences.estimators import SequenceClassifier, SequenceRegressor

_WIDEST = 1 << 16  # bytes of a class's label, of which numpy gives each class so many


def save(estimator: SequenceClassifier | SequenceRegressor, folder: Path) -> Path:
    """Write the estimator's folder.

    Raises:
        ModelFileError: it cannot be written, or the labels cannot be put down as text or numbers.
    """
    tensors = dict(estimator.network_.state_dict())
    tensors["held_out_"] = torch.from_numpy(estimator.held_out_)
    for name in _scales(estimator):
        for part, values in asdict(getattr(estimator, name)).items():
            tensors[f"{name}.{part}"] = torch.from_numpy(values)
    learned: dict[str, Any] = dict(
        shape=asdict(estimator.shape_),
        history=asdict(estimator.history_),
        n_features_in=estimator.n_features_in_,
        steps=estimator.steps_,
    )
    if hasattr(estimator, "feature_names_in_"):
        learned["feature_names_in"] = estimator.feature_names_in_
    if hasattr(estimator, "classes_"):
        dates = estimator.classes_.dtype.kind == "M"
        learned["classes"] = estimator.classes_.astype(str) if dates else estimator.classes_
        learned["dtype"] = estimator.classes_.dtype.str
    if hasattr(estimator, "single_"):
        learned["single"] = estimator.single_
    options = estimator.get_params(deep=False)
    if isinstance(cell := options["cell"], Cell):
        options["cell"] = {"name": cell.name, "signature": cell.signature}
    if isinstance(weights := options.get("class_weight"), Mapping):
        options["class_weight"] = [list(pair) for pair in weights.items()]
    return write_model(folder, estimator.task, options, learned, tensors)


def read(saved: Saved) -> SequenceClassifier | SequenceRegressor:
    """The estimator that was saved.

    Raises:
        ModelFileError: the description is not one, or the tensors are not those that it needs.
        OptionError, CellError: an option or a cell cannot be used.
    """
    estimator = _untrained(saved)
    learned = record(*_learned_checks(saved))("learned", saved.learned)
    estimator.shape_ = Shape(**learned["shape"])
    estimator.history_ = History(**learned["history"])
    estimator.n_features_in_, estimator.steps_ = learned["n_features_in"], learned["steps"]
    if "feature_names_in" in learned:
        estimator.feature_names_in_ = np.array(learned["feature_names_in"], dtype=object)
    if saved.task == "classify":
        estimator.classes_ = _classes(learned["classes"], learned["dtype"])
    else:
        estimator.single_ = learned["single"]
    _check_fit(estimator)
    with torch.device("meta"):  # the sizes, before anything is made of them
        network = Reader(estimator.cell, estimator.shape_)
    tensors = saved.tensors({**network.state_dict(), **_beside(estimator, saved)})
    estimator.held_out_ = tensors.pop("held_out_").numpy()
    for name in _scales(estimator):
        setattr(estimator, name, _scale(name, tensors))
    network.load_state_dict(tensors, assign=True)
    estimator.network_ = network.eval()
    return estimator


def _untrained(saved: Saved) -> Any:
    from gatewise.tasks.sequences.estimators import SequenceClassifier, SequenceRegressor

    kinds = {kind.task: kind for kind in (SequenceClassifier, SequenceRegressor)}
    kind = kinds[saved.task]
    checks: dict[str, Check] = dict.fromkeys(kind._get_param_names(), _option)
    checks["cell"] = _cell
    if "class_weight" in checks:
        checks["class_weight"] = _class_weight
    estimator = kind(**record(checks)("options", saved.options))
    estimator.options_ = Options.of(estimator)
    return estimator


# ---------------------------------------------------------------------------------------- options


def _option(name: str, value: Any) -> Any:
    """An option's value; its range is the estimator's to check."""
    if isinstance(value, (dict, list)):
        raise wrong(name, "a text, a number or a truth value", value)
    return value


def _cell(name: str, value: Any) -> str | Cell:
    if isinstance(value, str):
        return value
    parts = record({"name": text, "signature": text})(name, value)
    try:
        return from_signature(parts["name"], parts["signature"])
    except RecursionError as error:
        raise ModelFileError(f"{name} rests on too many steps, one on the other") from error


def _class_weight(name: str, value: Any) -> str | dict[Any, float] | None:
    if value is None or value == "balanced":
        return value
    weight = partial(real, expected="a weight from 0 on", least=0)
    pairs = listed(listed(label, 2))(name, value)
    return {each: weight(f"{name}[{each!r}]", given) for each, given in pairs}


# ---------------------------------------------------------------------------- what fit has learned


def _learned_checks(saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
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
        shape=record(shape), history=HISTORY, n_features_in=count(1), steps=maybe(count(1))
    )
    own: dict[str, dict[str, Check]] = {
        "classify": dict(classes=listed(label), dtype=text),
        "regress": dict(single=flag),
    }
    return {**common, **own[saved.task]}, dict(feature_names_in=listed(text))


def _classes(labels: list[Any], kind: str) -> np.ndarray:
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


def _scales(estimator: Any) -> tuple[str, ...]:
    regresses = estimator.task == "regress"
    return ("input_scale_", "target_scale_") if regresses else ("input_scale_",)


def _beside(estimator: Any, saved: Saved) -> dict[str, Tensor]:
    """The tensors beside the network's, as meta tensors."""
    shape = estimator.shape_
    features = shape.inputs // 2 if estimator.missing == "mask" else shape.inputs
    held = saved.stored.get("held_out_", {"shape": [0]})["shape"][:1]  # of any length
    sizes = {"input_scale_": features, "target_scale_": shape.outputs}
    beside = {"held_out_": torch.empty(held, dtype=torch.int64, device="meta")}
    for name in _scales(estimator):
        for part in ("location", "spread"):
            columns = torch.empty(sizes[name], dtype=torch.float64, device="meta")
            beside[f"{name}.{part}"] = columns
    return beside


def _scale(name: str, tensors: dict[str, Tensor]) -> Scale:
    location, spread = (tensors.pop(f"{name}.{part}").numpy() for part in ("location", "spread"))
    if not (spread > 0).all():
        raise ModelFileError(f"'{name}.spread' holds {spread.min()}; expected numbers above 0")
    return Scale(location, spread)


def _check_fit(estimator: Any) -> None:
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
    if estimator.task == "classify":
        together.append(("the number of classes", len(estimator.classes_), shape.outputs))
    elif estimator.single_:
        together.append(("the number of targets", shape.outputs, 1))
    agree(together)
