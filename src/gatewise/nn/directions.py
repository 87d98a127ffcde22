"""Layers that read sequences backward, and bidirectional layers made of any two layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from gatewise.nn.call_types import LayerCall
    from gatewise.nn.shapes import Input, Lengths, Output, Reset

_MERGES = ("concat", "sum", "mul", "ave")


class Reversed(nn.Module):
    """A layer that reads each sequence backward. It is called like the layer itself.

    Args:
        layer: a :class:`gatewise.Recurrent` with one layer and one direction, or any module that is called
            like one and has ``input_size`` and ``output_size`` (:class:`gatewise.MLSTM`, a Stack).
        as_read: whether the output is in the order of reading, last step first, as with Keras's
            ``go_backwards``. By default the output of a step is at that step, as in ONNX.

    Raises:
        OptionError: the layer cannot be reversed.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[Any, Any, Any]

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
        input: Input,
        hx: Any = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Output, Any] | tuple[Output, Any, Any]:
        """The arguments and results of the layer; see :meth:`Recurrent.forward`.

        The final state is the one after the first step of the sequence, which is read last. A trace is in
        the order of the output.
        """
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(Reversed.forward, self, input, hx, **options)
        check_width(input, self.input_size)
        time_major = as_time_major(input, self.batch_first)
        given = checked_lengths(lengths, time_major)
        resets = checked_reset(reset, input, not self.batch_first)
        order = _reading_order(time_major, given)
        if resets is not None:
            reset = reset_reversed(resets, given).gather(0, order)
            reset = reset.squeeze(1) if input.dim() == 2 else reset
            reset = reset.T if input.dim() == 3 and self.batch_first else reset
        read = laid_out(_taken(time_major, order).transpose(0, 1), input, self.batch_first)
        output, state, *traced = self.layer(read, hx, lengths=lengths, reset=reset, trace=trace)
        if not self.as_read:
            steps = as_time_major(output, self.batch_first)
            in_time = cleared(_taken(steps, order).transpose(0, 1), given)
            output = laid_out(in_time, output, self.batch_first)
            traced = [_of_each(lambda t: _reordered(t, order, given), each) for each in traced]
        return output, state, *traced

    def extra_repr(self) -> str:
        return "as_read=True" if self.as_read else ""


