"""A cell's step and its derived gradient as lines of assignments, whatever the language they are for.

The time loop gives a step its sums ``a``, its states ``s`` and its parameters ``p``, and the way back
what was ``saved`` and the gradient ``seed`` of each new state; each is indexed with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological

# Saved in training rather than worked out again: each takes more time than a load.
_COSTLY = frozenset({"sigmoid", "tanh", "exp", "log", "softplus", "div"})

# The operations that both languages write between their arguments.
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Accumulator:
    """A sum that the time loop forms: a gate whole, or one of its two parts."""

    gate: str
    part: str  # "gate.x", "gate", "gate.h" or "late"


@dataclass(frozen=True)
class Layout:
    """What the time loop has to know of a cell; see csrc/cell.h.

    accumulators: those of input parts alone first, then whole gates, then recurrent parts alone or
        late gates.
    saved: the nodes whose values the backward step is given.
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
    """Which sums the loop forms for ``cell``, and what its training keeps of a step."""
    nodes = topological(cell.values.values())
    used = {(node.name, node.op) for node in nodes if node.op in ("gate", "gate.x", "gate.h")}
    apart = {name for name, op in used if op != "gate"}
    whole = {name for name, op in used if op == "gate"}

    def has(gate: str, part: str) -> bool:
        # a gate used both whole and in parts is formed in parts
        return (gate, part) in used or (gate in apart and gate in whole)

    accumulators = (
        *(Accumulator(g, "gate.x") for g in cell.gates if has(g, "gate.x") and g in apart),
        *(Accumulator(g, "gate") for g in cell.gates if g in whole - apart),
        *(Accumulator(g, "gate.h") for g in cell.gates if has(g, "gate.h") and g in apart),
        *(Accumulator(g, "late") for g in cell.late),
    )
    return Layout(accumulators, tuple(_kept(derive(cell).leaves.values(), cell)))


def _kept(gradients: Iterable[Value], cell: Cell) -> list[Value]:
    """The forward nodes that the gradients rest on and that are dear or impossible to work out."""
    forward = set(topological(cell.values.values()))

    def kept(value: Value) -> bool:
        return value in forward and (value.op in _COSTLY or value.op.startswith(("gate", "late")))

    def below(value: Value) -> tuple[Value, ...]:
        return () if kept(value) or value.op == "gradient.late" else value.args

    return [value for value in topological(gradients, below) if kept(value)]


@dataclass(frozen=True)
class Dialect:
    """How a language writes them: a line that names an expression, a number, an operation of
    arguments that are variables, and what stands for no gradient."""

    line: str
    number: Callable[[float], str]
    operation: Callable[[str, list[str]], str]
    nothing: str


@dataclass(frozen=True)
class Lines:
    """Lines that are run in order, and then what each result is, by its name and place."""

    lines: list[str]
    results: Mapping[str, list[str]]


def _leaves(cell: Cell, plan: Layout) -> dict[tuple[str, str], str]:
    """How the leaves of the forward graph are written, by operation and name."""
    written = {("state", name): f"s[{k}]" for k, name in enumerate(cell.state)}
    written |= {("parameter", name): f"p[{k}]" for k, name in enumerate(cell.params)}
    place = {(a.part, a.gate): f"a[{k}]" for k, a in enumerate(plan.accumulators)}
    written |= place
    for gate in cell.gates:
        if ("gate", gate) not in place and gate not in cell.late:
            parts = [place[part, gate] for part in ("gate.x", "gate.h") if (part, gate) in place]
            written["gate", gate] = f"({' + '.join(parts)})"
    return written


def early(cell: Cell, dialect: Dialect) -> Lines:
    """What the late gates are fed with."""
    printer = _Printer(dialect, _leaves(cell, layout(cell)))
    assert cell.late_value is not None
    return Lines(printer.lines, {"late": printer.print([cell.late_value])})


def step(cell: Cell, dialect: Dialect) -> Lines:
    """From the sums and states to the new states, what is saved, and every named value."""
    plan = layout(cell)
    printer = _Printer(dialect, _leaves(cell, plan))
    values = printer.print(cell.values.values())
    saved = printer.print(plan.saved)
    new = printer.print(cell.new_state)
    return Lines(printer.lines, {"next": new, "saved": saved, "value": values})


def back_late(cell: Cell, dialect: Dialect) -> Lines:
    """From the new states' gradients to those of the late gates' sums."""
    plan, gradient = layout(cell), derive(cell)
    if gradient.late is None:  # the gradient is cut before it reaches any
        return Lines([], {"da": [dialect.nothing] * len(cell.late)})
    printer = _back_printer(cell, dialect, plan, gradient)
    return Lines(printer.lines, {"da": printer.print(gradient.late.args)})


def back(cell: Cell, dialect: Dialect) -> Lines:
    """From the new states' gradients to those of the sums, the states and the parameters."""
    plan, gradient = layout(cell), derive(cell)
    printer = _back_printer(cell, dialect, plan, gradient)
    of = {(leaf.op, leaf.name): value for leaf, value in gradient.leaves.items()}
    printer.print(gradient.leaves.values())

    def sum_of(*leaves: tuple[str, str]) -> str:
        found = [printer.names[of[leaf]] for leaf in leaves if leaf in of]
        return " + ".join(found) or dialect.nothing

    def sums() -> Iterable[str]:
        for a in plan.accumulators:
            whole = a.part in ("gate", "late")
            leaves = [(a.part, a.gate)] if whole else [("gate", a.gate), (a.part, a.gate)]
            yield sum_of(*leaves)

    results = {
        "da": list(sums()),
        "ds": [sum_of(("state", name)) for name in cell.state],
        "dp": [sum_of(("parameter", name)) for name in cell.params],
    }
    return Lines(printer.lines, results)


def _back_printer(cell: Cell, dialect: Dialect, plan: Layout, gradient: Gradient) -> _Printer:
    names = {value: f"saved[{k}]" for k, value in enumerate(plan.saved)}
    if gradient.late is not None:
        names[gradient.late] = f"seed[{len(cell.state)}]"
    seeds = {("gradient", name): f"seed[{k}]" for k, name in enumerate(cell.state)}
    return _Printer(dialect, _leaves(cell, plan) | seeds, names)


class _Printer:
    """Lines that define every node asked for, each once."""

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
        """The names of these; the lines that they need are there then."""
        asked = list(values)
        for value in _needed(asked, self.names):
            if value.op == "constant":
                self.names[value] = self._dialect.number(value.number)
            elif value.op == "late" or not value.args:
                self.names[value] = self._leaves[value.op, value.name]
            else:
                self.names[value] = self._named(self._expression(value))
        return [self.names[value] for value in asked]

    def _named(self, expression: str) -> str:
        """The variable that holds ``expression``: one for all nodes that say the same."""
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
    """Every node that ``values`` rest on, each after its arguments, less what lies below ``given``."""

    def below(value: Value) -> list[Value]:
        return [] if value.op == "late" else [arg for arg in value.args if arg not in given]

    return topological((value for value in values if value not in given), below)
