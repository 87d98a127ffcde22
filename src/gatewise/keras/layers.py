"""Keras's LSTM, GRU and SimpleRNN with their time loop on gatewise's kernels.

Everything but the time loop is Keras's: arguments, weights, masks, states, files. Keras calls
``inner_loop`` for the time loop, and the classes here override it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Weights, differentiated
from gatewise.backends.registry import choose, run
from gatewise.backends.tracing import recorded_by, unrecorded
from gatewise.cells.language import Cell
from gatewise.errors import OptionError
from gatewise.keras.activations import name_of
from gatewise.keras.cells import cell_of
from gatewise.keras.steps import Steps, steps_of
from gatewise.nn.runs import LayerRun, Runner
from gatewise.nn.trace import Trace

# Dropout factors B×n, drawn once for all steps: one tensor for all gates, or a list with one for each gate.
Factors = Tensor | list[Tensor] | None


class _GatewiseLoop:
    """The time loop of a Keras layer, a base class of the three layers.

    ``order`` has the index in Keras's order of each gate in gatewise's order.
    """

    order: Sequence[int]
    cell: Any

    # runs the steps in place of a backend: see nn/runs.py
    runner: Runner | None = None

    @property
    def equations(self) -> Cell:
        """The cell of a call without recurrent dropout."""
        return self._equations(False)

    def _equations(self, separate_gates: bool) -> Cell:
        """The cell; with ``separate_gates`` each gate has its own recurrent dropout."""
        raise NotImplementedError

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape, initial_state_shape)  # type: ignore[misc]
        for training in (False, True):
            # before torch.compile traces the layer, because it cannot trace the making of a cell
            if self._unsupported(training) is None:
                self._equations(training and self.cell.recurrent_dropout > 0)

    def _unsupported(self, training: bool | None) -> str | None:
        """Why gatewise cannot run this layer, as the end of "it has ..."; None if it can."""
        for name in ("activation", "recurrent_activation"):
            function = getattr(self.cell, name, keras.activations.linear)
            if name_of(function) is None:
                called = getattr(function, "__name__", type(function).__name__)
                return f"the {name} {called}, which gatewise has no equation for"
        if training and 1.0 in (self.cell.dropout, self.cell.recurrent_dropout):
            return "a dropout of 1"  # Keras treats it as no dropout or as dropping everything, depending on the layer
        return None

    def inner_loop(
        self, sequences: Tensor, initial_state: Any, mask: Any, training: bool | None = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The last output, all outputs and the final states, as Keras's own ``inner_loop`` returns them."""
        reason = self._unsupported(training)
        self._check_recordable(reason)
        if reason is not None:
            _warn(type(self).__name__, reason)
        if reason is not None or sequences.is_meta:  # Keras only wants the shapes of meta tensors
            return super().inner_loop(  # type: ignore[misc]
                sequences, initial_state, mask=mask, training=training
            )
        steps, outcome, _ = self._run(sequences, initial_state, mask, training, False)
        zero = self.zero_output_for_mask  # type: ignore[attr-defined]
        last = steps.last(outcome.state[0], zero)
        outputs = last
        if self.return_sequences:  # type: ignore[attr-defined]
            outputs = steps.outputs(outcome.output, zero).transpose(0, 1)
        return last, outputs, list(outcome.state[: len(initial_state)])

    def traced(
        self, sequences: Tensor, initial_state: Any, mask: Any, training: bool | None = False
    ) -> tuple[Tensor, Trace]:
        """The last output of ``inner_loop``, and the trace of its steps in the order of the input, with the
        dropout masks that the layer's cell has drawn. Masked steps are zero.

        Raises:
            OptionError: gatewise has no equations for the layer.
        """
        self.check_equations(training, "leave it out with modules=")
        steps, outcome, cell = self._run(sequences, initial_state, mask, training, True)
        values = {name: [[steps.in_time(v).transpose(0, 1)]] for name, v in outcome.trace.items()}
        last = steps.last(outcome.state[0], self.zero_output_for_mask)  # type: ignore[attr-defined]
        return last, Trace(values, None if steps.moved else steps.lengths, cell)

    def check_equations(self, training: bool | None, advice: str) -> None:
        """Raises OptionError, which ends with the advice, if gatewise has no equations for the layer."""
        if reason := self._unsupported(training):
            raise OptionError(f"the Keras layer '{self.name}' has {reason}; {advice}")  # type: ignore[attr-defined]

    def _run(
        self, sequences: Tensor, initial_state: Any, mask: Any, training: bool | None, trace: bool
    ) -> tuple[Steps, Outcome, Cell]:
        """The steps that are run, their outcome, and the cell."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        of_input, of_state = self._factors(sequences, initial_state, training)
        separate_gates = isinstance(of_state, list)
        weights = self._weights(isinstance(of_input, list), separate_gates)
        x = _dropped(sequences.to(weights.input.dtype), of_input)
        steps = steps_of(mask, self.go_backwards)  # type: ignore[attr-defined]
        state = self._state(initial_state, x, separate_gates)
        factor = torch.cat(of_state, -1) if isinstance(of_state, list) else of_state
        cell = self._equations(separate_gates)
        masks = Masks(lengths=steps.lengths, recurrent=factor)
        execute = partial(_execute, cell, steps.reverse, weights)
        if self.runner is None:
            return steps, execute(steps.taken(x), state, masks, trace), cell
        given = LayerRun(
            *(cell, 0, steps.reverse, steps.taken(x), state, weights, masks, trace, execute),
            places=steps.front,
            alone=True,
        )
        return steps, self.runner(given), cell

    def _check_recordable(self, reason: str | None) -> None:
        """Raises BackendError where torch.jit.trace or an exporter would record a graph that is valid for
        the example only."""
        if not recorded_by():
            return
        called = f"gatewise.keras.{type(self).__name__}"
        if reason is not None:
            raise unrecorded(f"this {called}", f"has no such equations ({reason})")
        if self.stateful:  # type: ignore[attr-defined]
            raise unrecorded(f"a stateful {called}", "leaves no state behind")

    def _factors(
        self, sequences: Tensor, state: Sequence[Tensor], training: bool | None
    ) -> tuple[Factors, Factors]:
        """The dropout factors of the input and of the recurrent input, gates in gatewise's order."""
        if not training:
            return None, None
        drawn = (
            self.cell.get_dropout_mask(sequences[:, 0]),
            self.cell.get_recurrent_dropout_mask(state[0]),
        )
        of_input, of_state = (
            [each[k] for k in self.order] if isinstance(each, list) else each for each in drawn
        )
        return of_input, of_state

    def _state(
        self, given: Sequence[Tensor], x: Tensor, separate_gates: bool
    ) -> tuple[Tensor, ...]:
        states = [s.to(x.dtype).expand(x.shape[0], -1) for s in given]
        if self.stateful:  # type: ignore[attr-defined]
            # copies, because Keras overwrites these states, and the backward pass needs them
            states = [s.clone() for s in states]
        return (*states, *[states[0]] * (len(self.order) - 1 if separate_gates else 0))

    def _weights(self, separate_input: bool, separate_recurrent: bool) -> Weights:
        def stacked(kernel: Any, separate_gates: bool) -> Tensor:
            rows = self._in_order(keras.ops.convert_to_tensor(kernel).T)
            return torch.block_diag(*rows.chunk(len(self.order))) if separate_gates else rows

        return Weights(
            stacked(self.cell.kernel, separate_input),
            stacked(self.cell.recurrent_kernel, separate_recurrent),
            *self._biases(),
        )

    def _biases(self) -> tuple[Tensor | None, Tensor | None]:
        """The two biases. Keras has one bias, except for a GRU with ``reset_after``, which has two rows."""
        if self.cell.bias is None:
            return None, None
        bias = keras.ops.convert_to_tensor(self.cell.bias)
        if bias.dim() == 1:
            return self._in_order(bias), torch.zeros_like(bias)
        of_input, of_state = bias
        return self._in_order(of_input), self._in_order(of_state)

    def _in_order(self, rows: Tensor) -> Tensor:
        """The rows of Keras's gates in gatewise's order."""
        if list(self.order) == sorted(self.order):
            return rows.contiguous()
        parts = rows.chunk(len(self.order))
        return torch.cat([parts[k] for k in self.order])


