"""gatewise: recurrent networks whose gates are open."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from gatewise.errors import GatewiseError, missing
from gatewise.nn import init
from gatewise.nn.attention import AdditiveAttention, AttentionPooling, MultiplicativeAttention
from gatewise.nn.convert import convert
from gatewise.nn.convolution import ConvLSTM, ConvRecurrent
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.nn.hybrid import HybridBlock, SelfAttention
from gatewise.nn.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from gatewise.nn.mlstm import MLSTM, MLSTMState
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.stack import Stack
from gatewise.nn.step import RecurrentCell
from gatewise.nn.trace import Trace

if TYPE_CHECKING:
    from gatewise.tasks.forecast import Forecaster
    from gatewise.tasks.saved import load
    from gatewise.tasks.sequences import SequenceClassifier, SequenceRegressor
    from gatewise.weights.cudnn import from_cudnn
    from gatewise.weights.keras import from_keras
    from gatewise.weights.onnx import from_onnx


def __getattr__(name: str) -> Any:
    """What is loaded when first used: the tasks need the extra ``gatewise[tasks]``."""
    if name in _LATER:
        try:
            return getattr(import_module(_LATER[name]), name)
        except ModuleNotFoundError as error:
            raise missing(error, "tasks") from error
    raise AttributeError(f"module 'gatewise' has no attribute '{name}'")


_LATER = {
    "Forecaster": "gatewise.tasks.forecast",
    "SequenceClassifier": "gatewise.tasks.sequences",
    "SequenceRegressor": "gatewise.tasks.sequences",
    "from_cudnn": "gatewise.weights.cudnn",
    "from_keras": "gatewise.weights.keras",
    "from_onnx": "gatewise.weights.onnx",
    "load": "gatewise.tasks.saved",
}

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "MLSTM",
    "RNN",
    "AdditiveAttention",
    "AttentionPooling",
    "Bidirectional",
    "Cell",
    "ConvLSTM",
    "ConvRecurrent",
    "Forecaster",
    "GRUCell",
    "GatewiseError",
    "HybridBlock",
    "LSTMCell",
    "MLSTMState",
    "MultiplicativeAttention",
    "RNNCell",
    "Recurrent",
    "RecurrentCell",
    "Reversed",
    "SelfAttention",
    "SequenceClassifier",
    "SequenceRegressor",
    "Stack",
    "Trace",
    "cell",
    "convert",
    "detach",
    "exp",
    "from_cudnn",
    "from_keras",
    "from_onnx",
    "greater",
    "init",
    "load",
    "log",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "softplus",
    "tanh",
]
