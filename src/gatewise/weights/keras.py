"""Layers from the LSTM, GRU and SimpleRNN layers of a Keras file."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatewise.cells.activations import KERAS, KERAS_2, Activation
from gatewise.cells.language import Cell
from gatewise.cells.variants import gru_cell, lstm_cell, rnn_cell
from gatewise.errors import ModelFileError, near
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.weights.checks import as_tensor, check_shape, chosen, existing_file, reading
from gatewise.weights.keras_file import KIND, KerasFile, opened
from gatewise.weights.layers import Layer, Part, gates_of, recurrent, split_gates

# The cells' gates in the order of Keras's columns.
_GATES = {"LSTM": "i f g o", "GRU": "z r n", "SimpleRNN": "h"}
_MODELS = ("Functional", "Model", "Sequential")
_UNREAD = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "CuDNNGRU", "CuDNNLSTM")


@dataclass(frozen=True)
class _Found:
    """A layer of the file that is recurrent, or may contain a recurrent layer.

    It has the layer's configuration and the places of its weights: the groups of the new format, and the
    names of the older one."""

    name: str
    config: Mapping[str, Any]
    path: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def kind(self) -> str:
        return str(self.config["class_name"])

    @property
    def options(self) -> Mapping[str, Any]:
        options = self.config.get("config")
        if not isinstance(options, dict):
            raise ModelFileError(f"the layer '{self.name}' ({self.kind}) has no configuration")
        return options

    def refuse(self, option: str, value: object, why: str) -> ModelFileError:
        return ModelFileError(f"the {self.kind} layer '{self.name}' has {option}={value!r}: {why}")

    def flag(self, option: str, default: bool = False) -> bool:
        value = self.options.get(option, default)
        if not isinstance(value, bool):
            raise self.refuse(option, value, "expected true or false")
        return value

    def within(self, config: Any, *path: str, name: str | None = None) -> _Found:
        """A layer inside this layer."""
        if not isinstance(config, dict) or "class_name" not in config:
            raise ModelFileError(f"the {self.kind} layer '{self.name}' has no layer inside it")
        names = (*self.names, name) if name else self.names
        return _Found(self.name, config, (*self.path, *path), names)


def from_keras(
    path: str | os.PathLike[str], *, only: Collection[str] | None = None
) -> dict[str, Layer]:
    """The LSTM, GRU and SimpleRNN layers of a Keras file, in eval mode, in the order of the model.

    Files are those of ``model.save``: ``.keras``, or the older ``.h5``. They are read as data, with
    zipfile, json and h5py; keras is not imported and nothing in the file is run.

    A layer takes B×T×I and returns its output at every step and its final state, for any
    ``return_sequences`` and ``return_state``. ``lengths=`` replaces a mask; ``hx`` replaces
    ``initial_state`` and the states that ``stateful`` keeps. Dropout is not imported, because Keras applies
    it inside the products. A ``Bidirectional`` is one layer. With ``go_backwards`` the output is in the
    order of reading, as in Keras.

    Args:
        path: the file.
        only: the names of the layers to import; the default is all.

    Returns:
        Layers by their names; ``model/name`` for a layer inside a nested model.

    Raises:
        ModelFileError: the file is not a whole Keras model, is damaged, or has something that cannot be
            imported, such as a custom object. The message names the layer, the option and its value.
        ShapeError: weights do not fit. The message has the shape and the expected shape.
        DataError: a weight is not finite, or not a floating-point number.
        MissingExtraError: the package h5py is not installed.
    """
    with reading(f"'{path}'", KIND), opened(existing_file(path, KIND)) as file:
        layers: dict[str, _Found] = {}
        seen: list[str] = []
        for layer in _layers(file.model, "", (), (), seen):
            if layer.name in layers:
                raise ModelFileError(f"'{path}' has two layers with the name '{layer.name}'")
            layers[layer.name] = layer
        if not layers:
            raise ModelFileError(
                f"'{path}' has no LSTM, GRU or SimpleRNN layer; it has: {', '.join(sorted(set(seen)))}"
            )
        found = chosen(layers, only, f"'{path}'")
        return {name: _layer(file, layer) for name, layer in found.items()}


def _layers(
    model: Mapping[str, Any],
    within: str,
    path: tuple[str, ...],
    names: tuple[str, ...],
    seen: list[str],
) -> Iterator[_Found]:
    """The layers of a model and of the models inside it; ``seen`` collects the names of all classes."""
    config = model.get("config")
    # before Keras 2.3 a Sequential's configuration was the list itself
    layers = config.get("layers") if isinstance(config, dict) else config
    if _foreign(model) or not isinstance(layers, list):
        raise ModelFileError(
            f"the model{f' {within[:-1]!r}' if within else ''} is of the class "
            f"{model.get('registered_name') or model['class_name']}, whose layers are made by custom "
            f"code, which is never run; give a Sequential or functional model"
        )
    counts: dict[str, int] = {}
    for layer in layers:
        kind, name = str(layer["class_name"]), str(layer["config"]["name"])
        seen.append(kind)
        group = _snake_case(kind)
        counts[group] = counts.get(group, -1) + 1
        group += f"_{counts[group]}" if counts[group] else ""
        found = _Found(within + name, layer, (*path, "layers", group), (*names, name))
        if kind in _MODELS and not _foreign(layer):
            yield from _layers(layer, f"{within}{name}/", found.path, found.names, seen)
        elif kind == "TimeDistributed":
            inner = found.within(layer["config"].get("layer"), "layer")
            if inner.kind in (*_GATES, "RNN", "Bidirectional") or _foreign(inner.config):
                yield inner
        elif kind in (*_GATES, *_UNREAD, "RNN", "Bidirectional") or _foreign(layer):
            yield found


def _foreign(layer: Mapping[str, Any]) -> bool:
    """Whether the object is of a custom class, not one of Keras's."""
    module = layer.get("module") or "keras"
    registered = layer.get("registered_name") or layer["class_name"]
    return str(module).split(".")[0] not in ("keras", "tf_keras") or ">" in str(registered)


