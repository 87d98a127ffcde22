"""Keras's activation functions as equations of the cell language.

All that act element by element are here but gelu, whose error function the language has not. Where a
function has a corner its gradient there is torch's, which is one of the two sides': a pre-activation of
exactly zero is common (zero biases, zero padding). So the pieces are joined by ``greater``, not by
``maximum``, which would give the mean of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import keras
import torch

from gatewise.cells.language import Value, exp, greater, log, relu, sigmoid, softplus, tanh

Function = Callable[[Value], Value]

# F.selu's, from Klambauer et al. 2017, "Self-Normalizing Neural Networks"
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _between(x: Value, low: float, high: float) -> Value:
    """1 where low < x < high, else 0."""
    return greater(x, low) * greater(high, x)


def _clipped(x: Value, low: float, high: float) -> Value:
    below, above = 1 - greater(x, low), 1 - greater(high, x)
    return _between(x, low, high) * x + low * below + high * above


def _elu(x: Value, alpha: float = 1.0) -> Value:
    positive = greater(x, 0)
    return positive * x + alpha * (exp((1 - positive) * x) - 1)


def _hard_sigmoid(x: Value) -> Value:
    return _clipped(x + 3, 0, 6) / 6


def _softsign(x: Value) -> Value:
    return x / (1 + relu(x) + relu(-x))


def _sparse_plus(x: Value) -> Value:
    whole = 1 - greater(1, x)
    return whole * x + _between(x, -1, 1) * 0.25 * (x + 1) * (x + 1)


ACTIVATIONS: Mapping[str, Function] = {
    "linear": lambda x: x,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "hard_sigmoid": _hard_sigmoid,
    "softsign": _softsign,
    "softplus": softplus,
    "elu": _elu,
    "celu": _elu,  # the two differ where alpha is not 1
    "selu": lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    "leaky_relu": lambda x: x * (0.2 + 0.8 * greater(x, 0)),
    "relu6": lambda x: _clipped(x, 0, 6),
    "hard_tanh": lambda x: _clipped(x, -1, 1),
    "silu": lambda x: x * sigmoid(x),
    "hard_silu": lambda x: x * _hard_sigmoid(x),
    "mish": lambda x: x * tanh(softplus(x)),
    "exponential": exp,
    "log_sigmoid": lambda x: -softplus(-x),
    "tanh_shrink": lambda x: x - tanh(x),
    "soft_shrink": lambda x: relu(x - 0.5) - relu(-x - 0.5),
    "hard_shrink": lambda x: x * (greater(x, 0.5) + greater(-0.5, x)),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda x: _clipped(0.5 * (x + 1), 0, 1),
    "squareplus": lambda x: 0.5 * (x + exp(0.5 * log(x * x + 4))),
}


def name_of(function: Callable[..., object]) -> str | None:
    """The name here of what a Keras layer has as an activation; None where it is another's."""
    return _names().get(id(function))


@cache
def _names() -> dict[int, str]:
    """By identity, for a callable need not be hashable; Keras takes torch's functions and its own."""
    places = (keras.activations, keras.ops, torch)
    found = ((getattr(place, name, None), name) for name in ACTIVATIONS for place in places)
    return {id(function): name for function, name in found if function is not None}
