"""gatewise: recurrent networks whose gates are open."""

import importlib.metadata
import sys
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from gatewise import forks  # noqa: F401  it registers handlers that run at a fork
from gatewise.errors import GatewiseError, missing
from gatewise.tasks.registry import TASKS

if TYPE_CHECKING:
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
    from gatewise.gates.capture import Traces, trace
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
    from gatewise.tasks.classify import Classifier
    from gatewise.tasks.forecast.forecaster import Forecaster
    from gatewise.tasks.load import load
    from gatewise.tasks.music.generate import MusicModel
    from gatewise.tasks.regress import Regressor
    from gatewise.tasks.text.classify import TextClassifier
    from gatewise.tasks.text.generate import LanguageModel
    from gatewise.tasks.text.translate import Translator
    from gatewise.tuning.tune import tune
    from gatewise.weights.cudnn import from_cudnn
    from gatewise.weights.keras import from_keras
    from gatewise.weights.onnx import from_onnx

    __version__: str


def __getattr__(name: str) -> Any:
    """The public name, imported at its first use. The tasks need the extra ``gatewise[tasks]``."""
    if name == "__version__":
        return importlib.metadata.version("gatewise")
    if name in _MODULE_OF:
        try:
            module = import_module(_MODULE_OF[name])
        except ModuleNotFoundError as error:
            if not _MODULE_OF[name].startswith(("gatewise.tasks", "gatewise.tuning")):
                raise
            raise missing(error, "tasks") from error
        value = module if name == "init" else getattr(module, name)
    elif name in _SUBPACKAGES:
        value = import_module(f"gatewise.{name}")
    else:
        raise AttributeError(f"module 'gatewise' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    special = {name for name in globals() if name.startswith("__")}
    return sorted({*special, *__all__, *_SUBPACKAGES, "__version__"})


# The exported names of each module.
_EXPORTS = {
    "gatewise.cells.catalogue": "CELLS",
    "gatewise.cells.language": "Cell cell detach exp greater log maximum minimum relu sigmoid softplus tanh",
    "gatewise.gates.capture": "Traces trace",
    "gatewise.nn.init": "init",
    "gatewise.nn.attention": "AdditiveAttention AttentionPooling MultiplicativeAttention",
    "gatewise.nn.convert": "convert",
    "gatewise.nn.convolution": "ConvLSTM ConvRecurrent",
    "gatewise.nn.directions": "Bidirectional Reversed",
    "gatewise.nn.hybrid": "HybridBlock SelfAttention",
    "gatewise.nn.layers": "GRU LSTM RNN GRUCell LSTMCell RNNCell",
    "gatewise.nn.mlstm": "MLSTM MLSTMState",
    "gatewise.nn.recurrent": "Recurrent",
    "gatewise.nn.stack": "Stack",
    "gatewise.nn.step": "RecurrentCell",
    "gatewise.nn.trace": "Trace",
    "gatewise.tasks.load": "load",
    "gatewise.tuning.tune": "tune",
    "gatewise.weights.cudnn": "from_cudnn",
    "gatewise.weights.keras": "from_keras",
    "gatewise.weights.onnx": "from_onnx",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}
_MODULE_OF |= {
    name: module
    for sources in TASKS.values()
    for module, _, name in (place.partition(":") for place in sources.values())
}
_SUBPACKAGES = ("backends", "cells", "emit", "gates", "nn", "options")


def _is_command() -> bool:
    """Whether this process is ``gatewise`` or ``python -m gatewise``, which handles signals before it imports torch."""
    started = next(iter(getattr(sys, "argv", [])), "")
    return started == "-m" or PurePath(started).stem == "gatewise"


if not _is_command():
    # torch finds the operators of an exported program by name, and a trace its drawings: they must be registered
    for _module in ("gatewise.backends.operators", "gatewise.nn.lengths", "gatewise.gates"):
        import_module(_module)

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
    "Classifier",
    "ConvLSTM",
    "ConvRecurrent",
    "Forecaster",
    "GRUCell",
    "GatewiseError",
    "HybridBlock",
    "LSTMCell",
    "LanguageModel",
    "MLSTMState",
    "MultiplicativeAttention",
    "MusicModel",
    "RNNCell",
    "Recurrent",
    "RecurrentCell",
    "Regressor",
    "Reversed",
    "SelfAttention",
    "Stack",
    "TextClassifier",
    "Trace",
    "Traces",
    "Translator",
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
    "trace",
    "tune",
]
