"""The language in which a cell is written: symbols, a graph of fifteen operations, and ``@cell``.

A cell is a Python function of its gates' pre-activations ``a`` and its previous state ``s`` (and of
its per-unit parameters ``p``, where it has any). Called once, on symbols, it leaves a graph of
:class:`Value`; every gradient, kernel, trace and formula in gatewise is derived from that graph.
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

# What a graph begins with: "constant", "state", "parameter", "gate" (a whole pre-activation), "gate.x"
# and "gate.h" (its two parts). A "late" node is a whole pre-activation too, with its recurrent product
# taken with its argument. Gradients add "gradient" (of a new state), "gradient.late" (of what the
# late gates were fed with; its arguments are these gates' gradients) and "passed" (of relu's argument: the
# first argument where the second is above 0 or NaN, else 0. It is a selection and not a product, because
# infinity times 0 is NaN).


@dataclass(frozen=True, eq=False)
class Value:
    """A node of a cell's graph: an operation on other nodes, or a leaf.

    A gate's pre-activation ``a.n`` is the sum of an input part ``a.n.x`` = W x + b and a recurrent
    part ``a.n.h`` = U h + b; a cell that treats the two apart, as the GRU does, uses these
    attributes. ``a.n.fed(q)`` is W x + U q + b, with q a value of this step in the state's place.
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
            raise CellError(f"only a gate's pre-activation has .{part}, this is a '{self.op}'")
        return Value(f"gate.{part}", name=self.name)

    def fed(self, value: Value) -> Value:
        """The pre-activation W x + U q + b of a gate that is fed with the step's own value q, as the
        GRU of 2014 feeds its candidate with r * h."""
        if self.op != "gate":
            raise CellError(f"only a gate's pre-activation has .fed, this is a '{self.op}'")
        if not isinstance(value, Value):
            raise CellError(f".fed takes one of the cell's values, not {type(value).__name__}")
        return Value("late", (value,), self.name)

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


def topological(
    outputs: Iterable[Value], arguments: Callable[[Value], Iterable[Value]] = lambda v: v.args
) -> list[Value]:
    """Every node that ``outputs`` rest on, each after its ``arguments``.

    Depth first, and without recursion: a graph may be deeper than Python's stack.
    """
    order: list[Value] = []
    seen: set[Value] = set()
    for output in outputs:
        under_way = [] if output in seen else [(output, iter(arguments(output)))]
        seen.add(output)
        while under_way:
            value, rest = under_way[-1]
            new = next((arg for arg in rest if arg not in seen), None)
            if new is None:
                order.append(value)
                under_way.pop()
            else:
                seen.add(new)
                under_way.append((new, iter(arguments(new))))
    return order


# What a cell's signature begins with, and after these "fed".
_LISTS = ("gates", "state", "params", "feedback", "shared", "together")


