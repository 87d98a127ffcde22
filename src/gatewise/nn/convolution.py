"""Convolutional recurrent layers of any cell: the products W x and U h are convolutions of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import Masks, Outcome, Weights, check_tensor
from gatewise.backends.reference import through_time
from gatewise.backends.tracing import check_unrecorded
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype, cast
from gatewise.nn.checks import (
    check_input,
    check_layout,
    check_parameter_names,
    checked_cell,
    checked_dropout,
    shape_of,
)
from gatewise.nn.layer_loop import LayersOutcome, run_layers
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.overrides import by_override
from gatewise.nn.runs import LayerRun, Runner
from gatewise.nn.sequences import State, reset_reversed, stacked
from gatewise.nn.states import states_given
from gatewise.nn.structure import structure
from gatewise.nn.trace import Trace, adjoints_of
from gatewise.options import flag, integer, short_repr

if TYPE_CHECKING:
    from gatewise.nn.call_types import LayerCall, TwoStates
    from gatewise.nn.shapes import Float, Lengths, Reset


class ConvRecurrent(nn.Module):
    """A recurrent layer of any cell over sequences of images: C channels of h×w pixels per step.

    Each channel of each pixel is a unit. W x and U h are two-dimensional convolutions with stride 1 and
    zero padding, so that the states have the input's height and width (Shi et al. 2015, "Convolutional
    LSTM Network", section 3.1). The input convolutions of all steps are one call. The rest are torch
    operations, one step after another.

    Parameters have the names of those of :class:`gatewise.Recurrent`: ``weight_ih_l0`` G·C×I×k×k,
    ``weight_hh_l0`` G·C×F·C×k×k (F is the number of recurrent inputs), ``bias_ih_l0`` and ``bias_hh_l0``
    G·C. A cell's per-unit parameters ``{name}_l0`` are C, or C×h×w with ``size``. A cell without
    recurrent inputs has no ``weight_hh_l0`` and no ``bias_hh_l0``.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one. Each recurrent input
            must be connected to all gates.
        input_channels: I, the number of channels of the input.
        hidden_channels: C, the number of channels of the states.
        kernel_size: k, the height and width of the kernels, or a pair of both. They must be odd.
        num_layers: L, the number of stacked layers.
        bias: whether the layer has biases.
        batch_first: input and output are B×T×… instead of T×B×…; states are not affected.
        dropout: the probability, in training, of dropping a value between layers.
        bidirectional: whether the layer runs in both directions (D = 2) and concatenates their channels.
        size: (h, w), the size of the images. With it, per-unit parameters have a value for each channel
            and pixel, as in the paper. Without it, they have a value for each channel, and images may
            have any size.

    Raises:
        OptionError: an argument is not valid, or a convolutional layer cannot have the cell.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[State, State, Trace]

    weight_ih_l0: Tensor

    # runs a layer in one direction: see runs.py
    runner: Runner | None = None

    def __init__(
        self,
        cell: Cell | str,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.cell = checked_cell(cell)
        _check_cell(self.cell, size)
        self.input_channels = integer("input_channels", input_channels)
        self.hidden_channels = integer("hidden_channels", hidden_channels)
        self.kernel_size = _checked_kernel(kernel_size)
        self.num_layers = integer("num_layers", num_layers)
        self.bias = flag("bias", bias)
        self.batch_first = flag("batch_first", batch_first)
        self.dropout = checked_dropout(dropout)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.size = None if size is None else _checked_pair("size", size)
        self._structure = structure(self.cell, self.hidden_channels, self.hidden_channels, 1, 1)
        self._step_shapes = {
            suffix: self._shapes(layer)
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        }
        for suffix, shapes in self._step_shapes.items():
            for name, shape in shapes.items():
                empty = torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(name + suffix, nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters from U(-1/√n, 1/√n), where n = C·k·k is the fan-in of U h for one state."""
        bound = 1.0 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        input: Float[Tensor, "*steps I h w"],
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> (
        tuple[Float[Tensor, "*steps O h w"], State]
        | tuple[Float[Tensor, "*steps O h w"], State, Trace]
    ):
        """Runs the layer over a batch of sequences of images.

        Args:
            input: T×B×I×h×w (B×T×I×h×w if ``batch_first``), or T×I×h×w for a single sequence.
            hx: the initial states, each L·D×B×C×h×w (without B for a single sequence): one tensor if the
                cell has one state, otherwise a tuple. The default is zero.
            lengths: B integers from 0 to T in any order, the length of each sequence. Padding is not
                read, its output is zero, and the final state is that after the last real step.
            reset: booleans T×B (B×T if ``batch_first``), or T: true where the states are set to zero
                before the step, as in :class:`gatewise.Recurrent`.
            trace: also return every named value of the cell.

        Returns:
            ``output, state``, and with ``trace`` a :class:`Trace` of values B×T×C×h×w. The output is
            T×B×D·C×h×w, in the layout of the input; the state has the shapes of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(ConvRecurrent.forward, self, input, hx, **options)
        self._check_input(input)
        check_unrecorded(f"a {type(self).__name__}")
        batched = input.dim() == 5
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if batched and self.batch_first else x
        like = self.weight_ih_l0
        x = _under_autocast(x, like)
        check_input(x, like)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input[..., 0, 0], not self.batch_first)
        states = self._initial_states(hx, x, batched)
        found = self._run_layers(x, states, Masks(given, resets), trace)
        output = found.output
        final = tuple(stacked(each, batched) for each in zip(*found.final, strict=True))
        if not batched:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(0, 1)
        hn = final if len(final) > 1 else final[0]
        if not trace:
            return output, hn
        cell = self.cell
        adjoints = adjoints_of(found.adjoints, given, cell)
        return output, hn, Trace(found.traced, given, cell, adjoints)

    def extra_repr(self) -> str:
        shown = [f"{self.input_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"]
        defaults = dict(
            num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, size=None
        )
        shown += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(shown)

    def _suffixes(self, layer: int) -> Iterator[str]:
        yield f"_l{layer}"
        if self.bidirectional:
            yield f"_l{layer}_reverse"

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's parameters, by name without the suffix."""
        hidden, feedback = self.hidden_channels, len(self.cell.feedback)
        stacked = len(self.cell.gates) * hidden
        below = self.input_channels if layer == 0 else hidden * (1 + self.bidirectional)
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (stacked, below, *self.kernel_size)}
        if feedback:
            shapes["weight_hh"] = (stacked, feedback * hidden, *self.kernel_size)
        if self.bias:
            shapes |= dict.fromkeys(("bias_ih", "bias_hh")[: 1 + bool(feedback)], (stacked,))
        return shapes | dict.fromkeys(self.cell.params, (hidden, *(self.size or ())))

    def _check_input(self, input: Tensor) -> None:
        check_layout("input", input)
        if input.dim() not in (4, 5):
            raise ShapeError(
                f"input must have 4 dimensions (T×I×h×w) or 5 (with B), not the shape "
                f"{shape_of(input)}"
            )
        if input.shape[-3] != self.input_channels:
            raise ShapeError(
                f"input has the shape {shape_of(input)}: its third dimension from the end must be "
                f"input_channels={self.input_channels}"
            )
        if (self.size is not None and input.shape[-2:] != self.size) or 0 in input.shape[-2:]:
            raise ShapeError(
                f"input has images of {input.shape[-2]}×{input.shape[-1]} pixels, expected "
                f"{'at least 1×1' if self.size is None else '{}×{}'.format(*self.size)}"
            )

    def _initial_states(self, hx: State | None, x: Tensor, batched: bool) -> tuple[Tensor, ...]:
        names = self.cell.state
        stack = self.num_layers * (1 + self.bidirectional)
        shape = (stack, x.shape[1], self.hidden_channels, *x.shape[-2:])
        if hx is None:
            return tuple(x.new_zeros(shape) for _ in names)
        states = tuple(_under_autocast(state, x) for state in states_given(self.cell, hx))
        expected = shape if batched else (shape[0], *shape[2:])
        for name, state in zip(names, states, strict=True):
            check_tensor(f"the initial state {name}", state, expected, x)
        return states if batched else tuple(state.unsqueeze(1) for state in states)

    def _run_layers(
        self, x: Tensor, states: tuple[Tensor, ...], masks: Masks, trace: bool
    ) -> LayersOutcome:
        def run_one(
            layer: int, reverse: bool, suffix: str, x: Tensor, state: tuple[Tensor, ...]
        ) -> Outcome:
            reset = masks.reset
            if reset is not None and reverse:
                reset = reset_reversed(reset, masks.lengths)
            of_direction, weights = masks._replace(reset=reset), self._weights(suffix)

            def execute(
                x: Tensor,
                state: tuple[Tensor, ...],
                masks: Masks,
                trace: bool,
                any_backend: bool = False,  # there is one backend
            ) -> Outcome:
                arguments = (self.cell, x, state, weights, masks, _convolved)
                return through_time(*arguments, reverse=reverse, trace=trace)

            if self.runner is None:
                return execute(x, state, of_direction, trace)
            of_all = (self.cell, layer, reverse, x, state, weights, of_direction, trace)
            return self.runner(LayerRun(*of_all, execute, _convolved))

        return run_layers(
            [list(self._suffixes(layer)) for layer in range(self.num_layers)],
            x,
            list(zip(*states, strict=True)),
            run_one,
            lambda output: F.dropout(output, self.dropout, self.training),
            traced=tuple(self.cell.values) if trace else (),
            channels=2,
        )

    def _weights(self, suffix: str) -> Weights:
        """The weights of one layer in one direction. Per-unit parameters broadcast to B×C×h×w."""
        named = {name: getattr(self, name + suffix) for name in self._step_shapes[suffix]}
        per_unit = {name: named[name] for name in self.cell.params}
        if self.size is None:
            per_unit = {name: value[:, None, None] for name, value in per_unit.items()}
        return Weights(
            named["weight_ih"],
            named.get("weight_hh"),  # type: ignore[arg-type]  # None without recurrent inputs
            named.get("bias_ih"),
            named.get("bias_hh"),
            per_unit=per_unit,
        )


