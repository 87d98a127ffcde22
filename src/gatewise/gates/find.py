"""The recurrent modules of a model, their names, and the arguments with which they are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.errors import OptionError, near, some
from gatewise.gates.directions import BARE
from gatewise.nn.convert import twin
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.nn.mlstm import MLSTM
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell

# gatewise's modules that return a trace of their own.
LAYERS = (Recurrent, ConvRecurrent, MLSTM, Reversed, Bidirectional)
STEP_CELLS = (RecurrentCell, nn.RNNCellBase)


def find_modules(
    model: nn.Module, modules: Sequence[str] | str | None = None
) -> dict[str, nn.Module]:
    """The outermost recurrent modules of a model, or those of these names; a model that is itself one is "model".

    Those of a Keras model are its LSTM, GRU and SimpleRNN layers, by path.

    Raises:
        OptionError: there is none, or ``modules`` is empty or names something else.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"expected a torch.nn.Module, not {type(model).__name__}")
    kinds = "neither a layer or step cell of gatewise, nor torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell"
    if is_keras(model):
        from gatewise.keras.model import recurrent_layers  # it loads Keras

        found, kinds = recurrent_layers(model), "no LSTM, GRU or SimpleRNN"
    else:
        found = dict(_outermost(model))
    called = f"this {type(model).__name__}"
    if not found:
        raise OptionError(f"{called} has no recurrent module: {kinds}")
    if modules is None:
        return found
    names = [modules] if isinstance(modules, str) else list(modules)
    if not names:
        raise OptionError("modules is empty: give the name of a recurrent module, or leave it out")
    for name in names:
        if name not in found:
            raise OptionError(
                f"no recurrent module '{name}' in {called}{near(name, found)}; there are: {some(found, 20)}"
            )
    return {name: module for name, module in found.items() if name in names}


def is_keras(model: object) -> bool:
    """Whether it is a Keras model or layer."""
    return any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model as "", and all modules in it by name; for a Keras model its layers by path."""
    if is_keras(model):
        from gatewise.keras.model import named_layers  # it loads Keras

        return named_layers(model)
    return model.named_modules()


def _outermost(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside or not isinstance(module, (*LAYERS, *STEP_CELLS, nn.RNNBase)):
            continue
        yield name or BARE, module
        if isinstance(module, LAYERS):
            inside |= set(module.modules())


def ours(module: nn.Module) -> Any:
    """gatewise's module for a recurrent module; for one of torch's within an intervention the one that runs in
    its place."""
    if isinstance(module, (*LAYERS, RecurrentCell)):
        return module
    return getattr(module.__dict__.get("forward"), "ours", None) or twin(module, derived=True)


def named_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a recurrent module's call by name."""
    return dict(zip(("input", "hx", "lengths", "reset", "trace"), args, strict=False)) | kwargs


def with_lengths(arguments: dict[str, Any], lengths: Any) -> dict[str, Any]:
    """The arguments of a call, with ``lengths`` unless it has lengths of its own."""
    packed = isinstance(arguments["input"], PackedSequence)
    if lengths is None or packed or arguments.get("lengths") is not None:
        return arguments
    return {**arguments, "lengths": lengths}


def batched(layer: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments ``input``, ``hx``, ``lengths`` and ``reset`` of a layer's call as those of a padded batch:
    without a PackedSequence, and with the dimension B."""
    x, hx = arguments["input"], arguments.get("hx")
    lengths, reset = arguments.get("lengths"), arguments.get("reset")
    first = bool(layer.batch_first)
    if isinstance(x, PackedSequence):
        x, lengths = pad_packed_sequence(x, batch_first=first)
    elif x.dim() == (4 if isinstance(layer, ConvRecurrent) else 2):
        x, place = x.unsqueeze(0 if first else 1), 0 if isinstance(layer, MLSTM) else 1
        hx = of_states(hx, lambda s: s.unsqueeze(place))
        reset = None if reset is None else reset.unsqueeze(0 if first else 1)
    lengths = None if lengths is None else torch.as_tensor(lengths).long()
    return dict(input=x, hx=hx, lengths=lengths, reset=reset)


def of_states(hx: Any, function: Any) -> Any:
    """States with the function applied to each tensor."""
    if hx is None or isinstance(hx, Tensor):
        return hx if hx is None else function(hx)
    return tuple(of_states(state, function) for state in hx)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, the model is in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
