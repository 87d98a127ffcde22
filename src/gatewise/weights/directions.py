"""Directions that a layer of gatewise doesn't have by itself: from the end alone, and two unlike ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.checks import checked_lengths, checked_reset
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.sequences import (
    State,
    as_time_major,
    check_width,
    cleared,
    laid_out,
    reset_reversed,
)
from gatewise.nn.trace import Trace

_MERGES = ("concat", "sum", "mul", "ave")


class Reversed(nn.Module):
    """A layer that reads each sequence from its end; called as the layer itself is.

    Args:
        layer: of one layer and one direction.
        as_read: whether the output is in the order in which it was read, as Keras's ``go_backwards``
            has it; else, as in ONNX, what belongs to a step of the input stands at that step.

    Raises:
        OptionError: the layer is not as it must be.
    """

    def __init__(self, layer: Recurrent, as_read: bool = False) -> None:
        super().__init__()
        _check_one_way(layer)
        self.layer = layer
        self.cell = layer.cell
        self.as_read = as_read
        self.input_size, self.output_size = layer.input_size, layer.output_size
        self.batch_first = layer.batch_first

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """See :meth:`Recurrent.forward`; shapes and results are those of the layer, and the final state
        is the one after the first step. A trace is in the order of the output."""
        check_width(input, self.input_size)
        time_major = as_time_major(input, self.batch_first)
        given = checked_lengths(lengths, time_major)
        cuts = checked_reset(reset, input, not self.batch_first)
        order = _from_the_end(time_major, given)
        if cuts is not None:
            reset = reset_reversed(cuts, given).gather(0, order)
            reset = reset.squeeze(1) if input.dim() == 2 else reset
            reset = reset.T if input.dim() == 3 and self.batch_first else reset
        read = laid_out(_taken(time_major, order).transpose(0, 1), input, self.batch_first)
        output, state, *traced = self.layer(read, hx, lengths=given, reset=reset, trace=trace)
        if not self.as_read:
            steps = as_time_major(output, self.batch_first)
            back = cleared(_taken(steps, order).transpose(0, 1), given)
            output = laid_out(back, output, self.batch_first)
            traced = [_turned(each, order, given) for each in traced]
        return output, state, *traced

    def extra_repr(self) -> str:
        return "as_read=True" if self.as_read else ""


class BothWays(nn.Module):
    """Two layers, one of which reads from the end; called as a bidirectional layer is.

    Args:
        forward_layer: of one layer and one direction.
        backward_layer: the same, with as many units and states.
        merge: what is made of their outputs: "concat", side by side; "sum", "mul" or "ave".

    Raises:
        OptionError: the two don't fit each other, or there is no such ``merge``.
    """

    def __init__(
        self, forward_layer: Recurrent, backward_layer: Recurrent, merge: str = "concat"
    ) -> None:
        super().__init__()
        if merge not in _MERGES:
            raise OptionError(
                f"merge must be one of {', '.join(map(repr, _MERGES))}, not {merge!r}"
            )
        _check_one_way(forward_layer)
        for name in ("input_size", "output_size", "hidden_size", "batch_first"):
            one, other = getattr(forward_layer, name), getattr(backward_layer, name)
            if one != other:
                raise OptionError(f"the two directions have {name}={one} and {other}")
        if forward_layer.cell.state != backward_layer.cell.state:
            raise OptionError(
                f"the two directions have the states {forward_layer.cell.state} and "
                f"{backward_layer.cell.state}; they must be the same"
            )
        self.forward_layer = forward_layer
        self.backward_layer = Reversed(backward_layer)
        self.cell = forward_layer.cell
        self.merge = merge
        self.input_size, self.batch_first = forward_layer.input_size, forward_layer.batch_first
        self.output_size = forward_layer.output_size * (2 if merge == "concat" else 1)

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """See :meth:`Recurrent.forward`: a state is 2×B×H, and a trace has two directions."""
        asked = dict(lengths=lengths, reset=reset, trace=trace)
        ahead, back = self._states(hx)
        output, state, *traced = self.forward_layer(input, ahead, **asked)
        other, end, *also = self.backward_layer(input, back, **asked)
        if isinstance(state, Tensor):
            final: State = torch.cat([state, end])
        else:
            final = tuple(torch.cat(each) for each in zip(state, end, strict=True))
        both = [_side_by_side(*each) for each in zip(traced, also, strict=True)]
        return self._merged(output, other), final, *both

    def extra_repr(self) -> str:
        return "" if self.merge == "concat" else f"merge={self.merge!r}"

    def _states(self, hx: State | None) -> tuple[State | None, State | None]:
        if hx is None:
            return None, None
        for each in (hx,) if isinstance(hx, Tensor) else hx:
            if len(each) != 2:
                raise ShapeError(
                    f"a state has the shape {tuple(each.shape)}, expected 2 at the front, one for "
                    f"each direction"
                )
        if isinstance(hx, Tensor):
            return hx[:1], hx[1:]
        return tuple(s[:1] for s in hx), tuple(s[1:] for s in hx)

    def _merged(self, ahead: Tensor, back: Tensor) -> Tensor:
        match self.merge:
            case "concat":
                return torch.cat([ahead, back], -1)
            case "sum":
                return ahead + back
            case "mul":
                return ahead * back
        return (ahead + back) / 2


Layer = Recurrent | Reversed | BothWays


def _check_one_way(layer: Recurrent) -> None:
    if layer.num_layers != 1 or layer.bidirectional:
        raise OptionError(
            f"a layer of one layer and one direction is needed, this has num_layers="
            f"{layer.num_layers} and bidirectional={layer.bidirectional}"
        )


def _from_the_end(x: Tensor, lengths: Tensor | None) -> Tensor:
    """T×B: of each step that is read, which of the sequence it is. Padding stays where it is."""
    steps, batch = x.shape[:2]
    t = torch.arange(steps, device=x.device)[:, None].expand(steps, batch)
    if lengths is None:
        return steps - 1 - t
    return torch.where(t < lengths, lengths - 1 - t, t)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(0, order[..., None].expand(x.shape))


def _turned(trace: Trace, order: Tensor, lengths: Tensor | None) -> Trace:
    values = {
        name: [[_taken(v.transpose(0, 1), order).transpose(0, 1)] for (v,) in trace[name]]
        for name in trace
    }
    return Trace(values, lengths)


def _side_by_side(ahead: Trace, back: Trace) -> Trace:
    """What both directions' cells name."""
    values = {name: [[*ahead[name][0], *back[name][0]]] for name in ahead if name in back.names}
    return Trace(values, ahead.lengths)
