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

from gatewise.cells.language import Cell
from gatewise.errors import OptionError
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


def check_equations(layers: Mapping[str, Any], advice: str) -> None:
    """Raises OptionError, which ends with the advice, if gatewise has no equations for one of the layers."""
    for layer in layers.values():
        twin(layer).check_equations(False, advice)


class RunnableLayer:
    """A recurrent layer of a Keras model, of Keras or of gatewise, as one whose steps a runner may run.

    Attributes:
        cell: its cell.
        hidden_size: its units.

    Raises:
        OptionError: gatewise has no equations for the layer; the message ends with ``advice``.
    """

    def __init__(self, layer: Any, advice: str) -> None:
        self._layer, ours = layer, twin(layer)
        ours.check_equations(False, advice)
        self.cell: Cell = ours.equations
        self.hidden_size: int = layer.units

    @property
    def runner(self) -> Runner | None:
        found: Runner | None = self._layer.__dict__.get("runner")
        return found

    @runner.setter
    def runner(self, runner: Runner | None) -> None:
        if runner is None:
            self._layer.__dict__.pop("runner", None)
            self._layer.__dict__.pop("inner_loop", None)
        else:
            ours = twin(self._layer)
            self._layer.__dict__["runner"] = runner
            self._layer.__dict__["inner_loop"] = partial(type(ours).inner_loop, ours)


class WatchedLoop:
    """A recurrent layer whose time loop is watched until ``remove``.

    Args:
        after: a function of the arguments of each call of ``inner_loop``, the input B×T×I, the list of initial
            states, the mask and ``training``; and of the call's result.
    """

    def __init__(self, layer: Any, after: Callable[[Any, list[Any], Any, Any, Any], None]) -> None:
        self._layer, own = layer, layer.inner_loop
        self._before = layer.__dict__.get("inner_loop")  # of an intervention, or of another watch

        def inner_loop(
            sequences: Any, initial_state: Any, mask: Any, training: bool | None = False
        ) -> Any:
            given = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
            result = own(sequences, initial_state, mask=mask, training=training)
            if not sequences.is_meta:  # Keras asks for the shapes of a new model
                after(sequences, list(given), mask, training, result)
            return result

        layer.__dict__["inner_loop"] = inner_loop

    def remove(self) -> None:
        """Unwraps the layer."""
        self._layer.__dict__.pop("inner_loop", None)
        if self._before is not None:
            self._layer.__dict__["inner_loop"] = self._before


@contextmanager
def errors_as_raised() -> Iterator[None]:
    """A block in which errors within a layer's call are as they were raised: Keras would put its words around them."""
    filtering = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()


@contextmanager
def run_by(
    layers: Mapping[str, Any], runner: Callable[[str], Runner], advice: str
) -> Iterator[None]:
    """Within the block, each of these recurrent layers is run by the runner for its path.

    Raises:
        OptionError: gatewise has no equations for a layer; the message ends with ``advice``. Or a layer has a
            runner already.
    """
    runnable = {name: RunnableLayer(layer, advice) for name, layer in layers.items()}
    _check_free(layers)
    with errors_as_raised():
        try:
            for name, each in runnable.items():
                each.runner = runner(name)
            yield
        finally:
            for each in runnable.values():
                each.runner = None


def _check_free(layers: Mapping[str, Any]) -> None:
    """Raises OptionError if a layer has a runner."""
    for name, layer in layers.items():
        if "runner" in layer.__dict__:
            raise OptionError(
                f"'{name}' has an intervention; leave its with block before this call"
            )


def in_double(model: Any) -> Any:
    """A copy of the model in double precision.

    Raises:
        OptionError: a layer has an intervention, which the copy would not have.
    """
    _check_free(recurrent_layers(model))
    made = copy.deepcopy(model).double()
    for _, layer in named_layers(made):
        layer.dtype_policy = "float64"
    return made


def as_tensor(value: Any) -> Any:
    """An array as a tensor; any other value as it is."""
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value
