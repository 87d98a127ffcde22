"""A cell's equations as text and as LaTeX, printed from its graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gatewise.cells.language import Cell, Value, topological
from gatewise.errors import CellError


@dataclass(frozen=True)
class _Notation:
    """How a format writes names, operations and steps."""

    now: Callable[[str], str]  # a named value at step t
    before: Callable[[str], str]  # a state at step t-1
    parameter: Callable[[str], str]
    number: Callable[[float], str]
    weight: Callable[[str, str], str]  # a matrix or bias, and its gate
    times: str  # the element-wise product of two vectors
    scaled: str  # the product of a number and a vector
    fraction: str  # of {0} and {1}
    functions: Mapping[str, str]
    brackets: tuple[str, str]
    stack: tuple[str, str, str]  # before, between and after several feedback states


def _latex_name(name: str) -> str:
    return name if name.isalpha() and len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_")


def _number(number: float) -> str:
    """The shortest text of a number. A large multiple of a power of ten has an exponent."""
    short = f"{number:.0e}"
    return short if abs(number) >= 1e6 and float(short) == number else _digits(number)


def _digits(number: float) -> str:
    return repr(number).removesuffix(".0")


def _latex_number(number: float) -> str:
    """A number in LaTeX: 1e-08 as a power of ten, infinity as its sign."""
    powers = re.sub(r"e\+?(-?)0*(\d+)", r" \\cdot 10^{\1\2}", _number(number))
    return re.sub(r"^(-?)1 \\cdot ", r"\1", powers).replace("inf", r"\infty")


_TEXT = _Notation(
    now=lambda name: f"{name}[t]",
    before=lambda name: f"{name}[t-1]",
    parameter=lambda name: name,
    number=_number,
    weight=lambda kind, gate: f"{kind}_{gate}",
    times=" ⊙ ",
    scaled=" · ",
    fraction="{0} / {1}",
    functions={"sigmoid": "σ", "maximum": "max", "minimum": "min"},
    brackets=("(", ")"),
    stack=("[", "; ", "]"),
)
_LATEX = _Notation(
    now=lambda name: f"{_latex_name(name)}_t",
    before=lambda name: f"{_latex_name(name)}_{{t-1}}",
    parameter=_latex_name,
    number=_latex_number,
    weight=lambda kind, gate: f"{kind}_{{{_latex_name(gate)}}}",
    times=r" \odot ",
    scaled=r" \cdot ",
    fraction=r"\frac{{{0}}}{{{1}}}",
    functions={
        "sigmoid": r"\sigma",
        "tanh": r"\tanh",
        "exp": r"\exp",
        "log": r"\log",
        "maximum": r"\max",
        "minimum": r"\min",
        **{name: rf"\operatorname{{{name}}}" for name in ("relu", "softplus", "greater", "detach")},
    },
    brackets=(r"\left(", r"\right)"),
    stack=("[", "; ", "]"),
)

# Operator precedence. An expression of lower precedence than its context needs is put in brackets.
_SUM, _PRODUCT, _ATOM = range(3)


def text(cell: Cell) -> str:
    """The equations in Unicode text: one line for each named value of a step."""
    return "\n".join(f"{name} = {formula}" for name, formula in _lines(cell, _TEXT))


def latex(cell: Cell) -> str:
    """The equations as an ``aligned`` block for LaTeX's display mathematics."""
    lines = [f"  {name} &= {formula}" for name, formula in _lines(cell, _LATEX)]
    return "\n".join([r"\begin{aligned}", " \\\\\n".join(lines), r"\end{aligned}"])


def formula(cell: Cell, value: Value) -> str:
    """The formula of any value of the cell, in Unicode text: "i[t] ⊙ g[t]".

    Raises:
        CellError: the formula is too deep to print.
    """
    names = _names(cell)
    _check_depth(cell, names)
    return _Printer(cell, _TEXT, names).formula(value)


def function_of(cell: Cell, value: Value, variable: Value) -> str:
    """The formula of ``value`` as a function of one value, which is written a: "1 - a"."""
    plain = replace(_TEXT, now=lambda name: name)
    return _Printer(cell, plain, {**_names(cell), variable: "a"}).formula(value)


def gate_inputs(cell: Cell, gate: str) -> str:
    """The values that a gate's weights multiply, in Unicode text: "x[t], h[t-1]"."""
    nodes = [node for node in topological(cell.values.values()) if node.name == gate]
    printer = _Printer(cell, _TEXT, _names(cell))
    multiplied = (
        [_TEXT.now("x")] if any(n.op in ("gate", "gate.x", "recurrent") for n in nodes) else []
    )
    if any(node.op in ("gate", "gate.h") for node in nodes):
        multiplied += [
            _TEXT.before(state) for state in cell.feedback if gate in cell.connections[state]
        ]
    multiplied += [printer.argument(node) for node in nodes if node.op == "recurrent"]
    return ", ".join(multiplied)


