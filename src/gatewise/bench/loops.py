"""Any cell as the Python loop that its user would write in torch today: the contenders ``loop`` and,
under torch.compile, ``compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gatewise.bench.problem import Problem, gatewise_layer
from gatewise.cells.language import Cell, Value, topological

_PYTHON = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "sigmoid": "torch.sigmoid({0})",
    "tanh": "torch.tanh({0})",
    "relu": "torch.relu({0})",
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "softplus": "torch.nn.functional.softplus({0})",
    "maximum": "torch.maximum({0}, {1})",
    "minimum": "torch.minimum({0}, {1})",
    "greater": "({0} > {1}).to(x.dtype)",
    "detach": "{0}.detach()",
}


class Loop(nn.Module):
    """A layer whose input product is taken for all steps at once, and whose steps are a loop."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.cell = problem.cell
        self.step = step_function(problem.cell)
        self.hidden_size = problem.shape.H
        for name, parameter in gatewise_layer(problem).named_parameters():
            self.register_parameter(name.removesuffix("_l0"), parameter)
        self.feedback = [self.cell.state.index(name) for name in self.cell.feedback]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        from_input = linear(x, self.weight_ih, self.bias_ih)
        per_unit = tuple(getattr(self, name) for name in self.cell.params)
        state = tuple(x.new_zeros(x.shape[1], self.hidden_size) for _ in self.cell.state)
        outputs = []
        for t in range(x.shape[0]):
            fed_back = torch.cat([state[k] for k in self.feedback], -1)
            from_state = linear(fed_back, self.weight_hh, self.bias_hh)
            state = self.step(from_input[t], from_state, state, per_unit)
            outputs.append(state[0])
        return torch.stack(outputs), state


def step_function(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    """The cell's equations as Python, of its gates' two parts, its states and its parameters."""
    scope: dict[str, Any] = {"torch": torch}
    exec(step_source(cell), scope)
    return scope["step"]


def step_source(cell: Cell) -> str:
    order = topological(cell.new_state)
    parts = any(value.op in ("gate.x", "gate.h") for value in order)
    lines = [f"{_tuple(f's_{name}' for name in cell.state)} = s"]
    if cell.params:
        lines.append(f"{_tuple(f'p_{name}' for name in cell.params)} = p")
    if parts:
        lines += [
            f"{_tuple(f'{k}_{g}' for g in cell.gates)} = {k}.chunk({len(cell.gates)}, -1)"
            for k in "xh"
        ]
    else:
        lines.append(
            f"{_tuple(f'a_{g}' for g in cell.gates)} = (x + h).chunk({len(cell.gates)}, -1)"
        )
    named: dict[Value, str] = {}
    for value in order:
        if value.args:
            named[value] = f"v{len(named)}"
            lines.append(f"{named[value]} = {_operation(value, named)}")
        else:
            named[value] = _leaf(value, parts)
    lines.append(f"return {_tuple(named[value] for value in cell.new_state)}")
    return "\n    ".join(["def step(x, h, s, p):", *lines])


def _tuple(names: Any) -> str:
    return f"({', '.join(names)},)"


def _leaf(value: Value, parts: bool) -> str:
    match value.op:
        case "constant":
            return repr(value.number)
        case "gate":
            return f"(x_{value.name} + h_{value.name})" if parts else f"a_{value.name}"
        case "state" | "parameter":
            return f"{value.op[0]}_{value.name}"
    return f"{value.op[-1]}_{value.name}"


def _operation(value: Value, named: dict[Value, str]) -> str:
    first, *rest = value.args
    if value.op in ("maximum", "minimum") and "constant" in (first.op, rest[0].op):
        tensor, number = (rest[0], first) if first.op == "constant" else (first, rest[0])
        bound = "min" if value.op == "maximum" else "max"
        return f"{named[tensor]}.clamp({bound}={named[number]})"
    return _PYTHON[value.op].format(*(named[arg] for arg in value.args))
