"""A cell's step and its gradient as lines of assignments, for any language.

The time loop gives a step its pre-activations ``a``, its states ``s`` and its parameters ``p``. It
gives the backward step the ``saved`` activations and the gradient ``seed`` of each new state. Each is
an array; the index is the position in the cell's lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological

# Operations whose results training saves. To compute one again takes longer than to load it.
_COSTLY = frozenset({"sigmoid", "tanh", "exp", "log", "softplus", "div"})

# The operations that every language writes between their arguments.
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Accumulator:
    """A pre-activation that the time loop computes: a whole gate, or one of its two parts."""

    gate: str
    part: str  # "gate.x", "gate", "gate.h" or "recurrent"


@dataclass(frozen=True)
class Layout:
    """What the time loop must know of a cell; see csrc/cell.h.

    Attributes:
        accumulators: first the input parts, then the whole gates, then the recurrent parts or the
            gates of the second stage.
        saved: the nodes whose values are saved for the backward step.
    """

    accumulators: tuple[Accumulator, ...]
    saved: tuple[Value, ...]

    @property
    def from_input(self) -> int:
        return sum(a.part != "gate.h" for a in self.accumulators)

    @property
    def from_state(self) -> int:
        return sum(a.part != "gate.x" for a in self.accumulators)


def layout(cell: Cell) -> Layout:
    """The accumulators of ``cell``, and the values that training saves at each step."""
    nodes = topological(cell.values.values())
    used = {(node.name, node.op) for node in nodes if node.op in ("gate", "gate.x", "gate.h")}
    apart = {name for name, op in used if op != "gate"}
    whole = {name for name, op in used if op == "gate"}

    def has(gate: str, part: str) -> bool:
        # a gate that is used both whole and in parts is computed in parts
        return (gate, part) in used or (gate in apart and gate in whole)

    accumulators = (
        *(Accumulator(g, "gate.x") for g in cell.gates if has(g, "gate.x") and g in apart),
        *(Accumulator(g, "gate") for g in cell.gates if g in whole - apart),
        *(Accumulator(g, "gate.h") for g in cell.gates if has(g, "gate.h") and g in apart),
        *(Accumulator(g, "recurrent") for g in cell.second_stage),
    )
    return Layout(accumulators, tuple(_saved(derive(cell).leaves.values(), cell)))


def _saved(gradients: Iterable[Value], cell: Cell) -> list[Value]:
    """The forward nodes that the gradients depend on and that are costly or impossible to recompute."""
    forward = set(topological(cell.values.values()))

    def is_saved(value: Value) -> bool:
        computed_in_loop = value.op.startswith(("gate", "recurrent"))
        return value in forward and (computed_in_loop or value.op in _COSTLY)

    def arguments(value: Value) -> tuple[Value, ...]:
        return () if is_saved(value) or value.op == "gradient.recurrent" else value.args

    return [value for value in topological(gradients, arguments) if is_saved(value)]


@dataclass(frozen=True)
class Dialect:
    """How a language writes the lines."""

    line: str  # an assignment, with places for the variable and the expression
    number: Callable[[float], str]
    operation: Callable[[str, list[str]], str]  # of an operation's name and its arguments
    zero: str  # the gradient of what no gradient reaches


@dataclass(frozen=True)
class Lines:
    """Lines in the order in which they run, and the expressions of each result's elements."""

    lines: list[str]
    results: Mapping[str, list[str]]


def _leaves(cell: Cell, plan: Layout) -> dict[tuple[str, str], str]:
    """The expression of each leaf of the forward graph, by operation and name."""
    written = {("state", name): f"s[{k}]" for k, name in enumerate(cell.state)}
    written |= {("parameter", name): f"p[{k}]" for k, name in enumerate(cell.params)}
    place = {(a.part, a.gate): f"a[{k}]" for k, a in enumerate(plan.accumulators)}
    written |= place
    for gate in cell.gates:
        if ("gate", gate) not in place and gate not in cell.second_stage:
            parts = [place[part, gate] for part in ("gate.x", "gate.h") if (part, gate) in place]
            written["gate", gate] = f"({' + '.join(parts)})"
    return written


def second_stage_input(cell: Cell, dialect: Dialect) -> Lines:
    """From the pre-activations and states to the second stage's recurrent input."""
    printer = _Printer(dialect, _leaves(cell, layout(cell)))
    assert cell.second_stage_input is not None
    return Lines(printer.lines, {"input": printer.print([cell.second_stage_input])})


