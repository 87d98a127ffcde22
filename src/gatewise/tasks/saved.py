"""A saved model: a folder of model.safetensors and model.json. Nothing in it can run code."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from gatewise.errors import ModelFileError

FORMAT = 1


# What opens a folder, by the task that its model.json names: a module with a function ``read``.
READERS = {
    "forecast": "gatewise.tasks.forecast.files",
    "classify": "gatewise.tasks.sequences.files",
    "regress": "gatewise.tasks.sequences.files",
}


def write_model(
    folder: Path,
    task: str,
    options: dict[str, Any],
    learned: dict[str, Any],
    tensors: dict[str, torch.Tensor],
) -> Path:
    """Write both files whole beside the old ones, then put them in their place.

    Raises:
        ModelFileError: the disk is full, the folder cannot be written, or something in ``options`` or
            ``learned`` is neither text nor number; what was there stays.
    """
    mark = uuid.uuid4().hex
    described = dict(format=FORMAT, task=task, mark=mark, options=options, learned=learned)
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        text = json.dumps(described, indent=1, ensure_ascii=False, default=_plain)
    except TypeError as error:
        raise ModelFileError(f"the model cannot be saved as text and numbers: {error}") from error
    contents = {"model.safetensors": to_bytes(stored, {"mark": mark}), "model.json": text.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder, contents)
    except OSError as error:
        raise ModelFileError(f"cannot save to {folder}: {error.strerror or error}") from error
    return folder


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, for json."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is neither")


def write_whole(folder: Path, contents: dict[str, bytes]) -> None:
    """Write several files so that either all are new or, on any error, all are as they were."""
    staged = {name: folder / f".{name}.{os.getpid()}" for name in contents}
    try:
        for name, data in contents.items():
            with staged[name].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name, path in staged.items():
            path.replace(folder / name)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def load(folder: str | Path) -> Any:
    """Read a forecaster, classifier or regressor that its ``save`` wrote.

    Raises:
        ModelFileError: the folder is not a model, is damaged, or was written by a newer gatewise.
    """
    folder = Path(folder)
    described = _described(folder)
    return import_module(READERS[described["task"]]).read(folder, described)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    if not folder.is_dir():
        raise ModelFileError(f"{folder} is not a folder; a saved model is one")
    if not path.exists():
        raise ModelFileError(f"{folder} is not a saved model: it has no model.json")
    try:
        described = json.loads(path.read_text())
        version = described["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
    if not isinstance(version, int) or version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, and this gatewise reads up to {FORMAT}: it was saved by a "
            f"newer version; upgrade gatewise to read it"
        )
    if described.get("task") not in READERS or "mark" not in described:
        raise ModelFileError(
            f"{path} is not a saved model: it names no task of {', '.join(READERS)}"
        )
    return described


@contextmanager
def tensors_of(folder: Path, mark: str) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a folder whose model.json has this mark, to be put where they belong.

    Raises:
        ModelFileError: the file is missing, damaged or another model's, or the tensors don't fit
            what they are put into.
    """
    tensors = _tensors(folder, mark)
    try:
        yield tensors
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(
            f"{folder}/model.safetensors does not fit model.json: {error}"
        ) from error


def _tensors(folder: Path, mark: str) -> dict[str, torch.Tensor]:
    path = folder / "model.safetensors"
    if not path.exists():
        raise ModelFileError(f"{folder} has no model.safetensors: the model is incomplete")
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("mark") != mark:
                raise ModelFileError(f"{path} and model.json are of two different models")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged or truncated: {error}") from error
