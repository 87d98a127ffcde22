"""A cell as a flow chart: boxes that compute, and wires between them. It is derived from the cell's graph.

Operations of one variable become one box: ``4 * sigmoid(a) - 2`` is a box, not three. A function of a gate's
pre-activation is a *layer* box, which has the gate's weights. Its further terms, such as a peephole, are
wires into the box.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gatewise.cells.language import Cell, Value, topological
from gatewise.emit.equations import formula, function_of
from gatewise.errors import CellError

LAYER, POINT, FUNCTION = "layer", "point", "function"
_MOST = 250  # operations of a cell that has a diagram
_WEIGHTED = ("gate", "gate.x", "gate.h", "recurrent")
_SIGNS = {
    **{"mul": "×", "add": "+", "sub": "+", "div": "÷"},
    **{"greater": ">", "maximum": "max", "minimum": "min"},
}
_CARRYING = ("add", "sub", "mul", "div", "neg", "maximum", "minimum", "detach")
_LONGEST_LABEL = 8


@dataclass(frozen=True, eq=False)
class Port:
    """A state of the previous step."""

    name: str


@dataclass(frozen=True)
class Wire:
    """What a box reads: the result of ``source``. The ``label`` is a sign, or a weight by which it is multiplied."""

    source: Box | Port
    label: str = ""


@dataclass(eq=False)
class Box:
    """One computation of the flow chart.

    Attributes:
        kind: LAYER for a function of a pre-activation, POINT for an operation of two values, FUNCTION for a
            function of one.
        label: what it computes: "σ", "×", "1−".
        name: the name of its result in the cell, or "".
        value: its result in the cell's graph.
        equation: its result as a formula.
        wires: what it reads besides the taps.
        taps: what its weights multiply: "x", and names of previous states.
        linear: whether its result is linear in each of its wires.
    """

    kind: str
    label: str
    name: str
    value: Value
    equation: str
    wires: tuple[Wire, ...] = ()
    taps: tuple[str, ...] = ()
    linear: bool = False


@dataclass(frozen=True)
class Flow:
    """A cell's flow chart.

    Attributes:
        boxes: each after those that it reads.
        results: for each state its new value: a box, or the port of a state that is passed on.
        ports: the previous value of each state.
        roads: for each state that is carried from step to step by linear operations, the boxes it passes
            through. The cell state of an LSTM is one; the output of a GRU too.
    """

    cell: Cell
    boxes: tuple[Box, ...]
    results: Mapping[str, Box | Port]
    ports: Mapping[str, Port]
    roads: Mapping[str, tuple[Box, ...]]

    @cached_property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """The inputs of the layer boxes, "x" and states. Those that always go together share a line."""
        readers: dict[str, set[int]] = {}
        for at, box in enumerate(self.boxes):
            for tap in box.taps:
                readers.setdefault(tap, set()).add(at)
        groups: dict[frozenset[int], list[str]] = {}
        for name in (*self.cell.feedback, "x"):
            if name in readers:
                groups.setdefault(frozenset(readers[name]), []).append(name)
        return tuple(map(tuple, groups.values()))


def flow_of(cell: Cell) -> Flow:
    """The flow chart of a cell.

    Raises:
        CellError: the cell has too many operations for a diagram.
    """
    count = len(topological(cell.values.values()))
    if count > _MOST:
        raise CellError(
            f"cell '{cell.name}' has {count} operations; a diagram shows at most {_MOST}: leave the diagram "
            f"out, or draw a part of the cell as a cell of its own"
        )
    builder = _Builder(cell)
    results = {name: builder.source(cell.values[name]) for name in cell.state}
    for value in cell.values.values():
        builder.source(value)
    boxes = tuple(builder.boxes.values())
    roads: dict[str, tuple[Box, ...]] = {}
    for state in cell.state:
        road = _road(state, results[state], boxes)
        if road and not any(set(road) & set(other) for other in roads.values()):
            roads[state] = road
    return Flow(cell, boxes, results, builder.ports, roads)


@dataclass
class _Builder:
    cell: Cell
    boxes: dict[Value, Box] = field(default_factory=dict)  # in the order in which they are complete

    @cached_property
    def ports(self) -> dict[str, Port]:
        return {state: Port(state) for state in self.cell.state}

    @cached_property
    def names(self) -> dict[Value, str]:
        return {value: name for name, value in reversed(list(self.cell.values.items()))}

    @cached_property
    def uses(self) -> Counter[Value]:
        """How often a value is read, by other values or as a named result."""
        nodes = topological(self.cell.values.values())
        return Counter([arg for node in nodes for arg in node.args] + list(self.names))

    @cached_property
    def sums(self) -> dict[Value, list[tuple[Value, int]]]:
        """The terms of each sum of one pre-activation and something else, which layer boxes compute. What reads
        the pre-activation reads the whole sum."""
        nodes = topological(self.cell.values.values())
        inside = {
            arg
            for node in nodes
            if node.op in ("add", "sub")
            for arg in node.args
            if self.uses[arg] == 1 and arg not in self.names
        }
        found = {}
        for node in nodes:
            if node.op in ("add", "sub") and node not in inside:
                terms = [(t, s) for t, s in self._terms(node) if not _is_weight(t)]
                weighted = [term for term, _ in terms if term.op in _WEIGHTED]
                if len(weighted) == 1 and self.uses[weighted[0]] == 1 and len(terms) > 1:
                    found[node] = terms
        return found

    @cached_property
    def variables(self) -> dict[Value, frozenset[Value]]:
        """For each value the named values, states and pre-activations that it is a function of, as its readers
        see it: a named value is a function of itself."""
        found: dict[Value, frozenset[Value]] = {}
        for node in topological(self.cell.values.values()):
            own = node in self.names or node.op == "state" or self._is_preactivation(node)
            found[node] = frozenset([node]) if own else self._below(node, found)
        return found

    def _is_preactivation(self, node: Value) -> bool:
        return node.op in _WEIGHTED or node in self.sums

    def _below(self, node: Value, found: Mapping[Value, frozenset[Value]]) -> frozenset[Value]:
        return frozenset().union(*(found[arg] for arg in node.args))

    def source(self, value: Value) -> Box | Port:
        """The box or the port that has this value as its result."""
        if value.op == "state" and value not in self.names:
            return self.ports[value.name]
        if value not in self.boxes:
            box = self._box(value)
            self.boxes[value] = box
        return self.boxes[value]

    def _box(self, value: Value) -> Box:
        if self._is_preactivation(value):
            return self._layer(value, value)
        if value.op == "state":  # a new state that equals a previous one
            wire = Wire(self.ports[value.name])
            return self._made(FUNCTION, "=", value, (wire,), linear=True)
        below = self._below(value, self.variables)
        if len(below) == 1:
            (variable,) = below
            alone = variable not in self.names and self._read_only_by(variable, value)
            if self._is_preactivation(variable) and alone:
                return self._layer(value, variable)
            label = _short(function_of(self.cell, value, variable))
            wires: tuple[Wire, ...] = (Wire(self.source(variable)),)
            return self._made(
                FUNCTION, label, value, wires, linear=self._is_linear(value, variable)
            )
        arguments = [arg for arg in value.args if self.variables[arg]]
        if len(arguments) < 2:
            label = _short(formula(self.cell, value))
            if arguments:
                label = _short(function_of(self.cell, value, arguments[0]))
            wires = tuple(Wire(self.source(arg)) for arg in arguments)
            return self._made(FUNCTION, label, value, wires, linear=value.op in _CARRYING)
        second = {"sub": "−", "div": "÷", "greater": ">"}.get(value.op, "")
        wires = Wire(self.source(arguments[0])), Wire(self.source(arguments[1]), second)
        label = _SIGNS.get(value.op, value.op)
        return self._made(POINT, label, value, wires, linear=value.op in _CARRYING)

    def _made(
        self,
        kind: str,
        label: str,
        value: Value,
        wires: tuple[Wire, ...],
        taps: tuple[str, ...] = (),
        linear: bool = False,
    ) -> Box:
        name = self.names.get(value, "")
        return Box(kind, label, name, value, formula(self.cell, value), wires, taps, linear)

    def _is_linear(self, value: Value, variable: Value) -> bool:
        between = topological([value], lambda v: () if v is variable else v.args)
        return all(v is variable or v.op in (*_CARRYING, "constant", "parameter") for v in between)

    def _read_only_by(self, inner: Value, value: Value) -> bool:
        """Whether all that reads ``inner`` is part of the formula of ``value``."""
        inside = topological(
            [value], lambda v: () if v in self.names and v is not value else v.args
        )
        read = sum(arg is inner for node in inside for arg in node.args)
        return self.uses[inner] == read

    def _terms(self, value: Value, sign: int = 1) -> list[tuple[Value, int]]:
        """The terms of a sum, each with its sign."""
        if value.op not in ("add", "sub"):
            return [(value, sign)]
        left, right = value.args
        other = sign if value.op == "add" else -sign
        found = []
        for arg, its in ((left, sign), (right, other)):
            whole = arg in self.names or self.uses[arg] > 1
            found += [(arg, its)] if whole else self._terms(arg, its)
        return found

    def _layer(self, value: Value, inner: Value) -> Box:
        """The box of a function ``value`` of a pre-activation, which may have further terms."""
        wires: list[Wire] = []
        taps: tuple[str, ...] = ()
        for term, sign in self.sums.get(inner, [(inner, 1)]):
            if term.op in _WEIGHTED:
                taps = self._taps(term)
                if term.op == "recurrent":
                    wires.append(Wire(self.source(term.args[0]), f"U_{term.name}"))
            else:
                wires.append(self._term(term, sign))
        label = _product(value) if inner is value else _short(function_of(self.cell, value, inner))
        return self._made(LAYER, label, value, tuple(wires), taps)

    def _term(self, term: Value, sign: int) -> Wire:
        minus = "−" if sign < 0 else ""
        if term.op == "mul" and term not in self.names:
            for weight, read in (term.args, term.args[::-1]):
                if weight.op == "parameter" and self.variables[read]:
                    return Wire(self.source(read), minus + weight.name)
        return Wire(self.source(term), minus)

    def _taps(self, gate: Value) -> tuple[str, ...]:
        states = [s for s in self.cell.feedback if gate.name in self.cell.connections[s]]
        return {
            "gate": (*states, "x"),
            "gate.x": ("x",),
            "gate.h": tuple(states),
            "recurrent": ("x",),
        }[gate.op]


def _is_weight(value: Value) -> bool:
    """Whether the value is the same at every step."""
    leaves = (v for v in topological([value]) if not v.args)
    return all(leaf.op in ("constant", "parameter") for leaf in leaves)


_KNOWN = {
    "-softplus(-a)": "log σ",
    "softplus(-a)": "−log σ",
    "detach(a)": "stop",
    "greater(a, 0)": "> 0",
    "-a": "−",
}


def _short(function: str) -> str:
    """The label of a box for a function of a: "σ" for σ(a), "1−" for 1 - a, "ƒ" for a long one."""
    label = _KNOWN.get(function) or function.replace("(a)", "")
    label = re.sub(r"^(\S+) [·⊙] a$|^a [·⊙] (\S+)$", r"× \1\2", label)
    label = re.sub(r"^(\S+) ([-+]) a$", r"\1\2", label)
    label = re.sub(r"^a ([-+/]) (\S+)$", r"\1 \2", label)
    label = label.replace(" · ", "").replace(" - ", "−").replace("-", "−")
    return label if len(label) <= _LONGEST_LABEL else "ƒ"


def _product(value: Value) -> str:
    """The label of a pre-activation."""
    weights = {"gate": "a_{0}", "gate.x": "W_{0} x", "gate.h": "U_{0} h", "recurrent": "a_{0}"}
    return weights[value.op].format(value.name) if value.op in weights else "Σ"


def _road(state: str, result: Box | Port, boxes: tuple[Box, ...]) -> tuple[Box, ...]:
    """The shortest chain of linear boxes from the state's previous value to its new value."""
    reached: dict[Box, tuple[Box, ...]] = {}
    for box in boxes:
        if not box.linear:
            continue
        chains: list[tuple[Box, ...]] = []
        for wire in box.wires:
            if isinstance(wire.source, Port):
                chains += [()] if wire.source.name == state else []
            elif wire.source in reached:
                chains.append(reached[wire.source])
        if chains:
            reached[box] = (*min(chains, key=len), box)
    return reached.get(result, ()) if isinstance(result, Box) else ()
