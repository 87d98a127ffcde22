"""Any cell as a Python loop in torch, as a user would write it: the contender ``loop`` and, with
torch.compile, the contender ``compile``."""

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
    """A layer with one input product for all steps, and a Python loop over the steps."""

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
        first_stage, second_stage = (
            self._product(gates) for gates in (_first_stage(self.cell), self.cell.second_stage)
        )
        outputs = []
        for t in range(x.shape[0]):
            from_state = None
            if first_stage is not None:
                from_state = first_stage(torch.cat([state[k] for k in self.feedback], -1))
            state = self.step(from_input[t], from_state, state, per_unit, second_stage)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def _product(self, gates: tuple[str, ...]) -> Callable[[Tensor], Tensor] | None:
        """The recurrent product of some gates, as a function of their recurrent input."""
        if not gates or not self.feedback:
            return None
        places = [self.cell.gates.index(gate) for gate in gates]
        weight, bias = (self._rows(of, places) for of in (self.weight_hh, self.bias_hh))
        return lambda fed: linear(fed, weight, bias)

    def _rows(self, of: Tensor, places: list[int]) -> Tensor:
        if len(places) == len(self.cell.gates):
            return of
        return torch.cat([of.split(self.hidden_size)[k] for k in places])


def _first_stage(cell: Cell) -> tuple[str, ...]:
    return tuple(gate for gate in cell.gates if gate not in cell.second_stage)


def step_function(cell: Cell) -> Callable[..., tuple[Tensor, ...]]:
    """The cell's equations as a Python function.

    Its arguments are the gates' input parts x and recurrent parts h (None where no gate has one), the states
    s, the parameters p and ``second_stage``, the recurrent product of the second stage's gates."""
    scope: dict[str, Any] = {"torch": torch}
    exec(step_source(cell), scope)
    return scope["step"]


def step_source(cell: Cell) -> str:
    order = topological(cell.new_state)
    parts = any(value.op in ("gate.x", "gate.h", "recurrent") for value in order)
    lines = [f"{_tuple(f's_{name}' for name in cell.state)} = s"]
    if cell.params:
        lines.append(f"{_tuple(f'p_{name}' for name in cell.params)} = p")
    if not parts:
        lines.append(_chunks("a", cell.gates, "(x + h)"))
    else:
        lines.append(_chunks("x", cell.gates, "x"))
        if cell.feedback and _first_stage(cell):
            lines.append(_chunks("h", _first_stage(cell), "h"))
    named: dict[Value, str] = {}
    for value in order:
        if not value.args:
            named[value] = _leaf(value, parts)
            continue
        if value.op == "recurrent" and not any(each.op == "recurrent" for each in named):
            lines.append(_chunks("l", cell.second_stage, f"second_stage({named[value.args[0]]})"))
        named[value] = f"v{len(named)}"
        lines.append(f"{named[value]} = {_operation(value, named)}")
    lines.append(f"return {_tuple(named[value] for value in cell.new_state)}")
    return "\n    ".join(["def step(x, h, s, p, second_stage):", *lines])


def _chunks(kind: str, gates: tuple[str, ...], of: str) -> str:
    return f"{_tuple(f'{kind}_{gate}' for gate in gates)} = {of}.chunk({len(gates)}, -1)"


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
    if value.op == "recurrent":
        return f"x_{value.name} + l_{value.name}"
    first, *rest = value.args
    if value.op in ("maximum", "minimum") and "constant" in (first.op, rest[0].op):
        tensor, number = (rest[0], first) if first.op == "constant" else (first, rest[0])
        bound = "min" if value.op == "maximum" else "max"
        return f"{named[tensor]}.clamp({bound}={named[number]})"
    return _PYTHON[value.op].format(*(named[arg] for arg in value.args))
