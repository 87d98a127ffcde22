"""What a layer refuses: options out of range and tensors that do not fit, with both values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from gatewise.backends.contract import check_lengths, recorded
from gatewise.backends.tracing import check_recordable, recorded_by
from gatewise.cells.catalogue import find
from gatewise.cells.language import Cell, topological
from gatewise.errors import OptionError, ShapeError, near
from gatewise.nn.lengths import as_tensor

_LAYERS_OWN = (
    *("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "norm_ih", "norm_hh"),
    *("highway_weight", "highway_bias"),
)
CONNECTIONS = ("plain", "residual", "highway")


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise OptionError(f"{name} must be a whole number from 1 on, not {size!r}")


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, not {value!r}")


def is_finite_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_probability(name: str, p: float) -> None:
    if not isinstance(p, Real) or isinstance(p, bool) or not 0 <= p <= 1:
        raise OptionError(f"{name} must be a probability from 0 to 1, not {p!r}")


def check_parameter_names(cell: Cell) -> None:
    own = (*_LAYERS_OWN, *(f"initial_{name}" for name in cell.state))
    for name in cell.params:
        if name in own:
            raise OptionError(
                f"{cell.name} has a parameter '{name}', which is a name of the layer's own "
                f"({', '.join(own)}); call it something else"
            )


def checked_cell(cell: Cell | str) -> Cell:
    """The cell, or the built-in one of that name."""
    if isinstance(cell, str):
        return find(cell)
    if not isinstance(cell, Cell):
        raise OptionError(
            f"cell must be a cell, made by @gw.cell, or the name of a built-in one, not {cell!r}"
        )
    return cell


def check_connect(connect: str, num_layers: int) -> None:
    if connect not in CONNECTIONS:
        hint = near(connect, CONNECTIONS) if isinstance(connect, str) else ""
        raise OptionError(
            f"connect must be one of {', '.join(map(repr, CONNECTIONS))}, not {connect!r}{hint}"
        )
    if connect != "plain" and num_layers == 1:
        warnings.warn(
            f"connect={connect!r} acts from the second layer on, and there is only one",
            stacklevel=3,
        )


def check_blocks(
    cell: Cell, hidden_size: int, proj_size: int, block_size: int, recurrent_blocks: int
) -> None:
    """Blocks of cells that share gates, and blocks of units that see themselves alone, must be whole."""
    check_sizes(block_size=block_size, recurrent_blocks=recurrent_blocks)
    if block_size > 1 and not cell.shared:
        raise OptionError(
            f"block_size={block_size} is how many cells share the gates that a cell says are shared, "
            f"and {cell.name} says so of none; write it with @cell(..., shared=...)"
        )
    if recurrent_blocks > 1 and not cell.feedback:
        raise OptionError(
            f"recurrent_blocks={recurrent_blocks} divides the recurrent weights, and {cell.name} has none"
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


def check_projection(cell: Cell, hidden_size: int, proj_size: int) -> None:
    """A projected state is narrower than the units, so no equation may combine the two."""
    whole = isinstance(proj_size, int) and not isinstance(proj_size, bool)
    if not whole or not 0 <= proj_size < hidden_size:
        raise OptionError(
            f"proj_size must be a whole number from 0 to below hidden_size={hidden_size}, not "
            f"{proj_size!r}"
        )
    if proj_size and cell.late:
        raise OptionError(
            f"{cell.name} cannot be projected: its gates {', '.join(cell.late)} are fed with a value of "
            f"the step, which has one number for each of hidden_size={hidden_size} units where the "
            f"recurrent weights would take proj_size={proj_size}"
        )
    output = ("state", cell.state[0])
    if proj_size and any((v.op, v.name) == output for v in topological(cell.values.values())):
        raise OptionError(
            f"{cell.name} cannot be projected: its equations use its state {cell.state[0]}, which "
            f"would have proj_size={proj_size} values and not one for each unit"
        )


def checked_zoneout(zoneout: float | Sequence[float], cell: Cell) -> tuple[float, ...]:
    """One probability for each state of the cell."""
    if not isinstance(zoneout, Sequence) or isinstance(zoneout, str):
        check_probability("zoneout", zoneout)
        zoneout = (float(zoneout),) * len(cell.state)
    if len(zoneout) != len(cell.state):
        raise OptionError(
            f"zoneout has {len(zoneout)} probabilities; {cell.name} has {len(cell.state)} "
            f"states ({', '.join(cell.state)})"
        )
    for name, p in zip(cell.state, zoneout, strict=True):
        check_probability(f"zoneout of the state {name}", p)
        if p and name in cell.together:
            pairs = zip(cell.state, zoneout, strict=True)
            alone = tuple(0.0 if of in cell.together else float(own) for of, own in pairs)
            raise OptionError(
                f"zoneout keeps each state for itself, and {cell.name}'s {', '.join(cell.together)} say "
                f"something only together; give one for each state, as zoneout={alone}"
            )
    return tuple(map(float, zoneout))


def not_a_tensor(input: object, name: str = "input") -> ShapeError:
    return ShapeError(
        f"{name} is a {type(input).__name__}, expected a tensor; for sequences of unlike lengths give "
        f"the padded tensor and lengths="
    )


def check_input(x: Tensor, weight: Tensor) -> None:
    """The input against the weight that is to multiply it."""
    if x.dtype != weight.dtype:
        raise ShapeError(f"input is {x.dtype}, the layer's weights are {weight.dtype}")
    if x.device != weight.device:
        raise ShapeError(f"input is on '{x.device}', the layer's weights are on '{weight.device}'")


def checked_lengths(lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor | None:
    """B whole numbers on the input's device, or None."""
    if lengths is None:
        return None
    by = recorded_by()
    if by:
        check_recordable(lengths)
    given = as_tensor(lengths)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ShapeError(f"lengths must be whole numbers, these are {given.dtype}")
    steps, batch = x.shape[:2]
    if given.shape != (batch,):
        raise ShapeError(f"lengths has the shape {shape_of(given)}, expected ({batch},)")
    if by:  # a record has no place for the check of values, and one of B in this shape
        given = given.view(batch)
    elif recorded((given,)):
        given = torch.ops.gatewise.lengths_within(given, steps)
    else:
        check_lengths(_all_values(given), steps)
    ahead = x.is_cuda and given.is_cpu
    if ahead:  # from memory of its own, not pinned, what is copied is read before this returns
        given = given.to(torch.long, copy=True)
    return given.to(device=x.device, dtype=torch.long, non_blocking=ahead)


@torch.library.custom_op("gatewise::lengths_within", mutates_args=())
def _lengths_within(lengths: Tensor, steps: int) -> Tensor:
    """The lengths, checked when a traced graph runs: while it is traced, they have no values."""
    check_lengths(lengths, steps)
    return lengths.clone()


@_lengths_within.register_fake
def _(lengths: Tensor, steps: int) -> Tensor:
    return torch.empty_like(lengths)


def _all_values(tensor: Tensor) -> Tensor:
    """The numbers under what torch.func makes of a tensor, of which no single one can be read."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.flatten()


def checked_reset(reset: Tensor | None, input: Tensor, time_major: bool) -> Tensor | None:
    """T×B booleans on the input's device, or None."""
    if reset is None:
        return None
    given = torch.as_tensor(reset)
    if given.dtype != torch.bool:
        raise ShapeError(f"reset must be boolean, this is {given.dtype}")
    if given.shape != input.shape[:-1]:
        raise ShapeError(
            f"reset has the shape {shape_of(given)}, expected {tuple(input.shape[:-1])}: a value "
            f"for each step of the input, laid out as it is"
        )
    given = given.to(input.device)
    if given.dim() == 1:
        return given[:, None]
    return given if time_major else given.T
