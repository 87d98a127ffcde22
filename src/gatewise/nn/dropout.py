"""Dropout with masks that are drawn faster than torch's on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import recorded
from gatewise.backends.torch_private import tracing_state, transformed

_BITS = 16


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``, with :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """``torch.nn.functional.dropout``, on the CPU in a third of its time, with draws of its own.

    torch draws 53 random bits for each number. Here 16 bits decide, so that the probability is rounded to a multiple
    of 2⁻¹⁶. What is kept is divided by the probability that it is kept, so that the mean is exact.
    """
    dropped = round(p * 2**_BITS)  # of the 2¹⁶ values
    if (
        not training
        or not 0 < dropped < 2**_BITS
        or not x.is_cpu
        or recorded((x,))
        or transformed()
        or tracing_state() is not None
    ):
        return F.dropout(x, p, training)
    words = torch.empty(-(-x.numel() * _BITS // 64), dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    mask = (drawn >= dropped - 2 ** (_BITS - 1)).to(x.dtype)
    # the result is as contiguous as the first factor, so that it can be reshaped without a copy
    return mask.mul_(2**_BITS / (2**_BITS - dropped)) * x