class ConvLSTM(ConvRecurrent):
    """Convolutional LSTM (Shi et al. 2015, "Convolutional LSTM Network", equation 3).

    It has the arguments of :class:`ConvRecurrent` except the cell, and ``peephole``.

    Args:
        peephole: whether the gates read the cell state with the paper's weights ``pi``, ``pf`` and
            ``po``. As in the paper, these have a value for each channel and pixel if ``size`` is given;
            otherwise they have a value for each channel.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[State, TwoStates, Trace]

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        size: tuple[int, int] | None = None,
        peephole: bool = False,
    ) -> None:
        cell = "peephole" if flag("peephole", peephole) else "lstm"
        super().__init__(
            *(cell, input_channels, hidden_channels, kernel_size, num_layers, bias, batch_first),
            *(dropout, bidirectional, device, dtype),
            size=size,
        )


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of one step's images, B×I×h×w, or of all steps' images, T×B×I×h×w."""
    padding = weight.shape[-2] // 2, weight.shape[-1] // 2
    images = F.conv2d(x.flatten(0, -4), weight, bias, padding=padding)
    return images.unflatten(0, x.shape[:-3])


def _under_autocast(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor, in the weights' dtype if autocast is on. The states keep this dtype; torch itself casts
    the convolutions."""
    return tensor if autocast_dtype(like) is None else cast(tensor, like.dtype)


def _check_cell(cell: Cell, size: object) -> None:
    check_parameter_names(cell)
    if cell.second_stage:
        raise OptionError(
            f"the recurrent input of {cell.name}'s gates {', '.join(cell.second_stage)} is a value of the "
            f"same step (.recurrent); a convolutional layer needs a cell whose recurrent inputs are "
            f"states of the previous step, such as 'lstm' or 'gru'"
        )
    for state, gates in cell.connections.items():
        if state in cell.feedback and gates != cell.gates:
            raise OptionError(
                f"{cell.name} connects its state {state} to the gates {', '.join(gates)} only; a "
                f"convolutional layer needs a cell that connects it to all ({', '.join(cell.gates)})"
            )
    if size is not None and not cell.params:
        raise OptionError(
            f"size={size!r} is the size of per-unit parameters, and {cell.name} has none; give no size"
        )


def _checked_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    single = not hasattr(value, "__len__") or not getattr(value, "shape", True)
    pair = (value, value) if single else tuple(value)  # type: ignore[arg-type]
    if isinstance(value, str) or len(pair) != 2:
        raise OptionError(
            f"{name} must be a pair of integers (height, width), not {short_repr(value)}"
        )
    return integer(f"the height in {name}", pair[0]), integer(f"the width in {name}", pair[1])


def _checked_kernel(kernel_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = _checked_pair("kernel_size", kernel_size)
    if height % 2 == 0 or width % 2 == 0:
        raise OptionError(
            f"kernel_size must be odd, not {kernel_size!r}: with an even kernel the states would not "
            f"have the input's height and width"
        )
    return height, width
