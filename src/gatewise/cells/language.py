"""The language in which a cell is written: symbols, a graph of operations, and ``@cell``.

A cell is a Python function of its gates' pre-activations ``a``, its previous state ``s`` and, where
it has any, its per-unit parameters ``p``. ``@cell`` calls the function once, on symbols. The result
is a graph of :class:`Value`. Every gradient, kernel, trace and formula is derived from that graph.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gatewise.errors import CellError, near

# Each operation's number of arguments. All operations are element-wise.
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
    "greater": 2,  # 1 where the first argument is greater, else 0; its gradient is zero
    "detach": 1,  # the argument itself; stops the gradient
}

# A graph's leaves are "constant", "state", "parameter", "gate" (a whole pre-activation, W x + U h + b),
# "gate.x" and "gate.h" (its input part and its recurrent part). A "recurrent" node is a whole
# pre-activation too; its recurrent input is its argument and not the previous state.
#
# Gradients add three operations. "gradient" is the gradient of a new state. "gradient.recurrent" is
# the gradient of the recurrent input of the second stage; its arguments are the gradients of that
# stage's gates. "relu_backward" has two arguments, the gradient of relu's result and relu's argument,
# and gives the first where the second is above 0 or NaN, else 0. It selects and does not multiply,
# because infinity times 0 is NaN.


@dataclass(frozen=True, eq=False)
class Value:
    """A node of a cell's graph: an operation on other nodes, or a leaf.

    A gate's pre-activation ``a.n`` is the sum of an input part ``a.n.x`` = W x + b and a recurrent
    part ``a.n.h`` = U h + b. A cell that needs the two parts separately, as the GRU does, uses these
    attributes. ``a.n.recurrent(q)`` is W x + U q + b: the recurrent input is q, a value of the same
    step, and not the previous state.
    """

    op: str
    args: tuple[Value, ...] = ()
    name: str = ""
    number: float = 0.0

    @cached_property  # cached, so that all uses are one leaf and its gradient is one sum
    def x(self) -> Value:
        return self._part("x")

    @cached_property
    def h(self) -> Value:
        return self._part("h")

    def _part(self, part: str) -> Value:
        if self.op != "gate":
            raise CellError(f"only a gate's pre-activation has .{part}; this value is '{self.op}'")
        return Value(f"gate.{part}", name=self.name)

    def recurrent(self, value: Value) -> Value:
        """The pre-activation W x + U q + b, where q is ``value``, a value of the same step.

        The GRU of 2014 computes its candidate so, with q = r * h.
        """
        if self.op != "gate":
            raise CellError(
                f"only a gate's pre-activation has .recurrent; this value is '{self.op}'"
            )
        if not isinstance(value, Value):
            raise CellError(
                f".recurrent takes a value of the cell, such as r * s.h, not {type(value).__name__}"
            )
        return Value("recurrent", (value,), self.name)

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
            "a cell cannot branch on a value, because its equations are the same for every unit and "
            "step; use maximum, minimum or greater instead"
        )


Operand = Value | float | int


def constant(number: float) -> Value:
    return Value("constant", number=float(number))


def operate(op: str, *args: Operand) -> Value:
    """The node ``op(*args)``. Sums with 0 and products with 0 or 1 are simplified."""
    values = tuple(arg if isinstance(arg, Value) else _constant_argument(op, arg) for arg in args)
    folded = _folded(op, values)
    return Value(op, values) if folded is None else folded


def _constant_argument(op: str, arg: Any) -> Value:
    if isinstance(arg, (int, float)):
        return constant(arg)
    raise CellError(f"'{op}' takes values of the cell and plain numbers, not {type(arg).__name__}")


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
    """max(x, 0). Its gradient at 0 is 0, as in torch."""
    return operate("relu", x)


def exp(x: Operand) -> Value:
    """Exponential."""
    return operate("exp", x)


def log(x: Operand) -> Value:
    """Natural logarithm."""
    return operate("log", x)


def softplus(x: Operand) -> Value:
    """log(1 + exp(x)). ``-softplus(-x)`` is the logarithm of ``sigmoid(x)``."""
    return operate("softplus", x)


def maximum(x: Operand, y: Operand) -> Value:
    """The greater of the two. Where they are equal, each has half of the gradient, as in torch."""
    return operate("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Value:
    """The lesser of the two. Where they are equal, each has half of the gradient, as in torch."""
    return operate("minimum", x, y)


def greater(x: Operand, y: Operand) -> Value:
    """1 where x > y, else 0. Its gradient is zero."""
    return operate("greater", x, y)


def detach(x: Operand) -> Value:
    """x itself. No gradient passes, as in the truncated gradient of the 1997 paper."""
    return operate("detach", x)


def topological(
    outputs: Iterable[Value], arguments: Callable[[Value], Iterable[Value]] = lambda v: v.args
) -> list[Value]:
    """Every node that ``outputs`` depend on, each after its ``arguments``.

    The search is depth first. It does not recurse, because a graph may be deeper than Python's stack.
    """
    order: list[Value] = []
    seen: set[Value] = set()
    for output in outputs:
        path = [] if output in seen else [(output, iter(arguments(output)))]
        seen.add(output)
        while path:
            value, rest = path[-1]
            new = next((arg for arg in rest if arg not in seen), None)
            if new is None:
                order.append(value)
                path.pop()
            else:
                seen.add(new)
                path.append((new, iter(arguments(new))))
    return order


# The lists that a cell's signature begins with. "connections" follows them.
_LISTS = ("gates", "state", "params", "feedback", "shared_gates", "coupled_states")


@dataclass(frozen=True, eq=False)
class Cell:
    """One step of a recurrent network, as a graph.

    Two cells are equal if their names and graphs are equal, whatever files they were written in.

    Attributes:
        name: the cell's name.
        gates: names of the pre-activations, in the order in which their weights are stacked.
        state: names of the states. The first is the output. It is also the recurrent input, unless
            ``feedback`` names other states.
        params: names of the per-unit parameters, such as peephole weights: one number for each unit.
        feedback: the states that the recurrent weights multiply; none where no gate has a recurrent
            part.
        values: every named value of a step, the new states included. Each comes after those that it
            depends on.
        connections: for each feedback state, the gates whose recurrent weights multiply it; nearly
            always all gates.
        shared_gates: gates that all cells of a block share, where a layer has blocks.
        coupled_states: states whose values have a meaning only jointly.
        doc: the docstring of the cell's function.
    """

    name: str
    gates: tuple[str, ...]
    state: tuple[str, ...]
    params: tuple[str, ...]
    feedback: tuple[str, ...]
    values: Mapping[str, Value]
    connections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared_gates: tuple[str, ...] = ()
    coupled_states: tuple[str, ...] = ()
    doc: str = field(default="", repr=False)

    @property
    def new_state(self) -> tuple[Value, ...]:
        return tuple(self.values[name] for name in self.state)

    @cached_property
    def second_stage(self) -> tuple[str, ...]:
        """The gates whose recurrent input is a value of the same step: ``a.n.recurrent(q)``.

        Their products can start only when q is known, so a step has two stages of products. All
        gates of the second stage have the same q.
        """
        return tuple(gate for gate in self.gates if gate in self._second_stage)

    @property
    def second_stage_input(self) -> Value | None:
        """The recurrent input of the second stage, or None for a cell of one stage."""
        return next((node.args[0] for node in self._second_stage.values()), None)

    @cached_property
    def _second_stage(self) -> dict[str, Value]:
        nodes = topological(self.values.values())
        return {node.name: node for node in nodes if node.op == "recurrent"}

    @cached_property
    def signature(self) -> str:
        """The cell as text. Equal cells have equal signatures; caches use it as a key."""
        numbered: dict[Value, int] = {}
        lines = []
        for value in topological(self.values.values()):
            args = ",".join(str(numbered[arg]) for arg in value.args)
            lines.append(f"{value.op}({args}){value.name}:{value.number!r}")
            numbered[value] = len(numbered)
        named = ",".join(f"{name}={numbered[value]}" for name, value in self.values.items())
        lists = {head: getattr(self, head) for head in _LISTS}
        lists["connections"] = [
            f"{name}:{','.join(gates)}" for name, gates in self.connections.items()
        ]
        heads = [f"{head}={' '.join(names)}" for head, names in lists.items()]
        return "\n".join([*heads, *lines, named])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)

    def __copy__(self) -> Cell:
        return self  # a cell is immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        return self

    def __reduce__(self) -> Any:
        return _restored, (self.name, self.signature, self.doc)

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {' '.join(self.gates)}, state {' '.join(self.state)}>"


class _Symbols:
    """The leaves of one kind, as attributes. A cell's function is called on them."""

    def __init__(self, kind: str, op: str, names: tuple[str, ...]) -> None:
        self._kind = kind
        self._leaves = {name: Value(op, name=name) for name in names}

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._leaves:
            names = " ".join(self._leaves) or "none"
            raise CellError(
                f"the cell has no {self._kind} '{name}'{near(name, self._leaves)}; it has: {names}"
            )
        return self._leaves[name]


