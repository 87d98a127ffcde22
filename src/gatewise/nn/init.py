"""Initialisations from the literature, for layers of any cell.

Each function changes a layer in place and returns it. The layer is a ``Recurrent``, a single step
(``RecurrentCell``) or, where the weights need not be matrices, a ``ConvRecurrent``. The forget gates are
found from the cell's equations: see :func:`forget_gates`.
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
from gatewise.options import number

_Dense = Recurrent | RecurrentCell  # layers whose weights are matrices
_Layer = _Dense | ConvRecurrent
Dense = TypeVar("Dense", bound=_Dense)
Layer = TypeVar("Layer", bound=_Layer)

_ANY = "a Recurrent, a RecurrentCell or a ConvRecurrent"
_SATURATED = 30.0  # a pre-activation at which a gate is fully open or, negative, closed
_STATE = 0.5  # the states before the step at which a cell's derivatives are computed


def forget_bias_(layer: Layer, value: float) -> Layer:
    """Sets the bias of every forget gate. A greater ``value`` keeps the state longer.

    Gers et al. 2000; Jozefowicz et al. 2015 recommend 1. ``bias_ih`` becomes ``value`` and ``bias_hh``
    zero. For a gate that keeps the state when it is closed, such as minGRU's z, it is ``-value``.

    Raises:
        OptionError: the layer has no biases, or its cell has no forget gate.
    """
    _check_layer("forget_bias_", layer, biased=True)
    value = number("value in forget_bias_", value)
    units = layer._structure.units
    for gate, sign in forget_gates(layer.cell).items():
        for suffix in layer._step_shapes:
            _set_bias(layer, gate, suffix, torch.full((units,), sign * value))
    return layer


def chrono_(layer: Layer, longest: float) -> Layer:
    """Sets the gates' biases so that the units' memories last from one step to ``longest`` steps.

    Tallec & Ollivier 2018, "Can Recurrent Neural Networks Warp Time?", section 3. The forget gate's bias
    is log u, with u from U(1, longest - 1) for each unit. The input gate's bias, where the cell has one,
    is -log u. A gate that keeps the state when it is closed has the opposite sign. ``bias_hh`` is zero.

    Args:
        longest: T_max, a number of steps, at least 2.

    Raises:
        OptionError: ``longest`` is less than 2, the layer has no biases, or its cell has no forget gate.
    """
    _check_layer("chrono_", layer, biased=True)
    longest = number("longest", longest, "a number of steps, at least 2", least=2)
    forget, write = forget_gates(layer.cell), input_gates(layer.cell)
    for suffix in layer._step_shapes:
        kept = torch.empty(layer._structure.units).uniform_(1, longest - 1).log()
        for gate, sign in forget.items():
            _set_bias(layer, gate, suffix, sign * kept)
        for gate, sign in write.items():
            _set_bias(layer, gate, suffix, -sign * kept)
    return layer


def orthogonal_(layer: Dense, gain: float = 1.0) -> Dense:
    """Sets each gate's recurrent weights, H×F, to a random orthogonal matrix times ``gain``.

    Saxe et al. 2014, "Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural
    Networks". Each block of ``recurrent_blocks`` is one matrix; weights that connect nothing stay zero.

    Raises:
        OptionError: the cell has no recurrent weights.
    """
    _check_layer("orthogonal_", layer, dense=True)
    if not layer.cell.feedback:
        raise OptionError(
            f"orthogonal_ sets recurrent weights, and the cell {layer.cell.name} has none"
        )
    for weight in _stored(layer, "weight_hh"):
        for rows, columns in layer._structure.dense():
            if columns:
                shape = (rows.stop - rows.start, len(columns))
                weight.detach()[rows, columns] = _orthogonal(shape, weight, gain)
    return layer


def xavier_input_(layer: Layer) -> Layer:
    """Draws each gate's input weights, H×I, from U(-b, b) with b = √(6 / (H + I)).

    Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks",
    equation 16. For a convolution H and I are multiplied by the kernel's size."""
    _check_layer("xavier_input_", layer)
    for weight in _stored(layer, "weight_ih"):
        for gate in weight.detach().split(layer._structure.rows):
            nn.init.xavier_uniform_(gate)
    return layer


