"""Recurrent layers of any cell, with the interface of ``torch.nn.LSTM``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gatewise.backends.contract import Choice
from gatewise.backends.registry import checked_name, explain
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
from gatewise.nn.trace import Trace, adjoints_of
from gatewise.nn.traced import is_torchs, run_recorded
from gatewise.options import flag, probability

if TYPE_CHECKING:
    from gatewise.nn.shapes import Input, Lengths, Output, Reset

# The type of an input, and of its output.
Sequences = TypeVar("Sequences", Tensor, PackedSequence)

# The options that a layer's repr shows where they differ from their defaults.
_SHOWN = (
    *("proj_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "layer_norm"),
    *("recurrent_dropout", "zoneout", "weight_drop", "locked_dropout", "connect"),
    *("learn_initial", "block_size", "recurrent_blocks"),
)


class Recurrent(RecurrentCore):
    """A recurrent layer of any cell.

    Parameters have torch's names, shapes and order (``weight_ih_l0``, ``bias_hh_l1_reverse``, …). A
    cell's per-unit parameters are ``{name}_l0``. The norm weights of layer normalisation are
    ``norm_ih_l0`` and ``norm_hh_l0``.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one.
        input_size: I, the number of features of the input.
        hidden_size: H, the number of units.
        num_layers: L, the number of stacked layers.
        bias: whether the layer has biases.
        batch_first: input and output are B×T×… instead of T×B×…; states are not affected.
        dropout: the probability, in training, of dropping a value between layers.
        bidirectional: whether the layer runs in both directions (D = 2) and concatenates their outputs.
        proj_size: P, the width to which the output is projected (Sak et al. 2014); 0 for no projection.
            The cell's equations must not use its first state other than as a recurrent input.
        backend: "auto", or the name of a backend, which alone is used then.
        layer_norm: whether the products W x and U h are normalised before they are added. Each is
            normalised over its G·H values and has its own norm weight (Ba et al. 2016, equation 20). The
            product of second-stage gates is normalised separately.
        recurrent_dropout: the probability, in training, of dropping a value of the recurrent input
            before it is multiplied by U. One mask per sequence, layer and direction is used at all steps
            (Gal & Ghahramani 2016). The cell's equations use the states without dropout.
        zoneout: the probability that a unit keeps the old value of a state: one number for all states,
            or one for each state of the cell, in order (Krueger et al. 2017). In training, a mask is
            drawn for each step and sequence. In evaluation, the state is the mean over the masks. A
            traced state is the one after zoneout. Coupled states cannot have zoneout.
        weight_drop: the probability, in training, of dropping a recurrent weight. One mask per call,
            layer and direction is used at all steps and for all sequences (Merity et al. 2018,
            "Regularizing and Optimizing LSTM Language Models", section 2).
        locked_dropout: whether ``dropout`` uses one mask per sequence at all steps (Gal & Ghahramani
            2016).
        connect: the connection of each layer but the first, from its input x to its output. With y the
            output of the layer's cells, the layer's output is y for "plain", y + x for "residual", and
            t * y + (1 - t) * x for "highway", where t = sigmoid(W x + b) (Srivastava et al. 2015,
            "Highway Networks", equation 3). W is ``highway_weight_l1``, D·P×D·P. b is
            ``highway_bias_l1``; it starts at -1, and exists with ``bias=False`` too. The connection has
            no dropout. States and traces are those of the cells.
        learn_initial: whether the initial states of a call without ``hx`` are learned: a vector
            ``initial_{state}_l0`` for each state, layer and direction. It starts at zero. Coupled states
            always start at zero.
        block_size: the number of units in a memory block. The units of a block share the gates that the
            cell names in ``shared_gates``; such a gate has H / block_size rows of weights and biases. A
            recurrent input that depends on shared gates only has H / block_size columns (Hochreiter &
            Schmidhuber 1997, figure 2), and the first value of each block is read. The state itself
            still has H values.
        recurrent_blocks: the number of blocks into which the units are divided. The gates of a block
            read the recurrent inputs of the same block only, so ``weight_hh_l0`` is
            G·H×F/recurrent_blocks (the heads of Beck et al. 2024, "xLSTM", section 2.2).

    If a cell has no recurrent input, ``weight_hh_l0`` has no columns and there is no ``bias_hh_l0``. All
    masks are drawn by torch's generator, so ``torch.manual_seed`` repeats them.

    Attributes:
        config: the cell, the sizes and the options that the parameters depend on. It does not change.

    Raises:
        OptionError: an argument is not valid.
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
        # runs a call without dropout and other options in one call of a backend
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
        """Runs the layer over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if ``batch_first``), T×I for a single sequence, or a PackedSequence.
            hx: the initial states: L·D×B×P for the first state and L·D×B×H for the others (without B for
                a single sequence). One tensor if the cell has one state, otherwise a tuple. The default
                is zero, or the learned initial states.
            lengths: B integers from 0 to T in any order, the length of each sequence. Padding is not
                read, its output is zero, and the final state is that after the last real step.
            reset: booleans with the shape of the input without its last dimension: T×B (B×T if
                ``batch_first``), or T for a single sequence. True where the states are set to zero
                before the step (also with ``learn_initial``). The result is that of the pieces between
                the resets, each run separately. ``hx`` or the learned states are the initial states of
                the piece that a direction reads first, unless that piece starts with a reset. The final
                state is that of the piece that is read last.
            trace: also return every named value of the cell.

        Returns:
            ``output, state``, and with ``trace`` a :class:`Trace`. The output is T×B×D·P, in the layout
            of the input; the state has the shapes of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
            BackendError: the backend that ``backend`` names cannot run this call.
        """
        if not trace and self.runner is None:
            one_call = self._one_call
            if (
                one_call is not None
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
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Recurrent.forward, self, input, hx, **options)
        batched = input.dim() == 3
        time_major = packed is not None or not self.batch_first
        check_width(input, self.config.input_size, layer=type(self).__name__)
        x = as_time_major(input, not time_major)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input, time_major)
        if (dtype := autocast_dtype(x)) is None:
            states = self._states_of_runs(hx, x, batched, None, packed is not None)
            found = self._run_layers(x, states, given, resets, trace, None)
        else:  # all tensors are cast here, once, so that every backend gets one dtype
            with torch.autocast(x.device.type, enabled=False):
                x, hx = cast(x, dtype), cast_states(hx, dtype)
                states = self._states_of_runs(hx, x, batched, dtype, packed is not None)
                found = self._run_layers(x, states, given, resets, trace, dtype)
        result = _as_given(found.output, packed, given, batched, time_major)
        final = tuple([stacked(each, batched) for each in zip(*found.final, strict=True)])
        hn = final if len(final) > 1 else final[0]
        if not trace:
            return result, hn
        cell = self.config.cell
        adjoints = adjoints_of(found.adjoints, given, cell)
        return result, hn, Trace(found.traced, given, cell, adjoints)

    if TYPE_CHECKING:
        __call__ = forward  # torch declares that a call returns Any

    def stream(self, batch: int = 1) -> Stream:
        """A stream, which runs the layer one step at a time: see :class:`gatewise.nn.stream.Stream`.

        It starts from zero, or from the learned initial states. Its ``reset()`` sets the states to zero,
        as ``reset=`` of a call does.

        Raises:
            OptionError: the layer is bidirectional, or it has several layers and ``connect`` is not
                "plain".
            BackendError: the CPU kernels cannot run the layer.
        """
        if self.connect != "plain" and self.num_layers > 1:
            raise OptionError(
                f"a stream needs connect='plain' for several layers, and this layer has connect="
                f"{self.connect!r}; call the layer with one step at a time and with its last state"
            )
        if self.runner is not None:
            raise OptionError(
                "a stream cannot have interventions; make it outside of the with block, or call the layer "
                "one step at a time and with its last state"
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
        """The backend that would run this call, its spec and the reason. It is that of the first layer.

        Raises:
            BackendError: the backend that ``backend`` names cannot run this call.
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
        """A sentence that says which backend would run the first layer of this call, and why."""
        return explain(self.choose_backend(input, hx, lengths=lengths, reset=reset, trace=trace))

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
        """The padded input, T×B×I, and the lengths of a PackedSequence."""
        if lengths is not None:
            raise ShapeError("a PackedSequence has its own lengths; give no lengths= beside it")
        if reset is not None:
            raise ShapeError(
                "reset= cannot be given with a PackedSequence; give the padded input and lengths="
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
    """The output, T×B×…, in the layout of the input."""
    if packed is not None:
        assert lengths is not None
        return packed_as(packed, output, lengths.cpu())
    if not batched:
        return output.squeeze(1)
    return output if time_major else output.transpose(0, 1)
