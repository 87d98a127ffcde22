"""The calls of a recurrent module while a model runs, and their traces.

A module with a whole sequence in a call is traced at once. The calls of a step cell, one step each, are
traced together when the model has run: the state before each step is known then, so all steps are rows of
one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewise.backends.contract import Masks, differentiated, valid_steps
from gatewise.backends.registry import choose, run
from gatewise.errors import BackendError, OptionError
from gatewise.gates.find import LAYERS, STEP_CELLS, named_arguments, ours, with_lengths
from gatewise.gates.joining import other_batch
from gatewise.gates.known_output import KnownOutput, time_major
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.lengths import checked_lengths
from gatewise.nn.parameters import step_parameters, weights_of
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.runs import Runner
from gatewise.nn.states import states_given
from gatewise.nn.trace import Trace

_WITHOUT_GATES = ("aten",)  # backends that cannot trace

# What a recomputed output may differ from the module's, as a share of its largest number, by dtype.
_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-2,
}  # torch may round float32's factors to bfloat16
_COARSE = 0.1  # of dtypes with fewer digits, and under autocast


class Sink(Protocol):
    """Where the traces of a module's calls go."""

    # whether each call is traced as a whole, and its trace kept in memory
    whole: bool

    def check(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        """Raises TooLargeError if the trace of the call would not fit."""

    def put(self, name: str, trace: Trace | Sequence[Any]) -> None:
        """Takes the trace of a whole call."""

    def run(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        """Traces a call in pieces."""


Handle = Any  # of a registered hook


def watcher(module: nn.Module) -> Callable[..., Any]:
    """The class below that traces the calls of a recurrent module."""
    if isinstance(module, LAYERS):
        return LayerCalls
    return StepCalls if isinstance(module, STEP_CELLS) else TorchCalls


class LayerCalls:
    """The calls of one of gatewise's layers. Where the same backend runs a call with and without a trace, the
    call itself returns the trace. Otherwise the call is run a second time."""

    def __init__(
        self, name: str, module: nn.Module, sink: Sink, lengths: Any, differentiable: bool
    ) -> None:
        self.name, self.module, self.sink, self.lengths = name, module, sink, lengths
        self.differentiable = differentiable
        self._one_pass = False
        self._random_state: list[Tensor] = []

    def finish(self) -> None:
        """All calls are traced already."""

    def attach(self) -> list[Handle]:
        before = self.module.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self.module.register_forward_hook(self._after, with_kwargs=True, prepend=True)
        return [before, after]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._random_state = random_state() if module.training else []
        arguments = named_arguments(args, kwargs)
        x = arguments.get("input")
        if not isinstance(x, Tensor | PackedSequence):  # the module raises its own error
            self._one_pass = False
            return None
        if self.differentiable:
            arguments = {**arguments, "input": _leading_to_gradients(x, module)}
        completed = with_lengths(arguments, self.lengths)
        self.sink.check(self.name, ours(module), completed)
        own = arguments.get("trace", False)
        added = completed is not arguments
        self._one_pass = self.sink.whole and not own and not added and self._runs_alike(arguments)
        return (), {**arguments, "trace": True} if self._one_pass else arguments

    def _runs_alike(self, arguments: dict[str, Any]) -> bool:
        return _alike(self.module, arguments)

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        arguments = named_arguments(args, kwargs)
        if self._one_pass:
            self.sink.put(self.name, result[2])
            return result[:2]
        if arguments.pop("trace", False) and self.sink.whole and self.lengths is None:
            self.sink.put(self.name, result[2])
            return None
        arguments = with_lengths(arguments, self.lengths)
        with replayed(self._random_state), _with_gates(module):
            if self.sink.whole:
                self.sink.put(self.name, module.forward(**arguments, trace=True)[2])
            else:
                self.sink.run(self.name, module, arguments)
        return None


class TorchCalls(LayerCalls):
    """The calls of one of torch's layers. Each is run a second time, by gatewise's layer with the same
    parameters and dropout masks. Its output must agree with the module's."""

    def _runs_alike(self, arguments: dict[str, Any]) -> bool:
        return False

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        layer = ours(module)
        arguments = with_lengths(named_arguments(args, kwargs), self.lengths)
        x, y = (_data(each) for each in (arguments["input"], result[0]))
        if x.is_cuda and module.training and module.dropout:
            raise OptionError(
                f"'{self.name}' drops values in cuDNN, whose masks cannot be drawn again: call model.eval() first"
            )
        if (
            module.training
            and module.dropout
            and layer.num_layers > 1
            and _is_ragged(arguments["input"])
        ):
            raise OptionError(
                f"'{self.name}' drops values of a PackedSequence with different lengths, whose masks cannot be drawn "
                f"again: call model.eval() first"
            )
        # torch leaves a GRU and some LSTMs in float32 under autocast
        kept = torch.autocast(x.device.type, enabled=False) if x.dtype == y.dtype else nullcontext()
        with replayed(self._random_state), kept, _with_gates(layer):
            if not self.sink.whole:
                self.sink.run(self.name, layer, arguments)
                return None
            with self._knowing(layer, arguments, result[0]):
                output, state, trace = layer.forward(**arguments, trace=True)
        self.sink.put(self.name, trace)
        if arguments.get("lengths") is None:
            check_agreement(self.name, module, output, result[0])
            if self.differentiable:
                return _valued(output, result[0]), _valued(state, result[1])
        return None

    def _knowing(self, layer: Any, arguments: dict[str, Any], output: Any) -> Any:
        """A block in which the layer's run uses the module's output."""
        if self.differentiable or layer.runner is not None:
            return nullcontext()
        if arguments.get("lengths") is not None:  # the module has computed steps in the padding too
            return nullcontext()
        known = KnownOutput(layer.num_layers - 1, time_major(output, layer.batch_first))
        return _with_runner(layer, known)


class StepInputs:
    """What a step cell, of gatewise or of torch, gets in its calls: B×I each, and the states before the step."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.cell: Any = ours(module)
        self.inputs: list[Tensor] = []
        self.states: list[tuple[Tensor, ...]] = []

    def attach(self) -> list[Handle]:
        return [self.module.register_forward_hook(self._after, with_kwargs=True, prepend=True)]

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        arguments = named_arguments(args, kwargs)
        x, hx = arguments["input"], arguments.get("hx")
        new = states_given(self.cell.cell, result, single=True)
        dtype = None if new[0].dtype == x.dtype else autocast_dtype(x)
        x, hx = (x, hx) if dtype is None else (cast(x, dtype), cast_states(hx, dtype))
        config = self.cell.config
        if hx is None:
            hx = (x.new_zeros(*x.shape[:-1], config.hidden_size),) * len(config.cell.state)
        state = states_given(config.cell, hx, single=True)
        if x.dim() == 1:
            x, state, new = x[None], tuple(s[None] for s in state), tuple(s[None] for s in new)
        self.take(x, state, new, dtype)

    def take(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        new: tuple[Tensor, ...],
        dtype: torch.dtype | None,
    ) -> None:
        """Takes a call.

        Args:
            state, new: the states before and after the step, B×H each.
            dtype: that of autocast, or None.
        """
        self.inputs.append(x)
        self.states.append(state)


class StepCalls(StepInputs):
    """The calls of a step cell, which are traced together."""

    def __init__(
        self, name: str, module: nn.Module, sink: Sink, lengths: Any, differentiable: bool
    ) -> None:
        super().__init__(name, module)
        self.sink, self.lengths = sink, lengths
        self.last = torch.empty(0)
        self.dtype: torch.dtype | None = None

    def take(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        new: tuple[Tensor, ...],
        dtype: torch.dtype | None,
    ) -> None:
        super().take(x, state, new, dtype)
        if self.inputs[0].shape != x.shape:
            raise other_batch(self.name, len(self.inputs[0]), len(x))
        self.last, self.dtype = new[0], dtype

    def finish(self) -> None:
        """Traces all calls: T calls with B sequences are one step of T·B sequences."""
        if not self.inputs:
            return
        steps, batch = len(self.inputs), len(self.inputs[0])
        config = self.cell.config
        stored = step_parameters(self.cell, config, "")
        weights = weights_of(config, "", stored, self.dtype)
        x = torch.cat(self.inputs)[None]
        state = tuple(torch.cat(each) for each in zip(*self.states, strict=True))
        choice = choose(
            self.cell.backend,
            cell=config.cell,
            input_size=config.input_size,
            hidden_size=config.hidden_size,
            dtype=x.dtype,
            device=x.device,
            layer_norm=config.layer_norm,
            trace=True,
            differentiated=differentiated((x, *state, *weights.listed(config.cell))),
        )
        found = run(choice, x, state, weights, Masks())
        check_agreement(self.name, self.module, found.state[0][-batch:], self.last)
        like = x.new_empty(steps, batch, 0)
        lengths = checked_lengths(self.lengths, like)
        valid = None if lengths is None else valid_steps(steps, lengths)[..., None]
        values = {}
        for name, value in found.trace.items():
            by_step = value[0].unflatten(0, (steps, batch))
            by_step = by_step if valid is None else torch.where(valid, by_step, 0)
            values[name] = [[by_step.transpose(0, 1)]]
        self.sink.put(self.name, Trace(values, lengths, config.cell, calls=(1,) * steps))


class replayed:  # noqa: N801  it is used as a function
    """A block that draws the random numbers that were drawn from ``state`` on, and leaves the generator as it
    is. Without a state it does nothing."""

    def __init__(self, state: list[Tensor]) -> None:
        self._state = state

    def __enter__(self) -> None:
        self._now = random_state() if self._state else []
        _set_random_state(self._state)

    def __exit__(self, *_: object) -> None:
        _set_random_state(self._now)


def random_state() -> list[Tensor]:
    """The states of the random generators: the CPU's, and the GPU's if one is used."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *gpu]


def _set_random_state(state: list[Tensor]) -> None:
    if state:
        torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])


