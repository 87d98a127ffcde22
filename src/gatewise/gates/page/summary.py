"""What a page says of a layer over all its sequences: orders of units, saturation, time scales, ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gatewise.cells.language import Cell
from gatewise.emit.diagram import retained
from gatewise.gates.page.strips import numbers

Array = np.ndarray

OPEN, CLOSED = 0.9, 0.1  # a gate is saturated above and below
_MOST_STEPS = 20_000  # steps from which similarity is computed


def summary(cell: Cell | None, values: Mapping[str, Array]) -> dict[str, Any]:
    """The summary of a layer in one direction.

    Args:
        cell: the layer's cell, if it has one.
        values: for each name the values of all sequences, N×H.
    """
    state = main_state(cell, values)
    gates = [name for name in values if is_gate(cell, name, values[name])]
    scales = time_scales(cell, values)
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
        "saturation": {
            name: {
                "open": numbers((values[name] > OPEN).mean(0)),
                "closed": numbers((values[name] < CLOSED).mean(0)),
            }
            for name in gates
        },
        "time_scales": {name: numbers(scale) for name, scale in scales.items()},
        "ranges": {name: _range(cell, name, value) for name, value in values.items()},
    }


def main_state(cell: Cell | None, values: Mapping[str, Array]) -> str:
    """The state by which units are compared: the one that a cell carries, else the last value."""
    if cell is not None:
        carried = [name for name in retained(cell) if name in values]
        first = [name for name in carried if name != cell.state[0]] or carried
        if first or cell.state[0] in values:
            return (first or [cell.state[0]])[0]
    return "c" if "c" in values else list(values)[-1]


def is_gate(cell: Cell | None, name: str, value: Array) -> bool:
    """Whether a value is a gate: the result of a sigmoid. A cell's state is none, whatever its range."""
    if cell is not None and name in cell.values:
        return cell.values[name].op == "sigmoid"
    return name not in ("c", "h", "n") and bool(((value >= 0) & (value <= 1)).all())


def time_scales(cell: Cell | None, values: Mapping[str, Array]) -> dict[str, Array]:
    """For each state that the cell carries, and each unit, T = -1 / mean(ln f) in steps, where f is what
    multiplies the state at a step: infinite where it keeps everything, 0 where a step clears it. States that
    nothing multiplies are left out."""
    found = {}
    for state, factor in retained(cell).items() if cell is not None else ():
        if not isinstance(factor, list) or (kept := _evaluated(factor, values)) is None:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = -1 / np.log(np.abs(kept)).mean(0)
        found[state] = np.where(scale == 0, 0.0, scale)  # and not -0
    return found


def _evaluated(formula: Any, values: Mapping[str, Array]) -> Array | None:
    """The value of a formula of ``retained``, N×H, or None where it needs what is not traced."""
    if not isinstance(formula, list):
        return None if formula is None else np.asarray(formula)
    op, *args = formula
    if op == "now":
        return values[args[0]].astype(np.float64) if args[0] in values else None
    if len(args) != 2:
        return None
    left, right = (_evaluated(arg, values) for arg in args)
    operations: dict[str, Callable[[Array, Array], Array]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
    }
    if op not in operations or left is None or right is None:
        return None
    return operations[op](left, right)


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