def _dropped(x: Tensor, factors: Factors) -> Tensor:
    """The input B×T×I after dropout; B×T×G·I where each gate has its own dropout."""
    if factors is None:
        return x
    each = factors if isinstance(factors, list) else [factors]
    return torch.cat([x * factor[:, None] for factor in each], -1)


def _execute(
    cell: Cell,
    reverse: bool,
    weights: Weights,
    x: Tensor,
    state: tuple[Tensor, ...],
    masks: Masks,
    trace: bool,
    any_backend: bool = False,  # there is no option that names one
) -> Outcome:
    choice = choose(
        cell=cell,
        input_size=x.shape[2],
        hidden_size=state[0].shape[1],
        reverse=reverse,
        trace=trace,
        dtype=x.dtype,
        device=x.device,
        masks=() if masks.recurrent is None else ("recurrent",),
        differentiated=differentiated((x, *state, *weights.listed(cell))),
    )
    return run(choice, x, state, weights, masks)


_WARNED: set[tuple[str, str]] = set()


def _warn(layer: str, reason: str) -> None:
    """Warns once for each layer class and reason."""
    if (layer, reason) in _WARNED:
        return
    _WARNED.add((layer, reason))
    warnings.warn(
        f"gatewise.keras.{layer} runs Keras's own time loop and is no faster than Keras, because it has "
        f"{reason}",
        stacklevel=4,
    )


