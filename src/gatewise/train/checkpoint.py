"""Checkpoints as single safetensors files, written atomically. Reading one cannot run code, unlike pickle."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load as tensors_in
from safetensors.torch import save as to_bytes
from torch import Tensor

from gatewise.atomic import write_atomically
from gatewise.errors import ModelFileError


class SafeCheckpoints(CheckpointIO):
    """Lightning's checkpoints as safetensors files: the tensors, and a JSON tree of all other values.

    The file has a checksum of the tree and the tensors.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_packed(checkpoint, tensors))
        data = to_bytes(tensors, {"tree": tree, "sha256": _checksum(tree, tensors)})
        write_atomically(path.parent, {path.name: data})

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """The checkpoint in a file.

    Raises:
        ModelFileError: the file is missing, damaged or not a checkpoint of gatewise.
    """
    try:
        data = Path(path).read_bytes()  # once: the file may be replaced meanwhile
        tensors = tensors_in(data)
        described = _metadata(data)
        if _checksum(described["tree"], tensors) != described["sha256"]:
            raise ValueError("its checksum does not match its contents")
        whole = _unpacked(json.loads(described["tree"]), tensors)
        if not isinstance(whole, dict):
            raise ValueError(f"it holds a {type(whole).__name__}, not a checkpoint")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the checkpoint {path} cannot be read: {error}") from error
    return whole


def check_like(found: Any, expected: Any, most: int, where: str = "it") -> None:
    """Raises ValueError unless ``found`` has the structure of ``expected``: the same keys, types and shapes,
    integers from 0 to ``most``, and finite floats."""
    if isinstance(expected, float):
        fits = isinstance(found, float | int) and math.isfinite(found)
    elif isinstance(expected, Tensor):
        fits = isinstance(found, Tensor) and (found.shape, found.dtype) == (
            expected.shape,
            expected.dtype,
        )
    elif isinstance(expected, dict):  # an OrderedDict comes back as a dict
        fits = isinstance(found, dict)
    else:
        fits = type(found) is type(expected)
    if not fits:
        raise ValueError(f"{where} is {_shown(found)}, expected {_shown(expected)}")
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            raise ValueError(
                f"{where} has {_shown(list(found))}, expected {_shown(list(expected))}"
            )
        for key, part in expected.items():
            check_like(found[key], part, most, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        if len(found) != len(expected):
            raise ValueError(f"{where} has {len(found)} parts, expected {len(expected)}")
        for at, part in enumerate(expected):
            check_like(found[at], part, most, f"{where}[{at}]")
    elif type(expected) is int and not 0 <= found <= most:
        raise ValueError(f"{where} is {_shown(found)}, expected 0 to {most}")


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) < 80 else f"{text[:80]}…"


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    texts: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return texts


def _checksum(tree: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON. Tensors are moved to ``tensors``. A dict becomes a list of pairs, so that keys
    keep their type."""
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
