"""A cell's step and its derived gradient, printed as C++ on the vector type of ``csrc/vec.h``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gatewise.cells.gradient import Gradient, derive
from gatewise.cells.language import Cell, Value, topological
from gatewise.errors import CellError

# What csrc/cell.h has room for.
LIMITS = {"states": 8, "accumulators": 32, "params": 16, "values": 64}

# Saved in training rather than worked out again: each takes more time than a load.
_COSTLY = frozenset({"sigmoid", "tanh", "exp", "log", "softplus", "div"})

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


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
    kept: dict[Value, None] = {}
    seen: set[Value] = set()

    def visit(value: Value) -> None:
        if value in seen:
            return
        seen.add(value)
        if value in forward and (value.op in _COSTLY or value.op.startswith(("gate", "late"))):
            kept[value] = None
            return
        if value.op == "gradient.late":
            return
        for arg in value.args:
            visit(arg)

    for gradient in gradients:
        visit(gradient)
    return list(kept)


def source(cell: Cell, symbol: str) -> str:
    """A C++ translation unit that defines ``symbol``, the cell's ``gw::Cell``.

    Raises:
        CellError: the cell has more of something than the native core has room for.
    """
    if reason := too_large(cell):
        raise CellError(f"cell '{cell.name}' {reason}")
    return f'#include "cell.h"\n\n{_struct(cell)}\n{_TABLE.format(symbol=symbol, name=cell.name)}'


_TABLE = """\
extern "C" [[gnu::visibility("default")]] const gw::Cell {symbol};
const gw::Cell {symbol} = gw::cell_of<Equations>("{name}");
"""


def too_large(cell: Cell) -> str | None:
    """What the native core has no room for, as the end of a sentence, or None."""
    sizes = {
        "states": len(cell.state),
        "accumulators": len(layout(cell).accumulators),
        "params": len(cell.params),
        "values": len(cell.values),
    }
    for kind, limit in LIMITS.items():
        if sizes[kind] > limit:
            return f"has {sizes[kind]} {kind}, the native core takes {limit}"
    return None


def _struct(cell: Cell) -> str:
    plan = layout(cell)
    nodes = topological(cell.values.values())
    read = {node.name for node in nodes if node.op == "state"}
    numbers = {
        "gates": len(cell.gates),
        "accumulators": len(plan.accumulators),
        "from_input": plan.from_input,
        "from_state": plan.from_state,
        "late": len(cell.late),
        "states": len(cell.state),
        "params": len(cell.params),
        "saved": len(plan.saved),
        "values": len(cell.values),
        "feedbacks": len(cell.feedback),
    }
    counts = ", ".join(f"{name} = {number}" for name, number in numbers.items())
    gates = ", ".join(str(cell.gates.index(a.gate)) for a in plan.accumulators)
    feedback = ", ".join(str(cell.state.index(name)) for name in cell.feedback)
    places = ", ".join(str(list(cell.values).index(name)) for name in cell.state)
    uses = ", ".join("true" if name in read else "false" for name in cell.state)
    return f"""\
namespace {{
struct Equations {{
    static constexpr int {counts};
    static constexpr int gate[] = {{{gates}}};
    static constexpr int feedback[] = {{{feedback}}};
    static constexpr int value_of_state[] = {{{places}}};
    static constexpr bool uses_state[] = {{{uses}}};

    template <class V>
    GW_INLINE static void step([[maybe_unused]] const V* a, [[maybe_unused]] const V* s,
                               [[maybe_unused]] const V* p, V* next, [[maybe_unused]] V* saved, V* value) {{
{_indented(_step_lines(cell, plan))}
    }}
{_late_functions(cell, plan)}

    template <class V>
    GW_INLINE static void back([[maybe_unused]] const V* saved, [[maybe_unused]] const V* s,
                               [[maybe_unused]] const V* p, [[maybe_unused]] const V* seed, V* da, V* ds,
                               [[maybe_unused]] V* dp) {{
{_indented(_back_lines(cell, plan))}
    }}
}};
}}  // namespace
"""


def _late_functions(cell: Cell, plan: Layout) -> str:
    """What the late gates are fed with; and the way back to them from the new states."""
    if not cell.late:
        return ""
    return f"""
    template <class V>
    GW_INLINE static void early([[maybe_unused]] const V* a, [[maybe_unused]] const V* s,
                                [[maybe_unused]] const V* p, V* late) {{
{_indented(_early_lines(cell, plan))}
    }}

    template <class V>
    GW_INLINE static void back_late([[maybe_unused]] const V* saved, [[maybe_unused]] const V* s,
                                    [[maybe_unused]] const V* p, [[maybe_unused]] const V* seed, V* da) {{
{_indented(_back_late_lines(cell, plan))}
    }}
