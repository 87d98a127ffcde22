"""Directions that a layer doesn't have by itself: from the end alone, and both ways, with any layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.checks import shape_of
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.overrides import by_override
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.sequences import as_time_major, check_width, cleared, laid_out, reset_reversed
from gatewise.nn.stack import Stack, batch_first, widths
from gatewise.nn.states import states_given
from gatewise.nn.trace import Trace
from gatewise.options import choice, flag

_MERGES = ("concat", "sum", "mul", "ave")


class Reversed(nn.Module):
    """A layer that reads each sequence from its end; called as the layer itself is.

    Args:
        layer: a :class:`gatewise.Recurrent` of one layer and one direction, or any module that is called
            like one and has ``input_size`` and ``output_size`` (:class:`gatewise.MLSTM`, a Stack).
        as_read: whether the output is in the order in which it was read, as Keras's ``go_backwards``
            has it; else, as in ONNX, what belongs to a step of the input stands at that step.

    Raises:
        OptionError: the layer is not as it must be.
    """

    def __init__(self, layer: nn.Module, as_read: bool = False) -> None:
        super().__init__()
        _check_forward(layer)
        self.layer = layer
        self.cell: Cell | None = getattr(layer, "cell", None)  # a Recurrent's
        self.as_read = flag("as_read", as_read)
        self.input_size, self.output_size = widths(layer)
        self.batch_first = batch_first(layer)

    def forward(
        self,
        input: Tensor,
        hx: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """See :meth:`Recurrent.forward`; shapes and results are those of the layer, and the final state
        is the one after the first step. A trace is in the order of the output."""
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Reversed.forward, self, input, hx, **asked)
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
        output, state, *traced = self.layer(read, hx, lengths=lengths, reset=reset, trace=trace)
        if not self.as_read:
            steps = as_time_major(output, self.batch_first)
            back = cleared(_taken(steps, order).transpose(0, 1), given)
            output = laid_out(back, output, self.batch_first)
            traced = [_of_each(lambda t: _turned(t, order, given), each) for each in traced]
        return output, state, *traced

    def extra_repr(self) -> str:
        return "as_read=True" if self.as_read else ""


class Bidirectional(nn.Module):
    """Two layers, one of which reads from the end; called as a bidirectional layer is, but for a
    PackedSequence.

    For the cells of a :class:`gatewise.Recurrent` ``bidirectional=True`` is the same in one call.

    Args:
        forward_layer: what :class:`Reversed` takes.
        backward_layer: the same, with as many inputs and outputs; of two Recurrents with as many units
            and the same states. Without it, a copy of the first with weights of its own, of a layer
            that has ``reset_parameters`` (a Stack has not).
        merge: what is made of their outputs: "concat", side by side; "sum", "mul" or "ave".

    Raises:
        OptionError: the two don't fit each other, or there is no such ``merge``.
    """

    def __init__(
        self,
        forward_layer: nn.Module,
        backward_layer: nn.Module | None = None,
        merge: str = "concat",
    ) -> None:
        super().__init__()
        self.merge = merge = choice("merge", merge, _MERGES)
        _check_forward(forward_layer)
        if backward_layer is None:
            backward_layer = _another(forward_layer)
        one, other = _facts(forward_layer), _facts(backward_layer)
        for name in one:
            if name in other and one[name] != other[name]:
                raise OptionError(f"the two directions have {name}={one[name]} and {other[name]}")
        self.forward_layer = forward_layer
        self.backward_layer = Reversed(backward_layer)
        self.cell: Cell | None = getattr(forward_layer, "cell", None)  # a Recurrent's
        self.input_size, each = widths(forward_layer)
        self.output_size = each * (2 if merge == "concat" else 1)
        self.batch_first = batch_first(forward_layer)
        both = (forward_layer, backward_layer)
        self._recurrent = all(isinstance(layer, Recurrent) for layer in both)

    def forward(
        self,
        input: Tensor,
        hx: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """See :meth:`Recurrent.forward`: a trace has two directions, and a state is 2×B×H; of others
        than two Recurrents it is a pair, each as its layer has it."""
        asked = dict(lengths=lengths, reset=reset, trace=trace)
        if not isinstance(input, Tensor):
            return by_override(Bidirectional.forward, self, input, hx, **asked)
        ahead, back = self._states(hx)
        output, state, *traced = self.forward_layer(input, ahead, **asked)
        other, end, *also = self.backward_layer(input, back, **asked)
        both = [_of_each(_side_by_side, *each) for each in zip(traced, also, strict=True)]
        return self._merged(output, other), self._joined(state, end), *both

    def extra_repr(self) -> str:
        return "" if self.merge == "concat" else f"merge={self.merge!r}"

    def _states(self, hx: Any) -> tuple[Any, Any]:
        if hx is None:
            return None, None
        if not self._recurrent:
            if not isinstance(hx, (tuple, list)) or len(hx) != 2:
                many = f" of {len(hx)}" if isinstance(hx, (tuple, list)) else ""
                raise ShapeError(
                    f"hx is a {type(hx).__name__}{many}, expected a pair of states, one for each "
                    f"direction"
                )
            return hx[0], hx[1]
        assert self.cell is not None
        given = states_given(self.cell, hx)
        for each in given:
            if not each.dim() or len(each) != 2:
                raise ShapeError(
                    f"a state has the shape {shape_of(each)}, expected 2 at the front, one for each "
                    f"direction"
                )
        if isinstance(hx, Tensor):
            return hx[:1], hx[1:]
        return tuple(s[:1] for s in given), tuple(s[1:] for s in given)

    def _joined(self, state: Any, end: Any) -> Any:
        if not self._recurrent:
            return state, end
        if isinstance(state, Tensor):
            return torch.cat([state, end])
        return tuple(torch.cat(each) for each in zip(state, end, strict=True))

    def _merged(self, ahead: Tensor, back: Tensor) -> Tensor:
        match self.merge:
            case "concat":
                return torch.cat([ahead, back], -1)
            case "sum":
                return ahead + back
            case "mul":
                return ahead * back
        return (ahead + back) / 2


def _another(layer: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    why = None
    if parametrize.is_parametrized(layer):
        why = "is parametrized"
    elif not hasattr(layer, "reset_parameters"):
        why = "has no reset_parameters()"
    if why:
        raise OptionError(f"{type(layer).__name__} {why}; give the backward_layer")
    made: Any = copy.deepcopy(layer)
    made.reset_parameters()
    return made


def _facts(layer: nn.Module) -> dict[str, Any]:
    """What both directions have in common, as far as both have it."""
    given, gives = widths(layer)
    found: dict[str, Any] = dict(
        input_size=given,
        output_size=gives,
        batch_first=batch_first(layer),
        layers=len(layer.layers) if isinstance(layer, Stack) else 1,
    )
    if isinstance(layer, Recurrent):
        found |= dict(hidden_size=layer.hidden_size, states=layer.cell.state)
    return found


def _check_forward(layer: nn.Module) -> None:
    widths(layer)
    if isinstance(layer, Reversed):
        raise OptionError("a Reversed reads from the end already; give the layer in it")
    if isinstance(layer, Recurrent) and (layer.num_layers != 1 or layer.bidirectional):
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


def _of_each(function: Callable[..., Trace], *traces: Any) -> Any:
    """The function of a layer's trace, or of each that a Stack has."""
    if isinstance(traces[0], Trace):
        return function(*traces)
    return tuple(_of_each(function, *each) for each in zip(*traces, strict=True))


def _turned(trace: Trace, order: Tensor, lengths: Tensor | None) -> Trace:
    values = {
        name: [
            [_taken(v.transpose(0, 1), order).transpose(0, 1) for v in each] for each in trace[name]
        ]
        for name in trace
    }
    return Trace(values, lengths)


def _side_by_side(ahead: Trace, back: Trace) -> Trace:
    """What both directions' cells name."""
    values = {
        name: [[*one, *other] for one, other in zip(ahead[name], back[name], strict=True)]
        for name in ahead
        if name in back.names
    }
    return Trace(values, ahead.lengths)
