"""The names of Keras's activation functions, from the functions themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import torch

from gatewise.cells.activations import KERAS


def _known() -> Iterator[tuple[Callable[..., object], str]]:
    """Each known function with its name. Keras accepts its own functions and torch's."""
    for name in KERAS:
        for place in (keras.activations, keras.ops, torch):
            if hasattr(place, name):
                yield getattr(place, name), name


_NAMES = {
    id(function): name for function, name in _known()
}  # by id, because a callable need not be hashable


def name_of(function: Callable[..., object]) -> str | None:
    """The name of a Keras layer's activation function; None for an unknown function."""
    return _NAMES.get(id(function))
