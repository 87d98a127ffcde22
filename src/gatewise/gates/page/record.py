"""The data of a page: a record that is written as JSON, and one block of numbers."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.emit.diagram import boxes
from gatewise.emit.equations import formula
from gatewise.errors import OptionError, ShapeError
from gatewise.gates.directions import as_mapping
from gatewise.gates.page.strips import Strip
from gatewise.gates.page.summary import summary
from gatewise.nn.trace import Trace

Array = np.ndarray
Places = Sequence[
    tuple[Collection[str], int]
]  # the modules that read a sequence, its row in their traces

_MOST_EXACT = 1_500_000  # numbers of a page in float32; more are in float16, with three digits
_MOST_HALF = 65504.0


class PageData:
    """The traces as arrays, cut to the sequences' lengths.

    Attributes:
        parts: (module, layer, direction) of each layer.
        cells: the different cells.
        lengths: the steps of each sequence.

    Args:
        places: for each sequence the modules that read it, and its row in their traces. If not given, all
            modules read all sequences.
    """

    def __init__(
        self,
        given: Trace | Mapping[str, Trace],
        cells: Mapping[str, Cell | None],
        places: Places | None = None,
    ) -> None:
        traces = as_mapping(given)
        if not traces:
            raise OptionError(
                "there are no traces: the model has no recurrent layer whose gates could be shown"
            )
        self.traces = traces
        self.cell_of = {name: cells.get(name, own_cell(trace)) for name, trace in traces.items()}
        self.cells = list(dict.fromkeys(cell for cell in self.cell_of.values() if cell is not None))
        self.parts = [
            (name, layer, direction)
            for name, trace in traces.items()
            for layer, both in enumerate(trace[trace.names[0]])
            for direction in range(len(both))
        ]
        every = {name: _lengths(trace) for name, trace in traces.items()}
        self.places = _of_all(every) if places is None else places
        self.lengths = [every[next(iter(names))][row] for names, row in self.places]
        for k, steps in enumerate(self.lengths):
            if not steps:
                raise OptionError(
                    f"sequence {k} has no steps to show: leave it out (sequences are counted from 0)"
                )

    def values(self, part: tuple[str, int, int], sequence: int) -> dict[str, Array]:
        """T×H for each name; nothing if the part does not read this sequence."""
        module, layer, direction = part
        trace, steps = self.traces[module], self.lengths[sequence]
        names, row = self.places[sequence]
        if module not in names:
            return {}
        return {name: _array(trace[name][layer][direction][row, :steps]) for name in trace.names}

    def parts_of(self, sequence: int) -> list[tuple[str, int, int]]:
        """The parts that read a sequence."""
        return [part for part in self.parts if part[0] in self.places[sequence][0]]

    def record(
        self,
        strips: Sequence[Strip | None],
        predictions: Sequence[Strip | None],
        labels: Sequence[str],
        step_labels: Sequence[Sequence[str] | None],
    ) -> tuple[dict[str, Any], Array]:
        """The record, and the numbers."""
        given = dict(strips=strips, predictions=predictions, labels=labels, step_labels=step_labels)
        for what, each in given.items():
            if len(each) != len(self.lengths):
                raise ShapeError(
                    f"there are {len(each)} {what} for {len(self.lengths)} sequences; give one for each"
                )
        blocks: list[Array] = []
        sequences = []
        place = 0
        for k, steps in enumerate(self.lengths):
            for strip in (strips[k], predictions[k]):
                if strip is not None:
                    strip.check(steps)
            if (names := step_labels[k]) is not None and len(names) != steps:
                raise ShapeError(f"sequence {k} has {len(names)} step_labels and {steps} steps")
            places: list[dict[str, int]] = []
            for part in self.parts:
                places.append({})
                for name, value in self.values(part, k).items():
                    places[-1][name] = place
                    place += value.size
                    blocks.append(value.reshape(-1))
            sequences.append(
                {
                    "label": labels[k],
                    "steps": steps,
                    "step_labels": None if names is None else [str(name) for name in names],
                    "strip": _recorded(strips[k]),
                    "prediction": _recorded(predictions[k]),
                    "places": places,
                }
            )
        every = np.concatenate(blocks)
        record = {
            "precision": "float32",
            "count": len(every),
            "cells": [_cell(cell) for cell in self.cells],
            "parts": list(self._parts()),
            "sequences": sequences,
        }
        return record, every

    def _parts(self) -> Iterator[dict[str, Any]]:
        for part in self.parts:
            module, _, direction = part
            cell = self.cell_of[module]
            each = [found for k in range(len(self.lengths)) if (found := self.values(part, k))]
            joined = {name: np.concatenate([values[name] for values in each]) for name in each[0]}
            units = {name: value.shape[1] for name, value in joined.items()}
            yield {
                "label": self._label(part),
                "cell": None if cell is None else self.cells.index(cell),
                "backward": direction == 1,
                "units": units,
                "hidden": max(units.values()),
                **summary(cell, joined),
            }

    def _label(self, part: tuple[str, int, int]) -> str:
        module, layer, direction = part
        trace = self.traces[module]
        layers = trace[trace.names[0]]
        words = [module] if len(self.traces) > 1 or module != "model" else []
        words += [f"layer {layer}"] if len(layers) > 1 or not words else []
        words += ["backward" if direction else "forward"] if len(layers[layer]) > 1 else []
        return ", ".join(words)


def packed(numbers: Array) -> tuple[str, str]:
    """Numbers as text, base64 of gzip, in the order of bytes of the processors that browsers run on; and their
    precision, "float32", or "float16" where there are many."""
    half = len(numbers) > _MOST_EXACT and bool((np.abs(numbers) < _MOST_HALF).all())
    raw = numbers.astype("<f2" if half else "<f4").tobytes()
    text = base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")
    return text, "float16" if half else "float32"


def own_cell(trace: Trace) -> Cell | None:
    """The cell of a trace, where the trace knows it."""
    cell = getattr(trace, "cell", None)
    return cell if isinstance(cell, Cell) else None


def _cell(cell: Cell) -> dict[str, Any]:
    equations = {name: f"{name}[t] = {formula(cell, v)}" for name, v in cell.values.items()}
    return {"name": cell.name, "boxes": boxes(cell), "equations": equations}


def _recorded(strip: Strip | None) -> dict[str, Any] | None:
    return None if strip is None else strip.record()


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)


def _lengths(trace: Trace) -> list[int]:
    """The steps of each sequence of a trace."""
    batch, steps = trace[trace.names[0]][0][0].shape[:2]
    return [steps] * batch if trace.lengths is None else [int(n) for n in trace.lengths]


def _of_all(lengths: Mapping[str, list[int]]) -> Places:
    """The places of sequences that all modules read.

    Raises:
        ShapeError: two modules have different sequences.
    """
    first = next(iter(lengths))
    for name, each in lengths.items():
        if each != lengths[first]:
            raise ShapeError(
                f"the layers {first!r} and {name!r} ran over different steps, so they have no common page: "
                f"give the traces of one of them"
            )
    return [(tuple(lengths), row) for row in range(len(lengths[first]))]
