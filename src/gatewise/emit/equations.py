"""A cell's equations, as text and as LaTeX, printed from its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gatewise.cells.language import Cell, Value


@dataclass(frozen=True)
class _Notation:
    """How one kind of text writes names, operations and steps."""

    now: Callable[[str], str]  # a named value at step t
    before: Callable[[str], str]  # a state at step t-1
    parameter: Callable[[str], str]
    weight: Callable[[str, str], str]  # a matrix or bias and the gate it belongs to
    times: str  # between two vectors, element by element
    fraction: str  # with {0} over {1}
    functions: Mapping[str, str]
    brackets: tuple[str, str]
    stack: tuple[str, str, str]  # around and between fed-back states


def _latex_name(name: str) -> str:
    return name if len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_")


_TEXT = _Notation(
    now=lambda name: f"{name}[t]",
    before=lambda name: f"{name}[t-1]",
    parameter=lambda name: name,
    weight=lambda kind, gate: f"{kind}_{gate}",
    times=" ⊙ ",
    fraction="{0} / {1}",
    functions={"sigmoid": "σ", "maximum": "max", "minimum": "min"},
    brackets=("(", ")"),
    stack=("[", "; ", "]"),
)
_LATEX = _Notation(
    now=lambda name: f"{_latex_name(name)}_t",
    before=lambda name: f"{_latex_name(name)}_{{t-1}}",
    parameter=_latex_name,
    weight=lambda kind, gate: f"{kind}_{{{_latex_name(gate)}}}",
    times=r" \odot ",
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

# How tightly each operation binds; what binds less than its place needs stands in brackets.
_SUM, _PRODUCT, _SIGN, _ATOM = range(4)


def text(cell: Cell) -> str:
    """One line for each named value of a step, in Unicode text."""
    return "\n".join(f"{name} = {formula}" for name, formula in _lines(cell, _TEXT))


def latex(cell: Cell) -> str:
    """The same as an ``aligned`` block for LaTeX's display mathematics."""
    lines = [f"  {name} &= {formula}" for name, formula in _lines(cell, _LATEX)]
    return "\n".join([r"\begin{aligned}", " \\\\\n".join(lines), r"\end{aligned}"])


def _lines(cell: Cell, notation: _Notation) -> list[tuple[str, str]]:
    names = {value: name for name, value in reversed(list(cell.values.items()))}
    printer = _Printer(cell, notation, names)
    lines = []
    for name, value in cell.values.items():
        first = names[value] == name
        formula = printer.formula(value) if first else notation.now(names[value])
        lines.append((notation.now(name), formula))
    return lines


@dataclass(frozen=True)
class _Printer:
    cell: Cell
    notation: _Notation
    names: Mapping[Value, str]

    def formula(self, value: Value) -> str:
        """The right-hand side that defines a named value."""
        return self._expression(value)[0]

    def _at(self, value: Value, least: int) -> str:
        """``value`` where something binding as tightly as ``least`` must stand."""
        if value in self.names:
            return self.notation.now(self.names[value])
        written, binding = self._expression(value)
        opening, closing = self.notation.brackets
        return written if binding >= least else f"{opening}{written}{closing}"

    def _expression(self, value: Value) -> tuple[str, int]:
        """``value`` written out, and how tightly it binds."""
        notation, args = self.notation, value.args
        match value.op:
            case "constant":
                return f"{value.number:g}", _ATOM if value.number >= 0 else _SIGN
            case "state":
                return notation.before(value.name), _ATOM
            case "parameter":
                return notation.parameter(value.name), _ATOM
            case "gate":
                shared = notation.weight("b", value.name)
                return f"{self._input(value)} + {self._recurrent(value)} + {shared}", _SUM
            case "gate.x":
                return f"{self._input(value)} + {notation.weight('b', value.name)}", _SUM
            case "gate.h":
                return f"{self._recurrent(value)} + {notation.weight('d', value.name)}", _SUM
            case "add":
                return f"{self._at(args[0], _SUM)} + {self._at(args[1], _PRODUCT)}", _SUM
            case "sub":
                return f"{self._at(args[0], _SUM)} - {self._at(args[1], _PRODUCT)}", _SUM
            case "mul":
                left, right = (self._at(arg, _PRODUCT) for arg in args)
                return left + notation.times + right, _PRODUCT
            case "div":
                over = "/" not in notation.fraction
                parts = [self._at(args[0], _SUM if over else _PRODUCT)]
                parts.append(self._at(args[1], _SUM if over else _ATOM))
                return notation.fraction.format(*parts), _PRODUCT
            case "neg":
                return f"-{self._at(args[0], _PRODUCT)}", _SIGN
        opening, closing = notation.brackets
        inside = ", ".join(self._at(arg, _SUM) for arg in args)
        return f"{notation.functions.get(value.op, value.op)}{opening}{inside}{closing}", _ATOM

    def _input(self, value: Value) -> str:
        return f"{self.notation.weight('W', value.name)} {self.notation.now('x')}"

    def _recurrent(self, value: Value) -> str:
        states = [self.notation.before(name) for name in self.cell.feedback]
        opening, between, closing = self.notation.stack
        fed_back = states[0] if len(states) == 1 else opening + between.join(states) + closing
        return f"{self.notation.weight('U', value.name)} {fed_back}"
