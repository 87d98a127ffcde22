"""The output layer over a vocabulary, and its cross entropy with one copy of the logits in memory.

The logits of N tokens over V symbols are N×V numbers, more than the rest of a language model's activations.
torch's cross entropy stores them three times: the logits, their log softmax and its gradient. Here the
probabilities replace the logits, and the gradient replaces the probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewise.backends.torch_private import fast_linear

# Logits that are normalised at once, so that they stay in the processor's cache.
_AT_ONCE = 2**18


def token_losses(
    x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, ignore: int | None = None
) -> Tensor:
    """The negative log probability of each target symbol, in the shape of ``target``, in float32.

    Args:
        x: …×H, the inputs of the output layer.
        weight, bias: V×H and V, the output layer.
        target: …, the indices of the symbols.
        ignore: the index of padding. Its losses are 0, and its logits are not computed.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    flat, symbols = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    if ignore is None:
        return _losses(flat, weight, bias, symbols).view(target.shape)
    kept = (symbols != ignore).nonzero()[:, 0]
    found = _losses(flat[kept], weight, bias, symbols[kept])
    return found.new_zeros(symbols.shape).index_put((kept,), found).view(target.shape)


def _losses(x: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        losses: Tensor = _CrossEntropy.apply(x, weight, bias, target)
    return losses


class _CrossEntropy(torch.autograd.Function):
    """N losses of N×H inputs, a V×H weight, V biases and N targets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        logits = fast_linear(x, weight, bias)
        losses = torch.empty(len(target), device=x.device)
        learns = any(ctx.needs_input_grad)
        for rows in _chunks(logits):
            log_p = logits[rows].float().log_softmax(1)
            losses[rows] = -log_p.gather(1, target[rows, None])[:, 0]
            if learns:
                logits[rows] = log_p.exp_()
        if learns:
            ctx.save_for_backward(x, weight, target)
            ctx.probabilities = logits
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, target = ctx.saved_tensors
        slope, ctx.probabilities = ctx.probabilities, None
        if slope is None:
            raise RuntimeError("the gradient of token_losses can be computed once")
        each = grads[0][:, None].to(slope.dtype)
        slope.mul_(each).scatter_add_(1, target[:, None], -each)
        wanted = ctx.needs_input_grad
        return (
            fast_linear(slope, weight.t()) if wanted[0] else None,
            fast_linear(x.t(), slope.t()).t() if wanted[1] else None,
            slope.sum(0) if wanted[2] else None,
            None,
        )


def _chunks(logits: Tensor) -> list[slice]:
    """Slices of the rows of N×V logits."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    return [slice(k, k + rows) for k in range(0, len(logits), rows)]
