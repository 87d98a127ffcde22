"""Checkpoints that can't run code and are never half-written: one safetensors file, no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatewise.errors import ModelFileError


class SafeCheckpoints(CheckpointIO):
    """Lightning's checkpoints as tensors beside a JSON tree that says where each of them belongs."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_packed(checkpoint, tensors))
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            staged.write_bytes(save(tensors, {"tree": tree}))
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        ModelFileError: it is missing, damaged or not one of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree = json.loads((file.metadata() or {})["tree"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"the checkpoint {path} cannot be read: {error}") from error
    whole: dict[str, Any] = _unpacked(tree, tensors)
    return whole


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON: tensors move to ``tensors``; keys keep their type, as a list of pairs."""
    match value:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone().contiguous()
            return {"tensor": name}
        case dict():
            return {"dict": [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]}
        case tuple():
            return {"tuple": [_packed(v, tensors) for v in value]}
        case list():
            return [_packed(v, tensors) for v in value]
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": pairs}:
            return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in pairs}
        case {"tuple": items}:
            return tuple(_unpacked(v, tensors) for v in items)
        case list():
            return [_unpacked(v, tensors) for v in value]
    return value
