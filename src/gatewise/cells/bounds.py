"""The range of every value of a cell, by interval arithmetic on its graph; and the gates that follow from it.

Pre-activations, states and parameters are taken as unbounded. So a range holds for any weights and inputs,
and may be wider than what occurs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from gatewise.cells.language import Cell, Value, topological
from gatewise.cells.retention import retention

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)


def bounds(values: Iterable[Value]) -> dict[Value, Interval]:
    """The least and the greatest number that each value, and each value below it, can take."""
    found: dict[Value, Interval] = {}
    for value in topological(values):
        if value.op == "constant":
            found[value] = (value.number, value.number)
        elif value.op in _RULES:
            low, high = _RULES[value.op](*(found[arg] for arg in value.args))
            # x - maximum(x, y) is at most 0: the stabilised gates of an sLSTM are exp of that
            if value.op == "sub" and value.args[1].op == "maximum":
                high = min(high, 0.0) if value.args[0] in value.args[1].args else high
            found[value] = low, high
        else:
            found[value] = ANY
    return found


def gates_of(cell: Cell) -> tuple[str, ...]:
    """The names of the cell's gates: the values between 0 and 1, and those that multiply a state's old value."""
    ranges = bounds(cell.values.values())
    kept = {factor for factor in retention(cell).values() if factor is not None}
    return tuple(
        name
        for name, value in cell.values.items()
        if (value.op != "constant" and ranges[value][0] >= 0 and ranges[value][1] <= 1)
        or (value in kept and value.op != "constant")
    )


def _product(a: Interval, b: Interval) -> Interval:
    ends = [x * y if x and y else 0.0 for x in a for y in b]  # the values are finite: 0 × ∞ is 0
    return min(ends), max(ends)


def _quotient(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return ANY
    return _product(a, (1 / b[1], 1 / b[0]))


def _monotone(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    return lambda a: (function(a[0]), function(a[1]))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


_RULES: Mapping[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "div": _quotient,
    "neg": lambda a: (-a[1], -a[0]),
    "sigmoid": _monotone(_sigmoid),
    "tanh": _monotone(math.tanh),
    "relu": _monotone(lambda x: max(x, 0.0)),
    "exp": _monotone(_exp),
    "log": _monotone(_log),
    "softplus": _monotone(_softplus),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "greater": lambda a, b: (0.0, 1.0),
    "detach": lambda a: a,
}
