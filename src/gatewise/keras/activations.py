"""Which of a cell's equations a Keras layer's activation function is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import torch

from gatewise.cells.activations import KERAS


def _known() -> Iterator[tuple[Callable[..., object], str]]:
    """Keras takes torch's functions too, beside its own."""
    for name in KERAS:
        for place in (keras.activations, keras.ops, torch):
            if hasattr(place, name):
                yield getattr(place, name), name


_NAMES = {id(function): name for function, name in _known()}  # a callable need not be hashable


def name_of(function: Callable[..., object]) -> str | None:
    """The name here of what a Keras layer has as an activation; None where it is another's."""
    return _NAMES.get(id(function))
