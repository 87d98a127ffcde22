"""Several calls of a module as one trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.backends.contract import valid_steps
from gatewise.errors import OptionError
from gatewise.nn.trace import Trace


def joined(name: str, traces: Sequence[Trace]) -> Trace:
    """The traces of a module's calls as one, the steps of a call after those of the call before. Padding
    between two calls is removed."""
    if len(traces) == 1:
        return traces[0]
    first = traces[0]
    batches = {len(trace[trace.names[0]][0][0]) for trace in traces}
    if len(batches) > 1 or any(trace.names != first.names for trace in traces):
        raise other_batch(name, *sorted(batches)[:2])
    calls = [trace[trace.names[0]][0][0].shape[1] for trace in traces]
    values = {
        value: [
            [torch.cat(each, 1) for each in zip(*of_layer, strict=True)]
            for of_layer in zip(*[trace[value] for trace in traces], strict=True)
        ]
        for value in first.names
    }
    if all(trace.lengths is None for trace in traces):
        return Trace(values, None, first.cell, calls=calls)
    parts = []
    for trace, steps in zip(traces, calls, strict=True):
        like = first[first.names[0]][0][0]
        lengths = like.new_full((len(like),), steps, dtype=torch.long)
        lengths = lengths if trace.lengths is None else trace.lengths
        parts.append(valid_steps(steps, lengths).T)
    valid = torch.cat(parts, 1)
    order = torch.sort((~valid).int(), dim=1, stable=True).indices

    def moved(value: Tensor) -> Tensor:
        index = order[(..., *[None] * (value.dim() - 2))].expand_as(value)
        return value.gather(1, index)

    values = {n: [[moved(v) for v in each] for each in of] for n, of in values.items()}
    return Trace(values, valid.sum(1), first.cell, calls=calls)


def other_batch(name: str, *batches: int) -> OptionError:
    """The error for calls whose numbers of sequences differ."""
    found = " and ".join(str(batch) for batch in batches)
    return OptionError(
        f"'{name}' is called several times, with {found} sequences; the calls are joined along time, so they "
        f"must have the same sequences: leave it out with modules="
    )
