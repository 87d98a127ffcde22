"""A saved sequence estimator: the folder that a saved forecaster is, with a cell, scales and classes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gatewise.cells.language import from_signature
from gatewise.errors import CellError, ModelFileError
from gatewise.tasks.saved import tensors_of, write_model
from gatewise.tasks.sequences.arrays import Scale
from gatewise.tasks.sequences.network import Reader, Shape
from gatewise.train.fitting import History

if TYPE_CHECKING:
    from gatewise.tasks.sequences.estimators import SequenceClassifier, SequenceRegressor

_SCALES = ("input_scale_", "target_scale_")


def save(estimator: SequenceClassifier | SequenceRegressor, folder: Path) -> Path:
    """Write the estimator's folder.

    Raises:
        ModelFileError: it cannot be written, or the labels cannot be put down as text or numbers.
    """
    tensors = dict(estimator.network_.state_dict())
    tensors["held_out_"] = torch.from_numpy(estimator.held_out_)
    for name in _SCALES:
        if hasattr(estimator, name):
            for part, values in asdict(getattr(estimator, name)).items():
                tensors[f"{name}.{part}"] = torch.from_numpy(values.copy())
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
    if not isinstance(options["cell"], str):
        options["cell"] = {"name": options["cell"].name, "signature": options["cell"].signature}
    if isinstance(weights := options.get("class_weight"), dict):
        options["class_weight"] = [list(pair) for pair in weights.items()]
    return write_model(folder, estimator.task, options, learned, tensors)


def read(folder: Path, described: dict[str, Any]) -> SequenceClassifier | SequenceRegressor:
    """The estimator of a folder whose model.json holds ``described``.

    Raises:
        ModelFileError: a file is damaged.
    """
    with tensors_of(folder, described["mark"]) as tensors:
        estimator = _untrained(folder, described)
        estimator.held_out_ = tensors.pop("held_out_").numpy()
        for name in _SCALES:
            parts = {part: f"{name}.{part}" for part in ("location", "spread")}
            if parts["location"] in tensors:
                setattr(
                    estimator, name, Scale(**{k: tensors.pop(v).numpy() for k, v in parts.items()})
                )
        estimator.network_.load_state_dict(tensors)
    estimator.network_.eval()
    return estimator


def _untrained(folder: Path, described: dict[str, Any]) -> SequenceClassifier | SequenceRegressor:
    """The estimator as model.json has it, its network yet without the weights."""
    from gatewise.tasks.sequences.estimators import SequenceClassifier, SequenceRegressor

    kinds = {kind.task: kind for kind in (SequenceClassifier, SequenceRegressor)}
    try:
        options, learned = described["options"], described["learned"]
        if isinstance(options["cell"], dict):
            cell = options["cell"]
            options["cell"] = from_signature(cell["name"], cell["signature"])
        if isinstance(options.get("class_weight"), list):
            options["class_weight"] = dict(options["class_weight"])
        estimator = kinds[described["task"]](**options)
        estimator.shape_ = Shape(**learned["shape"])
        estimator.history_ = History(**learned["history"])
        estimator.n_features_in_, estimator.steps_ = learned["n_features_in"], learned["steps"]
        if "feature_names_in" in learned:
            estimator.feature_names_in_ = np.array(learned["feature_names_in"], dtype=object)
        if isinstance(estimator, SequenceClassifier):
            estimator.classes_ = np.array(learned["classes"], np.dtype(learned["dtype"]))
        else:
            estimator.single_ = learned["single"]
        estimator.network_ = Reader(estimator.cell, estimator.shape_)
    except (KeyError, TypeError, AttributeError, ValueError, CellError) as error:
        raise ModelFileError(f"{folder}/model.json is damaged: {error}") from error
    return estimator
