"""Stacks of recurrent layers of different kinds, with optional residual or highway connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.config import HIGHWAY_BIAS
from gatewise.nn.lengths import checked_lengths
from gatewise.nn.overrides import by_override
from gatewise.nn.sequences import as_batch_first, check_width, cleared, laid_out
from gatewise.options import flag, probability

if TYPE_CHECKING:
    from gatewise.nn.call_types import LayerCall
    from gatewise.nn.shapes import Input, Lengths, Output, Reset


class Stack(nn.Module):
    """A stack of recurrent layers of any cells, sizes and directions.

    The input of each layer is the output of the layer before it.

    A layer is a :class:`gatewise.Recurrent`, a :class:`gatewise.MLSTM`, or any module that is called
    like the former (a :class:`gatewise.HybridBlock`, another Stack) and has ``input_size`` and
    ``output_size``.

    Args:
        layers: at least one layer; the first reads the input.
        residual: whether the input of each layer is added to its output (He et al. 2016; for stacked
            LSTMs Wu et al. 2016, equation 6).
        highway: whether a layer's output y and input x are mixed as g * y + (1 - g) * x, with
            g = sigmoid(W x + b) (Srivastava et al. 2015, "Highway Networks", equation 3). W and b are
            ``highways[k].weight`` and ``.bias``. b starts at -1, which favours x; it is the first
            example of the paper's section 2.2.
        dropout: the probability, in training, of dropping a value of a layer's input, except the first
            layer's. The residual or highway connection has no dropout.

    Raises:
        OptionError: the widths or layouts of the layers do not fit, a layer with a residual or highway
            connection is not as wide as its input, or an option is not valid.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[Sequence[Any], tuple[Any, ...], tuple[Any, ...]]

    def __init__(
        self,
        *layers: nn.Module,
        residual: bool = False,
        highway: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual = residual = flag("residual", residual)
        self.highway = highway = flag("highway", highway)
        self.dropout = probability("dropout", dropout)
        if residual and highway:
            raise OptionError("residual=True and highway=True exclude each other; give one of them")
        if not layers:
            raise OptionError("a Stack must have at least one layer, and none was given")
        sizes = [widths(layer) for layer in layers]
        _check_fit(layers, sizes)
        if residual or highway:
            _check_square(layers, sizes, "residual" if residual else "highway")
        self.layers = nn.ModuleList(layers)
        self.highways = nn.ModuleList(
            _gate(layer, size) for layer, (size, _) in zip(layers, sizes, strict=True) if highway
        )
        self.input_size, self.output_size = sizes[0][0], sizes[-1][1]
        self.batch_first = batch_first(layers[0])

    def forward(
        self,
        input: Input,
        hx: Sequence[Any] | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Output, tuple[Any, ...]] | tuple[Output, tuple[Any, ...], tuple[Any, ...]]:
        """Runs the layers over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if the layers are batch-first), or T×I for a single sequence.
            hx: for each layer its initial state, in the layer's own form, or None for zero.
            lengths: B integers from 0 to T, the length of each sequence. Padding is not read, and its
                output is zero.
            reset: booleans T×B (B×T if batch-first): true where the states are reset before the step.
            trace: also return every layer's trace.

        Returns:
            ``output, state``, and with ``trace`` the traces: the output of the last layer, with its
            residual or highway connection; a tuple of the layers' states; a tuple of the layers' traces.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Stack.forward, self, input, hx, **options)
        x = self._checked(input, lengths)
        states, traces = [], []
        for k, (layer, state) in enumerate(zip(self.layers, self._states(hx), strict=True)):
            read = F.dropout(x, self.dropout, self.training) if k else x
            y, state, *traced = layer(read, state, lengths=lengths, reset=reset, trace=trace)
            x = self._with_connection(k, x, y)
            states.append(state)
            traces += traced
        return (x, tuple(states), tuple(traces)) if trace else (x, tuple(states))

    def extra_repr(self) -> str:
        defaults = dict(residual=False, highway=False, dropout=0.0)
        shown = [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(shown)

    def _with_connection(self, k: int, x: Tensor, y: Tensor) -> Tensor:
        if self.residual:
            return x + y
        if self.highway:
            g = torch.sigmoid(self.highways[k](x))
            return g * y + (1 - g) * x
        return y

    def _checked(self, input: Tensor, lengths: Lengths | None) -> Tensor:
        """The input. Its padding is set to zero where a residual or highway connection would pass it on."""
        check_width(input, self.input_size)
        if not (self.residual or self.highway):
            return input
        x = as_batch_first(input, self.batch_first)
        given = checked_lengths(lengths, x.transpose(0, 1))
        return input if given is None else laid_out(cleared(x, given), input, self.batch_first)

    def _states(self, hx: Sequence[Any] | None) -> Sequence[Any]:
        if hx is None:
            return [None] * len(self.layers)
        if not isinstance(hx, tuple | list) or len(hx) != len(self.layers):
            many = f" of {len(hx)}" if isinstance(hx, tuple | list) else ""
            raise ShapeError(
                f"hx is a {type(hx).__name__}{many}, expected a tuple or list of "
                f"{len(self.layers)}, with a state or None for each layer"
            )
        return hx


def widths(layer: nn.Module) -> tuple[int, int]:
    """The widths of a layer's input and output.

    Raises:
        OptionError: the layer lacks ``input_size`` or ``output_size``.
    """
    sizes = tuple(getattr(layer, name, None) for name in ("input_size", "output_size"))
    match sizes:
        case (int(given), int(gives)):
            return given, gives
    raise OptionError(
        f"{type(layer).__name__} has input_size={sizes[0]} and output_size={sizes[1]}; both must be "
        f"integers: give a gatewise.Recurrent, or a module that is called like one and has both"
    )


def batch_first(layer: nn.Module) -> bool:
    """Whether the layer's input is B×T×… and not T×B×…."""
    return bool(getattr(layer, "batch_first", False))


def _gate(layer: nn.Module, size: int) -> nn.Linear:
    """The linear layer of a highway's gates, on the device and in the dtype of ``layer``."""
    like = next(layer.parameters(), torch.empty(0))
    gate = nn.Linear(size, size, device=like.device, dtype=like.dtype)
    nn.init.constant_(gate.bias, HIGHWAY_BIAS)
    return gate


def _check_fit(layers: Sequence[nn.Module], sizes: Sequence[tuple[int, int]]) -> None:
    for k, ((_, gives), (takes, _)) in enumerate(pairwise(sizes), start=1):
        if gives != takes:
            raise OptionError(
                f"layer {k - 1} ({type(layers[k - 1]).__name__}) has output_size={gives} and layer {k} "
                f"({type(layers[k]).__name__}) has input_size={takes}; they must be equal"
            )
        if batch_first(layers[k]) != batch_first(layers[0]):
            raise OptionError(
                f"layer {k} has batch_first={batch_first(layers[k])} and layer 0 "
                f"batch_first={batch_first(layers[0])}; they must be equal"
            )


def _check_square(
    layers: Sequence[nn.Module], sizes: Sequence[tuple[int, int]], option: str
) -> None:
    for k, (takes, gives) in enumerate(sizes):
        if takes != gives:
            raise OptionError(
                f"{option}=True needs layers whose output is as wide as their input; layer {k} "
                f"({type(layers[k]).__name__}) has input_size={takes} and output_size={gives}"
            )
