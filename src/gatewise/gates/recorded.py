"""The inputs that recurrent layers get while a model runs, to run single layers again on them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.errors import OptionError, near, some
from gatewise.gates.directions import BARE
from gatewise.nn.convert import convert
from gatewise.nn.parameters import learned_states
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.states import initial_states, states_of_runs
from gatewise.nn.trace import Trace

State = Any  # a tensor or a tuple of tensors, L·D×B×H each; or None


@dataclass(frozen=True)
class Call:
    """A call of a recurrent layer.

    Attributes:
        layer: the layer; one of torch's as gatewise's, with the same parameters.
        x: B×T×I.
        lengths: B integers, at least 0.
        hx: the initial states, or None.
    """

    layer: Recurrent
    x: Tensor
    lengths: Tensor
    hx: State = None

    def few(self, sequences: int, steps: int) -> Call:
        """The beginnings of the first sequences."""
        x = self.x[:sequences, :steps]
        hx = _each(self.hx, lambda state: state[:, :sequences])
        return replace(self, x=x, lengths=self.lengths[:sequences].clamp(max=steps), hx=hx)

    def output(self, x: Tensor, depth: int) -> Tensor:
        """B×T×D·P: the output of the first ``depth`` layers for another input, without dropout."""
        layers = first_layers(self.layer, depth)
        hx = _each(self.hx, lambda state: state[: depth * self._directions])
        found: Tensor = layers(x, hx, lengths=self.lengths)[0]
        return found

    def trace(self) -> Trace:
        """The trace of the call, without dropout."""
        layers = first_layers(self.layer, self.layer.config.num_layers)
        with torch.no_grad():
            return layers(self.x, self.hx, lengths=self.lengths, trace=True)[2]

    def input_of(self, layer: int) -> Tensor:
        """B×T×…: the input of one of the stacked layers."""
        return self.x if layer == 0 else self.output(self.x, layer)

    def initial_states(self, layer: int, direction: int) -> tuple[Tensor, ...]:
        """B×H for each state: the initial states of one direction of one layer."""
        config, x = self.layer.config, self.x.transpose(0, 1)
        learned = learned_states(self.layer, config, x) if config.learn_initial else None
        weight = self.layer.weight_ih_l0
        states = initial_states(config, self.hx, x, True, weight, learned=learned)
        found = states_of_runs(config, states)[layer * self._directions + direction]
        return tuple(state.detach() for state in found)

    @property
    def _directions(self) -> int:
        return 1 + self.layer.config.bidirectional


def _each(hx: State, function: Any) -> State:
    if hx is None:
        return None
    return tuple(map(function, hx)) if isinstance(hx, tuple | list) else function(hx)


def first_layers(layer: Recurrent, depth: int) -> Recurrent:
    """The first layers of a stack, with the same parameters, frozen and in evaluation mode."""
    config = layer.config
    with torch.device("meta"):  # no numbers are drawn for parameters that are replaced
        new = Recurrent(
            config.cell,
            config.input_size,
            config.hidden_size,
            depth,
            config.bias,
            batch_first=True,
            bidirectional=config.bidirectional,
            proj_size=config.proj_size,
            backend=layer.backend,
            layer_norm=config.layer_norm,
            zoneout=layer.zoneout,
            connect=config.connect if depth > 1 else "plain",
            learn_initial=config.learn_initial,
            block_size=config.block_size,
            recurrent_blocks=config.recurrent_blocks,
        )
    for name, _ in list(new.named_parameters()):
        given = getattr(layer, name).detach()
        setattr(new, name, nn.Parameter(given, requires_grad=False))
    return new.eval()


def recurrent_layers(
    model: nn.Module, modules: Sequence[str] | str | None = None
) -> dict[str, nn.Module]:
    """The model's recurrent layers over whole sequences by name; a model that is itself one is "model".

    Raises:
        OptionError: there is none, or one of ``modules`` is not one of them.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"expected a torch.nn.Module, not {type(model).__name__}")
    found: dict[str, nn.Module] = {
        name or BARE: module
        for name, module in model.named_modules()
        if isinstance(module, Recurrent | nn.LSTM | nn.GRU | nn.RNN)
    }
    if not found:
        raise OptionError(
            f"this {type(model).__name__} has no recurrent layer: neither gatewise's LSTM, GRU, RNN or Recurrent, "
            f"nor torch.nn.LSTM, GRU or RNN"
        )
    if modules is None:
        return found
    chosen = [modules] if isinstance(modules, str) else list(modules)
    for name in chosen:
        if name not in found:
            raise OptionError(
                f"no recurrent layer '{name}'{near(name, found)}; there are: {some(found, 10)}"
            )
    return {name: found[name] for name in chosen}


@contextmanager
def recording(
    layers: dict[str, nn.Module], lengths: Any = None, *, in_training: bool = False
) -> Iterator[dict[str, Call]]:
    """A block in which the first call of each layer is recorded, in the dictionary that the block gets.

    Args:
        lengths: of the sequences, for layers that are called without lengths.
        in_training: whether only calls with gradients are recorded.
    """
    calls: dict[str, Call] = {}

    def watch(name: str) -> Any:
        def before(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if name not in calls and (torch.is_grad_enabled() or not in_training):
                calls[name] = _call(module, args, named, lengths)

        return before

    handles = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _call(module: Any, args: tuple[Any, ...], named: dict[str, Any], lengths: Any) -> Call:
    given = dict(zip(("input", "hx", "lengths"), args, strict=False)) | named
    x, hx, time_major = given["input"], given.get("hx"), not module.batch_first
    lengths = lengths if given.get("lengths") is None else given["lengths"]
    if isinstance(x, PackedSequence):
        x, lengths = pad_packed_sequence(x)
        time_major = True
    if x.dim() == 2:
        x, hx = x.unsqueeze(1 if time_major else 0), _each(hx, lambda state: state.unsqueeze(1))
    x = x.transpose(0, 1) if time_major else x
    weight = module.weight_ih_l0
    x, hx = (_each(part, lambda part: part.detach().to(weight)) for part in (x, hx))
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1])
    layer = module if isinstance(module, Recurrent) else convert(module, inplace=True)
    return Call(layer, x, torch.as_tensor(lengths).cpu(), hx)


def run_recorded(
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    lengths: Any,
    modules: Sequence[str] | str | None,
) -> dict[str, Call]:
    """The calls of the model's recurrent layers for these inputs, in evaluation mode and without gradients.

    Raises:
        OptionError: the model has no recurrent layer, or did not call one of them.
    """
    layers = recurrent_layers(model, modules)
    takes_lengths = "lengths" in inspect.signature(model.forward).parameters
    if lengths is not None and takes_lengths:
        named = {**named, "lengths": lengths}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), recording(layers, lengths) as calls:
            model(*inputs, **named)
    finally:
        for module in training:
            module.training = True
    missing = [name for name in layers if name not in calls]
    if missing:
        raise OptionError(f"the model did not call {some(missing, 5)}: leave it out with modules=")
    return calls