@dataclass(frozen=True, eq=False)
class Cell:
    """One step of a recurrent network, as a graph.

    Attributes:
        name: what it is called.
        gates: names of the pre-activations, in the order in which their weights are stacked.
        state: names of the states; the first is the output and, unless ``feedback`` says else, the
            one that is fed back through the recurrent weights.
        params: names of the parameters that each hidden unit has one of (a peephole, for example).
        feedback: states that are fed back through recurrent weights; none where no gate has a
            recurrent part.
        values: every named value of a step, the new states among them, each after those it rests
            on.
        fed: for each fed-back state, the gates whose recurrent weights take it; nearly always all.
        shared: gates of which the cells of a block have one in common, where a layer has blocks.
        together: states that say something only with each other.
        doc: the docstring of the function it was written as.

    Two cells are equal if their graphs and names are, whatever file they were written in.
    """

    name: str
    gates: tuple[str, ...]
    state: tuple[str, ...]
    params: tuple[str, ...]
    feedback: tuple[str, ...]
    values: Mapping[str, Value]
    fed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    doc: str = field(default="", repr=False)

    @property
    def new_state(self) -> tuple[Value, ...]:
        return tuple(self.values[name] for name in self.state)

    @cached_property
    def late(self) -> tuple[str, ...]:
        """The gates whose recurrent weights take a value of the step itself; all take the same."""
        return tuple(gate for gate in self.gates if gate in self._late)

    @property
    def late_value(self) -> Value | None:
        """What they take."""
        return next((node.args[0] for node in self._late.values()), None)

    @cached_property
    def _late(self) -> dict[str, Value]:
        return {node.name: node for node in topological(self.values.values()) if node.op == "late"}

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
        lists = {head: getattr(self, head) for head in _LISTS}
        lists["fed"] = [f"{name}:{','.join(gates)}" for name, gates in self.fed.items()]
        heads = [f"{head}={' '.join(names)}" for head, names in lists.items()]
        return "\n".join([*heads, *lines, named])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)

    def __copy__(self) -> Cell:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Cell:
        return self

    def __reduce__(self) -> Any:
        return _restored, (self.name, self.signature, self.doc)

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
    *,
    gates: str,
    state: str = "h",
    params: str = "",
    feedback: str | Mapping[str, str] = "",
    shared: str = "",
    together: str = "",
    name: str | None = None,
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
        feedback: states that go through the recurrent weights; the first state if not given, and
            none where the equations use no gate's recurrent part. As a mapping, each with the gates
            that it is connected to.
        shared: gates of which the cells of one block have one in common, as in the 1997 paper,
            where the layer has a ``block_size``.
        together: states that say something only with each other, as one that is scaled by another:
            a layer leaves them out of what acts on each state for itself (``zoneout``,
            ``learn_initial``).
        name: the cell's name; the function's if not given.

    Raises:
        CellError: the definition does not hold together; the message says where.
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
            shared=shared,
            together=together,
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
                f"cell '{title}' returns a {type(found).__name__}, expected a mapping with every new "
                f"state by its name"
            )
        values = dict(found)
        _check_values(title, lists, values)
        if not feedback and not _has_recurrent_part(values):
            lists["feedback"] = ()
        fed = dict.fromkeys(lists["feedback"], lists["gates"])
        if not isinstance(feedback, str):
            fed = {name: tuple(to.split()) for name, to in feedback.items()}
        _check_fed(title, lists["gates"], fed)
        doc = inspect.getdoc(_written(function)) or ""
        return Cell(title, **lists, values=_in_order(values), fed=fed, doc=doc)

    return define


