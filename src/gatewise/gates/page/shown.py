"""What a page shows of some sequences: traces, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.gates.page.strips import Strip
from gatewise.nn.trace import Trace


@dataclass(frozen=True)
class Shown:
    """B sequences for a page.

    Attributes:
        trace: of the recurrent layers.
        labels: a name for each sequence.
        strips: what is drawn above the heat maps of each.
        predictions: what is drawn below.
        step_labels: for each sequence the names of its steps, or None.
    """

    trace: Trace
    labels: Sequence[str]
    strips: Sequence[Strip | None]
    predictions: Sequence[Strip | None]
    step_labels: Sequence[Sequence[str] | None] | None = None


def first_steps(trace: Trace, steps: int) -> Trace:
    """The first so many steps of each sequence."""
    values = {
        name: [[each[:, :steps] for each in both] for both in trace[name]] for name in trace.names
    }
    return Trace(values, None if trace.lengths is None else trace.lengths.clamp(max=steps))


def in_order(trace: Trace, order: Sequence[int]) -> Trace:
    """The sequences ``order`` of a trace."""
    which = torch.tensor(order)
    values = {
        name: [[each[which] for each in both] for both in trace[name]] for name in trace.names
    }
    return Trace(values, None if trace.lengths is None else trace.lengths[which])


def in_parts(trace: Trace, steps: int) -> Trace:
    """The trace of one long sequence as that of consecutive parts of so many steps; the last may be shorter."""
    whole = trace[trace.names[0]][0][0].shape[1]
    lengths = torch.tensor([min(steps, whole - k) for k in range(0, whole, steps)])

    def divided(values: Tensor) -> Tensor:
        room = values.new_zeros(len(lengths) * steps, values.shape[-1])
        room[:whole] = values[0]
        return room.view(len(lengths), steps, -1)

    values = {
        name: [[divided(each) for each in both] for both in trace[name]] for name in trace.names
    }
    return Trace(values, lengths)
