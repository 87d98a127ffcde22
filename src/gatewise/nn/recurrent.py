"""A recurrent layer of any cell, stacked and both ways, with ``torch.nn.LSTM``'s interface."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.backends.contract import Choice
from gatewise.backends.registry import checked_name
from gatewise.backends.tracing import JIT, check_packed, recorded_by
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.checks import (
    check_blocks,
    check_parameter_names,
    checked_bool,
    checked_cell,
    checked_connect,
    checked_dropout,
    checked_projection,
    checked_size,
    checked_zoneout,
)
from gatewise.nn.config import LayerConfig
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.one_call import OneCall
from gatewise.nn.overrides import by_override, overriding
from gatewise.nn.parameters import register_parameters
from gatewise.nn.recurrent_core import RecurrentCore
from gatewise.nn.sequences import (
    State,
    as_time_major,
    check_packed_width,
    check_width,
    packed_as,
    stacked,
)
from gatewise.nn.states import states_given
from gatewise.nn.stream import Stream
from gatewise.nn.trace import Trace
from gatewise.nn.traced import is_torchs, run_recorded
from gatewise.options import flag, probability

if TYPE_CHECKING:
    from gatewise.nn.shapes import Input, Lengths, Output, Reset

# The forms of an input, and of the output for it.
Sequences = TypeVar("Sequences", Tensor, PackedSequence)

# The options that a layer's repr shows where they differ from their defaults.
_SHOWN = (
    *("proj_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "layer_norm"),
    *("recurrent_dropout", "zoneout", "weight_drop", "locked_dropout", "connect"),
    *("learn_initial", "block_size", "recurrent_blocks"),
)


class Recurrent(RecurrentCore):
    """A recurrent layer of any cell.

    Parameters have the names, shapes and order of torch's (``weight_ih_l0``,
    ``bias_hh_l1_reverse``, …); a cell's per-unit parameters are named after it (``{name}_l0``), the
    norm weights of layer normalisation ``norm_ih_l0`` and ``norm_hh_l0``.

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
        layer_norm: whether the products W x and U h are normalised before the gates see them, each
            over all its G·H values and with its own norm weight (Ba et al. 2016, equation 20). The
            product of second-stage gates is normalised by itself.
        recurrent_dropout: probability, in training, of dropping a recurrent input on its way into the
            recurrent product: one draw for a sequence, layer and direction, held over all steps
            (Gal & Ghahramani 2016). The cell's equations use the whole states.
        zoneout: probability that a unit keeps its old value of a state: one for all states, or one
            for each in the cell's order (Krueger et al. 2017). In training it is drawn for each step
            and sequence; else the new value is the mean over the draws. A traced state is the one
            after zoneout. Coupled states take none.
        weight_drop: probability, in training, of dropping a recurrent weight: one draw for a call,
            layer and direction, held over all steps and sequences (Merity et al. 2018, "Regularizing
            and Optimizing LSTM Language Models", section 2).
        locked_dropout: whether ``dropout`` draws once for a sequence and holds the draw over all steps
            (Gal & Ghahramani 2016).
        connect: the output of each layer from the second on, made of what its cells give, y, and its
            input x. "plain": y. "residual": y + x. "highway": t * y + (1 - t) * x with the gate
            t = sigmoid(W x + b) (Srivastava et al. 2015, "Highway Networks", equation 3), of the
            parameters ``highway_weight_l1`` D·P×D·P and ``highway_bias_l1``, which is there whatever
            ``bias`` is and starts at -1. ``dropout`` acts on what the cells read and not on this x.
            States and traces are the cells' own.
        learn_initial: whether the initial states are learned, for calls that are given none: a vector
            ``initial_{state}_l0``, zero at first, for each state, layer and direction. Coupled states
            start from zero.
        block_size: number of cells in a block. The cells of a block share the cell's shared gates: such
            a gate has H / block_size rows of weights and biases. A recurrent input that depends on
            shared gates alone has as many columns (Hochreiter & Schmidhuber 1997, figure 2); the first
            of a block's values is used. Such a state too is given and returned as H values.
        recurrent_blocks: number of blocks into which the units of each recurrent input and gate are
            divided. A block's gates see the recurrent inputs of their own block: ``weight_hh_l0`` is
            G·H×F/recurrent_blocks (the heads of Beck et al. 2024, "xLSTM", section 2.2).

    Where a cell has no recurrent part, ``weight_hh_l0`` has no columns and there is no ``bias_hh_l0``.
    Random draws come from torch's generator, so ``torch.manual_seed`` repeats them.

    Attributes:
        config: the cell, the sizes and all else that the parameters depend on; it never changes.

    Raises:
        OptionError: an argument is out of its range.
    """

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
        cell = checked_cell(cell)
        check_parameter_names(cell)
        hidden_size = checked_size("hidden_size", hidden_size)
        num_layers = checked_size("num_layers", num_layers)
        proj_size = checked_projection(cell, hidden_size, proj_size)
        block_size = checked_size("block_size", block_size)
        recurrent_blocks = checked_size("recurrent_blocks", recurrent_blocks)
        check_blocks(cell, hidden_size, proj_size, block_size, recurrent_blocks)
        self.config = config = LayerConfig(
            cell=cell,
            input_size=checked_size("input_size", input_size),
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=checked_bool("bias", bias),
            bidirectional=flag("bidirectional", bidirectional),
            proj_size=proj_size,
            layer_norm=flag("layer_norm", layer_norm),
            connect=checked_connect(connect, num_layers),
            learn_initial=flag("learn_initial", learn_initial),
            block_size=block_size,
            recurrent_blocks=recurrent_blocks,
        )
        self.batch_first = checked_bool("batch_first", batch_first)
        self.dropout = checked_dropout(dropout)
        self.backend = checked_name(backend)
        self.recurrent_dropout = probability("recurrent_dropout", recurrent_dropout)
        self.zoneout = checked_zoneout(zoneout, cell)
        self.weight_drop = probability("weight_drop", weight_drop)
        self.locked_dropout = flag("locked_dropout", locked_dropout)
        if self.dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers, and there is only one", stacklevel=2
            )
        register_parameters(self, config, device, dtype)
        # for a call that has no more to do than a backend's network
        self._one_call = OneCall(config) if config.plain else None
        self.reset_parameters()

    @overload
    def forward(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: Literal[False] = False,
    ) -> tuple[Sequences, State]: ...

    @overload
    def forward(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        *,
        trace: Literal[True],
    ) -> tuple[Sequences, State, Trace]: ...

    @overload
    def forward(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Any, ...]: ...

    def forward(
        self,
        input: Input | PackedSequence,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Output | PackedSequence, State] | tuple[Output | PackedSequence, State, Trace]:
        """Run the layer over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if ``batch_first``), T×I for a single sequence, or a PackedSequence.
            hx: initial states, L·D×B×P for the first and L·D×B×H for others (no B for a single
                sequence); one tensor where the cell has one state, else a tuple. Zero, or the learned
                ones, if not given.
            lengths: B integers from 0 to T, in any order: how many steps of each sequence are real.
                The others are never read, the output there is zero, and the final state is the one
                after the last real step.
            reset: booleans of the input's shape less its last dimension: T×B (B×T if
                ``batch_first``), T for a single sequence. Where true, a sequence starts again from
                zero states (not from learned ones) before this step, as if its pieces were run one
                by one. ``hx``, or the learned states, are for the piece that a direction runs first,
                if it has a step before the first reset; the final state is that of the last piece.
            trace: also return every named value of the cell.

        Returns:
            ``output, state``, and a :class:`Trace` where it was asked for. output is T×B×D·P, laid
            out as the input was; state has the shapes of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
            BackendError: the backend asked for by name cannot do this.
        """
        if not trace:
            one_call = self._one_call
            if (
                one_call is not None
                and not torch.is_grad_enabled()
                and not any(self.zoneout)
                and not (
                    self.training and (self.dropout or self.recurrent_dropout or self.weight_drop)
                )
            ):
                whole = one_call.run(
                    self.backend, self._parameters, input, hx, lengths, reset, self.batch_first
                )
                if whole is not None:
                    return whole
            plain = lengths is None and reset is None
            if plain and recorded_by() == JIT and is_torchs(self):
                return run_recorded(self, input, hx, self._initial_states)
        packed = input if isinstance(input, PackedSequence) else None
        if packed is not None:
            input, lengths = self._unpacked(packed, lengths, reset)
        if not isinstance(input, Tensor) or (hx is not None and overriding(hx)):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Recurrent.forward, self, input, hx, **asked)
        batched = input.dim() == 3
        time_major = packed is not None or not self.batch_first
        check_width(input, self.config.input_size, layer=type(self).__name__)
        x = as_time_major(input, not time_major)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input, time_major)
        if (dtype := autocast_dtype(x)) is None:
            states = self._states_of_runs(hx, x, batched, None, packed is not None)
            found = self._run_layers(x, states, given, resets, trace, None)
        else:  # everything is cast here, once, so that every backend sees one dtype
            with torch.autocast(x.device.type, enabled=False):
                x, hx = cast(x, dtype), cast_states(hx, dtype)
                states = self._states_of_runs(hx, x, batched, dtype, packed is not None)
                found = self._run_layers(x, states, given, resets, trace, dtype)
        result = _as_given(found.output, packed, given, batched, time_major)
        final = tuple([stacked(each, batched) for each in zip(*found.final, strict=True)])
        hn = final if len(final) > 1 else final[0]
        return (result, hn, Trace(found.traced, given)) if trace else (result, hn)

    if TYPE_CHECKING:
        __call__ = forward  # what torch declares says Any

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
        config = self.config
        with torch.no_grad():
            weights = [self._weights(suffix) for (suffix, *_) in config.suffixes]
            stream = Stream(config, weights, self.zoneout, batch)
            if config.learn_initial:
                like = torch.empty(1, batch, 0, dtype=weights[0].input.dtype)
                stream.state = self._initial_states(None, like, True)
        return stream

    def choose_backend(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Choice:
        """The backend that would run this, with what it would run and the reason; of several layers,
        the first's.

        Raises:
            BackendError: the backend asked for by name cannot do this.
        """
        x = input.data if isinstance(input, PackedSequence) else input
        dtype = autocast_dtype(x)
        x = x if dtype is None else cast(x, dtype)
        states = () if hx is None else states_given(self.config.cell, hx)
        weights = self._weights(self.config.first_suffix, dtype)
        return self._choose(x, states, weights, 0, False, self._mask_kinds(reset), trace)

    def explain_backend(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> str:
        """Which backend would run this, and why, in a sentence; of several layers, the first."""
        return str(self.choose_backend(input, hx, lengths=lengths, reset=reset, trace=trace))

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = inspect.signature(Recurrent.__init__).parameters
        for name in _SHOWN:
            value, default = getattr(self, name), defaults[name].default
            if value != default and (name != "zoneout" or any(self.zoneout)):
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def _unpacked(
        self, packed: PackedSequence, lengths: object, reset: object
    ) -> tuple[Tensor, Tensor]:
        """The padded input, T×B×I, and the lengths."""
        if lengths is not None:
            raise ShapeError("a PackedSequence has its own lengths; give no lengths= beside it")
        if reset is not None:
            raise ShapeError(
                "reset= has no place in a PackedSequence; give the padded input and lengths="
            )
        check_packed()
        check_packed_width(packed, self.config.input_size, len(self.weight_ih_l0))
        return pad_packed_sequence(packed)


def _as_given(
    output: Tensor,
    packed: PackedSequence | None,
    lengths: Tensor | None,
    batched: bool,
    time_major: bool,
) -> Tensor | PackedSequence:
    """The output, T×B×…, laid out as the input was."""
    if packed is not None:
        assert lengths is not None
        return packed_as(packed, output, lengths.cpu())
    if not batched:
        return output.squeeze(1)
    return output if time_major else output.transpose(0, 1)
