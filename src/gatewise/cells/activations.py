"""The activation functions of ONNX and Keras, under their names there, as equations of a cell.

The pieces of a piecewise function are joined by ``greater``. So the gradient at a corner is that of one
side, as in torch. With ``maximum`` it would be the mean of both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gatewise.cells.language import Value, exp, greater, log, relu, sigmoid, softplus, tanh

Activation = Callable[[Value], Value]


def linear(x: Value) -> Value:
    return x


def clipped(x: Value, low: float, high: float) -> Value:
    """x, clipped to the range from ``low`` to ``high``."""
    inside = greater(x, low) * greater(high, x)
    return inside * x + low * (1 - greater(x, low)) + high * (1 - greater(high, x))


def affine(x: Value, alpha: float, beta: float) -> Value:
    return alpha * x + beta


def leaky_relu(x: Value, alpha: float) -> Value:
    return x * (alpha + (1 - alpha) * greater(x, 0))


def thresholded_relu(x: Value, alpha: float) -> Value:
    return x * (1 - greater(alpha, x))


def scaled_tanh(x: Value, alpha: float, beta: float) -> Value:
    return alpha * tanh(beta * x)


def hard_sigmoid(x: Value, alpha: float, beta: float) -> Value:
    return clipped(alpha * x + beta, 0, 1)


def elu(x: Value, alpha: float) -> Value:
    positive = greater(x, 0)
    return positive * x + alpha * (exp((1 - positive) * x) - 1)


def selu(x: Value) -> Value:
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def softsign(x: Value) -> Value:
    return x / (1 + relu(x) + relu(-x))


def silu(x: Value) -> Value:
    return x * sigmoid(x)


def hard_silu(x: Value) -> Value:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def mish(x: Value) -> Value:
    return x * tanh(softplus(x))


def log_sigmoid(x: Value) -> Value:
    return -softplus(-x)


def tanh_shrink(x: Value) -> Value:
    return x - tanh(x)


def soft_shrink(x: Value) -> Value:
    return relu(x - 0.5) - relu(-x - 0.5)


def hard_shrink(x: Value) -> Value:
    return x * (greater(x, 0.5) + greater(-0.5, x))


def sparse_plus(x: Value) -> Value:
    linear_part = 1 - greater(1, x)
    return linear_part * x + (greater(x, -1) - linear_part) * 0.25 * (x + 1) * (x + 1)


def squareplus(x: Value) -> Value:
    return 0.5 * (x + exp(0.5 * log(x * x + 4)))


# Of each function its equation and what it takes, with the default of the ONNX operator of that name;
# None where that has none.
ONNX: Mapping[str, tuple[Callable[..., Value], Mapping[str, float | None]]] = {
    "Relu": (relu, {}),
    "Tanh": (tanh, {}),
    "Sigmoid": (sigmoid, {}),
    "Affine": (affine, {"alpha": None, "beta": None}),
    "LeakyRelu": (leaky_relu, {"alpha": 0.01}),
    "ThresholdedRelu": (thresholded_relu, {"alpha": 1.0}),
    "ScaledTanh": (scaled_tanh, {"alpha": None, "beta": None}),
    "HardSigmoid": (hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "Elu": (elu, {"alpha": 1.0}),
    "Softsign": (softsign, {}),
    "Softplus": (softplus, {}),
}

# All of Keras 3's that act element by element, but gelu, whose error function a cell has not.
KERAS: Mapping[str, Activation] = {
    "celu": partial(elu, alpha=1.0),
    "elu": partial(elu, alpha=1.0),
    "exponential": exp,
    "hard_shrink": hard_shrink,
    "hard_sigmoid": partial(hard_sigmoid, alpha=1 / 6, beta=0.5),
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
    "hard_tanh": partial(clipped, low=-1, high=1),
    "leaky_relu": partial(leaky_relu, alpha=0.2),
    "linear": linear,
    "log_sigmoid": log_sigmoid,
    "mish": mish,
    "relu": relu,
    "relu6": partial(clipped, low=0, high=6),
    "selu": selu,
    "sigmoid": sigmoid,
    "silu": silu,
    "soft_shrink": soft_shrink,
    "softplus": softplus,
    "softsign": softsign,
    "sparse_plus": sparse_plus,
    "sparse_sigmoid": partial(hard_sigmoid, alpha=0.5, beta=0.5),
    "squareplus": squareplus,
    "swish": silu,
    "tanh": tanh,
    "tanh_shrink": tanh_shrink,
}
# Where Keras 2 means another function by a name.
KERAS_2: Mapping[str, Activation] = {
    **KERAS,
    "hard_sigmoid": partial(hard_sigmoid, alpha=0.2, beta=0.5),
}
