"""Steps counted backwards from the one that a layer reads last, and the vectors that gradients are taken of."""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.options import integer

EXACT = 64  # units up to which all of them are taken
SAMPLES = 32  # vectors where there are more units


def vectors_of(width: int, samples: int | None, seed: int, like: Tensor) -> tuple[Tensor, bool]:
    """The vectors, one a row, and whether they are all unit vectors."""
    if samples is None and width <= EXACT:
        return torch.eye(width).to(like), True
    number = SAMPLES if samples is None else integer("samples", samples)
    signs = torch.randint(2, (number, width), generator=torch.Generator().manual_seed(seed))
    return (2.0 * signs - 1).to(like), False


def last_read(values: Tensor, lengths: Tensor, direction: int) -> Tensor:
    """B×…: the values at the step that is read last; zeros for an empty sequence, which has no gradient."""
    at = torch.zeros_like(lengths) if direction else (lengths - 1).clamp(min=0)
    found = values[torch.arange(len(values)), at.to(values.device)]
    there = (lengths > 0).to(found)
    return found * there[(..., *[None] * (found.dim() - 1))]


def by_lag(values: Tensor, lengths: Tensor, direction: int) -> Tensor:
    """B×T×…: the values k steps before the step that is read last, and zeros beyond the first step."""
    steps = values.shape[1]
    lag = torch.arange(steps)
    at = lag.expand(len(values), steps) if direction else lengths[:, None] - 1 - lag
    valid = (lag < lengths[:, None]).to(values.device)
    at = at.clamp(0, max(steps - 1, 0)).to(values.device)
    more = (..., *[None] * (values.dim() - 2))
    return values.gather(1, at[more].expand_as(values)) * valid[more]
