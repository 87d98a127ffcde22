"""Unlike recurrent layers, one on another, each with a way round it if that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.lengths import checked_lengths
from gatewise.nn.overrides import by_override
from gatewise.nn.sequences import as_batch_first, check_width, cleared, laid_out
from gatewise.options import flag, probability

# Initial bias of a highway's gates: below zero, so that a layer begins by passing its input on.
HIGHWAY_BIAS = -1.0


class Stack(nn.Module):
    """Recurrent layers of any cells, sizes and directions, each fed with the one before.

    A layer is a :class:`gatewise.Recurrent`, a :class:`gatewise.MLSTM`, or any module that is called
    like the former (a :class:`gatewise.HybridBlock`, another Stack) and has ``input_size`` and
    ``output_size``.

    Args:
        layers: at least one; the first takes the input.
        residual: whether a layer's input is added to its output (He et al. 2016; for stacked LSTMs
            Wu et al. 2016, equation 6).
        highway: whether a layer's output y and input x are mixed as g * y + (1 - g) * x, with
            g = sigmoid(W x + b) (Srivastava et al. 2015, "Highway Networks", equation 3). b starts
            at -1, the first of the paper's examples (section 2.2): towards passing x on. W and b
            are ``highways[k].weight`` and ``.bias``.
        dropout: probability, in training, of dropping a value that a layer from the second on reads;
            what goes round it is whole.

    Raises:
        OptionError: widths or layouts of the layers do not fit, a layer that has a way round it is
            not as wide as its input, or an option is out of its range.
    """

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
            raise OptionError("residual=True and highway=True are two ways round a layer; take one")
        if not layers:
            raise OptionError("a Stack needs at least one layer, none was given")
        sizes = [widths(layer) for layer in layers]
        _check_fit(layers, sizes)
        if residual or highway:
            _check_ways_round(layers, sizes, "residual" if residual else "highway")
        self.layers = nn.ModuleList(layers)
        self.highways = nn.ModuleList(
            _gate(layer, size) for layer, (size, _) in zip(layers, sizes, strict=True) if highway
        )
        self.input_size, self.output_size = sizes[0][0], sizes[-1][1]
        self.batch_first = batch_first(layers[0])

    def forward(
        self,
        input: Tensor,
        hx: Sequence[Any] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Run the layers over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if the layers are batch-first), or T×I for a single sequence.
            hx: for each layer its initial state as it takes it, or None for zero.
            lengths: B integers from 0 to T: how much of each sequence is real. What lies
                beyond is never looked at, and the output there is zero.
            reset: booleans T×B (B×T if batch-first): where the sequence starts afresh.
            trace: also return every layer's trace.

        Returns:
            ``output, state``, and the traces where they were asked for: the last layer's output,
            with what goes round it; a tuple of each layer's state; a tuple of each layer's trace.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Stack.forward, self, input, hx, **asked)
        x = self._checked(input, lengths)
        states, traces = [], []
        for k, (layer, state) in enumerate(zip(self.layers, self._states(hx), strict=True)):
            read = F.dropout(x, self.dropout, self.training) if k else x
            y, state, *traced = layer(read, state, lengths=lengths, reset=reset, trace=trace)
            x = self._with_way_round(k, x, y)
            states.append(state)
            traces += traced
        return (x, tuple(states), tuple(traces)) if trace else (x, tuple(states))

    def extra_repr(self) -> str:
        defaults = dict(residual=False, highway=False, dropout=0.0)
        shown = [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(shown)

    def _with_way_round(self, k: int, x: Tensor, y: Tensor) -> Tensor:
        if self.residual:
            return x + y
        if self.highway:
            g = torch.sigmoid(self.highways[k](x))
            return g * y + (1 - g) * x
        return y

    def _checked(self, input: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor:
        """The input; its padding cleared where that would go round the first layer."""
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
                f"hx is a {type(hx).__name__}{many}, expected a state (or None) for each of {len(self.layers)} layers"
            )
        return hx


def widths(layer: nn.Module) -> tuple[int, int]:
    """Widths of a layer's input and output.

    Raises:
        OptionError: it does not say.
    """
    sizes = tuple(getattr(layer, name, None) for name in ("input_size", "output_size"))
    match sizes:
        case (int(given), int(gives)):
            return given, gives
    raise OptionError(
        f"{type(layer).__name__} has input_size={sizes[0]} and output_size={sizes[1]}, expected "
        f"integers: a gatewise.Recurrent, or a module that is called like one and has both"
    )


def batch_first(layer: nn.Module) -> bool:
    """Whether a layer takes B×T×…."""
    return bool(getattr(layer, "batch_first", False))


def _gate(layer: nn.Module, size: int) -> nn.Linear:
    """The highway's gates, where and of what type the layer is."""
    like = next(layer.parameters(), torch.empty(0))
    gate = nn.Linear(size, size, device=like.device, dtype=like.dtype)
    nn.init.constant_(gate.bias, HIGHWAY_BIAS)
    return gate


def _check_fit(layers: Sequence[nn.Module], sizes: Sequence[tuple[int, int]]) -> None:
    for k, ((_, gives), (takes, _)) in enumerate(pairwise(sizes), start=1):
        if gives != takes:
            raise OptionError(
                f"layer {k - 1} ({type(layers[k - 1]).__name__}) gives {gives} values a step, and "
                f"layer {k} ({type(layers[k]).__name__}) takes {takes}; they must be the same"
            )
        if batch_first(layers[k]) != batch_first(layers[0]):
            raise OptionError(
                f"layer {k} has batch_first={batch_first(layers[k])} and layer 0 "
                f"batch_first={batch_first(layers[0])}; they must be the same"
            )


def _check_ways_round(
    layers: Sequence[nn.Module], sizes: Sequence[tuple[int, int]], option: str
) -> None:
    for k, (takes, gives) in enumerate(sizes):
        if takes != gives:
            raise OptionError(
                f"{option}=True needs layers as wide as their input; layer {k} "
                f"({type(layers[k]).__name__}) takes {takes} values a step and gives {gives}"
            )
