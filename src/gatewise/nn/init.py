"""How a layer's weights begin: initialisations of the literature, for any cell.

Each function changes a layer in place and returns it: a ``Recurrent``, a single step (``RecurrentCell``)
or, where it does not ask for matrices, a ``ConvRecurrent``. Which gate is a forget gate is read off the
cell's equations: see :func:`forget_gates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from gatewise.backends.contract import Masks, Weights
from gatewise.backends.registry import choose, run
from gatewise.cells.language import Cell
from gatewise.errors import OptionError
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell
from gatewise.options import real

_Dense = Recurrent | RecurrentCell  # whose weights are matrices
_Layer = _Dense | ConvRecurrent
Dense = TypeVar("Dense", bound=_Dense)
Layer = TypeVar("Layer", bound=_Layer)

_ANY = "a Recurrent, a RecurrentCell or a ConvRecurrent"
_FAR = 30.0  # a pre-activation at which a gate is fully open or, negative, shut
_BEFORE = 0.5  # what the states are before the step that a cell is looked at in


def forget_bias_(layer: Layer, value: float) -> Layer:
    """Let every forget gate start from the pre-activation ``value`` (Gers et al. 2000; Jozefowicz et
    al. 2015 recommend 1): the greater, the longer is kept.

    Its ``bias_ih`` becomes ``value``, ``-value`` for a gate that keeps when it is shut (minGRU's z,
    for example), and its ``bias_hh`` zero.

    Raises:
        OptionError: the layer has no biases, or its cell no forget gate.
    """
    _check_layer("forget_bias_", layer, biased=True)
    value = real("the bias in forget_bias_", value)
    units = layer._structure.units
    for gate, sign in forget_gates(layer.cell).items():
        for suffix in layer._expected:
            _set_bias(layer, gate, suffix, torch.full((units,), sign * value))
    return layer


def chrono_(layer: Layer, longest: float) -> Layer:
    """Let the units' memories last from one step to ``longest`` steps (Tallec & Ollivier 2018, "Can
    Recurrent Neural Networks Warp Time?", section 3).

    The forget gate's bias is log u with u from U(1, longest - 1) for each unit, with the other sign
    for a gate that keeps when it is shut; the input gate's, where the cell has one, is minus it.
    ``bias_hh`` is zero for both.

    Args:
        longest: T_max, steps; 2 or more.

    Raises:
        OptionError: ``longest`` is less than 2, the layer has no biases, or its cell no forget gate.
    """
    _check_layer("chrono_", layer, biased=True)
    longest = real(
        "longest", longest, "a number of steps from 2 on, over which is remembered", least=2
    )
    forget, write = forget_gates(layer.cell), input_gates(layer.cell)
    for suffix in layer._expected:
        kept = torch.empty(layer._structure.units).uniform_(1, longest - 1).log()
        for gate, sign in forget.items():
            _set_bias(layer, gate, suffix, sign * kept)
        for gate, sign in write.items():
            _set_bias(layer, gate, suffix, -sign * kept)
    return layer


def orthogonal_(layer: Dense, gain: float = 1.0) -> Dense:
    """Make each gate's recurrent weights, H×F, orthogonal: rows or columns, whichever are fewer, of
    length ``gain`` and at right angles (Saxe et al. 2014, "Exact Solutions to the Nonlinear Dynamics
    of Learning in Deep Linear Neural Networks").

    Each block of ``recurrent_blocks`` is a matrix of its own; what is not connected stays zero.

    Raises:
        OptionError: the cell has no recurrent weights.
    """
    _check_layer("orthogonal_", layer, dense=True)
    if not layer.cell.feedback:
        raise OptionError(f"orthogonal_ is for recurrent weights, and {layer.cell.name} has none")
    for weight in _stored(layer, "weight_hh"):
        for rows, columns in layer._structure.dense():
            if columns:
                shape = (rows.stop - rows.start, len(columns))
                weight.detach()[rows, columns] = _orthogonal(shape, weight, gain)
    return layer


def xavier_input_(layer: Layer) -> Layer:
    """Draw each gate's input weights, H×I, from U(-b, b) with b = √(6 / (H + I)) (Glorot & Bengio 2010,
    "Understanding the Difficulty of Training Deep Feedforward Neural Networks", equation 16); a
    convolution's with H and I times its kernel's size."""
    _check_layer("xavier_input_", layer)
    for weight in _stored(layer, "weight_ih"):
        for gate in weight.detach().split(layer._structure.rows):
            nn.init.xavier_uniform_(gate)
    return layer


def keras_(layer: Dense) -> Dense:
    """Start as Keras's layers do.

    Input weights are drawn as Glorot & Bengio 2010 say for one matrix of all gates, I×G·H (so with
    √(6 / (I + G·H)) as their bound); the recurrent weights of all gates are one orthogonal matrix,
    F×G·H; biases are zero, but one for the forget gate of a state beside the output: the LSTM's, not
    the GRU's. Other parameters stay.

    Raises:
        OptionError: the recurrent weights are stored otherwise than as G·H×F; Keras has no such layer.
    """
    _check_layer("keras_", layer, dense=True)
    if not layer._structure.plain:
        raise OptionError(
            f"keras_ is for plain recurrent weights; those of {layer!r} with the cell "
            f"{layer.cell.name} are not. Use xavier_input_, orthogonal_ and forget_bias_"
        )
    for weight in _stored(layer, "weight_ih"):
        nn.init.xavier_uniform_(weight)
    for weight in _stored(layer, "weight_hh"):
        if weight.numel():
            weight.detach().copy_(_orthogonal((len(weight), weight.shape[1]), weight))
    if layer.bias:
        for bias in (*_stored(layer, "bias_ih"), *_stored(layer, "bias_hh")):
            nn.init.zeros_(bias)
        for gate, sign in _forget_gates(layer.cell, layer.cell.state[1:]).items():
            for suffix in layer._expected:
                _set_bias(layer, gate, suffix, torch.full((layer.hidden_size,), float(sign)))
    return layer


def forget_gates(cell: Cell) -> Mapping[str, int]:
    """The gates that decide how much of a state is kept, each with the sign of the pre-activation
    that keeps it: 1 for the LSTM's f and for the GRU's z in PyTorch's convention, -1 for minGRU's z.

    They are found by the equations: a state's derivative by its own old value, with the other
    gates' pre-activations zero, goes to 1 as this gate's goes one way and down as it goes the other.
    Where some gates keep when they are open and some when they are shut, as an input gate does in a
    cell that normalises, the former are meant.

    Raises:
        OptionError: there is none.
    """
    found = _forget_gates(cell, cell.state)
    if not found:
        raise OptionError(
            f"the cell {cell.name} has no forget gate: none of its gates "
            f"({', '.join(cell.gates)}) decides how much of a state ({', '.join(cell.state)}) is kept"
        )
    return dict(found)


def input_gates(cell: Cell) -> Mapping[str, int]:
    """The gates that alone decide how much goes into a state that has a forget gate, each with the sign
    of the pre-activation that lets it in. Empty where the forget gate decides this too (the GRU).

    They are found by the equations: the state's derivative by another gate's pre-activation vanishes
    as this gate's goes one way, and does not as it goes the other.
    """
    forget = _forget_gates(cell, cell.state)
    keeping = [name for name in cell.state if _forget_gates(cell, (name,))]
    found: dict[str, int] = {}
    for gate in (g for g in cell.gates if g not in forget):
        for state in keeping:
            shut, open_ = (_slopes(cell, state, gate, sign * _FAR)[1] for sign in (-1, 1))
            for other in (g for g in shut if g != gate and g not in forget):
                low, high = sorted((abs(shut[other]), abs(open_[other])))
                if low < 1e-6 and high > 0.1:
                    found[gate] = 1 if high == abs(open_[other]) else -1
    return found


@lru_cache(maxsize=256)
def _forget_gates(cell: Cell, states: tuple[str, ...]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for state in states:
        signs = {gate: _keeps(cell, state, gate) for gate in cell.gates}
        sign = 1 if 1 in signs.values() else -1
        found |= {gate: sign for gate, of in signs.items() if of == sign}
    return found


def _keeps(cell: Cell, state: str, gate: str) -> int:
    """The sign of the pre-activation with which ``gate`` keeps ``state``; 0 where it does not decide."""
    shut, open_ = (_slopes(cell, state, gate, sign * _FAR)[0] for sign in (-1, 1))
    if abs(open_ - shut) < 0.5 or max(shut, open_) > 1 + 1e-6:
        return 0
    return 1 if open_ > shut else -1


@torch.inference_mode(False)
@torch.enable_grad()
def _slopes(cell: Cell, state: str, gate: str, at: float) -> tuple[float, dict[str, float]]:
    """The derivatives of one unit's new ``state`` by its old value, and by each gate's pre-activation,
    where ``gate``'s is ``at`` and the others' and the per-unit parameters are zero."""
    count, place = len(cell.gates), cell.state.index(state)
    of = partial(torch.zeros, dtype=torch.float64)
    sums = of(1, 1, count)
    sums[..., cell.gates.index(gate)] = at
    states = [torch.full((1, 1), _BEFORE, dtype=torch.float64) for _ in cell.state]
    given = [each.requires_grad_() for each in (sums, *states)]
    weights = Weights(
        torch.eye(count, dtype=torch.float64),
        of(count, len(cell.feedback)),
        per_unit={name: of(1) for name in cell.params},
    )
    choice = choose(
        "reference",
        cell=cell,
        input_size=count,
        hidden_size=1,
        dtype=torch.float64,
        device=sums.device,
    )
    new = run(choice, given[0], tuple(given[1:]), weights, Masks()).state[place].sum()
    if not new.requires_grad:  # of constants, or of what is detached
        return 0.0, dict.fromkeys(cell.gates, 0.0)
    grads = torch.autograd.grad(new, given, allow_unused=True, materialize_grads=True)
    return float(grads[1 + place]), dict(zip(cell.gates, grads[0].flatten().tolist(), strict=True))


def _check_layer(name: str, layer: _Layer, biased: bool = False, dense: bool = False) -> None:
    """``dense``: whether the weights have to be matrices."""
    if not isinstance(layer, _Dense if dense else _Layer):
        taken = "a Recurrent or a RecurrentCell" if dense else _ANY
        raise OptionError(f"{name} takes {taken}, not {type(layer).__name__}")
    if biased and not layer.bias:
        raise OptionError(f"{name} sets biases, and {layer!r} was made with bias=False")


def _stored(layer: _Layer, name: str) -> list[nn.Parameter]:
    """The parameter of that name of each layer and direction; none where the cell has no such."""
    return [
        _parameter(layer, name + suffix)
        for suffix, shapes in layer._expected.items()
        if name in shapes
    ]


def _parameter(layer: _Layer, name: str) -> nn.Parameter:
    found = layer._parameters.get(name)
    if found is None:
        raise OptionError(
            f"{name} is not a parameter of its own (it is parametrized, or pruned); initialise the "
            f"layer before that"
        )
    return found


@torch.no_grad()
def _set_bias(layer: _Layer, gate: str, suffix: str, values: Tensor) -> None:
    """Both biases of a gate; ``values`` has one for each unit, of which a shared gate takes each
    block's first."""
    sizes, k = layer._structure.rows, layer.cell.gates.index(gate)
    rows = slice(sum(sizes[:k]), sum(sizes[: k + 1]))
    _parameter(layer, "bias_ih" + suffix)[rows] = values[:: layer._structure.units // sizes[k]]
    if layer.cell.feedback:
        _parameter(layer, "bias_hh" + suffix)[rows] = 0


def _orthogonal(shape: tuple[int, int], like: Tensor, gain: float = 1.0) -> Tensor:
    """On the device of ``like``, and in its type where torch can decompose a matrix of it."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    made = torch.empty(shape, dtype=dtype, device=like.device)
    return nn.init.orthogonal_(made, gain).to(like.dtype)
