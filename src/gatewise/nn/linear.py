"""Linear layers whose products are oneDNN's where that is faster than torch's choice, MKL.

oneDNN compiles a kernel for each shape, which takes as long as several products, and keeps the last 1,024 of them.
Batches of sequences have almost all numbers of rows. So rows are padded to one of a few numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import differentiated, recorded
from gatewise.backends.torch_private import (
    any_autocast,
    fast_linear,
    onednn_is_faster,
    tracing_state,
    transformed,
)

# Products of fewer multiplications take as long with either library, or less with MKL.
_FEWEST = 2**20


class Linear(nn.Linear):
    """``torch.nn.Linear``, with :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, in half its time for large float32 products on a processor of AMD.

    Args:
        x: …×K.
        weight, bias: M×K and M.
    """
    tensors = (x, weight, bias)
    if (
        x.dtype != torch.float32
        or not x.is_cpu
        or x.numel() * weight.shape[0] < _FEWEST
        or any_autocast()
        or recorded(tensors)
        or transformed()
        or tracing_state() is not None
        or not onednn_is_faster()
    ):
        return F.linear(x, weight, bias)
    if differentiated(tensors):
        output: Tensor = _Linear.apply(x, weight, bias)
        return output
    rows = _padded(x)
    return _shaped(fast_linear(rows, weight, bias), x)


def few_sizes(rows: int, bits: int = 6) -> int:
    """The least of a few numbers that is not below ``rows``: those of so many significant bits. Of six bits they are
    3 % apart or less."""
    unit = 1 << max(0, rows.bit_length() - bits)
    return -(-rows // unit) * unit


def _padded(x: Tensor) -> Tensor:
    """…×K as N×K, with rows of zeros to one of a few numbers."""
    rows = x.reshape(-1, x.shape[-1])
    more = few_sizes(len(rows)) - len(rows)
    return F.pad(rows, (0, 0, 0, more)) if more else rows


def _shaped(found: Tensor, x: Tensor) -> Tensor:
    """The first rows of the padded ones, in the shape of x but for the last dimension."""
    count = x.numel() // x.shape[-1]
    return found[:count].view(*x.shape[:-1], found.shape[1])


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """M×K: the gradient of a linear layer's weight, from N×K inputs and the N×M gradient of its outputs."""
    if gradient.shape[1] > x.shape[1]:  # oneDNN is faster with the longer side as the columns
        return fast_linear(x.t(), gradient.t()).t()
    return fast_linear(gradient.t(), x.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _padded(x)
        ctx.save_for_backward(x, weight)
        ctx.rows = rows if rows.data_ptr() != x.data_ptr() else None  # padded, or not as x lies
        return _shaped(fast_linear(rows, weight, bias), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x, weight), gradient = ctx.saved_tensors, grads[0]
        in_x, in_weight, in_bias = ctx.needs_input_grad
        flat = gradient.reshape(-1, gradient.shape[-1])
        total = flat.sum(0) if in_bias else None
        if torch.is_grad_enabled() or recorded(grads) or transformed():  # to differentiate it again
            to_weight = flat.mT @ x.reshape(-1, x.shape[-1]) if in_weight else None
            return gradient @ weight if in_x else None, to_weight, total
        rows, to_rows = _padded(x) if ctx.rows is None else ctx.rows, _padded(gradient)
        return (
            _shaped(fast_linear(to_rows, weight.t()), x) if in_x else None,
            weight_gradient(rows, to_rows) if in_weight else None,
            total,
        )