def cell(
    *,
    gates: str,
    state: str = "h",
    params: str = "",
    feedback: str | Mapping[str, str] = "",
    shared_gates: str = "",
    coupled_states: str = "",
    name: str | None = None,
) -> Callable[[Callable[..., Mapping[str, Value]]], Cell]:
    """A decorator that makes a cell of a function with the equations of one step.

    The function takes the gates' pre-activations (each is W x + U h + b), the previous state and,
    where ``params`` names any, the per-unit parameters. It returns a mapping with every new state
    by its name. Every other value in the mapping can be traced and is named in the equations::

        @gw.cell(gates="i f g o", state="h c")
        def lstm(a, s):
            i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
            c = f * s.c + i * g
            return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))

    Args:
        gates: names of the pre-activations, separated by spaces, in the order of their weights.
        state: names of the states; the first is the layer's output.
        params: names of the per-unit parameters: one number for each hidden unit.
        feedback: states that the recurrent weights multiply. The default is the first state, or
            none where the equations use no gate's recurrent part. A mapping gives for each state
            the gates that it is connected to.
        shared_gates: gates that all cells of a block share, as in the 1997 paper, where the layer
            has a ``block_size``.
        coupled_states: states whose values have a meaning only jointly, such as a state that is
            scaled by another. A layer's ``zoneout`` and ``learn_initial`` leave them out, because
            they act on each state separately.
        name: the cell's name; the default is the function's name.

    Raises:
        CellError: the definition is not valid. The message says what is wrong.
    """

    def define(function: Callable[..., Mapping[str, Value]]) -> Cell:
        title = _title(name, function)
        names = dict(
            gates=gates,
            state=state,
            params=params,
            feedback=" ".join(feedback.split())
            if isinstance(feedback, str)
            else " ".join(feedback),
            shared_gates=shared_gates,
            coupled_states=coupled_states,
        )
        lists = {kind: tuple(text.split()) for kind, text in names.items()}
        lists["feedback"] = lists["feedback"] or lists["state"][:1]
        _check_names(title, lists)
        symbols = [
            _Symbols("gate", "gate", lists["gates"]),
            _Symbols("state", "state", lists["state"]),
        ]
        if lists["params"]:
            symbols.append(_Symbols("parameter", "parameter", lists["params"]))
        _check_callable(title, function, symbols)
        try:
            found = function(*symbols)
        except CellError as error:
            raise CellError(f"cell '{title}': {error}") from error
        if not isinstance(found, Mapping):
            raise CellError(
                f"cell '{title}' returns a {type(found).__name__}; it must return a mapping with every "
                f"new state by its name, such as dict(h=...)"
            )
        values = dict(found)
        _check_values(title, lists, values)
        if not feedback and not _has_recurrent_part(values):
            lists["feedback"] = ()
        connections = dict.fromkeys(lists["feedback"], lists["gates"])
        if not isinstance(feedback, str):
            connections = {name: tuple(to.split()) for name, to in feedback.items()}
        _check_connections(title, lists["gates"], connections)
        doc = inspect.getdoc(_unwrapped(function)) or ""
        return Cell(title, **lists, values=_in_order(values), connections=connections, doc=doc)

    return define


