"""Where traces go: memory, or a store. A store gets the trace of a call in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewise.errors import OptionError, TooLargeError
from gatewise.gates.find import batched, of_states
from gatewise.gates.store import Writer
from gatewise.memory import available, byte_size
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.nn.mlstm import MLSTM
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.trace import Trace

_AT_ONCE = 256 << 20  # bytes


class InMemory:
    """Keeps the traces, if they take at most ``memory`` bytes."""

    whole = True

    def __init__(self, memory: int | None) -> None:
        self._memory = available() // 2 if memory is None else memory
        self._bytes = 0
        self._found: dict[str, list[Trace]] = {}

    def check(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        size = _call_size(layer, arguments)
        if size is None:  # the module raises its own error
            return
        self._bytes += size
        if self._bytes > self._memory:
            raise TooLargeError(
                f"the traced values take {byte_size(self._bytes)} up to this call of '{name}', and memory= "
                f"allows {byte_size(self._memory)}: give store='traces.zarr' to write them to a file, fewer "
                f"sequences, or modules= with fewer modules"
            )

    def put(self, name: str, trace: Trace | Sequence[Any]) -> None:
        if isinstance(trace, Trace):
            self._found.setdefault(name, []).append(trace)
        else:  # of a stack of bidirectional layers
            for k, each in enumerate(trace):
                self.put(f"{name}.{k}", each)

    def run(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        raise AssertionError("a trace in memory is not traced in pieces")

    def close(self, names: Sequence[str]) -> dict[str, list[Trace]]:
        """The traces of each module's calls, in the order of ``names``."""
        order = {name: k for k, name in enumerate(names)}
        place = {n: order.get(n, order.get(n.rpartition(".")[0], 0)) for n in self._found}
        return {name: self._found[name] for name in sorted(self._found, key=place.__getitem__)}

    def discard(self) -> None:
        """Nothing is left behind."""


