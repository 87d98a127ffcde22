"""Checks of a layer's options and tensors. Messages have the value and the expected value."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.cells.catalogue import find
from gatewise.cells.language import Cell, topological
from gatewise.errors import BackendError, OptionError, ShapeError
from gatewise.nn import sentences
from gatewise.options import choice, integer, is_bool, probability, short_repr

# The names that a layer gives its own parameters.
_RESERVED = (
    *("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "norm_ih", "norm_hh"),
    *("highway_weight", "highway_bias"),
)
CONNECTIONS = ("plain", "residual", "highway")


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def checked_size(name: str, value: object, least: int = 1) -> int:
    """``value`` as an int of at least ``least``. The message has torch's sentence too.

    Raises:
        OptionError: the value is anything else.
    """
    try:
        return integer(name, value, least)
    except OptionError as error:
        raise OptionError(f"{error} ({sentences.of_size(name, value)})") from None


def checked_bool(name: str, value: object) -> bool:
    """``value`` as a bool. 0 and 1 are refused, as in torch, because they are probably another argument.

    Raises:
        OptionError: the value is anything else.
    """
    if is_bool(value):
        return bool(value)
    raise OptionError(
        f"{name} must be True or False, not {short_repr(value)} ({sentences.of_flag(name, value)})"
    )


def checked_dropout(value: object) -> float:
    """``value`` as a float from 0 to 1. The message has torch's sentence too.

    Raises:
        OptionError: the value is anything else.
    """
    try:
        return probability("dropout", value)
    except OptionError as error:
        raise OptionError(f"{error} ({sentences.DROPOUT})") from None


def check_parameter_names(cell: Cell) -> None:
    """Raises OptionError if a per-unit parameter of the cell has the name of a layer's parameter."""
    reserved = (*_RESERVED, *(f"initial_{name}" for name in cell.state))
    for name in cell.params:
        if name in reserved:
            raise OptionError(
                f"{cell.name} has a parameter '{name}', which is a name of a layer's "
                f"parameters ({', '.join(reserved)}); choose another name"
            )


def checked_cell(cell: Cell | str) -> Cell:
    """The cell, or the built-in cell of that name."""
    if isinstance(cell, str):
        return find(cell)
    if not isinstance(cell, Cell):
        raise OptionError(
            f"cell must be a cell made with @gw.cell, or the name of a built-in cell, not {cell!r}"
        )
    return cell


def checked_connect(connect: object, num_layers: int) -> str:
    """``connect``, which must be one of CONNECTIONS. Warns if there is one layer only."""
    connect = choice("connect", connect, CONNECTIONS)
    if connect != "plain" and num_layers == 1:
        warnings.warn(
            f"connect={connect!r} has no effect, because the layer has num_layers=1",
            stacklevel=3,
        )
    return connect


def check_blocks(
    cell: Cell, hidden_size: int, proj_size: int, block_size: int, recurrent_blocks: int
) -> None:
    """Raises OptionError unless the cell can have the blocks, and they divide its units."""
    if block_size > 1 and not cell.shared_gates:
        raise OptionError(
            f"block_size={block_size} needs a cell with shared gates, and {cell.name} has none; a cell "
            f"names them with @cell(..., shared_gates=...)"
        )
    if recurrent_blocks > 1 and not cell.feedback:
        raise OptionError(
            f"recurrent_blocks={recurrent_blocks} divides recurrent weights, and {cell.name} has none"
        )
    both = block_size * recurrent_blocks
    if hidden_size % both:
        raise OptionError(
            f"hidden_size={hidden_size} must be a multiple of block_size={block_size} times "
            f"recurrent_blocks={recurrent_blocks}, which is {both}"
        )
    if proj_size % recurrent_blocks:
        raise OptionError(
            f"proj_size={proj_size} must be a multiple of recurrent_blocks={recurrent_blocks}"
        )


