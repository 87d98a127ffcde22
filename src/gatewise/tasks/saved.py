"""Reading and writing of saved models.

A saved model is a folder with model.json, which describes the model, and a file of tensors, which model.json
names. Nothing in it can run code.

A save first writes a new file of tensors. Then it replaces model.json by one rename. So the folder holds the
old model or the new one at any moment, and a reader of model.json never gets tensors of another model.
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

from gatewise.atomic import retried_while_locked, write_atomically
from gatewise.errors import (
    CellError,
    DataError,
    GatewiseError,
    ModelFileError,
    OptionError,
    ShapeError,
)
from gatewise.options import choice
from gatewise.tasks.entry_checks import count, integer_from, mapping_of, object_with, text
from gatewise.tasks.registry import TASKS, place_of, sources_of, task_of
from gatewise.train.record import python

FORMAT = 1

_TENSORS = re.compile(r"model-[0-9a-f]{32}\.safetensors")

# The entries of model.json. The checksum is that of all other entries; white space does not matter.
_DESCRIPTION = object_with(
    {
        "format": integer_from(1, FORMAT),
        "task": lambda name, value: choice(name, value, TASKS),
        "source": text,
        "file": object_with({"name": text, "bytes": count}),
        "options": mapping_of(lambda name, value: value),
        "learned": mapping_of(lambda name, value: value),
        "tensors": mapping_of(text),  # the SHA-256 of each one's bytes
        "checksum": text,
    }
)

_TYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "I32": torch.int32}

# The errors that checks of the estimator, its cell and its network raise for a damaged description.
INVALID = (OptionError, CellError, ShapeError, DataError, ModelFileError)


@dataclass(frozen=True)
class Saved:
    """The parts of a saved model. Its tensors are still bytes, whose checksums have been checked."""

    task: str
    options: dict[str, Any]
    learned: dict[str, Any]
    stored: dict[str, dict[str, Any]]

    @property
    def most(self) -> int:
        """The number of elements of all tensors: an upper bound for every size of the network."""
        return sum(math.prod(each["shape"]) for each in self.stored.values())

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; () if it is missing."""
        return tuple(self.stored[name]["shape"]) if name in self.stored else ()

    def tensors(
        self, expected: Mapping[str, Tensor], gaps: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """The tensors by name.

        Args:
            expected: meta tensors with the names, shapes and dtypes that the tensors must have.
            gaps: the names of tensors that may hold NaN for missing values.

        Raises:
            ModelFileError: a tensor is missing, unexpected, of another shape or dtype, or not finite.
        """
        for name in sorted(expected.keys() ^ self.stored.keys()):
            what = "is missing" if name in expected else "is not expected"
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
    kind: type,
    options: dict[str, Any],
    learned: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Path:
    """Writes a model of the class ``kind`` to a folder, where it replaces the model that is there.

    Raises:
        ModelFileError: the disk is full, the folder cannot be written, something in ``options`` or
            ``learned`` is neither text nor number, or the saved model could not be loaded again. The
            folder is then unchanged.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(stored)
    task, source = place_of(kind)
    name = f"model-{uuid.uuid4().hex}.safetensors"
    described = dict(
        format=FORMAT,
        task=task,
        source=source,
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
        rebuilt(described, data)
    except INVALID as error:
        raise ModelFileError(f"the model cannot be saved: {error}") from error
    before = _name_in(folder)
    contents = {name: data, "model.json": page.encode("utf-8", "surrogatepass")}
    write_atomically(folder, contents, partial(_outdated, folder))
    if before is not None:
        with suppress(OSError):  # Windows cannot delete a file that a reader has open
            (folder / before).unlink(missing_ok=True)
    return folder


def _as_python(value: Any) -> Any:
    """A number or array of NumPy or torch as Python types, for ``json.dumps``."""
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
    """The name of the file of tensors in the folder's model.json; None if there is no valid model.json."""
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


def read_model(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The description of a model and the bytes of its tensors."""
    seen = None
    while (described := _described(folder)) != seen:  # a new model may replace it while this reads
        path = folder / described["file"]["name"]
        try:
            return described, retried_while_locked(
                partial(_bytes, path, described["file"]["bytes"])
            )
        except FileNotFoundError:
            seen = described
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    raise ModelFileError(
        f"{folder} has no {described['file']['name']}, which its model.json names: the model is "
        f"incomplete. Copy the folder again, while no process saves to it"
    )


def task_in(folder: Path) -> tuple[str, str] | None:
    """The task and the source of the saved model in a folder, read without any check; None if there is none."""
    try:
        found = json.loads((folder / "model.json").read_bytes())
        task, source = found["task"], found["source"]
        return (task, source) if source in TASKS[task] else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None


def _bytes(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        found = file.seek(0, 2)
        if found != size:
            raise ModelFileError(
                f"{path} is damaged or truncated: it has {found:,} bytes, expected {size:,}"
            )
        file.seek(0)
        return file.read()


def _described(folder: Path) -> dict[str, Any]:
    """The content of model.json, whose checksum has been checked."""
    path = folder / "model.json"
    if os.path.isfile(folder):  # unlike Path.is_file, it does not raise for a name that is too long
        raise ModelFileError(f"{folder} is a file, not a folder: give the folder of a saved model")
    if not os.path.isdir(folder):
        raise ModelFileError(f"{folder} is not a folder: give the folder of a saved model")
    if not os.path.isfile(path):
        raise ModelFileError(f"{folder} is not a saved model: it has no model.json")
    try:
        page = retried_while_locked(path.read_bytes).decode("utf-8", "surrogatepass")
        described = json.loads(page)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged ({error}): copy the model again, or fit it again"
        ) from error
    _check_kind(path, described)
    try:
        found: dict[str, Any] = _DESCRIPTION("it", described)
        if not _TENSORS.fullmatch(found["file"]["name"]):
            raise ModelFileError(
                f"the name of its file of tensors is {found['file']['name']!r}, expected "
                f"model-….safetensors"
            )
        if _content(described) != found["checksum"]:
            raise ModelFileError(
                "its content does not match its checksum. Do not edit it: load the model, change it in "
                "Python, and save it"
            )
    except (GatewiseError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error
    return found


def _check_kind(path: Path, described: Any) -> None:
    """Raises ModelFileError unless this describes a model in a known format."""
    version = described.get("format") if isinstance(described, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, but this gatewise reads formats up to {FORMAT}: the model was "
            f"saved by a newer version; upgrade gatewise"
        )
    if version is None or described.get("task") not in (*TASKS,):
        raise ModelFileError(
            f"{path} is damaged or not a saved model: its task must be one of {', '.join(TASKS)}"
        )
    known = sources_of(described["task"])
    if described.get("source") not in known:
        raise ModelFileError(
            f"{path} is damaged or not a saved model: the source of its task must be one of {', '.join(known)}"
        )


def rebuilt(described: dict[str, Any], data: bytes) -> Any:
    """The estimator, from its description and the bytes of its tensors."""
    try:
        stored = dict(deserialize(data))
    except SafetensorError as error:
        raise ModelFileError(f"its tensors cannot be read: {error}") from error
    checksums = described["tensors"]
    for name in sorted(stored.keys() ^ checksums.keys()):
        raise ModelFileError(
            f"the tensor '{name}' is in only one of model.json and the file of tensors"
        )
    for name, each in stored.items():
        if _checksum(each["data"]) != checksums[name]:
            raise ModelFileError(f"the tensor '{name}' does not match its checksum")
    saved = Saved(described["task"], described["options"], described["learned"], stored)
    return task_of(saved.task, described["source"]).from_state(saved)