class Bidirectional(nn.Module):
    """Two layers of which the second reads backward. It is called like a bidirectional layer.

    A :class:`gatewise.Recurrent` with ``bidirectional=True`` does the same in one call, and also takes a
    PackedSequence.

    Args:
        forward_layer: a layer that :class:`Reversed` accepts.
        backward_layer: a layer with as many inputs and outputs; two Recurrents must also have the same
            number of units and the same states. The default is a copy of the first layer with new
            weights; that layer must have ``reset_parameters`` (a Stack does not).
        merge: how the two outputs are merged: "concat", "sum", "mul", or "ave" for the mean.

    Raises:
        OptionError: the layers do not fit each other, or ``merge`` is not one of these.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[Any, Any, Any]

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
            backward_layer = _copy_with_new_weights(forward_layer)
        one, other = _properties(forward_layer), _properties(backward_layer)
        for name in one:
            if name in other and one[name] != other[name]:
                raise OptionError(
                    f"the two directions have {name}={one[name]} and {name}={other[name]}; they must "
                    f"be equal"
                )
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
        input: Input,
        hx: Any = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Output, Any] | tuple[Output, Any, Any]:
        """The arguments and results of a bidirectional layer; see :meth:`Recurrent.forward`.

        A trace has two directions. The state of two Recurrents is 2×B×H; that of other layers is a pair
        of the layers' states.
        """
        options: dict[str, Any] = dict(lengths=lengths, reset=reset, trace=trace)
        if not isinstance(input, Tensor):
            return by_override(Bidirectional.forward, self, input, hx, **options)
        first, second = self._states(hx)
        output, state, *trace_forward = self.forward_layer(input, first, **options)
        other, other_state, *trace_backward = self.backward_layer(input, second, **options)
        pairs = zip(trace_forward, trace_backward, strict=True)
        traces = [_of_each(_both_directions, *pair) for pair in pairs]
        return self._merged(output, other), self._joined(state, other_state), *traces

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
                    f"a state has the shape {shape_of(each)}; its first dimension must be 2, one for "
                    f"each direction"
                )
        if isinstance(hx, Tensor):
            return hx[:1], hx[1:]
        return tuple(s[:1] for s in given), tuple(s[1:] for s in given)

    def _joined(self, state: Any, other: Any) -> Any:
        if not self._recurrent:
            return state, other
        if isinstance(state, Tensor):
            return torch.cat([state, other])
        return tuple(torch.cat(each) for each in zip(state, other, strict=True))

    def _merged(self, one: Tensor, other: Tensor) -> Tensor:
        match self.merge:
            case "concat":
                return torch.cat([one, other], -1)
            case "sum":
                return one + other
            case "mul":
                return one * other
        return (one + other) / 2


def _copy_with_new_weights(layer: nn.Module) -> nn.Module:
    """A copy of the layer with newly drawn weights."""
    reason = None
    if parametrize.is_parametrized(layer):
        reason = "is parametrized"
    elif not hasattr(layer, "reset_parameters"):
        reason = "has no reset_parameters()"
    if reason:
        raise OptionError(
            f"{type(layer).__name__} {reason}, so it cannot be copied; give backward_layer"
        )
    made: Any = copy.deepcopy(layer)
    made.reset_parameters()
    return made


def _properties(layer: nn.Module) -> dict[str, Any]:
    """The properties that must be equal in both directions, where both layers have them."""
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
        raise OptionError(
            "the layer is a Reversed, which reads backward already; give the layer inside it"
        )
    if isinstance(layer, Recurrent) and (layer.num_layers != 1 or layer.bidirectional):
        raise OptionError(
            f"the layer has num_layers={layer.num_layers} and bidirectional={layer.bidirectional}; it must "
            f"have one layer and one direction"
        )


def _reading_order(x: Tensor, lengths: Tensor | None) -> Tensor:
    """T×B: the index of the step that is read at each step. Padding keeps its place."""
    steps, batch = x.shape[:2]
    t = torch.arange(steps, device=x.device)[:, None].expand(steps, batch)
    if lengths is None:
        return steps - 1 - t
    return torch.where(t < lengths, lengths - 1 - t, t)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(0, order[..., None].expand(x.shape))


def _of_each(function: Callable[..., Trace], *traces: Any) -> Any:
    """The function of a layer's trace, or of every trace of a Stack."""
    if isinstance(traces[0], Trace):
        return function(*traces)
    return tuple(_of_each(function, *each) for each in zip(*traces, strict=True))


def _reordered(trace: Trace, order: Tensor, lengths: Tensor | None) -> Trace:
    values = {
        name: [
            [_taken(v.transpose(0, 1), order).transpose(0, 1) for v in each] for each in trace[name]
        ]
        for name in trace
    }
    adjoints = None
    if trace.differentiable:
        adjoints = lambda of: _reordered(trace.gradients(of), order, lengths)  # noqa: E731
    return Trace(values, lengths, trace.cell, adjoints)


def _both_directions(one: Trace, other: Trace) -> Trace:
    """One trace with two directions, of the names that both traces have."""
    values = {
        name: [[*a, *b] for a, b in zip(one[name], other[name], strict=True)]
        for name in one
        if name in other.names
    }
    adjoints = None
    if one.differentiable and other.differentiable:
        adjoints = lambda of: _both_directions(one.gradients(of), other.gradients(of))  # noqa: E731
    return Trace(values, one.lengths, one.cell if one.cell == other.cell else None, adjoints)