class _Valued(torch.autograd.Function):
    """The numbers of ``theirs`` with the gradient of ``ours``."""

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor) -> Tensor:
        return theirs.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


def _valued(ours: Any, theirs: Any) -> Any:
    if isinstance(theirs, PackedSequence):
        return theirs._replace(data=_valued(ours.data, theirs.data))
    if isinstance(theirs, tuple):
        return tuple(_valued(a, b) for a, b in zip(ours, theirs, strict=True))
    return _Valued.apply(ours, theirs)


def _data(given: Any) -> Tensor:
    """The tensor of an input or output, which may be packed."""
    return given.data if isinstance(given, PackedSequence) else given


def _leading_to_gradients(x: Any, module: nn.Module) -> Any:
    """The input of a module; if nothing in the call requires a gradient, as a tensor that does, so that the
    traced values and the output have a graph."""
    data = _data(x)
    if data.requires_grad or not data.is_floating_point():
        return x
    if any(p.requires_grad for p in module.parameters()):
        return x
    leaf = data.detach().requires_grad_()
    return x._replace(data=leaf) if isinstance(x, PackedSequence) else leaf


def _alike(module: nn.Module, arguments: dict[str, Any]) -> bool:
    """Whether the same backend runs the call with and without a trace, so that both have the same bits."""
    x = _data(arguments["input"])
    reset = arguments.get("reset")
    for layer in module.modules():
        if isinstance(layer, Recurrent):
            if layer.backend in _WITHOUT_GATES:
                return False
            like = x.new_empty(1, 1, layer.input_size)
            one, other = (
                layer.choose_backend(like, reset=reset, trace=trace).backend
                for trace in (False, True)
            )
            if one != other or one not in ("cpu", "reference"):
                return False
    return True


