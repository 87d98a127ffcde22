"""Convolutional recurrent layers: any cell, its products W x and U h convolutions of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

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
from gatewise.nn.sequences import State, reset_reversed, stacked
from gatewise.nn.states import states_given
from gatewise.nn.structure import structure
from gatewise.nn.trace import Trace
from gatewise.options import flag, integer, short_repr


class ConvRecurrent(nn.Module):
    """A recurrent layer of any cell over sequences of images: C channels of h×w pixels a step.

    Every unit of the cell is a channel at a pixel; W x and U h are two-dimensional convolutions of
    stride 1, padded with zeros so that the states keep the input's height and width (Shi et al.
    2015, "Convolutional LSTM Network", section 3.1). The input convolutions of all steps are one
    call; the rest are plain torch operations, a step at a time.

    Parameters are named as :class:`gatewise.Recurrent`'s: ``weight_ih_l0`` G·C×I×k×k, ``weight_hh_l0``
    G·C×F·C×k×k (F the states fed back), ``bias_ih_l0`` and ``bias_hh_l0`` G·C, and a cell's
    per-unit parameters ``{name}_l0``: C, one for each channel, or C×h×w where ``size`` is given.
    A cell that feeds nothing back has no ``_hh``.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one; each of its
            fed-back states goes to all of its gates.
        input_channels: I, channels of the input.
        hidden_channels: C, channels of the states.
        kernel_size: k, height and width of every kernel; or one for each. Odd.
        num_layers: L, layers stacked on each other.
        bias: whether there are the two biases.
        batch_first: input and output are B×T×… instead of T×B×…; states are not affected.
        dropout: probability of dropping an output between layers, in training.
        bidirectional: D = 2 directions, their channels side by side.
        size: (h, w), for a cell's per-unit parameters to be of each channel and pixel, as in the
            paper; the layer then takes images of this size alone. Without it they are of each
            channel, and images may have any size.

    Raises:
        OptionError: an argument is out of its range, or the cell has what a convolution lacks.
    """

    weight_ih_l0: Tensor

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
        """Draw every parameter from U(-1/√n, 1/√n), n = C·k·k the fan-in of a state's convolution;
        at k = 1 as the plain layer has it."""
        bound = 1.0 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Run the layer over a batch of sequences of images.

        Args:
            input: T×B×I×h×w (B×T×I×h×w if ``batch_first``), or T×I×h×w for a single sequence.
            hx: initial states, each L·D×B×C×h×w (no B for a single sequence); one tensor where the
                cell has one state, else a tuple. Zero if not given.
            lengths: B integers from 0 to T, in any order: how much of each sequence is real.
                What lies beyond is never looked at, the output there is zero, and the final state
                is that after the real part.
            reset: T×B booleans (B×T if ``batch_first``), T for a single sequence; where true, the
                sequence starts afresh from zero states, as :class:`gatewise.Recurrent` has it.
            trace: also return every named value of the cell.

        Returns:
            ``output, state``, and a :class:`Trace` where it was asked for, whose values are
            B×T×C×h×w. output is T×B×D·C×h×w, laid out as the input was; state is as ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(ConvRecurrent.forward, self, input, hx, **asked)
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
        return (output, hn, Trace(found.traced, given)) if trace else (output, hn)

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
        """Each parameter's name, less the suffix, and shape."""
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
                f"input needs 4 dimensions (T×I×h×w) or 5 (with B), this has the shape "
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
            return through_time(
                *(self.cell, x, state, weights, of_direction, _convolved),
                reverse=reverse,
                trace=trace,
            )

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
        """One layer's parameters in one direction; per-unit ones as they broadcast to B×C×h×w."""
        named = {name: getattr(self, name + suffix) for name in self._step_shapes[suffix]}
        per_unit = {name: named[name] for name in self.cell.params}
        if self.size is None:
            per_unit = {name: value[:, None, None] for name, value in per_unit.items()}
        return Weights(
            named["weight_ih"],
            named.get("weight_hh"),  # type: ignore[arg-type]  # None: nothing is fed back
            named.get("bias_ih"),
            named.get("bias_hh"),
            per_unit=per_unit,
        )


class ConvLSTM(ConvRecurrent):
    """Convolutional LSTM (Shi et al. 2015, "Convolutional LSTM Network", equation 3).

    Takes :class:`ConvRecurrent`'s arguments less the cell, and ``peephole``: whether the gates see
    the memory through the paper's Hadamard weights ``pi``, ``pf`` and ``po``. These are of each
    channel and pixel, as the paper's are, only where ``size=(h, w)`` is given; else of each channel.
    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int],
        *args: Any,
        peephole: bool = False,
        **options: Any,
    ) -> None:
        cell = "peephole" if flag("peephole", peephole) else "lstm"
        super().__init__(cell, input_channels, hidden_channels, kernel_size, *args, **options)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of a step, B×I×h×w, or of all, T×B×I×h×w, with a weight."""
    padding = weight.shape[-2] // 2, weight.shape[-1] // 2
    images = F.conv2d(x.flatten(0, -4), weight, bias, padding=padding)
    return images.unflatten(0, x.shape[:-3])


def _under_autocast(tensor: Tensor, like: Tensor) -> Tensor:
    """In the weights' type where torch.autocast is on: the states stay in it, and the convolutions
    are cast by torch itself."""
    return tensor if autocast_dtype(like) is None else cast(tensor, like.dtype)


def _check_cell(cell: Cell, size: object) -> None:
    check_parameter_names(cell)
    if cell.second_stage:
        raise OptionError(
            f"{cell.name} feeds its gates {', '.join(cell.second_stage)} with a value of the same step "
            f"(.recurrent); a convolutional layer takes cells whose gates are fed with the states before "
            f"the step, such as 'lstm' or 'gru'"
        )
    for state, gates in cell.connections.items():
        if state in cell.feedback and gates != cell.gates:
            raise OptionError(
                f"{cell.name} feeds its state {state} to the gates {', '.join(gates)} only; a "
                f"convolutional layer takes cells that feed it to all ({', '.join(cell.gates)})"
            )
    if size is not None and not cell.params:
        raise OptionError(
            f"size={size!r} is for a cell's per-unit parameters, and {cell.name} has none; leave "
            f"it out"
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
            f"kernel_size must be odd, not {kernel_size!r}: an even kernel has no middle, so the "
            f"states would not stay in place"
        )
    return height, width
