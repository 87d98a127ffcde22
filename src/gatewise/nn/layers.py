"""Layers with the names and arguments of torch's: LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell.

Each constructor lists all of its arguments, because editors show them. A test compares them with those of
:class:`gatewise.Recurrent` and :class:`gatewise.RecurrentCell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gatewise.errors import OptionError
from gatewise.nn import sentences
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell
from gatewise.options import choice, number, short_repr

if TYPE_CHECKING:
    from gatewise.nn.call_types import PackedLayerCall, StepCall, TwoStates


class LSTM(Recurrent):
    """An LSTM layer: ``torch.nn.LSTM`` with lengths, resets, traces and more options.

    It has torch's arguments in torch's order. The further arguments of :class:`Recurrent` are
    keyword-only, and described there.

    Args:
        forget_bias: the initial bias of the forget gates (Gers et al. 2000; Jozefowicz et al. 2015
            recommend 1). By default it is drawn like the other biases.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: PackedLayerCall[TwoStates]

    mode = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        forget_bias: float | None = None,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        weight_drop: float = 0.0,
        locked_dropout: bool = False,
        connect: str = "plain",
        learn_initial: bool = False,
        block_size: int = 1,
        recurrent_blocks: int = 1,
    ) -> None:
        self.forget_bias = None if forget_bias is None else number("forget_bias", forget_bias)
        if forget_bias is not None and not bias:
            raise OptionError("forget_bias cannot be given with bias=False")
        super().__init__(
            *("lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout),
            *(bidirectional, proj_size, device, dtype),
            backend=backend,
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_drop=weight_drop,
            locked_dropout=locked_dropout,
            connect=connect,
            learn_initial=learn_initial,
            block_size=block_size,
            recurrent_blocks=recurrent_blocks,
        )

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.forget_bias is None:
            return
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        for suffix in self.config.step_shapes:
            for name, value in (("bias_ih", self.forget_bias), ("bias_hh", 0.0)):
                nn.init.constant_(getattr(self, name + suffix)[forget], value)


class GRU(Recurrent):
    """A GRU layer: ``torch.nn.GRU`` with lengths, resets, traces and more options.

    It has torch's arguments in torch's order. ``device``, ``dtype`` and the further arguments of
    :class:`Recurrent` are keyword-only. ``proj_size`` must be 0, as in torch.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: PackedLayerCall[Tensor]

    mode = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        weight_drop: float = 0.0,
        locked_dropout: bool = False,
        connect: str = "plain",
        learn_initial: bool = False,
        block_size: int = 1,
        recurrent_blocks: int = 1,
    ) -> None:
        _check_no_projection("GRU", proj_size)
        super().__init__(
            *("gru", input_size, hidden_size, num_layers, bias, batch_first, dropout),
            *(bidirectional, 0, device, dtype),
            backend=backend,
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_drop=weight_drop,
            locked_dropout=locked_dropout,
            connect=connect,
            learn_initial=learn_initial,
            block_size=block_size,
            recurrent_blocks=recurrent_blocks,
        )


class RNN(Recurrent):
    """A simple recurrent layer: ``torch.nn.RNN`` with lengths, resets, traces and more options.

    It has the arguments of :class:`GRU`, and ``nonlinearity``.

    Args:
        nonlinearity: "tanh" or "relu". It is the fourth argument, as in torch.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: PackedLayerCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        weight_drop: float = 0.0,
        locked_dropout: bool = False,
        connect: str = "plain",
        learn_initial: bool = False,
        block_size: int = 1,
        recurrent_blocks: int = 1,
    ) -> None:
        self.nonlinearity, cell = _checked_nonlinearity(nonlinearity)
        self.mode = cell.upper()
        _check_no_projection("RNN", proj_size)
        super().__init__(
            *(cell, input_size, hidden_size, num_layers, bias, batch_first, dropout),
            *(bidirectional, 0, device, dtype),
            backend=backend,
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
            weight_drop=weight_drop,
            locked_dropout=locked_dropout,
            connect=connect,
            learn_initial=learn_initial,
            block_size=block_size,
            recurrent_blocks=recurrent_blocks,
        )


class LSTMCell(RecurrentCell):
    """One step of an LSTM, as ``torch.nn.LSTMCell``.

    It has torch's arguments in torch's order. The further arguments of :class:`RecurrentCell` are
    keyword-only.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: StepCall[TwoStates]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        layer_norm: bool = False,
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            backend=backend,
            layer_norm=layer_norm,
        )


class GRUCell(RecurrentCell):
    """One step of a GRU, as ``torch.nn.GRUCell``, with the arguments of :class:`LSTMCell`.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: StepCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        layer_norm: bool = False,
    ) -> None:
        super().__init__(
            "gru",
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            backend=backend,
            layer_norm=layer_norm,
        )


class RNNCell(RecurrentCell):
    """One step of a simple recurrent network, as ``torch.nn.RNNCell``.

    It has the arguments of :class:`LSTMCell`, and ``nonlinearity``.

    Args:
        nonlinearity: "tanh" or "relu". It is the fourth argument, as in torch.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: StepCall[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        layer_norm: bool = False,
    ) -> None:
        self.nonlinearity, cell = _checked_nonlinearity(nonlinearity)
        super().__init__(
            cell,
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            backend=backend,
            layer_norm=layer_norm,
        )


def _checked_nonlinearity(nonlinearity: object) -> tuple[str, str]:
    """The nonlinearity, and the name of the cell that has it."""
    try:
        name = choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    except OptionError as error:
        raise OptionError(f"{error} ({sentences.of_nonlinearity(nonlinearity)})") from None
    return name, f"rnn_{name}"


def _check_no_projection(name: str, proj_size: object) -> None:
    if proj_size:
        raise OptionError(
            f"{name} has no projection, so proj_size must be 0, not {short_repr(proj_size)}; "
            f"an LSTM can have one ({sentences.NO_PROJECTION})"
        )
