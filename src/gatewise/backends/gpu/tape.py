"""What training keeps of the way forward: one piece of memory, and the tensors in it."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.gpu.sums import Shape

_ALIGNED = 256  # bytes


class Sizes(NamedTuple):
    """P is the output's width; what is ``projected`` or ``normalised`` is so."""

    T: int
    B: int
    H: int
    P: int
    dtype: torch.dtype
    projected: bool
    normalised: bool


Parts = dict[str, tuple[tuple[int, ...], torch.dtype]]


def widths(shape: Shape, sizes: Sizes) -> tuple[int, ...]:
    """Of each state."""
    return (sizes.P, *[sizes.H] * (shape.STATES - 1))


def parts(shape: Shape, sizes: Sizes) -> Parts:
    """Each tensor's shape and type by name; see loops.py."""
    T, B, H, _, dtype, projected, normalised = sizes
    found: Parts = {}
    for k, width in enumerate(widths(shape, sizes)):
        if k == 0 or shape.uses[k] or k in shape.FED:
            found[f"state {k}"] = (T + 1, B, width), dtype if k == 0 else torch.float32
    found["saved"] = (T, B, shape.SAVED * H), torch.float32
    if shape.NL:
        found["late"] = (T, B, H), dtype
    if projected:
        found["unprojected"] = (T, B, H), dtype
    if normalised:
        found["normal"] = (T, B, len(shape.of_state) * H), torch.float32
        found["scales"] = (T, B), torch.float32
    return found


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return -(-prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED


def size_of(shape: Shape, sizes: Sizes) -> int:
    """A tape's length in bytes."""
    return sum(_bytes(*part) for part in parts(shape, sizes).values())


def views(tape: Tensor, shape: Shape, sizes: Sizes) -> dict[str, Tensor]:
    """The tensors in a tape."""
    found, at = {}, 0
    for name, (of, dtype) in parts(shape, sizes).items():
        found[name] = tape[at : at + prod(of) * dtype.itemsize].view(dtype).view(of)
        at += _bytes(of, dtype)
    return found
