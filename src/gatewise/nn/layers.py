"""torch's recurrent layers by their names: LSTM, GRU and RNN, and one step of each.

Each constructor lists all of its arguments, for editors to show; a test compares them with those of
:class:`gatewise.Recurrent` and :class:`gatewise.RecurrentCell`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gatewise.errors import OptionError
from gatewise.nn import sentences
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell
from gatewise.options import choice, number


class LSTM(Recurrent):
    """Long short-term memory; what ``torch.nn.LSTM`` is, with lengths and an open trace.

    Takes torch's arguments in torch's order, and by keyword alone what :class:`Recurrent` adds.

    Args:
        forget_bias: the value that the forget gates' bias starts from (Gers et al. 2000; Jozefowicz
            et al. 2015 recommend 1); drawn as the other biases if not given.

    Raises:
        OptionError: an argument is out of its range.
    """

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
            raise OptionError("forget_bias needs biases; this layer was asked to have none")
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
    """Gated recurrent unit; what ``torch.nn.GRU`` is, with lengths and an open trace.

    Takes torch's arguments in torch's order, but ``device`` and ``dtype`` by keyword alone, and so
    what :class:`Recurrent` adds. As torch's it refuses any ``proj_size`` but 0.

    Raises:
        OptionError: an argument is out of its range.
    """

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
    """Simple recurrent network; what ``torch.nn.RNN`` is, with lengths and an open trace.

    Takes arguments as :class:`GRU` does.

    Args:
        nonlinearity: "tanh" or "relu"; the fourth argument, as it is torch's.

    Raises:
        OptionError: an argument is out of its range.
    """

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
    """One step of a long short-term memory; what ``torch.nn.LSTMCell`` is. Takes torch's arguments in
    torch's order, and by keyword alone what :class:`RecurrentCell` adds.

    Raises:
        OptionError: an argument is out of its range.
    """

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
    """One step of a gated recurrent unit; what ``torch.nn.GRUCell`` is. Takes arguments as
    :class:`LSTMCell` does.

    Raises:
        OptionError: an argument is out of its range.
    """

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
    """One step of a simple recurrent network; what ``torch.nn.RNNCell`` is. Takes arguments as
    :class:`LSTMCell` does.

    Args:
        nonlinearity: "tanh" or "relu"; the fourth argument, as it is torch's.

    Raises:
        OptionError: an argument is out of its range.
    """

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
    """The nonlinearity, and the name of the simple network's cell that has it."""
    try:
        name = choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    except OptionError as error:
        raise OptionError(f"{error} ({sentences.of_nonlinearity(nonlinearity)})") from None
    return name, f"rnn_{name}"


def _check_no_projection(name: str, proj_size: object) -> None:
    if proj_size:
        raise OptionError(
            f"{name} takes no proj_size; "
            f"see gatewise.Recurrent for the cells that can be projected ({sentences.NO_PROJECTION})"
        )