@keras.saving.register_keras_serializable(package="gatewise")
class LSTM(_GatewiseLoop, keras.layers.LSTM):
    """``keras.layers.LSTM`` on gatewise's kernels, with the same arguments, weights, results and files.

    Raises:
        ValueError: as Keras's layer does.
    """

    order = (0, 1, 2, 3)

    def _equations(self, separate_gates: bool) -> Cell:
        return cell_of("lstm", *_names(self.cell), separate_gates)


@keras.saving.register_keras_serializable(package="gatewise")
class GRU(_GatewiseLoop, keras.layers.GRU):
    """``keras.layers.GRU`` on gatewise's kernels, with the same arguments, weights, results and files.

    Raises:
        ValueError: as Keras's layer does.
    """

    order = (1, 0, 2)

    def _equations(self, separate_gates: bool) -> Cell:
        return cell_of("gru", *_names(self.cell), self.cell.reset_after, separate_gates)

    def _unsupported(self, training: bool | None) -> str | None:
        if training and self.cell.recurrent_dropout and not self.cell.reset_after:
            return "recurrent_dropout with reset_after=False, which gatewise has no equation for"
        return super()._unsupported(training)


@keras.saving.register_keras_serializable(package="gatewise")
class SimpleRNN(_GatewiseLoop, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` on gatewise's kernels, with the same arguments, weights, results and
    files.

    Raises:
        ValueError: as Keras's layer does.
    """

    order = (0,)

    def _equations(self, separate_gates: bool) -> Cell:
        return cell_of("rnn", *_names(self.cell))


def _names(cell: Any) -> tuple[str, ...]:
    """The names of the layer's activations. ``_unsupported`` has checked that they are known."""
    functions = [cell.activation]
    if hasattr(cell, "recurrent_activation"):
        functions.append(cell.recurrent_activation)
    return tuple(str(name_of(function)) for function in functions)
