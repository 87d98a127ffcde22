"""The language's operations on torch tensors: what a graph is evaluated with, wherever torch does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gatewise.backends.tracing import recorded_by


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact everywhere; torch's own softplus turns linear above 20."""
    zero = torch.zeros_like(x)
    if recorded_by():
        # the same of operators that ONNX has. Its second derivative is wrong at 0 itself
        return torch.maximum(x, zero) + torch.log1p(torch.exp(-x.abs()))
    return torch.logaddexp(x, zero)


TORCH: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": torch.exp,
    "log": torch.log,
    "softplus": _softplus,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": lambda a, b: (a > b).to(a.dtype),
    "detach": torch.Tensor.detach,
    # gradients alone have it; as torch's, it lets the gradient of what is no number pass
    "relu_backward": lambda dy, x: torch.where(x <= 0, 0, dy),
}
