"""The language in which a cell is written: symbols, a graph of fifteen operations, and ``@cell``.

A cell is a Python function of its gates' pre-activations ``a`` and its previous state ``s`` (and of
its per-unit parameters ``p``, where it has any). Called once, on symbols, it leaves a graph of
:class:`Value`; every gradient, kernel, trace and formula in gatewise is derived from that graph.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gatewise.errors import CellError, near

# Each operation's number of arguments. All act element by element.
OPERATIONS: Mapping[str, int] = {
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,
    "neg": 1,
    "sigmoid": 1,
    "tanh": 1,
    "relu": 1,
    "exp": 1,
    "log": 1,
    "softplus": 1,
    "maximum": 2,
    "minimum": 2,
    "greater": 2,  # 1 where the first is the greater, else 0; has no gradient
    "detach": 1,  # the value itself; cuts the gradient
}

# What a graph begins with. "gate" is a whole pre-activation; "gate.x" and "gate.h" its two parts.
LEAVES = ("constant", "gate", "gate.x", "gate.h", "state", "parameter", "gradient")


@dataclass(frozen=True, eq=False)
class Value:
    """A node of a cell's graph: an operation on other nodes, or a leaf.

    A gate's pre-activation ``a.n`` is the sum of an input part ``a.n.x`` = W x + b and a recurrent
    part ``a.n.h`` = U h + b; a cell that treats the two apart, as the GRU does, uses these
    attributes.
    """

    op: str
    args: tuple[Value, ...] = ()
    name: str = ""
    number: float = 0.0

    @cached_property  # one leaf however often it is taken: its gradient is one sum
    def x(self) -> Value:
        return self._part("x")

    @cached_property
    def h(self) -> Value:
        return self._part("h")

    def _part(self, part: str) -> Value:
        if self.op != "gate":
            raise CellError(f"only a gate's pre-activation has .x and .h, this is a '{self.op}'")
        return Value(f"gate.{part}", name=self.name)

    def __add__(self, other: Operand) -> Value:
        return operate("add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return operate("add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return operate("sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return operate("sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return operate("mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return operate("mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return operate("div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return operate("div", other, self)

    def __neg__(self) -> Value:
        return operate("neg", self)

    def __bool__(self) -> bool:
        raise CellError(
            "a cell cannot branch on a value: its equations must be the same for every unit and "
            "step; use maximum, minimum or greater"
        )


Operand = Value | float | int


def constant(number: float) -> Value:
    return Value("constant", number=float(number))


def operate(op: str, *args: Operand) -> Value:
    """The node ``op(*args)``, with what is trivially zero or one folded away."""
    values = tuple(arg if isinstance(arg, Value) else _constant_argument(op, arg) for arg in args)
    folded = _folded(op, values)
    return Value(op, values) if folded is None else folded


def _constant_argument(op: str, arg: Any) -> Value:
    if isinstance(arg, (int, float)):
        return constant(arg)
    raise CellError(f"'{op}' takes the cell's values and plain numbers, not {type(arg).__name__}")


def _folded(op: str, args: tuple[Value, ...]) -> Value | None:
    def is_number(value: Value, number: float) -> bool:
        return value.op == "constant" and value.number == number

    match op, args:
        case "add", (a, b):
            return b if is_number(a, 0) else a if is_number(b, 0) else None
        case "sub", (a, b) if is_number(b, 0):
            return a
        case "mul", (a, b):
            if is_number(a, 0) or is_number(b, 1):
                return a
            return b if is_number(b, 0) or is_number(a, 1) else None
        case "div", (a, b) if is_number(b, 1):
            return a
    return None


def sigmoid(x: Operand) -> Value:
    """1 / (1 + exp(-x))."""
    return operate("sigmoid", x)


def tanh(x: Operand) -> Value:
    """Hyperbolic tangent."""
    return operate("tanh", x)


def relu(x: Operand) -> Value:
    """max(x, 0), with gradient 0 at 0, as torch has it."""
    return operate("relu", x)


def exp(x: Operand) -> Value:
    """Exponential."""
    return operate("exp", x)


def log(x: Operand) -> Value:
    """Natural logarithm."""
    return operate("log", x)


def softplus(x: Operand) -> Value:
    """log(1 + exp(x)); ``-softplus(-x)`` is the logarithm of ``sigmoid(x)``."""
    return operate("softplus", x)


def maximum(x: Operand, y: Operand) -> Value:
    """The greater of the two; equal ones share the gradient, as torch has it."""
    return operate("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Value:
    """The lesser of the two; equal ones share the gradient, as torch has it."""
    return operate("minimum", x, y)


def greater(x: Operand, y: Operand) -> Value:
    """1 where x > y, else 0. Its gradient is zero."""
    return operate("greater", x, y)


def detach(x: Operand) -> Value:
    """x itself, with the gradient cut, as in the truncated gradient of the 1997 paper."""
    return operate("detach", x)


def topological(outputs: Iterable[Value]) -> list[Value]:
    """Every node that ``outputs`` rest on, each after its arguments."""
    order: list[Value] = []
    seen: set[Value] = set()

    def visit(value: Value) -> None:
        if value in seen:
            return
        seen.add(value)
        for arg in value.args:
            visit(arg)
        order.append(value)

    for output in outputs:
        visit(output)
    return order


@dataclass(frozen=True, eq=False)
class Cell:
    """One step of a recurrent network, as a graph.

    Attributes:
        name: what it is called.
        gates: names of the pre-activations, in the order in which their weights are stacked.
        state: names of the states; the first is the output and, unless ``feedback`` says else, the
            one that is fed back through the recurrent weights.
        params: names of the parameters that each hidden unit has one of (a peephole, for example).
        feedback: states that are fed back through recurrent weights.
        values: every named value of a step, the new states among them, each after those it rests
            on.
        doc: the docstring of the function it was written as.

    Two cells are equal if their graphs and names are, whatever file they were written in.
    """

    name: str
    gates: tuple[str, ...]
    state: tuple[str, ...]
    params: tuple[str, ...]
    feedback: tuple[str, ...]
    values: Mapping[str, Value]
    doc: str = field(default="", repr=False)

    @property
    def new_state(self) -> tuple[Value, ...]:
        return tuple(self.values[name] for name in self.state)

    @cached_property
    def signature(self) -> str:
        """The cell as text: equal for equal cells, and a key for what is derived from it."""
        numbered: dict[Value, int] = {}
        lines = []
        for value in topological(self.values.values()):
            args = ",".join(str(numbered[arg]) for arg in value.args)
            lines.append(f"{value.op}({args}){value.name}:{value.number!r}")
            numbered[value] = len(numbered)
        named = ",".join(f"{name}={numbered[value]}" for name, value in self.values.items())
        heads = ("gates", "state", "params", "feedback")
        return "\n".join([*(f"{h}={' '.join(getattr(self, h))}" for h in heads), *lines, named])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {' '.join(self.gates)}, state {' '.join(self.state)}>"


class _Symbols:
    """The leaves that a cell's function is called on, as attributes."""

    def __init__(self, kind: str, op: str, names: tuple[str, ...]) -> None:
        self._kind = kind
        self._leaves = {name: Value(op, name=name) for name in names}

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._leaves:
            names = " ".join(self._leaves) or "none"
            raise CellError(
                f"no {self._kind} '{name}'{near(name, self._leaves)}; there are: {names}"
            )
        return self._leaves[name]