def _check_callable(title: str, function: Any, symbols: list[_Symbols]) -> None:
    """Raises CellError unless ``function`` takes the gates, the states and the parameters."""
    takes = "the gates' pre-activations, the states and the parameters"
    if len(symbols) == 2:
        takes = "the gates' pre-activations and the states"
    if isinstance(function, type):
        raise CellError(f"a cell is a function of {takes}, not a class: {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Python does not know its signature
    try:
        signature.bind(*symbols)
    except TypeError as error:
        hint = "" if len(symbols) > 2 else "; name per-unit parameters in params="
        raise CellError(
            f"cell '{title}' has the signature {title}{signature}, expected a function of "
            f"{len(symbols)} arguments, {takes}{hint} ({error})"
        ) from None


def _unwrapped(function: Any) -> Any:
    """The function itself, without ``functools.partial`` around it."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _title(name: object, function: object) -> str:
    """A cell's name: the given one, else the name of the function or of a callable object's class."""
    if name is not None and not isinstance(name, str):
        raise CellError(f"a cell's name must be text, not {name!r}")
    if not callable(function):
        raise CellError(f"@cell takes a function, not {function!r}")
    inner = _unwrapped(function)
    return str(name or getattr(inner, "__name__", None) or type(inner).__name__)


_NODE = re.compile(r"([a-z.]+)\(([\d,]*)\)(\w*):(\S+)")


def from_signature(name: str, text: str) -> Cell:
    """The cell that has this name and whose signature is ``text``.

    Raises:
        CellError: no cell has that name and signature.
    """
    try:
        cell = _parsed(name, text.split("\n"))
    except (AttributeError, CellError, IndexError, KeyError, TypeError, ValueError):
        cell = None
    if cell is None or not name.isidentifier() or cell.signature != text:
        raise CellError(f"no cell has the name {name!r} and the signature {text!r}")
    return cell


def _restored(name: str, text: str, doc: str) -> Cell:
    """A cell from its pickle. A pickle has the signature, because a graph may be too deep for pickle."""
    return replace(_parsed(name, text.split("\n")), doc=doc)


def _parsed(name: str, lines: list[str]) -> Cell:
    heads = dict(line.split("=") for line in lines[: len(_LISTS) + 1])
    lists = {kind: tuple(heads[kind].split()) for kind in _LISTS}
    pairs = (each.split(":") for each in heads["connections"].split())
    connections = {state: tuple(to.split(",")) for state, to in pairs}
    of = {"gate": "gates", "gate.x": "gates", "gate.h": "gates", "parameter": "params"}
    leaves = {op: lists[of.get(op, op)] for op in (*of, "state")} | {"constant": ("",)}
    gates = lists["gates"]
    nodes: list[Value] = []
    for line in lines[len(_LISTS) + 1 : -1]:
        op, args, leaf, number = _NODE.fullmatch(line).groups()  # type: ignore[union-attr]
        given = tuple(nodes[int(k)] for k in args.split(",") if k)
        if op == "recurrent":
            valid = len(given) == 1 and leaf in gates
        else:
            valid = len(given) == OPERATIONS[op] if given else leaf in leaves[op]
        if not valid:
            raise CellError(f"'{line}' is not a node of a cell's graph")
        nodes.append(Value(op, given, leaf, float(number)))
    places = (each.split("=") for each in lines[-1].split(","))
    values = {value: nodes[int(k)] for value, k in places}
    _check_names(name, lists)
    _check_values(name, lists, values)
    _check_connections(name, lists["gates"], connections)
    return Cell(name, **lists, values=values, connections=connections)  # type: ignore[arg-type]


def _check_names(title: str, lists: Mapping[str, tuple[str, ...]]) -> None:
    if not lists["gates"] or not lists["state"]:
        raise CellError(f"cell '{title}' must have at least one gate and one state")
    for kind, names in lists.items():
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise CellError(f"cell '{title}': {kind} '{name}' is repeated or not an identifier")
    states, gates = (lists["state"], "states"), (lists["gates"], "gates")
    for kind, (known, called) in dict(
        feedback=states, shared_gates=gates, coupled_states=states
    ).items():
        for name in lists[kind]:
            if name not in known:
                raise CellError(f"cell '{title}': {kind} '{name}' is not one of its {called}")


def _check_connections(
    title: str, gates: tuple[str, ...], connections: Mapping[str, tuple[str, ...]]
) -> None:
    for state, connected in connections.items():
        for gate in connected or ("",):
            if gate not in gates:
                raise CellError(
                    f"cell '{title}': feedback connects {state} to '{gate}', which is not one of its "
                    f"gates ({', '.join(gates)})"
                )


def _check_values(
    title: str, lists: Mapping[str, tuple[str, ...]], values: Mapping[str, Value]
) -> None:
    for name in lists["state"]:
        if name not in values:
            raise CellError(f"cell '{title}' does not return its state '{name}'")
    for name, value in values.items():
        if not isinstance(value, Value):
            raise CellError(
                f"cell '{title}': '{name}' is {type(value).__name__}, not a value of the cell"
            )
    nodes = topological(values.values())
    used = {node.name for node in nodes if node.op in ("gate", "gate.x", "gate.h", "recurrent")}
    for gate in lists["gates"]:
        if gate not in used:
            raise CellError(f"cell '{title}' declares the gate '{gate}' but does not use it")
    _check_second_stage(title, lists, nodes)


def _check_second_stage(
    title: str, lists: Mapping[str, tuple[str, ...]], nodes: list[Value]
) -> None:
    """Raises CellError where a step would need more than two stages of products."""
    second = [node for node in nodes if node.op == "recurrent"]
    if not second:
        return
    names = {node.name for node in second}
    if len({node.args[0] for node in second}) > 1:
        raise CellError(f"cell '{title}': all gates with .recurrent must take the same value")
    if any(node.op.startswith("gate") and node.name in names for node in nodes):
        raise CellError(f"cell '{title}': a gate with .recurrent cannot be used in another way too")
    if any(node.op == "recurrent" for node in topological(second[0].args)):
        raise CellError(
            f"cell '{title}': the value that .recurrent takes cannot depend on another .recurrent"
        )
    if len(lists["feedback"]) > 1 or any(node.op == "gate.h" for node in nodes):
        raise CellError(
            f"cell '{title}': where a gate has .recurrent, there can be only one feedback state, and "
            f"no gate can use .h"
        )


def _has_recurrent_part(values: Mapping[str, Value]) -> bool:
    return any(node.op in ("gate", "gate.h", "recurrent") for node in topological(values.values()))


def _in_order(values: Mapping[str, Value]) -> dict[str, Value]:
    place = {value: k for k, value in enumerate(topological(values.values()))}
    return dict(sorted(values.items(), key=lambda item: place[item[1]]))