def _is_ragged(x: Any) -> bool:
    """Whether it is a PackedSequence of sequences with different lengths."""
    return isinstance(x, PackedSequence) and bool((x.batch_sizes != x.batch_sizes[0]).any())


@contextmanager
def _with_gates(module: nn.Module) -> Iterator[None]:
    """A block in which layers whose backend was chosen by name, and returns no gates, run on another."""
    changed = [
        (layer, layer.backend)
        for layer in module.modules()
        if isinstance(layer, Recurrent) and layer.backend in _WITHOUT_GATES
    ]
    for layer, _ in changed:
        layer.backend = "auto"
    try:
        yield
    finally:
        for layer, backend in changed:
            layer.backend = backend


@contextmanager
def _with_runner(layer: Any, runner: Runner) -> Iterator[None]:
    layer.runner = runner
    try:
        yield
    finally:
        del layer.runner


def check_agreement(name: str, module: nn.Module, ours: Any, theirs: Any) -> None:
    """Raises BackendError unless gatewise's output agrees with the module's."""
    ours, theirs = _data(ours).detach(), _data(theirs).detach()
    if not theirs.numel() or theirs.is_meta:
        return
    off = (ours.to(theirs.dtype) - theirs).abs().max()
    share = max(_TOLERANCE.get(each.dtype, _COARSE) for each in (ours, theirs))
    share = share if autocast_dtype(theirs) is None else _COARSE
    bound = share * theirs.abs().max().clamp(min=1)
    if off > bound:
        raise BackendError(
            f"'{name}' is a {type(module).__name__} whose output differs by {float(off):.2g} from that of torch's "
            f"equations with its weights, so it computes something else; leave it out with modules="
        )
