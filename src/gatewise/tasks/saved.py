"""A saved model: a folder of model.json, which describes it, and of its tensors in the file that
model.json names. Nothing in it can run code.

Each save writes a new file of tensors; then one rename puts the new model.json in the old one's place. So
a kill at any moment leaves the old model or the new one, and who has read model.json reads one model's tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save as to_bytes
from torch import Tensor

from gatewise.errors import (
    CellError,
    DataError,
    GatewiseError,
    ModelFileError,
    OptionError,
    ShapeError,
)
from gatewise.options import choice
from gatewise.tasks.described import count, mapped, record, text
from gatewise.tasks.registry import TASKS, task_of
from gatewise.train.record import python
from gatewise.whole import patiently, write_whole

FORMAT = 1

_TENSORS = re.compile(r"model-[0-9a-f]{32}\.safetensors")

# What model.json holds. The checksum of the whole is over all other entries, however they are laid out.
_DESCRIPTION = record(
    {
        "format": count(1, FORMAT),
        "task": lambda name, value: choice(name, value, TASKS),
        "file": record({"name": text, "bytes": count()}),
        "options": mapped(lambda name, value: value),
        "learned": mapped(lambda name, value: value),
        "tensors": mapped(text),  # the SHA-256 of each one's bytes
        "checksum": text,
    }
)

_TYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}

# What a damaged description raises where the estimator, its cell or its network checks it.
_REFUSED = (OptionError, CellError, ShapeError, DataError, ModelFileError)


@dataclass(frozen=True)
class Saved:
    """A saved model's parts; its tensors are bytes yet, which had the checksums that they should have."""

    task: str
    options: dict[str, Any]
    learned: dict[str, Any]
    stored: dict[str, dict[str, Any]]

    @property
    def most(self) -> int:
        """How many numbers the tensors hold: no size of the network can be larger."""
        return sum(math.prod(each["shape"]) for each in self.stored.values())

    def tensors(
        self, expected: Mapping[str, Tensor], gaps: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """The tensors.

        Args:
            expected: meta tensors, whose names, shapes and types they must have.
            gaps: those that may hold NaN, where it stands for a value that is missing.

        Raises:
            ModelFileError: one is missing, too many, of another shape or type, or not finite.
        """
        for name in sorted(expected.keys() ^ self.stored.keys()):
            what = "is missing" if name in expected else "belongs to no part of it"
            raise ModelFileError(f"its tensors do not fit its description: '{name}' {what}")
        for name, wanted in expected.items():
            found = self.stored[name]
            shape, kind = tuple(found["shape"]), _TYPES.get(found["dtype"], found["dtype"])
            if (shape, kind) != (tuple(wanted.shape), wanted.dtype):
                raise ModelFileError(
                    f"its tensors do not fit its description: '{name}' is {shape} of {kind}, expected "
                    f"{tuple(wanted.shape)} of {wanted.dtype}"
                )
        return {name: _tensor(name, self.stored[name], name in gaps) for name in expected}


def _tensor(name: str, stored: dict[str, Any], gaps: bool) -> Tensor:
    kind = _TYPES[stored["dtype"]]
    if not stored["data"]:
        return torch.empty(stored["shape"], dtype=kind)
    tensor = torch.frombuffer(stored["data"], dtype=kind).reshape(stored["shape"]).clone()
    wrong = torch.isinf(tensor) if gaps else ~torch.isfinite(tensor)
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        raise ModelFileError(
            f"the tensor '{name}' holds {tensor[place].item()} at {place}; expected finite numbers"
        )
    return tensor


def write_model(
    folder: Path,
    task: str,
    options: dict[str, Any],
    learned: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Path:
    """Write a model in the place of the one that the folder holds.

    Raises:
        ModelFileError: the disk is full, the folder cannot be written, something in ``options`` or
            ``learned`` is neither text nor number, or what would be saved could not be loaded; what was
            there stays.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(stored)
    name = f"model-{uuid.uuid4().hex}.safetensors"
    described = dict(
        format=FORMAT,
        task=task,
        file={"name": name, "bytes": len(data)},
        options=options,
        learned=learned,
        tensors={key: _checksum(value["data"]) for key, value in deserialize(data)},
    )
    try:
        described = json.loads(json.dumps(described, default=_as_python))
        described["checksum"] = _content(described)
        page = json.dumps(described, indent=1, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the model cannot be saved as text and numbers: {error}") from error
    try:
        _rebuilt(described, data)
    except _REFUSED as error:
        raise ModelFileError(f"the model cannot be saved: {error}") from error
    before = _name_in(folder)
    contents = {name: data, "model.json": page.encode("utf-8", "surrogatepass")}
    write_whole(folder, contents, partial(_outdated, folder))
    if before is not None:
        with suppress(OSError):  # Windows keeps what a reader has open
            (folder / before).unlink(missing_ok=True)
    return folder


def _as_python(value: Any) -> Any:
    """For json: what it has no form for, where that is a number or an array."""
    found = python(value)
    if found is value:
        raise TypeError(f"{type(value).__name__} is neither")
    return found


def _checksum(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def _content(described: dict[str, Any]) -> str:
    """The checksum of all entries but ``checksum``, in their order."""
    rest = {key: value for key, value in described.items() if key != "checksum"}
    return _checksum(json.dumps(rest).encode())


def _name_in(folder: Path) -> str | None:
    """The file of tensors that the folder's model.json names; None where it names none."""
    try:
        described = _described(folder)
    except ModelFileError:
        return None
    return str(described["file"]["name"])


def _outdated(folder: Path) -> Iterator[Path]:
    """The files of tensors that model.json does not name."""
    current = _name_in(folder)
    if current is not None:
        for path in folder.iterdir():
            if _TENSORS.fullmatch(path.name) and path.name != current:
                yield path


def load(folder: str | Path) -> Any:
    """Read a model that its ``save`` wrote. While another process saves
    to the folder this gives the old model or the new one, whole.

    Raises:
        ModelFileError: the folder is not a model, is damaged, or was written by a newer gatewise.
    """
    folder = Path(folder)
    described, data = _both(folder)
    try:
        return _rebuilt(described, data)
    except _REFUSED as error:
        raise ModelFileError(f"the model in {folder} is damaged: {error}") from error


def _both(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The description and the tensors' bytes of one model."""
    seen = None
    while (described := _described(folder)) != seen:  # else a new model has come in between
        path = folder / described["file"]["name"]
        try:
            return described, patiently(partial(_bytes, path, described["file"]["bytes"]))
        except FileNotFoundError:
            seen = described
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    raise ModelFileError(
        f"{folder} has no {described['file']['name']}, which its model.json names: the model is "
        f"incomplete; copy the whole folder, at a time when nothing is saved to it"
    )


def _bytes(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        found = file.seek(0, 2)
        if found != size:
            raise ModelFileError(
                f"{path} is damaged or truncated: it has {found:,} bytes, and {size:,} were written"
            )
        file.seek(0)
        return file.read()


def _described(folder: Path) -> dict[str, Any]:
    """What model.json holds, of which the content has its checksum."""
    path = folder / "model.json"
    if os.path.isfile(folder):  # unlike Path's, these raise nothing of a name too long
        raise ModelFileError(f"{folder} is a file, not a folder: give the folder that it is in")
    if not os.path.isdir(folder):
        raise ModelFileError(f"{folder} is not a folder; a saved model is one")
    if not os.path.isfile(path):
        raise ModelFileError(f"{folder} is not a saved model: it has no model.json")
    try:
        page = patiently(path.read_bytes).decode("utf-8", "surrogatepass")
        described = json.loads(page)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged ({error}): copy the model again, or fit it anew"
        ) from error
    _check_kind(path, described)
    try:
        found: dict[str, Any] = _DESCRIPTION("it", described)
        if not _TENSORS.fullmatch(found["file"]["name"]):
            raise ModelFileError(f"it names no file of tensors but {found['file']['name']!r}")
        if _content(described) != found["checksum"]:
            raise ModelFileError(
                "its content does not have its checksum. It cannot be edited: load the model, change it "
                "in Python, and save it"
            )
    except (GatewiseError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
    return found


def _check_kind(path: Path, described: Any) -> None:
    """That this describes a model, of a format that is known."""
    version = described.get("format") if isinstance(described, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, and this gatewise reads up to {FORMAT}: it was saved by a "
            f"newer version; upgrade gatewise to read it"
        )
    if version is None or described.get("task") not in (*TASKS,):
        raise ModelFileError(
            f"{path} is damaged or not a saved model: it names no task of {', '.join(TASKS)}"
        )


def _rebuilt(described: dict[str, Any], data: bytes) -> Any:
    """The estimator of a description and its tensors' bytes."""
    try:
        stored = dict(deserialize(data))
    except SafetensorError as error:
        raise ModelFileError(f"its tensors cannot be read: {error}") from error
    checksums = described["tensors"]
    for name in sorted(stored.keys() ^ checksums.keys()):
        raise ModelFileError(f"the tensor '{name}' is not in both of its files")
    for name, each in stored.items():
        if _checksum(each["data"]) != checksums[name]:
            raise ModelFileError(f"the tensor '{name}' does not have its checksum")
    saved = Saved(described["task"], described["options"], described["learned"], stored)
    return task_of(saved.task).from_state(saved)
