"""The calls of a model's recurrent modules, to run single layers again on what they got.

The modules are found and named as by :func:`gatewise.trace`. Each is run again by a frozen layer of gatewise
with the same parameters: a loop over a step cell as one layer, and a bidirectional pair as two.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.backends.contract import Outcome
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, some
from gatewise.gates.calls import StepInputs, check_agreement
from gatewise.gates.directions import Place
from gatewise.gates.find import (
    LAYERS,
    STEP_CELLS,
    batched,
    evaluating,
    find_modules,
    is_keras,
    named_arguments,
    of_states,
    ours,
    with_lengths,
)
from gatewise.gates.lags import by_lag
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.nn.mlstm import MLSTM
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.runs import LayerRun, Runner
from gatewise.nn.stack import Stack
from gatewise.nn.trace import Trace

State = Any  # a tensor or a tuple of tensors; or None
Layer = Recurrent | ConvRecurrent | MLSTM
Calls = Mapping[str, Sequence["Call"]]  # by the name of the module


@dataclass(frozen=True)
class Call:
    """A call of a recurrent layer.

    Attributes:
        name: the module's name in traces.
        layer: the layer, batch-first, frozen, in evaluation mode, with the parameters of the model's.
        x: B×T×I, or B×T×C×h×w.
        lengths: B integers, at least 0.
        hx: the initial states, or None.
        reset: B×T booleans, or None.
        first_direction: of the trace that has the name, the direction of the layer's first one.
    """

    name: str
    layer: Layer
    x: Tensor
    lengths: Tensor
    hx: State = None
    reset: Tensor | None = None
    first_direction: int = 0

    def few(self, sequences: int, steps: int) -> Call:
        """The beginnings of the first sequences."""
        x = self.x[:sequences, :steps]
        batch = (
            slice(sequences) if isinstance(self.layer, MLSTM) else (slice(None), slice(sequences))
        )
        reset = None if self.reset is None else self.reset[:sequences, :steps]
        lengths = self.lengths[:sequences].clamp(max=steps)
        hx = of_states(self.hx, lambda state: state[batch])
        return replace(self, x=x, lengths=lengths, hx=hx, reset=reset)

    def run(self, layer: Layer | None = None, x: Tensor | None = None, trace: bool = False) -> Any:
        """What the layer, or some of its lowest layers, return for the call, or for another input."""
        layer, hx = layer or self.layer, self.hx
        if not isinstance(layer, MLSTM):
            runs = layer.num_layers * _directions(layer)
            hx = of_states(hx, lambda state: state[:runs])
        x = self.x if x is None else x
        return layer(x, hx, lengths=self.lengths, reset=self.reset, trace=trace)

    def trace(self) -> Trace:
        """The trace of the call."""
        with torch.no_grad():
            found: Trace = self.run(trace=True)[2]
        return found

    @property
    def cell(self) -> Cell | None:
        """The cell; None for an mLSTM."""
        return getattr(self.layer, "cell", None)

    @property
    def input_weight(self) -> Tensor:
        """The weight of the lowest layer's input."""
        return self.layer.weight if isinstance(self.layer, MLSTM) else self.layer.weight_ih_l0


