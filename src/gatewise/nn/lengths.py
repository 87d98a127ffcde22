"""The checks of ``lengths=`` and ``reset=``."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatewise.backends.contract import check_lengths, recorded
from gatewise.backends.torch_private import inside_func_tensor, is_func_tensor
from gatewise.backends.tracing import check_recordable, recorded_by
from gatewise.errors import ShapeError
from gatewise.nn.checks import check_layout, shape_of
from gatewise.nn.lists import as_tensor

if TYPE_CHECKING:
    from gatewise.nn.shapes import Lengths


def checked_lengths(lengths: Lengths | None, x: Tensor) -> Tensor | None:
    """B integers on the input's device, or None."""
    if lengths is None:
        return None
    by = recorded_by()
    if by:
        check_recordable(lengths)
    given = _as_tensor("lengths", lengths, "an integer for each sequence")
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ShapeError(f"lengths must be integers, these are {given.dtype}")
    steps, batch = x.shape[:2]
    if given.shape != (batch,):
        raise ShapeError(f"lengths has the shape {shape_of(given)}, expected ({batch},)")
    if given.is_meta != x.is_meta:
        raise ShapeError(f"lengths is on '{given.device}', the input is on '{x.device}'")
    if by:  # a recorded graph cannot check values; view records that there are B of them
        given = given.view(batch)
    elif recorded((given,)):
        given = torch.ops.gatewise.lengths_within(given, steps)
    elif not given.is_meta:  # a tensor on the meta device has no values
        check_lengths(_all_values(given), steps)
    to_gpu = x.is_cuda and given.is_cpu
    if to_gpu:  # the copy is not pinned, so torch reads all of it before the call below returns
        given = given.to(torch.long, copy=True)
    return given.to(device=x.device, dtype=torch.long, non_blocking=to_gpu)


@torch.library.custom_op("gatewise::lengths_within", mutates_args=())
def _lengths_within(lengths: Tensor, steps: int) -> Tensor:
    """The lengths, checked when a traced graph runs. While torch traces, they have no values."""
    check_lengths(lengths, steps)
    return lengths.clone()


@_lengths_within.register_fake
def _(lengths: Tensor, steps: int) -> Tensor:
    return torch.empty_like(lengths)


def _as_tensor(name: str, given: object, expected: str) -> Tensor:
    """The argument ``given``, a tensor, list or array, as a tensor."""
    try:
        found = as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{name} is {reprlib.repr(given)}, expected {expected}: {error}") from None
    check_layout(name, found)
    return found


def _all_values(tensor: Tensor) -> Tensor:
    """All values of a tensor, which torch.func may have wrapped so that they cannot be read."""
    while is_func_tensor(tensor):
        tensor = inside_func_tensor(tensor)
    return tensor.flatten()


def checked_reset(reset: Tensor | None, input: Tensor, time_major: bool) -> Tensor | None:
    """T×B booleans on the input's device, or None."""
    if reset is None:
        return None
    given = _as_tensor("reset", reset, "a boolean for each step")
    if given.dtype != torch.bool:
        raise ShapeError(f"reset must be boolean, this is {given.dtype}")
    if given.shape != input.shape[:-1]:
        raise ShapeError(
            f"reset has the shape {shape_of(given)}, expected {tuple(input.shape[:-1])}: a value "
            f"for each step, in the layout of the input"
        )
    given = given.to(input.device)
    if given.dim() == 1:
        return given[:, None]
    return given if time_major else given.T