def step(cell: Cell, dialect: Dialect) -> Lines:
    """From the pre-activations and states to the new states, the saved and the named values."""
    plan = layout(cell)
    printer = _Printer(dialect, _leaves(cell, plan))
    values = printer.print(cell.values.values())
    saved = printer.print(plan.saved)
    new = printer.print(cell.new_state)
    return Lines(printer.lines, {"next": new, "saved": saved, "value": values})


def second_stage_backward(cell: Cell, dialect: Dialect) -> Lines:
    """From the new states' gradients to those of the second stage's pre-activations."""
    plan, gradient = layout(cell), derive(cell)
    if gradient.second_stage_input is None:  # no gradient reaches the second stage
        return Lines([], {"da": [dialect.zero] * len(cell.second_stage)})
    printer = _backward_printer(cell, dialect, plan, gradient)
    return Lines(printer.lines, {"da": printer.print(gradient.second_stage_input.args)})


def backward(cell: Cell, dialect: Dialect) -> Lines:
    """From the new states' gradients to those of the pre-activations, states and parameters."""
    plan, gradient = layout(cell), derive(cell)
    printer = _backward_printer(cell, dialect, plan, gradient)
    of = {(leaf.op, leaf.name): value for leaf, value in gradient.leaves.items()}
    printer.print(gradient.leaves.values())

    def sum_of(*leaves: tuple[str, str]) -> str:
        found = [printer.names[of[leaf]] for leaf in leaves if leaf in of]
        return " + ".join(found) or dialect.zero

    def pre_activations() -> Iterable[str]:
        for a in plan.accumulators:
            whole = a.part in ("gate", "recurrent")
            leaves = [(a.part, a.gate)] if whole else [("gate", a.gate), (a.part, a.gate)]
            yield sum_of(*leaves)

    results = {
        "da": list(pre_activations()),
        "ds": [sum_of(("state", name)) for name in cell.state],
        "dp": [sum_of(("parameter", name)) for name in cell.params],
    }
    return Lines(printer.lines, results)


def _backward_printer(cell: Cell, dialect: Dialect, plan: Layout, gradient: Gradient) -> _Printer:
    names = {value: f"saved[{k}]" for k, value in enumerate(plan.saved)}
    if gradient.second_stage_input is not None:
        names[gradient.second_stage_input] = f"seed[{len(cell.state)}]"
    seeds = {("gradient", name): f"seed[{k}]" for k, name in enumerate(cell.state)}
    return _Printer(dialect, _leaves(cell, plan) | seeds, names)


class _Printer:
    """Collects lines that define every requested node, each once."""

    def __init__(
        self,
        dialect: Dialect,
        leaves: Mapping[tuple[str, str], str],
        names: Mapping[Value, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.names: dict[Value, str] = dict(names or {})
        self._dialect = dialect
        self._leaves = leaves
        self._known: dict[str, str] = {}

    def print(self, values: Iterable[Value]) -> list[str]:
        """The names of ``values``. Adds the lines that define them."""
        requested = list(values)
        for value in _needed(requested, self.names):
            if value.op == "constant":
                self.names[value] = self._dialect.number(value.number)
            elif value.op == "recurrent" or not value.args:
                self.names[value] = self._leaves[value.op, value.name]
            else:
                self.names[value] = self._named(self._expression(value))
        return [self.names[value] for value in requested]

    def _named(self, expression: str) -> str:
        """The variable that holds ``expression``. Nodes with equal expressions have one variable."""
        if expression not in self._known:
            self._known[expression] = f"v{len(self._known)}"
            self.lines.append(self._dialect.line.format(self._known[expression], expression))
        return self._known[expression]

    def _expression(self, value: Value) -> str:
        args = [self.names[arg] for arg in value.args]
        if value.op in INFIX:
            return f" {INFIX[value.op]} ".join(args)
        if value.op == "neg":
            return f"-{args[0]}"
        return args[0] if value.op == "detach" else self._dialect.operation(value.op, args)


def _needed(values: Iterable[Value], given: Mapping[Value, str]) -> list[Value]:
    """Every node that ``values`` depend on, each after its arguments; ``given`` nodes are known."""

    def arguments(value: Value) -> list[Value]:
        return [] if value.op == "recurrent" else [arg for arg in value.args if arg not in given]

    return topological((value for value in values if value not in given), arguments)
