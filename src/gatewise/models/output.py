"""The output layer over a vocabulary, and its cross entropy with one copy of the logits in memory.

The logits of N tokens over V symbols are N×V numbers, more than the rest of a language model's activations.
torch's cross entropy stores them three times: the logits, their log softmax and its gradient. Here the
probabilities replace the logits, and the gradient replaces the probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatewise.backends.torch_private import fast_linear
from gatewise.nn.linear import few_sizes, weight_gradient

# Logits that are normalised at once, so that they stay in the processor's cache.
_AT_ONCE = 2**18


def token_losses(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    ignore: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The negative log probability of each target symbol, in the shape of ``target``.

    With inputs in half precision the losses are in float32.

    Args:
        x: …×H, the inputs of the output layer.
        weight, bias: V×H and V, the output layer.
        target: …, the indices of the symbols.
        ignore: the index of padding. Its losses are 0, and its logits are not computed.
        smoothing: ε of label smoothing (Szegedy et al. 2016): the loss is 1 - ε times the target's, plus ε times
            the mean over all symbols.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    flat, symbols = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    if ignore is None:
        return _losses(flat, weight, bias, symbols, smoothing).view(target.shape)
    kept = (symbols != ignore).nonzero()[:, 0]
    # rows that are computed and not used make up one of few numbers, see gatewise.nn.linear
    computed = F.pad(kept, (0, few_sizes(len(kept)) - len(kept)))
    some = flat.index_select(0, computed)
    found = _losses(some, weight, bias, symbols[computed], smoothing)[: len(kept)]
    return found.new_zeros(symbols.shape).index_put((kept,), found).view(target.shape)


def _losses(x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        losses: Tensor = _CrossEntropy.apply(x, weight, bias, target, smoothing)
    return losses


class _CrossEntropy(torch.autograd.Function):
    """N losses of N×H inputs, a V×H weight, V biases, N targets and the label smoothing."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float
    ) -> Tensor:
        losses, probabilities = _losses_and_probabilities(x, weight, bias, target, smoothing)
        ctx.save_for_backward(x, weight, bias, target)
        ctx.probabilities = probabilities if any(ctx.needs_input_grad) else None
        ctx.smoothing = smoothing
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, bias, target = ctx.saved_tensors
        slope, ctx.probabilities = ctx.probabilities, None
        if slope is None:  # a second backward pass through a retained graph
            slope = _losses_and_probabilities(x, weight, bias, target, ctx.smoothing)[1]
        each = grads[0][:, None].to(slope.dtype)
        slope.mul_(each).scatter_add_(1, target[:, None], (ctx.smoothing - 1) * each)
        wanted = ctx.needs_input_grad
        return (
            fast_linear(slope, weight.t()) if wanted[0] else None,
            weight_gradient(x, slope) if wanted[1] else None,
            slope.sum(0) if wanted[2] else None,
            None,
            None,
        )


def _losses_and_probabilities(
    x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """N losses, and N×V probabilities in the memory of the logits; with label smoothing less ε/V."""
    logits = fast_linear(x, weight, bias)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = torch.empty(len(target), device=x.device, dtype=wide)
    rows = max(1, _AT_ONCE // logits.shape[1])
    for k in range(0, len(logits), rows):
        log_p = logits[k : k + rows].log_softmax(1, dtype=wide)
        nll = -log_p.gather(1, target[k : k + rows, None])[:, 0]
        losses[k : k + rows] = nll + smoothing * (-log_p.mean(1) - nll) if smoothing else nll
        logits[k : k + rows] = log_p.exp_().sub_(smoothing / len(weight))
    return losses, logits
