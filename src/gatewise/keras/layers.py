"""Keras's LSTM, GRU and SimpleRNN with their loop over time on gatewise's kernels.

All but the loop is Keras's own: arguments, weights, masks, states, files. Keras hands the loop its
tensors in ``inner_loop``, which is what is put in its place here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Weights, differentiated
from gatewise.backends.registry import choose, run
from gatewise.backends.tracing import recorded_by, unrecorded
from gatewise.cells.language import Cell
from gatewise.keras.activations import name_of
from gatewise.keras.cells import cell_of
from gatewise.keras.steps import Steps, steps_of

# Factors B×n that dropout draws once for all steps, one for all gates or, in a list, one for each.
Factors = Tensor | list[Tensor] | None


class _OnGatewise:
    """The loop over time of a Keras layer, for the three that are one of these as well.

    ``order`` has, for each gate as gatewise has them, its place among Keras's.
    """

    order: Sequence[int]
    cell: Any

    def _equations(self, apart: bool) -> Cell:
        """The cell, its gates apart where each has dropout of its own."""
        raise NotImplementedError

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        super().build(sequences_shape, initial_state_shape)  # type: ignore[misc]
        for training in (False, True):
            # made before torch.compile looks, which cannot take what is made while it does
            if self._unable(training) is None:
                self._equations(training and self.cell.recurrent_dropout > 0)

    def _unable(self, training: bool | None) -> str | None:
        """Why this layer is not gatewise's to run; what stands after "it has"."""
        for name in ("activation", "recurrent_activation"):
            function = getattr(self.cell, name, keras.activations.linear)
            if name_of(function) is None:
                called = getattr(function, "__name__", type(function).__name__)
                return f"the {name} {called}, which gatewise has no equation for"
        if training and 1.0 in (self.cell.dropout, self.cell.recurrent_dropout):
            return "a dropout of 1"  # which Keras takes for none or for all, as the case may be
        return None

    def inner_loop(
        self, sequences: Tensor, initial_state: Any, mask: Any, training: bool | None = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What Keras's layers do in this place: the last output, all outputs, the final states."""
        why = self._unable(training)
        self._check_recordable(why)
        if why is not None:
            _warn(type(self).__name__, why)
        if why is not None or sequences.is_meta:  # of which Keras asks the shapes alone
            return super().inner_loop(  # type: ignore[misc]
                sequences, initial_state, mask=mask, training=training
            )
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        of_input, of_state = self._factors(sequences, initial_state, training)
        apart = isinstance(of_state, list)
        weights = self._weights(isinstance(of_input, list), apart)
        x = _dropped(sequences.to(weights.input.dtype), of_input)
        steps = steps_of(mask, self.go_backwards)  # type: ignore[attr-defined]
        state = self._state(initial_state, x, apart)
        factor = torch.cat(of_state, -1) if isinstance(of_state, list) else of_state
        outcome = _run(self._equations(apart), steps, steps.taken(x), state, weights, factor)
        zero = self.zero_output_for_mask  # type: ignore[attr-defined]
        last = steps.last(outcome.state[0], zero)
        outputs = last
        if self.return_sequences:  # type: ignore[attr-defined]
            outputs = steps.outputs(outcome.output, zero).transpose(0, 1)
        return last, outputs, list(outcome.state[: len(initial_state)])

    def _check_recordable(self, why: str | None) -> None:
        """Raises BackendError where torch.jit.trace or an exporter would record what is for the example
        alone."""
        if not recorded_by():
            return
        called = f"gatewise.keras.{type(self).__name__}"
        if why is not None:
            raise unrecorded(f"this {called}", f"has no such equations ({why})")
        if self.stateful:  # type: ignore[attr-defined]
            raise unrecorded(f"a stateful {called}", "leaves no state behind")

    def _factors(
        self, sequences: Tensor, state: Sequence[Tensor], training: bool | None
    ) -> tuple[Factors, Factors]:
        """Those of the input and of what is fed back, of each gate in gatewise's order."""
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

    def _state(self, given: Sequence[Tensor], x: Tensor, apart: bool) -> tuple[Tensor, ...]:
        states = [s.to(x.dtype).expand(x.shape[0], -1) for s in given]
        if self.stateful:  # type: ignore[attr-defined]
            # Keras writes the new states over these, which the gradient still needs
            states = [s.clone() for s in states]
        return (*states, *[states[0]] * (len(self.order) - 1 if apart else 0))

    def _weights(self, apart_input: bool, apart_state: bool) -> Weights:
        def laid_out(kernel: Any, apart: bool) -> Tensor:
            rows = self._in_order(keras.ops.convert_to_tensor(kernel).T)
            return torch.block_diag(*rows.chunk(len(self.order))) if apart else rows

        return Weights(
            laid_out(self.cell.kernel, apart_input),
            laid_out(self.cell.recurrent_kernel, apart_state),
            *self._biases(),
        )

    def _biases(self) -> tuple[Tensor | None, Tensor | None]:
        """Keras has one bias for both products, but in a GRU with two rows."""
        if self.cell.bias is None:
            return None, None
        bias = keras.ops.convert_to_tensor(self.cell.bias)
        if bias.dim() == 1:
            return self._in_order(bias), torch.zeros_like(bias)
        of_input, of_state = bias
        return self._in_order(of_input), self._in_order(of_state)

    def _in_order(self, rows: Tensor) -> Tensor:
        """Rows of Keras's gates, those of each gate where gatewise has them."""
        if list(self.order) == sorted(self.order):
            return rows.contiguous()
        parts = rows.chunk(len(self.order))
        return torch.cat([parts[k] for k in self.order])


def _dropped(x: Tensor, factors: Factors) -> Tensor:
    """An input B×T×I after dropout; B×T×G·I where the gates have it each for itself."""
    if factors is None:
        return x
    each = factors if isinstance(factors, list) else [factors]
    return torch.cat([x * factor[:, None] for factor in each], -1)


def _run(
    cell: Cell,
    steps: Steps,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    factor: Tensor | None,
) -> Outcome:
    choice = choose(
        cell=cell,
        input_size=x.shape[2],
        hidden_size=state[0].shape[1],
        reverse=steps.reverse,
        dtype=x.dtype,
        device=x.device,
        masks=() if factor is None else ("recurrent",),
        differentiated=differentiated((x, *state, *weights.listed(cell))),
    )
    masks = Masks(lengths=steps.lengths, recurrent=factor)
    return run(choice, x, state, weights, masks)


_WARNED: set[tuple[str, str]] = set()


def _warn(layer: str, why: str) -> None:
    """Once for each reason."""
    if (layer, why) in _WARNED:
        return
    _WARNED.add((layer, why))
    warnings.warn(
        f"gatewise.keras.{layer} runs Keras's own loop, no faster than Keras: it has {why}",
        stacklevel=4,
    )


@keras.saving.register_keras_serializable(package="gatewise")
class LSTM(_OnGatewise, keras.layers.LSTM):
    """Long short-term memory, as ``keras.layers.LSTM``: its arguments, weights, results and files.

    Raises:
        ValueError: what Keras's own raises.
    """

    order = (0, 1, 2, 3)

    def _equations(self, apart: bool) -> Cell:
        return cell_of("lstm", *_names(self.cell), apart)


@keras.saving.register_keras_serializable(package="gatewise")
class GRU(_OnGatewise, keras.layers.GRU):
    """Gated recurrent unit, as ``keras.layers.GRU``: its arguments, weights, results and files.

    Raises:
        ValueError: what Keras's own raises.
    """

    order = (1, 0, 2)

    def _equations(self, apart: bool) -> Cell:
        return cell_of("gru", *_names(self.cell), self.cell.reset_after, apart)

    def _unable(self, training: bool | None) -> str | None:
        if training and self.cell.recurrent_dropout and not self.cell.reset_after:
            return "recurrent_dropout with reset_after=False, which gatewise has no equation for"
        return super()._unable(training)


@keras.saving.register_keras_serializable(package="gatewise")
class SimpleRNN(_OnGatewise, keras.layers.SimpleRNN):
    """Simple recurrent network, as ``keras.layers.SimpleRNN``: its arguments, weights, results and
    files.

    Raises:
        ValueError: what Keras's own raises.
    """

    order = (0,)

    def _equations(self, apart: bool) -> Cell:
        return cell_of("rnn", *_names(self.cell))


def _names(cell: Any) -> tuple[str, ...]:
    """Those of its activations, which ``_unable`` has found to be known."""
    functions = [cell.activation]
    if hasattr(cell, "recurrent_activation"):
        functions.append(cell.recurrent_activation)
    return tuple(str(name_of(function)) for function in functions)
