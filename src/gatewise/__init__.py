"""gatewise: recurrent networks whose gates are open."""

from gatewise.cells.catalogue import CELLS
from gatewise.cells.language import (
    Cell,
    cell,
    detach,
    exp,
    greater,
    log,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    tanh,
)
from gatewise.errors import GatewiseError
from gatewise.nn.layers import GRU, LSTM, RNN, Recurrent
from gatewise.nn.trace import Trace

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "GatewiseError",
    "Recurrent",
    "Trace",
    "cell",
    "detach",
    "exp",
    "greater",
    "log",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "softplus",
    "tanh",
]
