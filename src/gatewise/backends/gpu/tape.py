"""What training keeps of the way forward: one piece of memory, and the tensors in it."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.gpu.plan import REMEMBERED
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


class Part(NamedTuple):
    """A tensor of a tape, where it begins, in numbers of its type, and whether large products read it
    beyond the sequences' lengths too."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    start: int
    whole: bool


def widths(shape: Shape, sizes: Sizes) -> tuple[int, ...]:
    """Of each state."""
    return (sizes.P, *[sizes.H] * (shape.STATES - 1))


def laid_out(shape: Shape, sizes: Sizes) -> tuple[dict[str, Part], int]:
    """Each tensor by name, see loops.py; and the tape's length in bytes. Sizes may be symbols."""
    T, B, H, _, dtype, projected, normalised = sizes
    found: dict[str, tuple[tuple[int, ...], torch.dtype, bool]] = {}
    for k, width in enumerate(widths(shape, sizes)):
        if k == 0 or shape.uses[k] or k in shape.FED:
            kind = dtype if k == 0 else torch.float32
            found[f"state {k}"] = (T + 1, B, width), kind, k == 0 or k in shape.FED
    found["saved"] = (T, B, shape.SAVED * H), torch.float32, False
    if shape.NL:
        found["late"] = (T, B, H), dtype, True
    if projected:
        found["unprojected"] = (T, B, H), dtype, True
    if normalised:
        found["normal"] = (T, B, len(shape.of_state) * H), torch.float32, True
        found["scales"] = (T, B), torch.float32, False
    placed, end = {}, 0
    for name, (of, kind, whole) in found.items():
        strides = tuple(prod(of[k + 1 :]) for k in range(len(of)))
        placed[name] = Part(of, strides, kind, end // kind.itemsize, whole)
        end += -(-prod(of) * kind.itemsize // _ALIGNED) * _ALIGNED
    return placed, end


_remembered = lru_cache(REMEMBERED)(laid_out)


def views(tape: Tensor, shape: Shape, sizes: Sizes, clear: bool = False) -> dict[str, Tensor]:
    """The tensors in a tape. ``clear`` makes zero what is read where no step has written."""
    as_type = {dtype: tape.view(dtype) for dtype in {sizes.dtype, torch.float32}}
    found = {}
    for name, (of, strides, dtype, start, whole) in _remembered(shape, sizes)[0].items():
        typed = as_type[dtype]
        found[name] = typed.as_strided(of, strides, typed.storage_offset() + start)
        if clear and whole:
            found[name].zero_()
    return found


def size_of(shape: Shape, sizes: Sizes) -> int:
    """A tape's length in bytes."""
    return _remembered(shape, sizes)[1]