def cell(
    *, gates: str, state: str = "h", params: str = "", feedback: str = "", name: str | None = None
) -> Callable[[Callable[..., Mapping[str, Value]]], Cell]:
    """Make a cell of a function that states one step's equations.

    The function takes the gates' pre-activations (each W x + U h + b), the previous state and,
    where ``params`` names any, the per-unit parameters. It returns a mapping with every new state
    by its name; whatever else it holds can be traced and is named in the equations::

        @gw.cell(gates="i f g o", state="h c")
        def lstm(a, s):
            i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
            c = f * s.c + i * g
            return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))

    Args:
        gates: names of the pre-activations, separated by spaces, in the order of their weights.
        state: names of the states; the first is the layer's output.
        params: names of parameters of which each hidden unit has one.
        feedback: states that go through the recurrent weights; the first state if not given.
        name: the cell's name; the function's if not given.

    Raises:
        CellError: the definition does not hold together; the message says where.
    """

    def define(function: Callable[..., Mapping[str, Value]]) -> Cell:
        title = name or function.__name__
        names = {"gates": gates, "state": state, "params": params, "feedback": feedback}
        lists = {kind: tuple(text.split()) for kind, text in names.items()}
        lists["feedback"] = lists["feedback"] or lists["state"][:1]
        _check_names(title, lists)
        symbols = [
            _Symbols("gate", "gate", lists["gates"]),
            _Symbols("state", "state", lists["state"]),
        ]
        if lists["params"]:
            symbols.append(_Symbols("parameter", "parameter", lists["params"]))
        try:
            values = dict(function(*symbols))
        except CellError as error:
            raise CellError(f"cell '{title}': {error}") from error
        _check_values(title, lists, values)
        doc = inspect.getdoc(function) or ""
        return Cell(title, **lists, values=_in_order(values), doc=doc)

    return define


