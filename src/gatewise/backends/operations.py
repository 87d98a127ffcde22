"""The language's operations on torch tensors: what a graph is evaluated with, wherever torch does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

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
    # torch's own softplus turns linear above 20; this one is exact everywhere
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": lambda a, b: (a > b).to(a.dtype),
    "detach": torch.Tensor.detach,
    # gradients alone have it; as torch's, it lets the gradient of what is no number pass
    "passed": lambda dy, x: torch.where(x <= 0, 0, dy),
}