def _snake_case(name: str) -> str:
    """The name of a group that Keras makes of a class name."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _layer(file: KerasFile, found: _Found) -> Layer:
    if _foreign(found.config):
        named = found.config.get("registered_name") or found.kind
        raise ModelFileError(
            f"the layer '{found.name}' is of the custom class {named}, whose code is never run, so its "
            f"results are unknown; use only= to leave it out"
        )
    if found.kind == "Bidirectional":
        return _both_ways(file, found)
    part, time_major = _part(file, found)
    layer = recurrent([[part]], not time_major)
    return Reversed(layer, as_read=True).eval() if found.flag("go_backwards") else layer


def _both_ways(file: KerasFile, found: _Found) -> Layer:
    merge = found.options.get("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave"):
        raise found.refuse("merge_mode", merge, "expected concat, sum, mul or ave")
    ahead, back = found.options.get("layer"), found.options.get("backward_layer")
    # older versions have neither the second layer's configuration nor the names of the two layers
    names = _named(ahead, "forward_"), _named(back or ahead, "" if back else "backward_")
    pair = [
        found.within(ahead, "forward_layer", name=names[0]),
        found.within(back or ahead, "backward_layer", name=names[1]),
    ]
    if pair[0].flag("go_backwards"):
        raise found.refuse(
            "go_backwards", True, "the forward layer of a Bidirectional must read forward"
        )
    parts, time_major = zip(*(_part(file, each) for each in pair), strict=True)
    same = parts[0].cell == parts[1].cell
    shapes = [{n: t.shape for n, t in part.tensors.items()} for part in parts]
    if same and shapes[0] == shapes[1] and merge == "concat":
        return recurrent([parts], not time_major[0])
    one, other = (recurrent([[part]], not t) for part, t in zip(parts, time_major, strict=True))
    return Bidirectional(one, other, merge).eval()


def _named(layer: Any, prefix: str) -> str:
    """The layer's name with the prefix, which is added only once."""
    options = layer.get("config") if isinstance(layer, dict) else None
    name = str(options.get("name")) if isinstance(options, dict) else ""
    return prefix + name.removeprefix(prefix)