_NODE = re.compile(r"([a-z.]+)\(([\d,]*)\)(\w*):(\S+)")


def from_signature(name: str, text: str) -> Cell:
    """The cell of that name whose signature is ``text``.

    Raises:
        CellError: no cell has it.
    """
    try:
        cell = _parsed(name, text.split("\n"))
    except (AttributeError, CellError, IndexError, KeyError, TypeError, ValueError):
        cell = None
    if cell is None or not name.isidentifier() or cell.signature != text:
        raise CellError(f"these are not a cell's name and signature: {name!r}, {text!r}")
    return cell


def _parsed(name: str, lines: list[str]) -> Cell:
    lists = {kind: tuple(names.split()) for kind, names in (line.split("=") for line in lines[:4])}
    of = {"gate": "gates", "gate.x": "gates", "gate.h": "gates", "parameter": "params"}
    leaves = {op: lists[of.get(op, op)] for op in (*of, "state")} | {"constant": ("",)}
    nodes: list[Value] = []
    for line in lines[4:-1]:
        op, args, leaf, number = _NODE.fullmatch(line).groups()  # type: ignore[union-attr]
        given = tuple(nodes[int(k)] for k in args.split(",") if k)
        if len(given) != OPERATIONS[op] if given else leaf not in leaves[op]:
            raise CellError(f"'{line}' is no node of a cell's graph")
        nodes.append(Value(op, given, leaf, float(number)))
    places = (each.split("=") for each in lines[-1].split(","))
    values = {value: nodes[int(k)] for value, k in places}
    _check_names(name, lists)
    _check_values(name, lists, values)
    return Cell(name, **lists, values=values)  # type: ignore[arg-type]


def _check_names(title: str, lists: Mapping[str, tuple[str, ...]]) -> None:
    if not lists["gates"] or not lists["state"]:
        raise CellError(f"cell '{title}' needs at least one gate and one state")
    for kind, names in lists.items():
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise CellError(f"cell '{title}': {kind} '{name}' is repeated or not an identifier")
    for name in lists["feedback"]:
        if name not in lists["state"]:
            raise CellError(f"cell '{title}': feedback '{name}' is not one of its states")


def _check_values(
    title: str, lists: Mapping[str, tuple[str, ...]], values: Mapping[str, Value]
) -> None:
    for name in lists["state"]:
        if name not in values:
            raise CellError(f"cell '{title}' does not return its state '{name}'")
    for name, value in values.items():
        if not isinstance(value, Value):
            raise CellError(f"cell '{title}': '{name}' is {type(value).__name__}, not a value")
    used = {node.name for node in topological(values.values()) if node.op.startswith("gate")}
    for gate in lists["gates"]:
        if gate not in used:
            raise CellError(f"cell '{title}' declares the gate '{gate}' and never uses it")


def _in_order(values: Mapping[str, Value]) -> dict[str, Value]:
    place = {value: k for k, value in enumerate(topological(values.values()))}
    return dict(sorted(values.items(), key=lambda item: place[item[1]]))
