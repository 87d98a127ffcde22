"""The error messages of torch's recurrent layers.

gatewise's messages contain them, because code that was written for torch's layers matches them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

DROPOUT = "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
NO_PROJECTION = "proj_size argument is only supported for LSTM, not RNN or GRU"


def of_size(name: str, value: Any) -> str:
    """For an argument of a constructor that must be a positive integer."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"{name} must be greater than zero"
    return f"{name} should be of type int, got: {type(value).__name__}"


def of_flag(name: str, value: Any) -> str:
    return f"{name} should be of type bool, got: {type(value).__name__}"


def of_projection(proj_size: Any, hidden_size: int) -> str:
    if isinstance(proj_size, Integral) and int(proj_size) >= hidden_size:
        return "proj_size has to be smaller than hidden_size"
    return "proj_size should be a positive integer or zero to disable projections"


def of_nonlinearity(value: Any) -> str:
    return f"Unknown nonlinearity '{value}'. Select from 'tanh' or 'relu'."


def of_type(input: torch.dtype, weight: torch.dtype) -> str:
    return (
        f"RNN input dtype ({input}) does not match weight dtype ({weight}). "
        f"Convert input: input.to({weight}), or convert model: model.to({input}); "
        f"{of_product(input, weight)}"
    )


# The names of dtypes in the errors of torch's operators.
_SCALARS = {
    torch.float64: "Double",
    torch.float32: "Float",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
    torch.bool: "Bool",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


def of_product(left: torch.dtype, right: torch.dtype) -> str:
    """For a matrix product whose factors differ in dtype."""
    names = " and ".join(_SCALARS.get(dtype, str(dtype)) for dtype in (left, right))
    return f"mat1 and mat2 must have the same dtype, but got {names}"


def of_device(input: torch.device, other: torch.device, called: str) -> str:
    """``called`` is "parameter" or "hidden"."""
    return (
        f"Input and {called} tensors are not at the same device, found input tensor at {input} and "
        f"{called} tensor at {other}"
    )


def of_dimensions(layer: str, dims: int) -> str:
    """For an input of a layer that does not have two or three dimensions."""
    kind = " tensor" if layer == "RNN" else ""
    return (
        f"{layer}: Expected input to be 2D or 3D, got {dims}D{kind} instead; "
        f"input must have 3 dimensions, got {dims}"
    )


def of_width(expected: int, found: int) -> str:
    return f"input.size(-1) must be equal to input_size. Expected {expected}, got {found}"


def of_packed_width(values: Tensor, size: int, rows: int) -> str:
    """For a packed input whose width is not ``size``; the input weights have ``rows`` rows."""
    wide = values.shape[-1]
    product = f"{len(values)}x{wide} and {size}x{rows}"
    return f"{of_width(size, wide)}; mat1 and mat2 shapes cannot be multiplied ({product})"


def of_number(operator: str) -> str:
    """For a wrong number of states of torch's ``operator``, which takes two."""
    return f"{operator} expects two hidden states"


def of_kind(operator: str, hx: object) -> str:
    """For the states of a single step that are not in a tuple."""
    return f"{operator}(): argument 'hx' (position 2) must be tuple of Tensors, not {type(hx).__name__}"


def of_states(
    states: Sequence[Tensor], batched: bool, shapes: Sequence[tuple[int, ...]], packed: bool
) -> str:
    """For initial states of a layer that differ from these shapes, L·D×B×width each."""
    like = "For batched 3-D input" if batched else "For unbatched 2-D input"
    dims = 3 if batched else 2
    if not packed and any(state.dim() != dims for state in states):
        if len(states) == 1:
            return f"{like}, hx should also be {dims}-D but got {states[0].dim()}-D tensor"
        each = ", ".join(f"{state.dim()}-D" for state in states)
        return f"{like}, hx and cx should also be {dims}-D but got ({each}) tensors"
    for k, (state, shape) in enumerate(zip(states, shapes, strict=True)):
        found = list(state.shape) if batched else [len(state), 1, *state.shape[1:]]
        if tuple(found) != shape:
            which = f"hidden[{k}]" if len(states) > 1 else "hidden"
            return f"Expected {which} size {shape}, got {found}"
    return ""


def of_cell_input(cell: str, input: Tensor, input_size: int) -> str:
    if input.dim() not in (1, 2):
        return f"{cell}: Expected input to be 1D or 2D, got {input.dim()}D instead"
    return f"input has inconsistent input_size: got {input.shape[-1]} expected {input_size}"


def of_cell_state(
    cell: str, k: int, states: Sequence[Tensor], batched: bool, batch: int, units: int
) -> str:
    """For the k-th state of a single step that is not B×H, or H for a single sequence."""
    state = states[k]
    if state.dim() not in (1, 2):
        which = f"hx[{k}]" if len(states) > 1 else "hidden"
        return f"{cell}: Expected {which} to be 1D or 2D, got {state.dim()}D instead"
    seen = state.shape if batched else (1, *state.shape)
    if seen[0] != batch:
        return f"Input batch size {batch} doesn't match hidden{k} batch size {seen[0]}"
    return f"hidden{k} has inconsistent hidden_size: got {seen[1]}, expected {units}"
