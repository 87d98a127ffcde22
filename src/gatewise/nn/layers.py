"""torch's recurrent layers by their names: LSTM, GRU and RNN, and one step of each."""

from __future__ import annotations

from typing import Any

from torch import nn

from gatewise.errors import OptionError
from gatewise.nn import sentences
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell
from gatewise.options import choice, real


class LSTM(Recurrent):
    """Long short-term memory; what ``torch.nn.LSTM`` is, with lengths and an open trace.

    Takes torch's arguments in torch's order, and by keyword alone what :class:`Recurrent` adds and
    ``forget_bias``: the value that the forget gates' bias starts from (Gers et al. 2000;
    Jozefowicz et al. 2015 recommend 1).
    """

    mode = "LSTM"

    def __init__(
        self, *args: Any, forget_bias: float | None = None, backend: str = "auto", **options: Any
    ) -> None:
        self.forget_bias = None if forget_bias is None else real("forget_bias", forget_bias)
        if forget_bias is not None and not (
            options.get("bias", True) if len(args) < 4 else args[3]
        ):
            raise OptionError("forget_bias needs biases; this layer was asked to have none")
        super().__init__("lstm", *args, backend=backend, **options)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.forget_bias is None:
            return
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        for layer in range(self.num_layers):
            for suffix in self.config.suffixes[layer]:
                for name, value in (("bias_ih", self.forget_bias), ("bias_hh", 0.0)):
                    nn.init.constant_(getattr(self, name + suffix)[forget], value)


class GRU(Recurrent):
    """Gated recurrent unit; what ``torch.nn.GRU`` is, with lengths and an open trace."""

    mode = "GRU"

    def __init__(self, *args: Any, backend: str = "auto", **options: Any) -> None:
        _no_projection("GRU", args, options, place=7)
        super().__init__("gru", *args, backend=backend, **options)


class RNN(Recurrent):
    """Simple recurrent network; what ``torch.nn.RNN`` is, with lengths and an open trace.

    ``nonlinearity``, "tanh" or "relu", is the fourth argument, as it is torch's.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        backend: str = "auto",
        **options: Any,
    ) -> None:
        self.nonlinearity, cell = _simple(nonlinearity)
        self.mode = cell.upper()
        _no_projection("RNN", args, options, place=4)
        super().__init__(
            cell, input_size, hidden_size, num_layers, *args, backend=backend, **options
        )


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory; what ``torch.nn.LSTMCell`` is. Takes torch's arguments in
    torch's order, and by keyword alone what :class:`RecurrentCell` adds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__("lstm", *args, **options)


class GRUCell(RecurrentCell):
    """One step of a gated recurrent unit; what ``torch.nn.GRUCell`` is, as LSTMCell is torch's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__("gru", *args, **options)


class RNNCell(RecurrentCell):
    """One step of a simple recurrent network; what ``torch.nn.RNNCell`` is, as LSTMCell is torch's."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *args: Any,
        **options: Any,
    ) -> None:
        self.nonlinearity, cell = _simple(nonlinearity)
        super().__init__(cell, input_size, hidden_size, bias, *args, **options)


def _simple(nonlinearity: object) -> tuple[str, str]:
    """The nonlinearity, and the name of the simple network's cell that has it."""
    try:
        name = choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    except OptionError as error:
        raise OptionError(f"{error} ({sentences.of_nonlinearity(nonlinearity)})") from None
    return name, f"rnn_{name}"


def _no_projection(name: str, args: tuple[Any, ...], options: dict[str, Any], place: int) -> None:
    """torch's GRU and RNN take a device where the LSTM takes proj_size; so must these."""
    if "proj_size" in options or len(args) > place:
        raise OptionError(
            f"{name} takes no proj_size, and device and dtype by keyword; "
            f"see gatewise.Recurrent for the cells that can be projected ({sentences.NO_PROJECTION})"
        )
