"""The operations of the cell language as torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gatewise.backends.tracing import recorded_by


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), accurate everywhere. torch's own softplus is linear above 20."""
    zero = torch.zeros_like(x)
    if recorded_by():
        # the same function of operators that ONNX has; its second derivative at 0 is wrong
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
    # only derived gradients use this; a NaN in x lets the gradient pass, as in torch
    "relu_backward": lambda dy, x: torch.where(x <= 0, 0, dy),
}