class InStore:
    """Writes the traces to a store, of which ``memory`` bytes are computed at once."""

    whole = False

    def __init__(self, store: Path, memory: int | None) -> None:
        self._writer = Writer(store)
        self._memory = _AT_ONCE if memory is None else memory

    def check(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        """A store may be larger than the memory."""

    def put(self, name: str, trace: Trace | Sequence[Any]) -> None:
        if isinstance(trace, Trace):
            steps = trace[trace.names[0]][0][0].shape[1]
            begin = self._writer.begin_call(name, steps, trace.lengths, trace.calls)
            self._writer.write(name, trace, slice(None), begin)
        else:
            for k, each in enumerate(trace):
                self.put(f"{name}.{k}", each)

    def run(self, name: str, layer: nn.Module, arguments: dict[str, Any]) -> None:
        call = _Call(name, layer, arguments)
        begin = self._writer.begin_call(name, call.steps, call.lengths)
        for rows, start, trace in call.pieces(self._memory):
            self._writer.write(name, trace, rows, begin + start, batch=call.batch)

    def close(self, names: Sequence[str]) -> list[str]:
        """Completes the store, and returns the names of its modules."""
        return self._writer.close(names)

    def discard(self) -> None:
        """Removes what was written of a store that is not complete."""
        self._writer.discard()


class _Call:
    """A call of a layer on a padded batch, whose trace is computed in pieces."""

    def __init__(self, name: str, layer: Any, arguments: dict[str, Any]) -> None:
        self._name, self._layer = name, layer
        given = batched(layer, arguments)
        self._x, self._hx = given["input"], given["hx"]
        self.lengths, self._reset = given["lengths"], given["reset"]
        self._first = bool(layer.batch_first)
        self.batch, self.steps = self._x.shape[:2] if self._first else self._x.shape[:2][::-1]

    def pieces(self, memory: int) -> Iterator[tuple[slice, int, Trace]]:
        """The rows of the batch, the first step, and the trace, for each piece."""
        per_step = _step_size(self._layer, self._x)
        rows = memory // max(1, per_step * self.steps)
        whole = rows >= self.batch
        if not whole and _is_random(self._layer):
            raise OptionError(
                f"the trace of '{self._name}' is computed in pieces, which would draw other dropout masks than "
                f"the call: call model.eval() first, or give more memory="
            )
        if rows:
            for begin in range(0, max(1, self.batch), rows):
                at = slice(begin, min(begin + rows, self.batch))
                yield at, 0, self._traced(at, slice(0, self.steps), self._state(at))[1]
            return
        steps = memory // per_step
        if (
            steps == 0
            or isinstance(self._layer, Reversed | Bidirectional)
            or _both_ways(self._layer)
        ):
            least = per_step * (1 if steps == 0 else self.steps)
            raise TooLargeError(
                f"memory={memory} is too small for '{self._name}': "
                + (
                    "one step of it"
                    if steps == 0
                    else "it reads backward too, so a sequence is traced as a whole, which"
                )
                + f" takes {least} bytes"
            )
        for row in range(self.batch):
            at = slice(row, row + 1)
            state = self._state(at)
            for begin in range(0, self.steps, steps):
                some = slice(begin, min(begin + steps, self.steps))
                state, trace = self._traced(at, some, state)
                yield at, begin, trace

    def _traced(self, rows: slice, steps: slice, state: Any) -> tuple[Any, Trace]:
        """The final state and the trace of some steps of some sequences."""
        both = (rows, steps) if self._first else (steps, rows)
        lengths = self.lengths
        if lengths is not None:
            lengths = (lengths[rows] - steps.start).clamp(0, steps.stop - steps.start)
        reset = None if self._reset is None else self._reset[both]
        found = self._layer.forward(self._x[both], state, lengths=lengths, reset=reset, trace=True)
        if not isinstance(found[2], Trace):
            raise OptionError(
                f"'{self._name}' has several traces, which a store cannot take; leave store= out"
            )
        return found[1], found[2]

    def _state(self, rows: slice) -> Any:
        layer = self._layer
        if isinstance(layer, MLSTM):
            return of_states(self._hx, lambda s: s[rows])
        return of_states(self._hx, lambda s: s[:, rows])


def _is_random(layer: nn.Module) -> bool:
    """Whether a call of the layer draws dropout masks."""
    names = ("dropout", "recurrent_dropout", "weight_drop")
    return any(
        module.training
        and (any(getattr(module, n, 0) for n in names) or any(getattr(module, "zoneout", ())))
        for module in layer.modules()
    )


def _both_ways(layer: nn.Module) -> bool:
    return bool(getattr(layer, "bidirectional", False))


def _call_size(layer: nn.Module, arguments: dict[str, Any]) -> int | None:
    """The bytes of the trace of a call; None if the input does not fit."""
    x = arguments["input"]
    if isinstance(x, PackedSequence):
        batch, steps = int(x.batch_sizes[0]), len(x.batch_sizes)
        return batch * steps * _step_size(layer, x.data)
    if not isinstance(x, Tensor) or x.dim() < 2 or x.is_nested:
        return None
    sequences = x.dim() - (3 if isinstance(layer, ConvRecurrent) else 1)
    return x.shape[:sequences].numel() * _step_size(layer, x)


def _step_size(layer: Any, x: Tensor) -> int:
    """The bytes of the trace of one step of one sequence."""
    if isinstance(layer, Reversed):
        return _step_size(layer.layer, x)
    if isinstance(layer, Bidirectional):
        return _step_size(layer.forward_layer, x) + _step_size(layer.backward_layer, x)
    if isinstance(layer, MLSTM):
        return (6 * layer.hidden_size + 2 * layer.heads) * x.element_size()
    if isinstance(layer, ConvRecurrent):
        numbers = layer.hidden_channels * x.shape[-2:].numel()
    elif isinstance(layer, Recurrent):
        numbers = layer.hidden_size
    else:  # a Stack within a Bidirectional
        return sum(_step_size(each, x) for each in getattr(layer, "layers", ()))
    runs = layer.num_layers * (2 if layer.bidirectional else 1)
    return len(layer.cell.values) * runs * numbers * x.element_size()