def _names(cell: Cell) -> dict[Value, str]:
    return {value: name for name, value in reversed(list(cell.values.items()))}


def _lines(cell: Cell, notation: _Notation) -> list[tuple[str, str]]:
    names = _names(cell)
    _check_depth(cell, names)
    printer = _Printer(cell, notation, names)
    lines = []
    for name, value in cell.values.items():
        first = names[value] == name
        formula = printer.formula(value) if first else notation.now(names[value])
        lines.append((notation.now(name), formula))
    return lines


_DEEPEST = 100


def _check_depth(cell: Cell, names: Mapping[Value, str]) -> None:
    """Raises CellError where a formula would be nested too deeply to read."""
    depth: dict[Value, int] = {}
    for value in topological(cell.values.values()):
        depth[value] = 1 + max((0 if a in names else depth[a] for a in value.args), default=0)
    if (deepest := max(depth.values())) > _DEEPEST:
        raise CellError(
            f"cell '{cell.name}' has a formula with {deepest} nested operations; the most that can be "
            f"printed is {_DEEPEST}; return some intermediate values by name"
        )


@dataclass(frozen=True)
class _Printer:
    cell: Cell
    notation: _Notation
    names: Mapping[Value, str]

    def formula(self, value: Value) -> str:
        """The right-hand side that defines a named value."""
        return self._expression(value)[0]

    def argument(self, value: Value) -> str:
        """The argument of a node that has one."""
        return self._at(value.args[0], _SUM, leading=True)

    def _at(self, value: Value, least: int, leading: bool = False) -> str:
        """``value`` where the context needs at least the precedence ``least``.

        A leading minus sign needs brackets unless ``leading``: no operator stands before it.
        """
        if value in self.names:
            return self.notation.now(self.names[value])
        written, binding = self._expression(value)
        opening, closing = self.notation.brackets
        bare = binding >= least and (leading or not written.startswith("-"))
        return written if bare else f"{opening}{written}{closing}"

    def _expression(self, value: Value) -> tuple[str, int]:
        """The expression of ``value``, and its precedence."""
        notation, args = self.notation, value.args
        match value.op:
            case "constant":
                written = notation.number(value.number)
                return written, _PRODUCT if written.startswith("-") or "10^" in written else _ATOM
            case "state":
                return notation.before(value.name), _ATOM
            case "parameter":
                return notation.parameter(value.name), _ATOM
            case "gate":
                bias = notation.weight("b", value.name)
                return f"{self._input(value)} + {self._recurrent(value)} + {bias}", _SUM
            case "recurrent":
                product = f"{notation.weight('U', value.name)} {self._at(args[0], _ATOM)}"
                bias = notation.weight("b", value.name)
                return f"{self._input(value)} + {product} + {bias}", _SUM
            case "gate.x":
                return f"{self._input(value)} + {notation.weight('b', value.name)}", _SUM
            case "gate.h":
                return f"{self._recurrent(value)} + {notation.weight('d', value.name)}", _SUM
            case "add":
                return f"{self._at(args[0], _SUM, leading=True)} + {self._at(args[1], _SUM)}", _SUM
            case "sub":
                left = self._at(args[0], _SUM, leading=True)
                return f"{left} - {self._at(args[1], _PRODUCT)}", _SUM
            case "mul":
                left, right = self._at(args[0], _PRODUCT, leading=True), self._at(args[1], _PRODUCT)
                scaled = any(arg.op == "constant" for arg in args)
                return left + (notation.scaled if scaled else notation.times) + right, _PRODUCT
            case "div":
                over = "/" not in notation.fraction
                above = self._at(args[0], _SUM if over else _PRODUCT, leading=True)
                below = self._at(args[1], _SUM if over else _ATOM, leading=over)
                return notation.fraction.format(above, below), _PRODUCT
            case "neg":
                return f"-{self._at(args[0], _PRODUCT)}", _PRODUCT
        opening, closing = notation.brackets
        inside = ", ".join(self._at(arg, _SUM, leading=True) for arg in args)
        return f"{notation.functions.get(value.op, value.op)}{opening}{inside}{closing}", _ATOM

    def _input(self, value: Value) -> str:
        return f"{self.notation.weight('W', value.name)} {self.notation.now('x')}"

    def _recurrent(self, value: Value) -> str:
        connections = self.cell.connections
        names = [name for name in self.cell.feedback if value.name in connections[name]]
        states = [self.notation.before(name) for name in names]
        opening, between, closing = self.notation.stack
        stacked = states[0] if len(states) == 1 else opening + between.join(states) + closing
        return f"{self.notation.weight('U', value.name)} {stacked}"