def _part(file: KerasFile, found: _Found) -> tuple[Part, bool]:
    """The weights and cell of a layer, and whether it takes T×B×I."""
    time_major = found.flag("time_major")
    unit, kind = found, found.kind
    if kind == "RNN":
        unit = found.within(found.options.get("cell"))
        kind = unit.kind.removesuffix("Cell")
    if kind not in _GATES or _foreign(unit.config):
        known = ", ".join(_GATES)
        raise ModelFileError(
            f"the layer '{found.name}' is a {found.kind} of {unit.kind}, which cannot be imported; the "
            f"layers that can are {known}, and an RNN of one of their cells"
        )
    gates = _GATES[kind]
    cell_path = (*found.path, "cell")
    arrays = file.by_names(found.names) if file.legacy else file.of_cell(cell_path)
    return Part(*_cell_and_tensors(unit, kind, gates, arrays, file.major)), time_major


def _cell_and_tensors(
    unit: _Found, kind: str, gates: str, arrays: Mapping[str, Any], major: int
) -> tuple[Cell, dict[str, Tensor]]:
    H = unit.options.get("units")
    if not isinstance(H, int) or isinstance(H, bool) or H < 1:
        raise unit.refuse("units", H, "expected a positive integer")
    columns = len(gates.split()) * H
    # before Keras had this option, the reset gate came before the product
    reset_after = kind == "GRU" and unit.flag("reset_after")
    expected = ["kernel", "recurrent_kernel", *(["bias"] if unit.flag("use_bias", True) else [])]
    if sorted(arrays) != sorted(expected):
        raise ModelFileError(
            f"the {unit.kind} layer '{unit.name}' has the weights {', '.join(arrays) or 'none'}, "
            f"expected {', '.join(expected)}"
        )
    tensors = {n: as_tensor(f"{n} of the layer '{unit.name}'", arrays[n]) for n in expected}
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (tensors["kernel"].shape[0] if tensors["kernel"].dim() == 2 else 1, columns),
        "recurrent_kernel": (H, columns),
        "bias": (2, columns) if reset_after else (columns,),
    }
    for name, tensor in tensors.items():
        check_shape(f"{name} of the layer '{unit.name}'", tensor.shape, shapes[name])
    cell = _cell(unit, kind, reset_after, major)
    rows = {"weight_ih": tensors["kernel"].T, "weight_hh": tensors["recurrent_kernel"].T}
    if "bias" in tensors:
        bias = tensors["bias"]
        pair = bias if reset_after else torch.stack([bias, torch.zeros_like(bias)])
        rows |= {"bias_ih": pair[0], "bias_hh": pair[1]}
    return cell, {name: gates_of(cell, split_gates(each, gates)) for name, each in rows.items()}


def _cell(unit: _Found, kind: str, reset_after: bool, major: int) -> Cell:
    activation = _activation(unit, "activation", "tanh", major)
    if kind == "SimpleRNN":
        return rnn_cell(activation)
    usual = "sigmoid" if major >= 3 else "hard_sigmoid"
    gate = _activation(unit, "recurrent_activation", usual, major)
    if kind == "GRU":
        return gru_cell(gate, activation, reset_after=reset_after)
    return lstm_cell(gate, activation, activation)


def _activation(unit: _Found, option: str, default: str, major: int) -> Activation:
    name = unit.options.get(option, default)
    known = KERAS if major >= 3 else KERAS_2
    if name is None:
        return known["linear"]
    if not isinstance(name, str) or name not in known:
        hint = near(name, known) if isinstance(name, str) else ""
        raise unit.refuse(
            option, name, f"not among the functions that can be imported{hint}: {', '.join(known)}"
        )
    return known[name]