def checked_projection(cell: Cell, hidden_size: int, given: object) -> int:
    """The width of the projection, or 0 for none.

    A projected state has fewer values than there are units, so no equation may use it with a value that
    has one number per unit."""
    try:
        proj_size = integer("proj_size", given, 0, hidden_size - 1)
    except OptionError:
        raise OptionError(
            f"proj_size must be an integer from 0 to below hidden_size={hidden_size}, not "
            f"{short_repr(given)} ({sentences.of_projection(given, hidden_size)})"
        ) from None
    if proj_size and cell.second_stage:
        raise OptionError(
            f"{cell.name} cannot be projected: the recurrent input of its gates "
            f"{', '.join(cell.second_stage)} is a value of the same step with hidden_size={hidden_size} "
            f"numbers, and the recurrent weights would need proj_size={proj_size}"
        )
    output = ("state", cell.state[0])
    if proj_size and any((v.op, v.name) == output for v in topological(cell.values.values())):
        raise OptionError(
            f"{cell.name} cannot be projected: its equations use the state {cell.state[0]} with one "
            f"value per unit, and it would have proj_size={proj_size} values"
        )
    return proj_size


def checked_zoneout(zoneout: float | Sequence[float], cell: Cell) -> tuple[float, ...]:
    """One probability for each state of the cell."""
    single = isinstance(zoneout, str) or not hasattr(zoneout, "__len__")
    if single or getattr(zoneout, "shape", None) == ():
        each = [probability("zoneout", zoneout)] * len(cell.state)
    else:
        each = list(zoneout)  # type: ignore[arg-type]
    if len(each) != len(cell.state):
        raise OptionError(
            f"zoneout has {len(each)} probabilities; {cell.name} has {len(cell.state)} "
            f"states ({', '.join(cell.state)})"
        )
    named = [f"zoneout of the state {name}" for name in cell.state]
    shares = tuple(map(probability, named, each))
    for name, p in zip(cell.state, shares, strict=True):
        if p and name in cell.coupled_states:
            pairs = zip(cell.state, shares, strict=True)
            alone = tuple(0.0 if of in cell.coupled_states else own for of, own in pairs)
            raise OptionError(
                f"{cell.name}'s states {', '.join(cell.coupled_states)} are coupled and cannot have "
                f"zoneout; give a probability for each state, such as zoneout={alone}"
            )
    return shares


def not_a_tensor(input: object, name: str = "input") -> ShapeError:
    """The error for an input that is not a tensor."""
    return ShapeError(
        f"{name} is a {type(input).__name__}, expected a tensor; for sequences of different lengths give "
        f"the padded tensor and lengths="
    )


def check_expanded(weight: Tensor) -> None:
    """Raises BackendError for a weight that torch's call_for_per_sample_grads has replaced."""
    if type(weight).__name__ == "ExpandedWeight":
        raise BackendError(
            "torch's call_for_per_sample_grads has no rules for gatewise's operations; for the gradients "
            "of each sample use torch.func: vmap(grad(loss), in_dims=(None, 0)), where loss calls "
            "functional_call(layer, parameters, sample)"
        )


def check_layout(name: str, tensor: Tensor) -> None:
    """Raises ShapeError for a nested, sparse or quantized tensor."""
    if tensor.is_nested:
        raise ShapeError(
            f"{name} is a nested tensor, expected a dense one; give "
            f"torch.nested.to_padded_tensor(…, 0.0), and lengths= with it"
        )
    if tensor.layout is not torch.strided:
        raise ShapeError(
            f"{name} has the layout {tensor.layout}, expected torch.strided; give its .to_dense()"
        )
    if tensor.is_quantized:
        raise ShapeError(f"{name} is quantized, {tensor.dtype}; give its .dequantize()")


def check_input(x: Tensor, weight: Tensor) -> None:
    """Raises ShapeError unless the input has the dtype and device of the weight."""
    check_expanded(weight)
    if x.dtype != weight.dtype:
        raise ShapeError(
            f"input is {x.dtype}, the layer's weights are {weight.dtype} "
            f"({sentences.of_type(x.dtype, weight.dtype)})"
        )
    if x.device != weight.device:
        raise ShapeError(
            f"input is on '{x.device}', the layer's weights are on '{weight.device}' "
            f"({sentences.of_device(x.device, weight.device, 'parameter')})"
        )