@dataclass(frozen=True)
class DirectionCall:
    """One direction of one layer in a call.

    Attributes:
        call: the call of all layers and directions.
        layer, direction: the indices in the call; direction 1 reads from the last step to the first.
    """

    call: Call
    layer: int
    direction: int

    @property
    def place(self) -> Place:
        """The place in a trace of the model."""
        return Place(self.call.name, self.layer, self.call.first_direction + self.direction)

    @property
    def is_last(self) -> bool:
        """Whether it is of the call's last layer."""
        return self.layer == _depth(self.call.layer) - 1

    def output(self, x: Tensor) -> Tensor:
        """B×T×…: the output for another input of the call, behind projection and residual connection."""
        layer = self.call.layer
        if not isinstance(layer, Recurrent):
            trace = self.call.run(x=x, trace=True)[2]
            name = "h" if self.call.cell is None else self.call.cell.state[0]
            of_place: Tensor = trace[name][self.layer][self.direction]
            return of_place
        found = self.call.run(frozen(layer, self.layer + 1), x)[0]
        return found.chunk(_directions(layer), 2)[self.direction]

    def given(self) -> LayerRun:
        """The input, initial states, weights and masks with which the cell runs. An mLSTM has no cell."""
        layer: Any = frozen(self.call.layer, self.layer + 1)
        runs: list[LayerRun] = []

        def runner(run: LayerRun) -> Outcome:
            runs.append(run)
            return run.execute(run.x, run.state, run.masks, run.trace)

        layer.runner = runner
        with torch.no_grad():
            self.call.run(layer)
        return runs[self.layer * _directions(layer) + self.direction]


def directions_of(calls: Calls) -> Iterator[DirectionCall]:
    """All directions of all layers."""
    for of_module in calls.values():
        for call in of_module:
            for layer in range(_depth(call.layer)):
                for direction in range(_directions(call.layer)):
                    yield DirectionCall(call, layer, direction)


def _depth(layer: Layer) -> int:
    return getattr(layer, "num_layers", 1)


def _directions(layer: Layer) -> int:
    return 1 + getattr(layer, "bidirectional", False)


def frozen(module: Any, depth: int | None = None) -> Layer:
    """A batch-first layer of gatewise with the parameters of ``module``, frozen and in evaluation mode.

    Args:
        module: a layer or a step cell of gatewise.
        depth: the number of its lowest layers; the default is all.
    """
    depth = _depth(module) if depth is None else depth
    suffix = "_l0" if isinstance(module, STEP_CELLS) else ""
    with torch.device("meta"):  # no numbers are drawn for parameters that are replaced
        new = _same_options(module, depth)
    for name, _ in list(new.named_parameters()):
        given = getattr(module, name.removesuffix(suffix)).detach()
        setattr(new, name, nn.Parameter(given, requires_grad=False))
    return new.eval()


def _same_options(module: Any, depth: int) -> Layer:
    if isinstance(module, MLSTM):
        return MLSTM(
            module.input_size,
            module.hidden_size,
            module.heads,
            batch_first=True,
            chunk=module.chunk,
            bias=module.bias is not None,
            forget=module.forget,
        )
    if isinstance(module, ConvRecurrent):
        return ConvRecurrent(
            module.cell,
            module.input_channels,
            module.hidden_channels,
            module.kernel_size,
            depth,
            module.bias,
            batch_first=True,
            bidirectional=module.bidirectional,
            size=module.size,
        )
    config = module.config
    return Recurrent(
        config.cell,
        config.input_size,
        config.hidden_size,
        depth,
        config.bias,
        batch_first=True,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        backend=module.backend,
        layer_norm=config.layer_norm,
        zoneout=getattr(module, "zoneout", 0.0),
        connect=config.connect if depth > 1 else "plain",
        learn_initial=config.learn_initial,
        block_size=config.block_size,
        recurrent_blocks=config.recurrent_blocks,
    )


class _LayerRecorder:
    """Records the first call of a layer.

    Args:
        counts: whether a call that happens now counts.
    """

    def __init__(
        self, name: str, module: nn.Module, lengths: Any, counts: Callable[[], bool]
    ) -> None:
        self.name, self.module, self.lengths = name, module, lengths
        self._counts = counts
        self._arguments: dict[str, Any] = {}
        self._output: Any = None

    def attach(self) -> list[Any]:
        return [self.module.register_forward_hook(self._after, with_kwargs=True, prepend=True)]

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        if not self._arguments and self._counts():
            self._arguments, self._output = named_arguments(args, kwargs), result[0]

    def check(self) -> None:
        """Raises BackendError if a module of torch, in evaluation mode, does not compute torch's equations."""
        layer = ours(self.module)
        if self._arguments and layer is not self.module:
            with evaluating(layer), torch.no_grad():
                output = layer.forward(**self._arguments)[0]
            check_agreement(self.name, self.module, output, self._output)

    def finish(self) -> list[Call]:
        """The calls of the layers, one after the other."""
        if not self._arguments:
            return []
        module, arguments = ours(self.module), with_lengths(self._arguments, self.lengths)
        if isinstance(module, Reversed | Bidirectional):
            return _inner_calls(self.name, module, arguments)
        return [_call(self.name, module, batched(module, arguments))]


