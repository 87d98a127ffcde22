"""A cell's step and its gradient as C++ templates on the type of number: a vector of ``csrc/vec.h``, or
two (``Two`` in ``csrc/cell.h``)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from gatewise.cells.counts import FUNCTIONS, point_wise
from gatewise.cells.language import Cell, topological
from gatewise.emit.core import LIMITS
from gatewise.emit.steps import (
    Dialect,
    Lines,
    backward,
    layout,
    second_stage_backward,
    second_stage_input,
    step,
)
from gatewise.errors import CellError


def source(cell: Cell, symbol: str) -> str:
    """A C++ translation unit that defines ``symbol``, the cell's ``gw::Cell``.

    Raises:
        CellError: the cell is too large for the native core.
    """
    if reason := unsupported(cell):
        raise CellError(f"cell '{cell.name}' {reason}")
    return f'#include "cell.h"\n\n{_equations(cell)}\n{_TABLE.format(symbol=symbol, fingerprint=fingerprint(cell))}'


def fingerprint(cell: Cell) -> str:
    """A digest of the cell's printed equations, by which a compiled cell is known. Names are not part of it."""
    return hashlib.sha256(_equations(cell).encode()).hexdigest()[:32]


_TABLE = """\
extern "C" [[gnu::visibility("default")]] const gw::Cell {symbol};
const gw::Cell {symbol} = gw::cell_of<Equations>("{fingerprint}");
"""


def unsupported(cell: Cell) -> str | None:
    """Why the native core cannot hold the cell, as the end of a sentence; None if it can."""
    done = point_wise(cell)
    sizes = {
        "states": len(cell.state),
        "accumulators": len(layout(cell).accumulators),
        "params": len(cell.params),
        "values": len(cell.values),
        "operations": done.total(),
        "functions": sum(done[name] for name in FUNCTIONS),
    }
    for kind, limit in LIMITS.items():
        if sizes[kind] > limit:
            return f"has {sizes[kind]} {kind}, the native core takes {limit}"
    return None


def _equations(cell: Cell) -> str:
    """The struct ``Equations``: a cell's sizes, its ``step`` and its ``backward``."""
    plan = layout(cell)
    nodes = topological(cell.values.values())
    read = {node.name for node in nodes if node.op == "state"}
    numbers = {
        "gates": len(cell.gates),
        "accumulators": len(plan.accumulators),
        "from_input": plan.from_input,
        "from_state": plan.from_state,
        "second_stage": len(cell.second_stage),
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
{_indented(_assigned(step(cell, _CPP)))}
    }}
{_second_stage(cell)}

    template <class V>
    GW_INLINE static void backward([[maybe_unused]] const V* saved, [[maybe_unused]] const V* s,
                               [[maybe_unused]] const V* p, [[maybe_unused]] const V* seed, V* da, V* ds,
                               [[maybe_unused]] V* dp) {{
{_indented(_assigned(backward(cell, _CPP)))}
    }}
}};
}}  // namespace
"""


def _second_stage(cell: Cell) -> str:
    """The two functions that only a cell with a second stage has."""
    if not cell.second_stage:
        return ""
    return f"""
    template <class V>
    GW_INLINE static void second_stage_input([[maybe_unused]] const V* a, [[maybe_unused]] const V* s,
                                [[maybe_unused]] const V* p, V* input) {{
{_indented(_assigned(second_stage_input(cell, _CPP)))}
    }}

    template <class V>
    GW_INLINE static void second_stage_backward([[maybe_unused]] const V* saved, [[maybe_unused]] const V* s,
                                    [[maybe_unused]] const V* p, [[maybe_unused]] const V* seed, V* da) {{
{_indented(_assigned(second_stage_backward(cell, _CPP)))}
    }}
"""


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


def _assigned(lines: Lines) -> list[str]:
    """The lines, followed by an assignment to each result's element."""
    each = ((name, k, of) for name, found in lines.results.items() for k, of in enumerate(found))
    return [*lines.lines, *(f"{name}[{k}] = {of};" for name, k, of in each)]


def _number(number: float) -> str:
    if math.isnan(number):
        return '__builtin_nan("")'
    if math.isinf(number):
        return "-__builtin_inf()" if number < 0 else "__builtin_inf()"
    return repr(number)  # the shortest text that reads back as the same number


_CPP = Dialect(
    line="const V {} = {};",
    number=lambda number: f"gw::number<V>({_number(number)})",
    operation=lambda op, args: f"gw::{op}({', '.join(args)})",
    zero="V{}",
)
