"""A Keras file as data: what its model is made of, and its arrays. Nothing in it is run, and keras isn't imported."""

from __future__ import annotations

import io
import json
import mmap
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need

KIND = "a Keras model (.keras, or .h5 with the whole model)"
_VARIABLES = ("kernel", "recurrent_kernel", "bias")  # of a cell, in this order
# A part that says to be this many times as large as the file was made to fill the memory.
_TIMES = 100


@dataclass(frozen=True)
class KerasFile:
    """An open file.

    Attributes:
        model: the model's configuration, as Keras writes it.
        major: the first number of the version of Keras that wrote it.
        legacy: whether it is the older format, one HDF5 file that has weights by their names.
        weights: the HDF5 group with the weights.
        size: of the file, in bytes.
    """

    model: dict[str, Any]
    major: int
    legacy: bool
    weights: Any
    size: int

    def of_cell(self, path: Sequence[str]) -> dict[str, Any]:
        """Of the new format, the weights of the object at ``path``, by their names in a cell."""
        group = self.weights
        # Keras 2.13 has another name for what holds a model's layers
        old = "_layer_checkpoint_dependencies"
        for name in path:
            group = _child(group, old if name == "layers" and old in group else name)
        variables = _child(group, "vars")
        return {
            name: self._dataset(variables, str(k))
            for k, name in enumerate(_VARIABLES)
            if str(k) in variables
        }

    def by_names(self, names: Sequence[str]) -> dict[str, Any]:
        """Of the older format, the weights of the layer that is called so, after the models that it is in."""
        group = _child(self.weights, names[0])
        listed = [each.split("/") for each in _texts(group, "weight_names")]
        result = {}
        for kind in _VARIABLES:
            found = _named([each for each in listed if each[-1].split(":")[0] == kind], names)
            if len(found) > 1:
                raise ModelFileError(
                    f"'{kind}' of the layer '{'/'.join(names)}' may be any of "
                    f"{', '.join('/'.join(each) for each in found)}; save the model as .keras"
                )
            for *before, last in found:
                inner = group
                for name in before:
                    inner = _child(inner, name)
                result[kind] = self._dataset(inner, last)
        return result

    def _dataset(self, group: Any, name: str) -> Any:
        dataset = _child(group, name)
        if not hasattr(dataset, "nbytes") or dataset.is_virtual or dataset.external:
            raise ModelFileError(f"'{dataset.name}' is not an array that lies in the file itself")
        if dataset.nbytes > _TIMES * self.size:
            raise ModelFileError(
                f"'{dataset.name}' says that it has the shape {dataset.shape}, {dataset.nbytes} bytes, "
                f"in a file of {self.size}; that is not read"
            )
        if dataset.attrs.get("dtype") == "bfloat16":
            raise ModelFileError(
                f"'{dataset.name}' is bfloat16, which HDF5 has not; save the model in float32"
            )
        return np.asarray(dataset[()])


@contextmanager
def opened(path: Path) -> Iterator[KerasFile]:
    """The file, open for as long as it is read.

    Raises:
        ModelFileError: it is neither of the two formats, or holds weights alone.
    """
    if zipfile.is_zipfile(path):
        yield from _new_format(path)
        return
    h5py = need("h5py", "keras")
    if not h5py.is_hdf5(path):
        raise ModelFileError(f"'{path}' is neither a zip archive nor an HDF5 file; expected {KIND}")
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_heaps(content)
    with h5py.File(path, "r") as file:
        config = _text(file.attrs.get("model_config"))
        if config is None:
            raise ModelFileError(
                f"'{path}' holds weights alone: what they belong to, which activations and which "
                f"direction, stands only in a whole model; save it with model.save('….keras')"
            )
        version = _text(file.attrs.get("keras_version")) or "1"
        weights, size = _child(file, "model_weights"), path.stat().st_size
        yield KerasFile(_configuration(config), _major(version), True, weights, size)


def _new_format(path: Path) -> Iterator[KerasFile]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        config = _configuration(_member(archive, "config.json", size))
        metadata = json.loads(_member(archive, "metadata.json", size))
        content = _member(archive, "model.weights.h5", size)
    major = _major(metadata["keras_version"])
    _check_heaps(content)
    with need("h5py", "keras").File(io.BytesIO(content), "r") as file:
        yield KerasFile(config, major, False, file, size)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    if name not in archive.namelist():
        raise ModelFileError(
            f"the archive has no '{name}'; it has: {', '.join(archive.namelist()[:20])}; expected {KIND}"
        )
    declared = archive.getinfo(name).file_size
    if declared > _TIMES * size:
        raise ModelFileError(
            f"'{name}' says that it has {declared} bytes, in an archive of {size}; that is not read"
        )
    return archive.read(name)


def _check_heaps(content: bytes | mmap.mmap) -> None:
    """Raises ModelFileError where a heap of texts is damaged: HDF5 1.14 reads some of these for ever.

    A heap is "GCOL", a version and its size, and then objects: their number, a count of references, their
    size, and as many bytes, in eights. Number 0 is the rest, of which the size has the header in it.
    """
    place = content.find(b"GCOL\x01\0\0\0")
    while place >= 0:
        (size,) = struct.unpack_from("<Q", content[place + 8 : place + 16].ljust(8, b"\0"))
        at, end = place + 16, min(place + size, len(content))
        while at + 16 <= end:
            number, _, length = struct.unpack("<HHxxxxQ", content[at : at + 16])
            at += length if number == 0 else 16 + (length + 7) // 8 * 8
            if at > end or (number == 0 and length < 16):
                raise ModelFileError(f"the file's heap of texts at byte {place} is damaged")
        place = content.find(b"GCOL\x01\0\0\0", place + 8)


def _configuration(text: str | bytes) -> dict[str, Any]:
    model = json.loads(text)
    if not isinstance(model, dict) or "class_name" not in model:
        raise ModelFileError(f"the file's configuration is no model's: {text[:80]!r}")
    return model


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _child(group: Any, name: str) -> Any:
    """What lies in the group itself: a link may lead to any other file."""
    link = group.get(name, getlink=True) if hasattr(group, "keys") else None
    if link is None:
        raise ModelFileError(f"the file's weights have no '{group.name.rstrip('/')}/{name}'")
    if type(link).__name__ != "HardLink":
        raise ModelFileError(
            f"'{group.name}/{name}' is a link to elsewhere; links are not followed"
        )
    return group[name]


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)


def _texts(group: Any, name: str) -> list[str]:
    """A list of names; long ones are in pieces, name0, name1, …"""
    if name in group.attrs:
        return [str(_text(each)) for each in group.attrs[name]]
    pieces, k = [], 0
    while f"{name}{k}" in group.attrs:
        pieces += [str(_text(each)) for each in group.attrs[f"{name}{k}"]]
        k += 1
    return pieces


def _named(listed: Sequence[list[str]], names: Sequence[str]) -> list[list[str]]:
    """Those that have these parts in this order, or as many of the last as any has: not every version
    writes the names of all models that a layer is in."""
    for k in range(len(names)):
        found = [each for each in listed if _in_order(names[k:], each[:-1])]
        if found:
            return found
    return []


def _in_order(wanted: Sequence[str], found: Sequence[str]) -> bool:
    rest = iter(found)
    return all(name in rest for name in wanted)
