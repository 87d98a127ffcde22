"""A cell's gradient: reverse-mode differentiation of its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gatewise.cells.language import Cell, Value, constant, greater, sigmoid, topological


@dataclass(frozen=True, eq=False)
class Gradient:
    """The backward pass of one step, as a graph that uses the nodes of the forward graph.

    Attributes:
        seeds: for each state, the leaf that stands for the loss's gradient with respect to the new
            state.
        leaves: the gradient of each leaf of the forward graph that a gradient reaches.
        second_stage_input: the node that stands for the gradient of the second stage's recurrent
            input, or None. The time loop computes it: the gradients of that stage's gates, which
            are the node's arguments, times the gates' recurrent weights.
    """

    seeds: Mapping[str, Value]
    leaves: Mapping[Value, Value]
    second_stage_input: Value | None = None


def derive(cell: Cell) -> Gradient:
    """The gradient of ``cell``. Each operation has one rule; gradients add up where paths meet."""
    seeds = {name: Value("gradient", name=name) for name in cell.state}
    gradients: dict[Value, Value] = {}

    def accumulate(value: Value, gradient: Value) -> None:
        known = gradients.get(value)
        gradients[value] = gradient if known is None else known + gradient

    for name in cell.state:
        accumulate(cell.values[name], seeds[name])
    second_stage_input = None
    for value in reversed(topological(cell.new_state)):
        if value is cell.second_stage_input:  # its gates depend on it: their gradients are complete
            second_stage_input = _second_stage_gradient(cell, gradients)
            accumulate(value, second_stage_input)
        if not value.args or value.op == "recurrent" or value not in gradients:
            continue
        for arg, gradient in zip(
            value.args, _RULES[value.op](value, gradients[value]), strict=True
        ):
            if gradient is not None and arg.op != "constant":
                accumulate(arg, gradient)
    leaves = {v: g for v, g in gradients.items() if v.op == "recurrent" or not v.args}
    return Gradient(
        seeds, {v: g for v, g in leaves.items() if v.op != "constant"}, second_stage_input
    )


def _second_stage_gradient(cell: Cell, gradients: Mapping[Value, Value]) -> Value:
    by_gate = {v.name: gradient for v, gradient in gradients.items() if v.op == "recurrent"}
    return Value(
        "gradient.recurrent", tuple(by_gate.get(gate, constant(0)) for gate in cell.second_stage)
    )


def _choice(first: bool) -> Callable[[Value, Value], tuple[Value, Value]]:
    """The rule of maximum (``first``: the first argument counts if it is greater) or of minimum."""

    def rule(y: Value, dy: Value) -> tuple[Value, Value]:
        a, b = y.args
        above, below = greater(a, b), greater(b, a)
        share = 0.5 * (1 + above - below) if first else 0.5 * (1 + below - above)
        return dy * share, dy * (1 - share)

    return rule


# For y = op(args) and the gradient dy of y: the gradient of each argument, or None for none.
_RULES: Mapping[str, Callable[[Value, Value], tuple[Value | None, ...]]] = {
    "add": lambda y, dy: (dy, dy),
    "sub": lambda y, dy: (dy, -dy),
    "mul": lambda y, dy: (dy * y.args[1], dy * y.args[0]),
    "div": lambda y, dy: (dy / y.args[1], -dy * y / y.args[1]),
    "neg": lambda y, dy: (-dy,),
    "sigmoid": lambda y, dy: (dy * y * (1 - y),),
    "tanh": lambda y, dy: (dy * (1 - y * y),),
    "relu": lambda y, dy: (Value("relu_backward", (dy, y.args[0])),),
    "exp": lambda y, dy: (dy * y,),
    "log": lambda y, dy: (dy / y.args[0],),
    "softplus": lambda y, dy: (dy * sigmoid(y.args[0]),),
    "maximum": _choice(first=True),
    "minimum": _choice(first=False),
    "greater": lambda y, dy: (None, None),
    "detach": lambda y, dy: (None,),
}