def _call(name: str, module: Any, given: Mapping[str, Any]) -> Call:
    """The call of a layer with the arguments that ``batched`` returns."""
    x, hx, lengths, reset = (given[each] for each in ("input", "hx", "lengths", "reset"))
    if not module.batch_first:
        x, reset = x.transpose(0, 1), None if reset is None else reset.T
    if isinstance(module, MLSTM):  # its states may have more digits than its weights
        x, hx = x.detach().to(module.weight), of_states(hx, Tensor.detach)
    else:
        x, hx = (of_states(part, lambda s: s.detach().to(module.weight_ih_l0)) for part in (x, hx))
    lengths = torch.full((len(x),), x.shape[1]) if lengths is None else lengths.cpu()
    return Call(name, frozen(module), x, lengths, hx, reset)


def _inner_calls(name: str, module: nn.Module, arguments: dict[str, Any]) -> list[Call]:
    """The calls of the layers in a Reversed or Bidirectional: each gets its sequences in its order of reading."""
    parts = list(_parts(name, module))
    recorders = [_LayerRecorder(part, layer, None, lambda: True) for part, layer in parts]
    handles = [handle for each in recorders for handle in each.attach()]
    try:
        with evaluating(module), torch.no_grad():
            module.forward(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    before: Counter[str] = Counter()
    found = []
    for each in recorders:
        for call in each.finish():
            found.append(replace(call, first_direction=before[call.name]))
            before[call.name] += _directions(call.layer)
    return found


def _parts(name: str, module: Any) -> Iterator[tuple[str, nn.Module]]:
    """The layers in a layer with the names of their traces, in the order of the traces' directions."""
    match module:
        case Reversed():
            yield from _parts(name, module.layer)
        case Bidirectional():
            yield from _parts(name, module.forward_layer)
            yield from _parts(name, module.backward_layer)
        case Stack():
            for k, layer in enumerate(module.layers):
                yield from _parts(f"{name}.{k}", layer)
        case _ if isinstance(module, LAYERS):
            yield name, module
        case _:
            yield from ((name, layer) for layer in find_modules(module).values())


class _StepRecorder(StepInputs):
    """Records a loop over a step cell as the call of a layer.

    The loop ends before a call that starts anew: with another number of sequences, from zero, or from the
    state from which the loop started.
    """

    def __init__(
        self, name: str, module: nn.Module, lengths: Any, counts: Callable[[], bool]
    ) -> None:
        super().__init__(name, module)
        self._lengths = None if lengths is None else torch.as_tensor(lengths)
        self._counts = counts
        self._returned: tuple[Tensor, ...] = ()  # by the last call
        self._ended = False
        self.changed_at: int | None = None  # the first call with a state of another origin

    def take(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        new: tuple[Tensor, ...],
        dtype: torch.dtype | None,
    ) -> None:
        if self._ended or not self._counts():
            return
        if self.inputs and not self._goes_on(x, state):
            self._ended = True
            return
        super().take(x.detach(), tuple(s.detach() for s in state), new, dtype)
        self._returned = new

    def _goes_on(self, x: Tensor, state: tuple[Tensor, ...]) -> bool:
        """Whether the call goes on from the last one's state."""
        if x.shape != self.inputs[0].shape:
            return False
        if all(s is last for s, last in zip(state, self._returned, strict=True)):
            return True
        count = len(self.inputs)
        there = torch.ones(len(x), dtype=torch.bool)
        if self._lengths is not None and self._lengths.shape == there.shape:
            there = count < self._lengths
        there = there.to(x.device)
        if _equal(state, self._returned, there):
            return True
        zero = tuple(torch.zeros_like(s) for s in state)
        if not (_equal(state, zero, there) or _equal(state, self.states[0], there)):
            self.changed_at = count
        return False

    def check(self) -> None:
        """Raises an error if the calls are not those of a layer.

        Raises:
            OptionError: a call got a state that the one before did not return.
            BackendError: the cell does not compute the equations of its class.
        """
        if self.changed_at is not None:
            raise OptionError(
                f"'{self.name}' is a step cell, and its call {self.changed_at + 1} gets a state that call "
                f"{self.changed_at} did not return: its calls are no sequence whose memory could be followed; leave "
                f"it out with modules="
            )
        if self.inputs and self.cell is not self.module:
            hx = self.states[-1] if len(self.states[-1]) > 1 else self.states[-1][0]
            with torch.no_grad():
                new = self.cell.forward(self.inputs[-1], hx)
            check_agreement(
                self.name, self.module, new[0] if isinstance(new, tuple) else new, self._returned[0]
            )

    def finish(self) -> list[Call]:
        """The call of a layer that is the loop."""
        if not self.inputs:
            return []
        layer: Any = frozen(self.cell)
        x = torch.stack(self.inputs, 1).to(layer.weight_ih_l0)
        states = [s[None].to(x) for s in self.states[0]]
        hx = tuple(states) if len(states) > 1 else states[0]
        lengths = torch.full((len(x),), x.shape[1]) if self._lengths is None else self._lengths
        return [Call(self.name, layer, x, lengths.cpu().clamp(max=x.shape[1]), hx)]


class _KerasRecorder:
    """Records the first call of a recurrent layer of Keras."""

    def __init__(self, name: str, layer: Any, lengths: Any, counts: Callable[[], bool]) -> None:
        self.name, self._layer, self._lengths, self._counts = name, layer, lengths, counts
        self._arguments: tuple[Any, ...] = ()

    def attach(self) -> list[Any]:
        from gatewise.keras.model import WatchedLoop  # it loads Keras

        return [WatchedLoop(self._layer, self._after)]

    def _after(self, x: Tensor, state: list[Tensor], mask: Any, training: Any, result: Any) -> None:
        if not self._arguments and self._counts():
            self._arguments = x.detach(), [s.detach() for s in state], mask

    def check(self) -> None:
        """gatewise's layer runs the recorded call too, so there is nothing to compare."""

    def finish(self) -> list[Call]:
        """The call of a layer of gatewise, with the unmasked steps and without dropout."""
        if not self._arguments:
            return []
        x, state, mask = self._arguments
        runs, runner = _runs_kept()
        with torch.no_grad(), _run_by({self.name: self._layer}, runner):
            self._layer.inner_loop(x, state, mask=mask, training=False)
        return [_call_of_run(self.name, runs[self.name], self._lengths)]


def _runs_kept() -> tuple[dict[str, LayerRun], Callable[[str], Runner]]:
    """The first run of each layer by its name, and the runners that put it there."""
    runs: dict[str, LayerRun] = {}

    def runner(name: str) -> Runner:
        def run(given: LayerRun) -> Outcome:
            runs.setdefault(name, given)
            return given.execute(given.x, given.state, given.masks, given.trace)

        return run

    return runs, runner


def _run_by(layers: Mapping[str, nn.Module], runner: Callable[[str], Runner]) -> Any:
    from gatewise.keras.model import run_by  # it loads Keras

    return run_by(layers, runner, "leave it out with modules=")


def _equal(some: Sequence[Tensor], others: Sequence[Tensor], rows: Tensor) -> bool:
    """Whether those rows of all states are equal."""
    for one, other in zip(some, others, strict=True):
        same = (one == other) | (one.isnan() & other.isnan())
        if not bool((same.all(1) | ~rows).all()):
            return False
    return True


def _recorder(module: nn.Module) -> Callable[..., Any]:
    """The class that records the first call of a recurrent module."""
    if is_keras(module):
        return _KerasRecorder
    return _StepRecorder if isinstance(module, STEP_CELLS) else _LayerRecorder


@contextmanager
def recording(
    modules: Mapping[str, nn.Module],
    lengths: Any = None,
    *,
    in_training: bool = False,
    checked: bool = True,
) -> Iterator[dict[str, list[Call]]]:
    """A block in which the first call of each module is recorded. The block gets a dictionary, which has the calls
    by the modules' names when it has ended.

    Args:
        lengths: of the sequences, for modules that are called without lengths.
        in_training: whether only calls with gradients are recorded.
        checked: whether calls that a layer of gatewise cannot repeat are an error. The model must be in evaluation
            mode then.

    Raises:
        OptionError: with ``checked``, a step cell gets a state that the call before did not return.
        BackendError: with ``checked``, a module of torch does not compute torch's equations.
    """

    def counts() -> bool:
        return torch.is_grad_enabled() or not in_training

    recorders = [
        _recorder(module)(name, module, lengths, counts) for name, module in modules.items()
    ]
    handles = [handle for each in recorders for handle in each.attach()]
    calls: dict[str, list[Call]] = {}
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
    for each in recorders:
        if checked:
            each.check()
        if found := each.finish():
            calls[each.name] = found


def run_recorded(
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    lengths: Any,
    modules: Sequence[str] | str | None,
) -> dict[str, list[Call]]:
    """The calls of the model's recurrent modules for these inputs, in evaluation mode and without gradients.

    Raises:
        OptionError: the model has no recurrent module, or did not call one of them.
    """
    if is_keras(model):
        return _of_keras(model, inputs, named, lengths, modules)
    found = find_modules(model, modules)
    if lengths is not None and "lengths" in inspect.signature(model.forward).parameters:
        named = {**named, "lengths": lengths}
    with evaluating(model), torch.no_grad(), recording(found, lengths) as calls:
        model(*inputs, **named)
    _check_all_called(found, calls)
    return calls


def _check_all_called(modules: Iterable[str], calls: Calls) -> None:
    missing = [name for name in modules if name not in calls]
    if missing:
        raise OptionError(f"the model did not call {some(missing, 5)}: leave it out with modules=")


def _of_keras(
    model: Any,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    lengths: Any,
    modules: Sequence[str] | str | None,
) -> dict[str, list[Call]]:
    """The first calls of a Keras model's recurrent layers, with their unmasked steps only."""
    layers = find_modules(model, modules)
    runs, runner = _runs_kept()
    with torch.no_grad(), _run_by(layers, runner):
        model(*inputs, **named)
    calls = {name: [_call_of_run(name, runs[name], lengths)] for name in layers if name in runs}
    _check_all_called(layers, calls)
    return calls


def _call_of_run(name: str, given: LayerRun, lengths: Any) -> Call:
    """The call of a layer that does what a run of one layer in one direction did."""
    weights, x = given.weights, given.x.transpose(0, 1)
    batch, steps, width = x.shape
    lengths = lengths if given.masks.lengths is None else given.masks.lengths
    lengths = torch.full((batch,), steps) if lengths is None else torch.as_tensor(lengths).cpu()
    if given.reverse:
        x = by_lag(x, lengths, 0)  # the last step first: in the order of reading
    with torch.device("meta"):
        layer = Recurrent(
            given.cell,
            width,
            given.state[0].shape[1],
            bias=weights.input_bias is not None,
            batch_first=True,
        )
    parts = (weights.input, weights.recurrent, weights.input_bias, weights.recurrent_bias)
    for part, kind in zip(parts, ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), strict=True):
        if part is not None:
            setattr(layer, f"{kind}_l0", nn.Parameter(part.detach(), requires_grad=False))
    states = [state.detach()[None] for state in given.state]
    return Call(name, layer.eval(), x, lengths, tuple(states) if len(states) > 1 else states[0])