"""


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


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


def _early_lines(cell: Cell, plan: Layout) -> list[str]:
    printer = _Printer(_leaves(cell, plan))
    assert cell.late_value is not None
    printer.print([cell.late_value])
    return [*printer.lines, f"*late = {printer.names[cell.late_value]};"]


def _step_lines(cell: Cell, plan: Layout) -> list[str]:
    printer = _Printer(_leaves(cell, plan))
    values = list(cell.values.values())
    printer.print([*values, *plan.saved])
    for k, value in enumerate(cell.new_state):
        printer.lines.append(f"next[{k}] = {printer.names[value]};")
    for k, value in enumerate(plan.saved):
        printer.lines.append(f"saved[{k}] = {printer.names[value]};")
    for k, value in enumerate(values):
        printer.lines.append(f"value[{k}] = {printer.names[value]};")
    return printer.lines


def _back_late_lines(cell: Cell, plan: Layout) -> list[str]:
    gradient = derive(cell)
    if gradient.late is None:  # the gradient is cut before it reaches any
        return [f"da[{k}] = V{{}};" for k in range(len(cell.late))]
    printer = _back_printer(cell, plan, gradient)
    printer.print(gradient.late.args)
    return [
        *printer.lines,
        *(f"da[{k}] = {printer.names[value]};" for k, value in enumerate(gradient.late.args)),
    ]


def _back_printer(cell: Cell, plan: Layout, gradient: Gradient) -> _Printer:
    names = {value: f"saved[{k}]" for k, value in enumerate(plan.saved)}
    if gradient.late is not None:
        names[gradient.late] = f"seed[{len(cell.state)}]"
    seeds = {("gradient", name): f"seed[{k}]" for k, name in enumerate(cell.state)}
    return _Printer(_leaves(cell, plan) | seeds, names)


def _back_lines(cell: Cell, plan: Layout) -> list[str]:
    gradient = derive(cell)
    gradients = gradient.leaves
    printer = _back_printer(cell, plan, gradient)
    of = {(leaf.op, leaf.name): value for leaf, value in gradients.items()}
    printer.print(gradients.values())

    def sum_of(*leaves: tuple[str, str]) -> str:
        found = [printer.names[of[leaf]] for leaf in leaves if leaf in of]
        return " + ".join(found) or "V{}"

    for k, a in enumerate(plan.accumulators):
        whole = a.part in ("gate", "late")
        leaves = [(a.part, a.gate)] if whole else [("gate", a.gate), (a.part, a.gate)]
        printer.lines.append(f"da[{k}] = {sum_of(*leaves)};")
    for k, name in enumerate(cell.state):
        printer.lines.append(f"ds[{k}] = {sum_of(('state', name))};")
    for k, name in enumerate(cell.params):
        printer.lines.append(f"dp[{k}] = {sum_of(('parameter', name))};")
    return printer.lines


class _Printer:
    """Lines of C++ that define every node asked for, each once."""

    def __init__(
        self, leaves: Mapping[tuple[str, str], str], names: Mapping[Value, str] | None = None
    ) -> None:
        self.lines: list[str] = []
        self.names: dict[Value, str] = dict(names or {})
        self._leaves = leaves
        self._known: dict[str, str] = {}

    def print(self, values: Iterable[Value]) -> None:
        for value in _needed(values, self.names):
            if value.op == "constant":
                self.names[value] = f"gw::number<V>({_number(value.number)})"
            elif value.op == "late" or not value.args:
                self.names[value] = self._leaves[value.op, value.name]
            else:
                self.names[value] = self._named(self._expression(value))

    def _named(self, expression: str) -> str:
        """The variable that holds ``expression``: one for all nodes that say the same."""
        if expression not in self._known:
            self._known[expression] = f"v{len(self._known)}"
            self.lines.append(f"const V {self._known[expression]} = {expression};")
        return self._known[expression]

    def _expression(self, value: Value) -> str:
        args = [self.names[arg] for arg in value.args]
        if value.op in _INFIX:
            return f" {_INFIX[value.op]} ".join(args)
        if value.op == "neg":
            return f"-{args[0]}"
        if value.op == "detach":
            return args[0]
        return f"gw::{value.op}({', '.join(args)})"


def _needed(values: Iterable[Value], given: Mapping[Value, str]) -> list[Value]:
    """Every node that ``values`` rest on, each after its arguments, less what lies below ``given``."""
    order: dict[Value, None] = {}

    def visit(value: Value) -> None:
        if value in order or value in given:
            return
        for arg in () if value.op == "late" else value.args:
            visit(arg)
        order[value] = None

    for value in values:
        visit(value)
    return list(order)


def _number(number: float) -> str:
    if math.isnan(number):
        return '__builtin_nan("")'
    if math.isinf(number):
        return "-__builtin_inf()" if number < 0 else "__builtin_inf()"
    return repr(number)  # the shortest text that reads back as the same number
