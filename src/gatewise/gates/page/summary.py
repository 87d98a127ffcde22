"""What a page says of a layer over all its sequences: orders of units, saturation, time scales, ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gatewise.cells.language import Cell
from gatewise.cells.retention import retention
from gatewise.errors import DataError
from gatewise.gates.page.strips import numbers
from gatewise.gates.statistics import LayerStatistics, gate_statistics
from gatewise.nn.trace import Trace

Array = np.ndarray

_MOST_STEPS = 20_000  # steps from which similarity is computed


def summary(cell: Cell | None, values: Mapping[str, Array]) -> dict[str, Any]:
    """The summary of a layer in one direction.

    Args:
        cell: the layer's cell, if it has one.
        values: for each name the values of all sequences, N×H.
    """
    state = main_state(cell, values)
    counted = _counted(cell, values)
    scales = {} if counted is None else counted.time_scale
    orders = {
        "activity": _sorted(-np.abs(values[state]).mean(0)),
        "similarity": _similar(values[state]),
    }
    if scales:
        first = next(iter(scales.values()))
        orders = {"time scale": _sorted(-np.nan_to_num(first, nan=-1.0, posinf=np.inf)), **orders}
    return {
        "shown": state,
        "orders": {name: order.tolist() for name, order in orders.items()},
        "saturation": {} if counted is None else _saturation(counted),
        "time_scales": {name: numbers(scale) for name, scale in scales.items()},
        "ranges": {name: _range(cell, name, value) for name, value in values.items()},
    }


def main_state(cell: Cell | None, values: Mapping[str, Array]) -> str:
    """The state by which units are compared: the one that a cell carries, else the last value."""
    if cell is not None:
        kept = retention(cell)
        carried = [name for name in cell.state if kept[name] is not None and name in values]
        first = [name for name in carried if name != cell.state[0]] or carried
        if first or cell.state[0] in values:
            return (first or [cell.state[0]])[0]
    return "c" if "c" in values else list(values)[-1]


def _counted(cell: Cell | None, values: Mapping[str, Array]) -> LayerStatistics | None:
    """The statistics of all steps, as if they were one sequence; None if a value is not finite, or where no
    cell says what a gate is."""
    if cell is None:
        return None
    steps = {name: [[torch.from_numpy(value)[None]]] for name, value in values.items()}
    try:
        (found,) = gate_statistics(Trace(steps, None, cell)).layers.values()
    except DataError:
        return None
    return found


def _saturation(counted: LayerStatistics) -> dict[str, dict[str, list[float | None]]]:
    """For each gate and unit the share of steps at which it is open (above .9) and closed (below .1)."""
    found = {}
    for gate in counted.gates:
        value = counted.values[gate]
        ends = {"open": value.high, "closed": value.low}
        found[gate] = {
            name: numbers(end / counted.steps) for name, end in ends.items() if end is not None
        }
    return found


def _sorted(key: Array) -> Array:
    return np.argsort(key, kind="stable")


def _similar(state: Array) -> Array:
    """The units, sorted by their angle in the plane of the two main components, so that neighbours are alike."""
    state = state[:: max(1, len(state) // _MOST_STEPS)].astype(np.float64)
    if min(state.shape) < 2 or not np.isfinite(state).all():
        return np.arange(state.shape[1])
    centred = state - state.mean()
    _, vectors = np.linalg.eigh(centred.T @ centred)
    sizes = np.linalg.norm(centred @ vectors[:, -2:], axis=0)
    angle = np.arctan2(vectors[:, -2] * sizes[0], vectors[:, -1] * sizes[1])
    order = np.argsort(angle, kind="stable")
    turns = np.diff(angle[order], append=angle[order[0]] + 2 * np.pi)
    return np.roll(order, -int(np.argmax(turns)) - 1)


def _range(cell: Cell | None, name: str, value: Array) -> dict[str, Any]:
    """The value of the last colour, and whether colours are for negative values too."""
    size = np.abs(value[np.isfinite(value)])
    most = float(size.max(initial=0.0)) or 1.0
    op = cell.values[name].op if cell is not None and name in cell.values else ""
    signed = op != "sigmoid" and (op == "tanh" or bool((value < 0).any()))
    if not signed and most <= 1:
        return {"bound": 1.0, "signed": False}
    bound = float(np.percentile(size, 99.5)) if len(size) else 1.0
    return {"bound": float(f"{bound or most:.3g}"), "signed": signed}
