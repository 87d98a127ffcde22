"""The directions of the layers of traced modules, one by one, and their steps without padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import DataError, OptionError, unknown
from gatewise.nn.trace import Trace

_MOST = 1 << 24
BARE = "model"  # the name of a recurrent layer that is the whole model


class Place(NamedTuple):
    """One direction of one layer of a recurrent module; ``direction`` 1 reads from the last step to the first."""

    module: str
    layer: int
    direction: int

    def __str__(self) -> str:
        return f"{self.module}, layer {self.layer}" + (", reverse" if self.direction else "")


@dataclass(frozen=True)
class DirectionTrace:
    """The trace of one direction of one layer, for some of the sequences.

    Attributes:
        trace: the trace of the module.
        place: the layer and the direction.
        rows: the sequences.
    """

    trace: Trace
    place: Place
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def cell(self) -> Cell | None:
        return self.trace.cell

    @property
    def names(self) -> tuple[str, ...]:
        return self.trace.names

    @property
    def output(self) -> str:
        """The name of the output: the cell's first state."""
        return self.cell.state[0] if self.cell is not None else "h"

    def value(self, name: str) -> Tensor:
        """B×T×H: a traced value, with its padding. The dimensions of an image are one, H.

        Raises:
            OptionError: there is no such value.
        """
        # a trace in a store reads the rows here
        return _of_place(self.trace[name], self.place)[self.rows].detach().flatten(2)

    @cached_property
    def valid(self) -> Tensor:
        """B×T booleans: the steps that are not padding."""
        value = _of_place(self.trace[self.names[0]], self.place)
        batch, steps = value.shape[:2]
        valid = torch.ones(batch, steps, dtype=torch.bool)
        if self.trace.lengths is not None:
            valid = torch.arange(steps) < torch.as_tensor(self.trace.lengths).cpu()[:, None]
        return valid[self.rows].to(getattr(value, "device", "cpu"))

    def parts(self) -> Iterator[DirectionTrace]:
        """The same trace in parts that have at most ``_MOST`` numbers of each value, if a sequence has not more."""
        batch, *rest = _of_place(self.trace[self.names[0]], self.place).shape
        size = max(1, _MOST // max(1, math.prod(rest)))
        for k in range(0, max(batch, 1), size):
            yield replace(self, rows=slice(k, k + size))

    def steps(self, name: str) -> Tensor:
        """N×H: the value at all steps that are not padding, one sequence after the other.

        Raises:
            DataError: it is infinite or NaN somewhere.
        """
        value = self.value(name)
        found = value if bool(self.valid.all()) else value[self.valid]
        found = found.reshape(-1, value.shape[2])
        if not bool(torch.isfinite(found.sum())) and not bool(torch.isfinite(found).all()):
            wrong = (~torch.isfinite(value)).any(2) & self.valid
            sequence, step = (int(k) for k in wrong.nonzero()[0])
            sequence += self.rows.start or 0
            raise DataError(
                f"'{name}' of {self.place} is infinite or NaN at step {step} of sequence {sequence} of the "
                f"batch: check the input there, and the weights"
            )
        return found


def as_mapping(traces: object) -> Mapping[str, Trace]:
    """The traces by module; those of a bare layer are under "model".

    Raises:
        OptionError: ``traces`` are no traces.
    """
    if isinstance(traces, Trace):
        return {BARE: traces}
    if isinstance(traces, Mapping) and all(isinstance(each, Trace) for each in traces.values()):
        return traces
    raise OptionError(
        f"expected traces, as gw.trace(model, x) or layer(x, trace=True) return them, not {type(traces).__name__}"
    )


def directions(traces: object) -> Iterator[DirectionTrace]:
    """Every direction of every layer of every module, in parts of some sequences if they are large.

    Raises:
        OptionError: ``traces`` are no traces.
    """
    for module, trace in as_mapping(traces).items():
        for layer, of_layer in enumerate(trace[trace.names[0]]):
            for direction in range(len(of_layer)):
                yield from DirectionTrace(trace, Place(module, layer, direction)).parts()


def one_direction(
    traces: object, module: str | None = None, layer: int = -1, direction: int = 0
) -> DirectionTrace:
    """One direction of one layer.

    Args:
        module: the name of the module; not needed if there is one only.
        layer: its index; -1 is the last one.

    Raises:
        OptionError: there is no such module, layer or direction.
    """
    known = as_mapping(traces)
    if module is None:
        if len(known) != 1:
            raise OptionError(f"module= must name one of the traced modules: {', '.join(known)}")
        module = next(iter(known))
    if module not in known:
        raise unknown("module", module, known)
    first = known[module][known[module].names[0]]
    for name, given, size in (
        ("layer", layer, len(first)),
        ("direction", direction, len(first[0])),
    ):
        if not -size <= given < size:
            raise OptionError(f"{name}={given} does not exist: {module} has {size}")
    place = Place(module, layer % len(first), direction % len(first[0]))
    return DirectionTrace(known[module], place)


def _of_place(value: list[list[Tensor]], place: Place) -> Tensor:
    return value[place.layer][place.direction]