def keras_(layer: Dense) -> Dense:
    """Initialises the layer as Keras does.

    The input weights of all gates are one matrix of Glorot & Bengio 2010, I×G·H, with the bound
    √(6 / (I + G·H)). The recurrent weights of all gates are one orthogonal matrix, F×G·H. Biases are
    zero, except 1 for the forget gate of a state other than the output (the LSTM's, not the GRU's).
    Other parameters are not changed.

    Raises:
        OptionError: the recurrent weights are not stored as G·H×F. Keras has no such layer.
    """
    _check_layer("keras_", layer, dense=True)
    if not layer._structure.plain:
        raise OptionError(
            f"keras_ needs plain recurrent weights, and {layer!r} with the cell {layer.cell.name} "
            f"stores them otherwise. Use xavier_input_, orthogonal_ and forget_bias_"
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
            for suffix in layer._step_shapes:
                _set_bias(layer, gate, suffix, torch.full((layer.hidden_size,), float(sign)))
    return layer


def forget_gates(cell: Cell) -> Mapping[str, int]:
    """The cell's forget gates: the gates that decide how much of a state is kept.

    Each has the sign of the pre-activation that keeps the state: 1 for the LSTM's f and for the GRU's z
    in PyTorch's convention, -1 for minGRU's z. They are found from the equations. With the other
    pre-activations at zero, the derivative of the new state with respect to the old one approaches 1
    for one sign of a forget gate's pre-activation, and is less for the other. Where some gates keep the
    state when they are open and others when they are closed (an input gate, in a cell that normalises),
    the result has only the former.

    Raises:
        OptionError: the cell has no forget gate.
    """
    found = _forget_gates(cell, cell.state)
    if not found:
        raise OptionError(
            f"the cell {cell.name} has no forget gate: none of its gates "
            f"({', '.join(cell.gates)}) decides how much of a state ({', '.join(cell.state)}) is kept"
        )
    return dict(found)


def input_gates(cell: Cell) -> Mapping[str, int]:
    """The cell's input gates: the gates that decide how much is added to a state with a forget gate.

    Each has the sign of the pre-activation that opens it. The result is empty where the forget gate
    decides this too (the GRU). They are found from the equations: the derivative of the state with
    respect to another gate's pre-activation is zero for one sign of an input gate's pre-activation, and
    not zero for the other.
    """
    forget = _forget_gates(cell, cell.state)
    keeping = [name for name in cell.state if _forget_gates(cell, (name,))]
    found: dict[str, int] = {}
    for gate in (g for g in cell.gates if g not in forget):
        for state in keeping:
            closed, open_ = (
                _derivatives(cell, state, gate, sign * _SATURATED)[1] for sign in (-1, 1)
            )
            for other in (g for g in closed if g != gate and g not in forget):
                low, high = sorted((abs(closed[other]), abs(open_[other])))
                if low < 1e-6 and high > 0.1:
                    found[gate] = 1 if high == abs(open_[other]) else -1
    return found


@lru_cache(maxsize=256)
def _forget_gates(cell: Cell, states: tuple[str, ...]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for state in states:
        signs = {gate: _keeping_sign(cell, state, gate) for gate in cell.gates}
        sign = 1 if 1 in signs.values() else -1
        found |= {gate: sign for gate, of in signs.items() if of == sign}
    return found


def _keeping_sign(cell: Cell, state: str, gate: str) -> int:
    """The sign of the pre-activation at which ``gate`` keeps ``state``; 0 for no forget gate of it."""
    closed, open_ = (_derivatives(cell, state, gate, sign * _SATURATED)[0] for sign in (-1, 1))
    if abs(open_ - closed) < 0.5 or max(closed, open_) > 1 + 1e-6:
        return 0
    return 1 if open_ > closed else -1


@torch.inference_mode(False)
@torch.enable_grad()
def _derivatives(cell: Cell, state: str, gate: str, at: float) -> tuple[float, dict[str, float]]:
    """The derivatives of one unit's new ``state``, by its old value and by each gate's pre-activation.

    The pre-activation of ``gate`` is ``at``; the others and the per-unit parameters are zero."""
    count, place = len(cell.gates), cell.state.index(state)
    zeros = partial(torch.zeros, dtype=torch.float64)
    pre_activations = zeros(1, 1, count)
    pre_activations[..., cell.gates.index(gate)] = at
    states = [torch.full((1, 1), _STATE, dtype=torch.float64) for _ in cell.state]
    given = [each.requires_grad_() for each in (pre_activations, *states)]
    weights = Weights(
        torch.eye(count, dtype=torch.float64),
        zeros(count, len(cell.feedback)),
        per_unit={name: zeros(1) for name in cell.params},
    )
    choice = choose(
        "reference",
        cell=cell,
        input_size=count,
        hidden_size=1,
        dtype=torch.float64,
        device=pre_activations.device,
    )
    new = run(choice, given[0], tuple(given[1:]), weights, Masks()).state[place].sum()
    if not new.requires_grad:  # it depends on constants or detached values only
        return 0.0, dict.fromkeys(cell.gates, 0.0)
    grads = torch.autograd.grad(new, given, allow_unused=True, materialize_grads=True)
    return float(grads[1 + place]), dict(zip(cell.gates, grads[0].flatten().tolist(), strict=True))


def _check_layer(name: str, layer: _Layer, biased: bool = False, dense: bool = False) -> None:
    """``dense``: whether the weights must be matrices."""
    if not isinstance(layer, _Dense if dense else _Layer):
        taken = "a Recurrent or a RecurrentCell" if dense else _ANY
        raise OptionError(f"{name} takes {taken}, not {type(layer).__name__}")
    if biased and not layer.bias:
        raise OptionError(f"{name} sets biases, and {layer!r} has bias=False")


def _stored(layer: _Layer, name: str) -> list[nn.Parameter]:
    """The parameter of that name of each layer and direction; an empty list if the cell has none."""
    return [
        _parameter(layer, name + suffix)
        for suffix, shapes in layer._step_shapes.items()
        if name in shapes
    ]


def _parameter(layer: _Layer, name: str) -> nn.Parameter:
    found = layer._parameters.get(name)
    if found is None:
        raise OptionError(
            f"{name} is not a plain parameter: it is parametrized or pruned; initialise the layer before "
            f"that"
        )
    return found


@torch.no_grad()
def _set_bias(layer: _Layer, gate: str, suffix: str, values: Tensor) -> None:
    """Sets both biases of a gate. ``values`` has one per unit; a shared gate takes the first of each
    block."""
    sizes, k = layer._structure.rows, layer.cell.gates.index(gate)
    rows = slice(sum(sizes[:k]), sum(sizes[: k + 1]))
    _parameter(layer, "bias_ih" + suffix)[rows] = values[:: layer._structure.units // sizes[k]]
    if layer.cell.feedback:
        _parameter(layer, "bias_hh" + suffix)[rows] = 0


def _orthogonal(shape: tuple[int, int], like: Tensor, gain: float = 1.0) -> Tensor:
    """An orthogonal matrix on the device and in the dtype of ``like``. torch decomposes it in float32 or 64."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    made = torch.empty(shape, dtype=dtype, device=like.device)
    return nn.init.orthogonal_(made, gain).to(like.dtype)
