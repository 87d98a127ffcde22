"""The saved activations of a forward pass: one block of memory, and the tensors in it."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.gpu.accumulators import Shape
from gatewise.backends.gpu.plan import CACHE_SIZE

_ALIGNED = 256  # bytes


class Sizes(NamedTuple):
    """The sizes and options that determine the layout. P is the output's width."""

    T: int
    B: int
    H: int
    P: int
    dtype: torch.dtype
    projected: bool
    normalised: bool


class Part(NamedTuple):
    """One of the tensors: its shape, strides and type; where it begins, in numbers of its type; and whether
    large products read it beyond the sequences' lengths too."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    start: int
    whole: bool


def widths(shape: Shape, sizes: Sizes) -> tuple[int, ...]:
    """The width of each state."""
    return (sizes.P, *[sizes.H] * (shape.STATES - 1))


def laid_out(shape: Shape, sizes: Sizes) -> tuple[dict[str, Part], int]:
    """Each tensor by name (loops.py has the names), and the length of them all in bytes. Sizes may be symbolic."""
    T, B, H, _, dtype, projected, normalised = sizes
    found: dict[str, tuple[tuple[int, ...], torch.dtype, bool]] = {}
    for k, width in enumerate(widths(shape, sizes)):
        if k == 0 or shape.uses[k] or k in shape.FEEDBACK:
            kind = dtype if k == 0 else torch.float32
            found[f"state {k}"] = (T + 1, B, width), kind, k == 0 or k in shape.FEEDBACK
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


_cached = lru_cache(CACHE_SIZE)(laid_out)


def views(
    activations: Tensor, shape: Shape, sizes: Sizes, clear: bool = False
) -> dict[str, Tensor]:
    """The tensors in the memory ``activations``. ``clear`` zeroes those that are read where no step has written."""
    as_type = {dtype: activations.view(dtype) for dtype in {sizes.dtype, torch.float32}}
    found = {}
    for name, (of, strides, dtype, start, whole) in _cached(shape, sizes)[0].items():
        typed = as_type[dtype]
        found[name] = typed.as_strided(of, strides, typed.storage_offset() + start)
        if clear and whole:
            found[name].zero_()
    return found


def size_of(shape: Shape, sizes: Sizes) -> int:
    """The length of the saved activations in bytes."""
    return _cached(shape, sizes)[1]