def _check_callable(title: str, function: Any, symbols: list[_Symbols]) -> None:
    """Raises CellError unless ``function`` is one of the gates, the states and the parameters."""
    takes = "the gates' pre-activations, the states and the parameters"
    if len(symbols) == 2:
        takes = "the gates' pre-activations and the states"
    if isinstance(function, type):
        raise CellError(f"a cell is a function of {takes}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # it has none to look at
    try:
        signature.bind(*symbols)
    except TypeError as error:
        lacks = "" if len(symbols) > 2 else "; parameters of its units are named in params="
        raise CellError(
            f"cell '{title}' is {title}{signature}, expected a function of {len(symbols)} arguments, "
            f"{takes}{lacks} ({error})"
        ) from None


def _written(function: Any) -> Any:
    """What was written for a person to read: of a partial, the function in it."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _title(name: object, function: object) -> str:
    """A cell's name: the one given, else the function's, or the class's of a callable object."""
    if name is not None and not isinstance(name, str):
        raise CellError(f"a cell's name must be text, not {name!r}")
    if not callable(function):
        raise CellError(f"a cell is made of a function, not of {function!r}")
    written = _written(function)
    return str(name or getattr(written, "__name__", None) or type(written).__name__)


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


def _restored(name: str, text: str, doc: str) -> Cell:
    """A cell as it was copied or pickled: its graph may be too deep for these themselves."""
    return replace(_parsed(name, text.split("\n")), doc=doc)


def _parsed(name: str, lines: list[str]) -> Cell:
    heads = dict(line.split("=") for line in lines[: len(_LISTS) + 1])
    lists = {kind: tuple(heads[kind].split()) for kind in _LISTS}
    pairs = (each.split(":") for each in heads["fed"].split())
    fed = {state: tuple(to.split(",")) for state, to in pairs}
    of = {"gate": "gates", "gate.x": "gates", "gate.h": "gates", "parameter": "params"}
    leaves = {op: lists[of.get(op, op)] for op in (*of, "state")} | {"constant": ("",)}
    gates = lists["gates"]
    nodes: list[Value] = []
    for line in lines[len(_LISTS) + 1 : -1]:
        op, args, leaf, number = _NODE.fullmatch(line).groups()  # type: ignore[union-attr]
        given = tuple(nodes[int(k)] for k in args.split(",") if k)
        if op == "late":
            right = len(given) == 1 and leaf in gates
        else:
            right = len(given) == OPERATIONS[op] if given else leaf in leaves[op]
        if not right:
            raise CellError(f"'{line}' is no node of a cell's graph")
        nodes.append(Value(op, given, leaf, float(number)))
    places = (each.split("=") for each in lines[-1].split(","))
    values = {value: nodes[int(k)] for value, k in places}
    _check_names(name, lists)
    _check_values(name, lists, values)
    _check_fed(name, lists["gates"], fed)
    return Cell(name, **lists, values=values, fed=fed)  # type: ignore[arg-type]


def _check_names(title: str, lists: Mapping[str, tuple[str, ...]]) -> None:
    if not lists["gates"] or not lists["state"]:
        raise CellError(f"cell '{title}' needs at least one gate and one state")
    for kind, names in lists.items():
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise CellError(f"cell '{title}': {kind} '{name}' is repeated or not an identifier")
    states, gates = (lists["state"], "states"), (lists["gates"], "gates")
    for kind, (known, called) in dict(feedback=states, shared=gates, together=states).items():
        for name in lists[kind]:
            if name not in known:
                raise CellError(f"cell '{title}': {kind} '{name}' is not one of its {called}")


def _check_fed(title: str, gates: tuple[str, ...], fed: Mapping[str, tuple[str, ...]]) -> None:
    for state, to in fed.items():
        for gate in to or ("",):
            if gate not in gates:
                raise CellError(
                    f"cell '{title}': the feedback of {state} goes to '{gate}', which is not one of "
                    f"its gates ({', '.join(gates)})"
                )


def _check_values(
    title: str, lists: Mapping[str, tuple[str, ...]], values: Mapping[str, Value]
) -> None:
    for name in lists["state"]:
        if name not in values:
            raise CellError(f"cell '{title}' does not return its state '{name}'")
    for name, value in values.items():
        if not isinstance(value, Value):
            raise CellError(f"cell '{title}': '{name}' is {type(value).__name__}, not a value")
    nodes = topological(values.values())
    used = {node.name for node in nodes if node.op in ("gate", "gate.x", "gate.h", "late")}
    for gate in lists["gates"]:
        if gate not in used:
            raise CellError(f"cell '{title}' declares the gate '{gate}' and never uses it")
    _check_late(title, lists, nodes)


def _check_late(title: str, lists: Mapping[str, tuple[str, ...]], nodes: list[Value]) -> None:
    """A step has two rounds of products at most, and the second takes one value for all its gates."""
    late = [node for node in nodes if node.op == "late"]
    if not late:
        return
    names = {node.name for node in late}
    if len({node.args[0] for node in late}) > 1:
        raise CellError(f"cell '{title}': all gates with .fed must be fed with the same value")
    if any(node.op.startswith("gate") and node.name in names for node in nodes):
        raise CellError(f"cell '{title}': a gate that is .fed with a value is used in no other way")
    if any(node.op == "late" for node in topological(late[0].args)):
        raise CellError(f"cell '{title}': what a gate is .fed with may not rest on such a gate")
    if len(lists["feedback"]) > 1 or any(node.op == "gate.h" for node in nodes):
        raise CellError(
            f"cell '{title}': beside a gate that is .fed, one state is fed back, and to whole gates"
        )


def _has_recurrent_part(values: Mapping[str, Value]) -> bool:
    return any(node.op in ("gate", "gate.h", "late") for node in topological(values.values()))


def _in_order(values: Mapping[str, Value]) -> dict[str, Value]:
    place = {value: k for k, value in enumerate(topological(values.values()))}
    return dict(sorted(values.items(), key=lambda item: place[item[1]]))
