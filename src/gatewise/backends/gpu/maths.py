"""The language's operations on Triton blocks of float32, with NaN where torch has it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # (1 - e) / (1 + e) loses digits where e is near one; there the odd series to x^9 is exact enough
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    y = x * x
    near = 1.0 + y * (-0.33333333 + y * (0.13333333 + y * (-0.053968254 + y * 0.021869488)))
    return tl.where(tl.abs(x) < 0.25, x * near, tl.where(x < 0, -far, far))


@triton.jit
def relu(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def log(x):
    return tl.log(x)


@triton.jit
def softplus(x):
    # log(1 + e) from log(u) with u = 1 + e as it was rounded, so that small e keep their digits
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    rest = u - 1.0
    tail = tl.where(rest == 0.0, e, tl.log(u) * (e / tl.where(rest == 0.0, 1.0, rest)))
    return maximum(x, 0.0) + tail


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def greater(a, b):
    return tl.where(a > b, 1.0, 0.0)


@triton.jit
def relu_backward(dy, x):
    return tl.where(x <= 0, 0.0, dy)


_FUNCTIONS = (sigmoid, tanh, relu, exp, log, softplus, maximum, minimum, greater, relu_backward)
OPERATIONS = {of.__name__: of for of in _FUNCTIONS}
