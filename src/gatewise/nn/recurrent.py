"""A recurrent layer of any cell, stacked and both ways, with ``torch.nn.LSTM``'s interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.backends.contract import Weights, differentiated
from gatewise.backends.native.network import Network
from gatewise.backends.registry import checked_name, chosen, run
from gatewise.backends.tracing import JIT, check_packed, recorded_by
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.at_once import run_at_once
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.checks import (
    check_blocks,
    check_input,
    check_parameter_names,
    checked_bool,
    checked_cell,
    checked_connect,
    checked_dropout,
    checked_projection,
    checked_size,
    checked_zoneout,
)
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.masks import masks_of
from gatewise.nn.overrides import by_override, overriding
from gatewise.nn.parameters import parameter_beside, shapes_beside, step_shapes, weights_of
from gatewise.nn.sequences import (
    State,
    as_time_major,
    check_packed_width,
    check_width,
    packed_as,
    stacked,
)
from gatewise.nn.states import initial_states, states_given
from gatewise.nn.stream import Stream
from gatewise.nn.structure import structure
from gatewise.nn.torch_names import TorchNames
from gatewise.nn.trace import Trace
from gatewise.nn.traced import is_torchs, run_recorded
from gatewise.options import flag, probability


class Recurrent(TorchNames, nn.Module):
    """A recurrent layer of any cell.

    Parameters have the names, shapes and order of torch's (``weight_ih_l0``,
    ``bias_hh_l1_reverse``, …); a cell's per-unit parameters are named after it (``{name}_l0``), the
    gains of layer normalisation ``norm_ih_l0`` and ``norm_hh_l0``.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one.
        input_size: I, the number of features of the input.
        hidden_size: H, the number of units.
        num_layers: L, layers stacked on each other.
        bias: whether there are the two biases.
        batch_first: input and output are B×T×… instead of T×B×…; states are not affected.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: D = 2 directions, their outputs side by side.
        proj_size: P, width to which the output is projected (Sak et al. 2014); 0 for none. For
            cells that use their first state through the recurrent weights alone.
        backend: "auto", or the name of the one backend that is to be used.
        layer_norm: whether the products W x and U h are normalised, each over all its G·H values
            and with a gain of its own, before the gates see them (Ba et al. 2016, equation 20). The
            product of gates that are fed with a value of the step is normalised by itself.
        recurrent_dropout: probability, in training, of dropping a fed-back value on its way into
            the recurrent product: one draw for a sequence, layer and direction, held over all steps
            (Gal & Ghahramani 2016). The cell itself sees its states whole.
        zoneout: probability that a unit keeps its old value of a state, one for all states or one
            for each, in the cell's order (Krueger et al. 2017): in training drawn for each step and
            sequence; else the new value is the mean over the draws. A traced state is what the next
            step sees. Not for states that the cell says are one thing together.
        weight_drop: probability, in training, of dropping a recurrent weight: one draw a call, layer
            and direction, for all steps and sequences (Merity et al. 2018, "Regularizing and
            Optimizing LSTM Language Models", section 2).
        locked_dropout: whether ``dropout`` draws once for a sequence, for all its steps (Gal &
            Ghahramani 2016), and not for each step.
        connect: what a layer from the second on hands on, of its output y and its input x: "plain",
            y; "residual", y + x; "highway", t * y + (1 - t) * x with the gate t = sigmoid(W x + b)
            (Srivastava et al. 2015, "Highway Networks", equation 3) of the parameters
            ``highway_weight_l1`` D·P×D·P and ``highway_bias_l1``, which is there with any ``bias``
            and starts at -1, so that x is carried. ``dropout`` is for what the cells read: x is
            carried whole. States and traces are the cells' own.
        learn_initial: whether the states that a sequence starts from are learned, where a call is
            given none: a vector ``initial_{state}_l0``, zero at first, for each state, layer and
            direction. Those that the cell says are one thing together start from zero.
        block_size: cells in a block, which have in common the gates that the cell says are shared:
            such a gate has H / block_size rows of weights and biases, and a fed-back state that
            rests on shared gates alone as many columns (Hochreiter & Schmidhuber 1997, figure 2).
            Such a state too is given and returned as H values; of a block's, the first is fed back.
        recurrent_blocks: blocks into which each fed-back state and each gate is divided, each block
            of units seeing itself alone: ``weight_hh_l0`` is G·H×F/recurrent_blocks (the heads of
            Beck et al. 2024, "xLSTM", section 2.2).

    Where a cell has no recurrent part, ``weight_hh_l0`` has no columns and there is no ``bias_hh_l0``.
    What is random is drawn from torch's own generator, so ``torch.manual_seed`` repeats it.

    Raises:
        OptionError: an argument is out of its range.
    """

    # for type checkers; the constructor makes these and those of the other layers by their names
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float | Sequence[float] = 0.0,
        weight_drop: float = 0.0,
        locked_dropout: bool = False,
        connect: str = "plain",
        learn_initial: bool = False,
        block_size: int = 1,
        recurrent_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.cell = checked_cell(cell)
        check_parameter_names(self.cell)
        self.input_size = checked_size("input_size", input_size)
        self.hidden_size = checked_size("hidden_size", hidden_size)
        self.num_layers = checked_size("num_layers", num_layers)
        self.bias = checked_bool("bias", bias)
        self.batch_first = checked_bool("batch_first", batch_first)
        self.dropout = checked_dropout(dropout)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.proj_size = checked_projection(self.cell, self.hidden_size, proj_size)
        self.backend = checked_name(backend)
        self.layer_norm = flag("layer_norm", layer_norm)
        self.recurrent_dropout = probability("recurrent_dropout", recurrent_dropout)
        self.zoneout = checked_zoneout(zoneout, self.cell)
        self.weight_drop = probability("weight_drop", weight_drop)
        self.locked_dropout = flag("locked_dropout", locked_dropout)
        self.connect = checked_connect(connect, self.num_layers)
        self.learn_initial = flag("learn_initial", learn_initial)
        self.block_size = checked_size("block_size", block_size)
        self.recurrent_blocks = checked_size("recurrent_blocks", recurrent_blocks)
        blocks = self.block_size, self.recurrent_blocks
        check_blocks(self.cell, self.hidden_size, self.proj_size, *blocks)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers, and there is only one", stacklevel=2
            )
        sizes = self.hidden_size, self._state_sizes()[0]
        self._structure = structure(self.cell, *sizes, *blocks)
        self._structured = not self._structure.plain
        layers = range(self.num_layers)
        self._expected = {
            suffix: step_shapes(self, self._layer_input_size(k))
            for k in layers
            for suffix in self._suffixes(k)
        }
        self._beside = dict(shapes_beside(self))
        named = {name + s: of for s, each in self._expected.items() for name, of in each.items()}
        for name, shape in (named | self._beside).items():
            empty = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(empty))
        # what the core can run in one call: weights as they are stored, nothing between the layers
        self._simple = not self._structured and not self._beside and self.connect == "plain"
        self._network: Network | None = None
        self.reset_parameters()

    @property
    def output_size(self) -> int:
        """D·P, the width of the output; P is H where there is no projection."""
        return self._state_sizes()[0] * (1 + self.bidirectional)

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√H, 1/√H), in torch's order; the gains are one, learned
        initial states and weights where there is no connection zero, biases of highways -1."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        fixed = {"norm_ih": 1.0, "norm_hh": 1.0, "highway_bias": -1.0}
        fixed |= {f"initial_{state}": 0.0 for state in self.cell.state}
        for name, parameter in self.named_parameters():
            kind = name.rpartition("_l")[0]
            if kind in fixed:
                nn.init.constant_(parameter, fixed[kind])
            else:
                nn.init.uniform_(parameter, -bound, bound)
            if kind == "weight_hh":
                self._structure.zero_unconnected(parameter)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Run the layer over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if ``batch_first``), T×I for a single sequence, or a PackedSequence.
            hx: initial states, L·D×B×P for the first and L·D×B×H for others (no B for a single
                sequence); one tensor where the cell has one state, else a tuple. Zero, or the learned
                ones, if not given.
            lengths: B integers from 0 to T, in any order: how much of each sequence is real.
                What lies beyond is never looked at, the output there is zero, and the final state
                is that after the real part.
            reset: booleans of the input's shape less its last dimension: T×B (B×T if
                ``batch_first``), T for a single sequence. Where true, the sequence starts afresh at
                this step: the result is that of its pieces, each run by itself from zero states, not
                from learned ones (``hx``, or what is learned in its place, is for the piece that a
                direction runs first, if it has a step before the first reset), and the final state
                is that of the piece which it runs last.
            trace: also return every named value of the cell.

        Returns:
            ``output, state``, and a :class:`Trace` where it was asked for. output is T×B×D·P, laid
            out as the input was; state has the shapes of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
            BackendError: the backend asked for by name cannot do this.
        """
        if not trace:
            at_once = run_at_once(self, input, hx, lengths, reset)
            if at_once is not None:
                return at_once
            whole = lengths is None and reset is None and recorded_by() == JIT
            if whole and is_torchs(self):
                return run_recorded(self, input, hx, partial(initial_states, self))
        packed = input if isinstance(input, PackedSequence) else None
        if packed is not None:
            if lengths is not None:
                raise ShapeError("a PackedSequence has its own lengths; give no lengths= beside it")
            if reset is not None:
                raise ShapeError(
                    "reset= has no place in a PackedSequence; give the padded input and lengths="
                )
            check_packed()
            check_packed_width(packed, self.input_size, len(self.weight_ih_l0))
            input, lengths = pad_packed_sequence(packed)
        if not isinstance(input, Tensor) or (hx is not None and overriding(hx)):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Recurrent.forward, self, input, hx, **asked)
        batched = input.dim() == 3
        time_major = packed is not None or not self.batch_first
        check_width(input, self.input_size, layer=type(self).__name__)
        x = as_time_major(input, not time_major)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input, time_major)
        if (dtype := autocast_dtype(x)) is None:
            states = initial_states(self, hx, x, batched, packed=packed is not None)
            output, finals, traced = self._layers(x, states, given, resets, trace)
        else:  # everything is cast here, once, so that every backend sees one dtype
            with torch.autocast(x.device.type, enabled=False):
                x, hx = cast(x, dtype), cast_states(hx, dtype)
                states = initial_states(self, hx, x, batched, dtype, packed is not None)
                output, finals, traced = self._layers(x, states, given, resets, trace, dtype)
        result = self._as_given(output, packed, given, batched, time_major)
        state = tuple(stacked(each, batched) for each in zip(*finals, strict=True))
        hn = state if len(state) > 1 else state[0]
        return (result, hn, Trace(traced, given)) if trace else (result, hn)

    def stream(self, batch: int = 1) -> Stream:
        """The layer for one step at a time: see :class:`gatewise.nn.stream.Stream`.

        It starts from zero states, or from learned ones; its ``reset()``, like ``reset=`` of a call,
        makes them zero.

        Raises:
            OptionError: ``connect`` is not "plain" and there are several layers; see Stream for
                others.
        """
        if self.connect != "plain" and self.num_layers > 1:
            raise OptionError(
                f"a stream hands each layer's output on as it is, and this one has connect="
                f"{self.connect!r}; call the layer a step at a time, each time with the last state"
            )
        stream = Stream(self, batch)
        if self.learn_initial:
            like = torch.empty(1, batch, 0, dtype=weights_of(self, "_l0").input.dtype)
            stream.state = initial_states(self, None, like, True)
        return stream

    def explain_backend(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> str:
        """Which backend would run this, and why, in a sentence; of several layers, the first."""
        x = input.data if isinstance(input, PackedSequence) else input
        dtype = autocast_dtype(x)
        x = x if dtype is None else cast(x, dtype)
        states = () if hx is None else states_given(self.cell, hx)
        ragged = lengths is not None or isinstance(input, PackedSequence)
        asked = dict(lengths=ragged, reset=reset is not None, trace=trace)
        fields = self._fields(x, states, weights_of(self, "_l0", dtype), 0, False, **asked)
        return chosen(self.backend, **fields)[2]

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = dict(
            proj_size=0,
            num_layers=1,
            bias=True,
            batch_first=False,
            dropout=0.0,
            bidirectional=False,
            layer_norm=False,
            recurrent_dropout=0.0,
            zoneout=(0.0,) * len(self.cell.state),
            weight_drop=0.0,
            locked_dropout=False,
            connect="plain",
            learn_initial=False,
            block_size=1,
            recurrent_blocks=1,
        )
        shown += [f"{k}={getattr(self, k)!r}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(shown)

    def _suffixes(self, layer: int) -> Iterator[str]:
        yield f"_l{layer}"
        if self.bidirectional:
            yield f"_l{layer}_reverse"

    def _state_sizes(self) -> list[int]:
        first = self.proj_size or self.hidden_size
        return [first, *[self.hidden_size] * (len(self.cell.state) - 1)]

    def _layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_size

    def _fields(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        layer: int,
        reverse: bool,
        *,
        lengths: bool,
        reset: bool,
        trace: bool,
    ) -> dict[str, Any]:
        """What a run's Spec is made of."""
        # a graph is for any number of them
        known = x.is_cuda and not (torch.compiler.is_compiling() or recorded_by())
        steps, batch = x.shape[:2] if known else (0, 0)
        given = (x, *state, *weights[:7], *weights.per_unit.values())
        return dict(
            cell=self.cell,
            input_size=self._layer_input_size(layer),
            hidden_size=self.hidden_size,
            proj_size=self.proj_size,
            reverse=reverse,
            lengths=lengths,
            trace=trace,
            dtype=x.dtype,
            device=x.device,
            reset=reset,
            layer_norm=self.layer_norm,
            recurrent_dropout=self.training
            if self.recurrent_dropout
            else False,  # not `and`: dynamo
            zoneout=any(self.zoneout),
            differentiated=differentiated(given),
            steps=steps,
            batch=batch,
        )

    def _layers(
        self,
        x: Tensor,
        states: tuple[Tensor, ...],
        lengths: Tensor | None,
        reset: Tensor | None,
        trace: bool,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, ...]], dict[str, list[list[Tensor]]]]:
        """The output, the final states of each layer and direction, and what is traced."""
        finals: list[tuple[Tensor, ...]] = []
        asked = dict(lengths=lengths is not None, reset=reset is not None, trace=trace)
        names = self.cell.values if trace else ()
        traced: dict[str, list[list[Tensor]]] = {name: [] for name in names}
        carried = x
        for layer in range(self.num_layers):
            x = self._dropped(carried) if layer else x
            outputs = []
            for values in traced.values():
                values.append([])
            for direction, suffix in enumerate(self._suffixes(layer)):
                weights = weights_of(self, suffix, dtype, self.training)
                check_input(x, weights.input)
                state = tuple(s[len(finals)] for s in states)
                fields = self._fields(x, state, weights, layer, bool(direction), **asked)
                masks = partial(masks_of, self, x, lengths, reset)
                outcome = run(self.backend, fields, x, state, weights, masks)
                outputs.append(outcome.output)
                finals.append(outcome.state)
                for name, values in traced.items():
                    values[layer].append(outcome.trace[name].transpose(0, 1))
            output = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
            carried = self._handed_on(output, carried, layer, dtype)
        return carried, finals, traced

    def _dropped(self, x: Tensor) -> Tensor:
        """What the next layer's cells read of the last one's output."""
        if self.locked_dropout and self.training:
            return x * F.dropout(x.new_ones(1, *x.shape[1:]), self.dropout)
        return F.dropout(x, self.dropout, self.training)

    def _handed_on(
        self, output: Tensor, carried: Tensor, layer: int, dtype: torch.dtype | None
    ) -> Tensor:
        """A layer's output, joined with what went into the layer. Padding is zero in both and stays."""
        if layer == 0 or self.connect == "plain":
            return output
        if self.connect == "residual":
            return output + carried
        weight, bias = (
            parameter_beside(self, f"highway_{part}_l{layer}", output, dtype)
            for part in ("weight", "bias")
        )
        t = torch.sigmoid(F.linear(carried, weight, bias))
        return t * output + (1 - t) * carried

    def _as_given(
        self,
        output: Tensor,
        packed: PackedSequence | None,
        lengths: Tensor | None,
        batched: bool,
        time_major: bool,
    ) -> Tensor | PackedSequence:
        if packed is not None:
            assert lengths is not None
            return packed_as(packed, output, lengths.cpu())
        if not batched:
            return output.squeeze(1)
        return output if time_major else output.transpose(0, 1)
