"""Reverse mode over a cell's graph: from the gradient of its new states to that of its leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gatewise.cells.language import Cell, Value, constant, greater, sigmoid, topological


@dataclass(frozen=True, eq=False)
class Gradient:
    """The backward step of a cell, as a graph over the forward one's nodes.

    Attributes:
        late: the leaf, if there are late gates, that stands for the gradient of what they are fed
            with: the product of their own gradients, its arguments, with their recurrent weights.
        seeds: for each state, the leaf that stands for the loss's gradient with respect to its new
            value.
        leaves: for each leaf of the forward graph that a gradient reaches, that gradient.
    """

    seeds: Mapping[str, Value]
    leaves: Mapping[Value, Value]
    late: Value | None = None


def derive(cell: Cell) -> Gradient:
    """The gradient of ``cell``, by reverse mode: one rule an operation, summed where paths meet."""
    seeds = {name: Value("gradient", name=name) for name in cell.state}
    gradients: dict[Value, Value] = {}

    def accumulate(value: Value, gradient: Value) -> None:
        known = gradients.get(value)
        gradients[value] = gradient if known is None else known + gradient

    for name in cell.state:
        accumulate(cell.values[name], seeds[name])
    late = None
    for value in reversed(topological(cell.new_state)):
        if value is cell.late_value:  # every late gate rests on it, so their gradients are complete
            late = _late_gradient(cell, gradients)
            accumulate(value, late)
        if not value.args or value.op == "late" or value not in gradients:
            continue
        for arg, gradient in zip(
            value.args, _RULES[value.op](value, gradients[value]), strict=True
        ):
            if gradient is not None and arg.op != "constant":
                accumulate(arg, gradient)
    leaves = {v: g for v, g in gradients.items() if v.op == "late" or not v.args}
    return Gradient(seeds, {v: g for v, g in leaves.items() if v.op != "constant"}, late)


def _late_gradient(cell: Cell, gradients: Mapping[Value, Value]) -> Value:
    of = {value.name: gradient for value, gradient in gradients.items() if value.op == "late"}
    return Value("gradient.late", tuple(of.get(gate, constant(0)) for gate in cell.late))


def _choice(first: bool) -> Callable[[Value, Value], tuple[Value, Value]]:
    """The rule of maximum (the first wins if it is greater) and of minimum (if it is less)."""

    def rule(y: Value, dy: Value) -> tuple[Value, Value]:
        a, b = y.args
        above, below = greater(a, b), greater(b, a)
        share = 0.5 * (1 + above - below) if first else 0.5 * (1 + below - above)
        return dy * share, dy * (1 - share)

    return rule


# For y = op(args) and the gradient dy of y: each argument's gradient, or None where it has none.
_RULES: Mapping[str, Callable[[Value, Value], tuple[Value | None, ...]]] = {
    "add": lambda y, dy: (dy, dy),
    "sub": lambda y, dy: (dy, -dy),
    "mul": lambda y, dy: (dy * y.args[1], dy * y.args[0]),
    "div": lambda y, dy: (dy / y.args[1], -dy * y / y.args[1]),
    "neg": lambda y, dy: (-dy,),
    "sigmoid": lambda y, dy: (dy * y * (1 - y),),
    "tanh": lambda y, dy: (dy * (1 - y * y),),
    "relu": lambda y, dy: (Value("passed", (dy, y.args[0])),),
    "exp": lambda y, dy: (dy * y,),
    "log": lambda y, dy: (dy / y.args[0],),
    "softplus": lambda y, dy: (dy * sigmoid(y.args[0]),),
    "maximum": _choice(first=True),
    "minimum": _choice(first=False),
    "greater": lambda y, dy: (None, None),
    "detach": lambda y, dy: (None,),
}
