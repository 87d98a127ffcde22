"""A Keras file as data: the model's configuration and its arrays. No code of it is run; keras is not imported."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewise.errors import ModelFileError
from gatewise.weights.budget import Budget
from gatewise.weights.hdf5 import Hdf5, hdf5

KIND = "a Keras model (.keras, or .h5 with the whole model)"
_OLD_LAYERS = "_layer_checkpoint_dependencies"  # the group with a model's layers in Keras 2.13
_VARIABLES = ("kernel", "recurrent_kernel", "bias")  # the variables of a cell, in this order
# bytes of JSON; parsed, it may be about twenty times as large
_LONGEST = 2**23


@dataclass(frozen=True)
class KerasFile:
    """An open file.

    Attributes:
        model: the model's configuration, as Keras writes it.
        major: the major version of Keras that wrote the file.
        legacy: whether the file has the older format, one HDF5 file with weights by their names.
        weights: the HDF5 file with the weights.
    """

    model: dict[str, Any]
    major: int
    legacy: bool
    weights: Hdf5

    def of_cell(self, path: Sequence[str]) -> dict[str, Any]:
        """The weights of the object at ``path`` in the new format, by their names in a cell."""
        if _OLD_LAYERS in self.weights.names([]):
            path = [_OLD_LAYERS if name == "layers" else name for name in path]
        place = [*path, "vars"]
        there = self.weights.names(place)
        return {
            name: self.weights.array([*place, str(k)])
            for k, name in enumerate(_VARIABLES)
            if str(k) in there
        }

    def by_names(self, names: Sequence[str]) -> dict[str, Any]:
        """The weights of a layer in the older format; ``names`` are those of its models and its own."""
        group = ["model_weights", names[0]]
        listed = [
            each.split("/") for each in _texts(self.weights.attributes(group), "weight_names")
        ]
        result = {}
        for kind in _VARIABLES:
            found = _named([each for each in listed if each[-1].split(":")[0] == kind], names)
            if len(found) > 1:
                raise ModelFileError(
                    f"'{kind}' of the layer '{'/'.join(names)}' may be any of "
                    f"{', '.join('/'.join(each) for each in found)}; save the model as .keras"
                )
            for each in found:
                result[kind] = self.weights.array([*group, *each])
        return result


@contextmanager
def opened(path: Path) -> Iterator[KerasFile]:
    """The opened file, as a context manager.

    Raises:
        ModelFileError: the file has neither of the two formats, or has only weights.
    """
    opener = _new_format if zipfile.is_zipfile(path) else _older_format
    with opener(path) as file:
        yield file


@contextmanager
def _new_format(path: Path) -> Iterator[KerasFile]:
    size = path.stat().st_size
    budget = Budget(size)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.weights.h5"
        with zipfile.ZipFile(path) as archive:
            config = _configuration(_member(archive, "config.json", budget))
            metadata = json.loads(_member(archive, "metadata.json", budget))
            weights.write_bytes(_member(archive, weights.name, budget))
        with hdf5(weights, size) as file:
            yield KerasFile(config, _major(metadata["keras_version"]), False, file)


@contextmanager
def _older_format(path: Path) -> Iterator[KerasFile]:
    with hdf5(path, path.stat().st_size) as file:
        attributes = file.attributes([])
        if "model_config" not in attributes:
            raise ModelFileError(
                f"'{path}' has only weights; the layers, activations and directions are only in a whole "
                f"model; save it with model.save('….keras')"
            )
        major = _major(str(attributes.get("keras_version", "1")))
        yield KerasFile(_configuration(str(attributes["model_config"])), major, True, file)


def _member(archive: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    if name not in archive.namelist():
        raise ModelFileError(
            f"the archive has no '{name}'; it has: {', '.join(archive.namelist()[:20])}; expected {KIND}"
        )
    declared = archive.getinfo(name).file_size
    if name.endswith(".json") and declared > _LONGEST:
        raise _too_long(f"'{name}'", declared)
    budget.take(f"'{name}'", declared)
    return archive.read(name)


def _too_long(what: str, length: int) -> ModelFileError:
    return ModelFileError(
        f"{what} says that it has {length} bytes of text; at most {_LONGEST} are read"
    )


def _configuration(text: str | bytes) -> dict[str, Any]:
    if len(text) > _LONGEST:
        raise _too_long("the model's configuration", len(text))
    model = json.loads(text)
    if not isinstance(model, dict) or "class_name" not in model:
        raise ModelFileError(f"the file's configuration is not that of a model: {text[:80]!r}")
    return model


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _texts(attributes: Mapping[str, str | list[str]], name: str) -> list[str]:
    """A list of names. Keras stores a long list in pieces, name0, name1, …"""
    if name in attributes:
        return list(attributes[name])
    pieces: list[str] = []
    while (piece := f"{name}{len(pieces)}") in attributes:
        pieces.append(piece)
    return [each for piece in pieces for each in attributes[piece]]


def _named(listed: Sequence[list[str]], names: Sequence[str]) -> list[list[str]]:
    """The names with these parts in this order, or with as many of the last parts as any name has. Not every
    version of Keras writes the names of all models that contain a layer."""
    for k in range(len(names)):
        found = [each for each in listed if _in_order(names[k:], each[:-1])]
        if found:
            return found
    return []


def _in_order(wanted: Sequence[str], found: Sequence[str]) -> bool:
    rest = iter(found)
    return all(name in rest for name in wanted)
