"""torch's recurrent modules with the weights of gatewise's."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from gatewise.cells.catalogue import CELLS
from gatewise.errors import OptionError
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell

# The cells that torch has, each with torch's layer, its single step and their further arguments.
_TORCHS: dict[str, tuple[type[nn.Module], type[nn.Module], dict[str, str]]] = {
    "lstm": (nn.LSTM, nn.LSTMCell, {}),
    "gru": (nn.GRU, nn.GRUCell, {}),
    "rnn_tanh": (nn.RNN, nn.RNNCell, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
}
# Options of the layers that torch's lack, with the value that changes nothing.
_LACKING = {
    "layer_norm": False,
    "recurrent_dropout": 0.0,
    "zoneout": 0.0,
    "weight_drop": 0.0,
    "locked_dropout": False,
    "connect": "plain",
    "learn_initial": False,
    "block_size": 1,
    "recurrent_blocks": 1,
}


def torch_module(name: str, ours: Recurrent | RecurrentCell) -> nn.Module:
    """torch's module with the same parameters and training mode, without hooks.

    Args:
        name: its name in the model, for messages.

    Raises:
        OptionError: torch has no such cell, or lacks an option of the layer.
    """
    config = ours.config
    where = f"'{name}'" if name else f"this {type(ours).__name__}"
    known = _TORCHS.get(config.cell.name)
    if known is None or config.cell != CELLS[config.cell.name]:
        raise OptionError(
            f"{where} has the cell '{config.cell.name}', which torch does not have: convert back models of "
            f"{', '.join(_TORCHS)}"
        )
    for option, usual in _LACKING.items():
        value = getattr(ours, option, getattr(config, option, usual))
        if value != usual and not (isinstance(value, tuple) and not any(value)):
            raise OptionError(f"{where} has {option}={value!r}, which torch's layers do not have")
    layer, step, more = known
    given: dict[str, Any] = dict(bias=config.bias, device="meta", **more)
    if isinstance(ours, RecurrentCell):
        theirs = step(config.input_size, config.hidden_size, **given)
    else:
        given |= dict(num_layers=config.num_layers, batch_first=ours.batch_first)
        given |= dict(dropout=ours.dropout, bidirectional=config.bidirectional)
        if config.proj_size:
            given |= dict(proj_size=config.proj_size)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # dropout in a single layer: gatewise has warned already
            theirs = layer(config.input_size, config.hidden_size, **given)
    for own, weight in ours.named_parameters(recurse=False):
        setattr(theirs, own, weight)
    return theirs.train(ours.training)
