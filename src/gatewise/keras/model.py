"""A Keras model's layers by their paths, and its recurrent layers with the methods of gatewise's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import torch

from gatewise.keras.layers import GRU, LSTM, SimpleRNN
from gatewise.nn.runs import Runner

EMBEDDING = keras.layers.Embedding

# Keras's layers, and gatewise's of the same equations.
_OURS = {keras.layers.LSTM: LSTM, keras.layers.GRU: GRU, keras.layers.SimpleRNN: SimpleRNN}


def named_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The model as "", and all layers with their paths, in the model's order. Keras's own list has another
    order, and a copied model has no paths."""
    ahead: list[tuple[str, Any]] = [("", model)]
    seen: set[int] = set()
    while ahead:
        name, layer = ahead.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield name, layer
        inner = [
            (f"{name}/{each.name}".lstrip("/"), each) for each in getattr(layer, "_layers", ())
        ]
        ahead = [*inner, *ahead]


def recurrent_layers(model: Any) -> dict[str, Any]:
    """The recurrent layers by path; a model that is itself one has its name."""
    return {
        name or layer.name: layer
        for name, layer in named_layers(model)
        if any(isinstance(layer, theirs) for theirs in _OURS)
    }


def twin(layer: Any) -> Any:
    """The same recurrent layer, with the methods of gatewise's."""
    ours = next(ours for theirs, ours in _OURS.items() if isinstance(layer, theirs))
    made: Any = object.__new__(ours)
    object.__setattr__(made, "__dict__", layer.__dict__)  # Keras's own __setattr__ would copy it
    return made


@contextmanager
def run_by(
    layers: Mapping[str, Any], runner: Callable[[str], Runner], advice: str
) -> Iterator[None]:
    """Within the block, each of these recurrent layers is run by the runner for its path.

    Raises:
        OptionError: gatewise has no equations for a layer; the message ends with ``advice``.
    """
    for layer in layers.values():
        twin(layer).check_equations(False, advice)
    filtering = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()  # Keras would put its own words around a runner's errors
    try:
        for name, layer in layers.items():
            ours = twin(layer)
            layer.__dict__["runner"] = runner(name)
            layer.__dict__["inner_loop"] = partial(type(ours).inner_loop, ours)
        yield
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()
        for layer in layers.values():
            layer.__dict__.pop("runner", None)
            layer.__dict__.pop("inner_loop", None)


def in_double(model: Any) -> Any:
    """A copy of the model in double precision."""
    made = copy.deepcopy(model).double()
    for _, layer in named_layers(made):
        layer.dtype_policy = "float64"
    return made


def as_tensor(value: Any) -> Any:
    """An array as a tensor; any other value as it is."""
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value
