"""A cell's description and cost, as text and as plain data, from its docstring and its graph."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatewise.cells.counts import FUNCTIONS, Count, point_wise, products, weights
from gatewise.cells.language import Cell, topological
from gatewise.emit.equations import gate_inputs, latex, text

WIDTH = 100  # columns of the printed text
_SOURCE = "Source: "


@dataclass(frozen=True)
class Description:
    """The parts of a cell's docstring. Each may be empty.

    Attributes:
        summary: what the cell is, in one line.
        source: the publication, with its equations or sections.
        notes: paragraphs on what a user may not expect.
    """

    summary: str
    source: str
    notes: tuple[str, ...]

    @property
    def paper(self) -> str:
        """The source's authors and year."""
        found = re.match(r".*?\b(?:19|20)\d\d\b", self.source)
        return found[0] if found else ""


def describe(cell: Cell) -> Description:
    """The cell's docstring by its parts. The source is the first paragraph that begins "Source: "."""
    summary, *others = [" ".join(each.split()) for each in cell.doc.split("\n\n")]
    sources = [each for each in others if each.startswith(_SOURCE)]
    notes = tuple(each for each in others if each not in sources[:1])
    return Description(summary, sources[0].removeprefix(_SOURCE) if sources else "", notes)


def flop(cell: Cell) -> Count:
    """Floating-point operations per unit and step: products and element-wise operations."""
    matrices = products(cell)
    return Count(matrices.inputs, matrices.units, point_wise(cell).total())


def parts(cell: Cell) -> list[tuple[str, str, str]]:
    """For each gate, state and parameter: the kind, the name and a description."""
    shared = "; shared by all cells of a block, where the layer has a block_size"
    gates = [
        (g, f"inputs: {gate_inputs(cell, g)}{shared if g in cell.shared_gates else ''}")
        for g in cell.gates
    ]
    states = [(s, "; ".join(_roles(cell, s))) for s in cell.state]
    params = [(p, "one number per unit") for p in cell.params]
    kinds = {"gate": gates, "state": states, "parameter": params}
    return [(kind, *each) for kind, those in kinds.items() for each in those]


def _roles(cell: Cell, state: str) -> list[str]:
    roles = ["output"] if state == cell.state[0] else []
    connected = cell.connections.get(state, ())
    gates = [g for g in cell.gates if g in connected and g not in cell.second_stage]
    if gates:
        roles.append(f"recurrent input of {', '.join(gates)}")
    if any((v.op, v.name) == ("state", state) for v in topological(cell.values.values())):
        roles.append("each unit reads its own previous value")
    if state in cell.coupled_states:
        others = [name for name in cell.coupled_states if name != state]
        roles.append(f"coupled with {', '.join(others)}")
    return roles or ["not read by the cell; returned to the caller"]


def sizes(cell: Cell, inputs: int, units: int) -> list[tuple[str, str, str]]:
    """A table of weights and FLOP, per unit and for a layer of that size. The first row is the head."""
    elementwise = Count(0, 0, point_wise(cell).total())
    rows = {
        "weights": weights(cell),
        "FLOP per step, products": products(cell),
        f"FLOP per step, element-wise ({work(cell)})": elementwise,
    }
    heads = ("", "per unit", f"layer with I = {inputs:,}, H = {units:,}")
    totals = (f"{units * each.at(inputs, units):,}" for each in rows.values())
    return [heads, *zip(rows, map(str, rows.values()), totals, strict=True)]


def work(cell: Cell) -> str:
    """The element-wise operations per unit: "4 of mul, add and 5 of sigmoid, tanh"."""
    counted = point_wise(cell)
    functions = {name: n for name, n in counted.items() if name in FUNCTIONS}
    arithmetic = {name: n for name, n in counted.items() if name not in FUNCTIONS}
    kinds = [each for each in (arithmetic, functions) if each]
    return " and ".join(f"{sum(each.values())} of {', '.join(each)}" for each in kinds)


def listing(cells: Iterable[Cell], inputs: int, units: int) -> str:
    """A table of cells with two lines for each: its numbers, and its summary below."""
    cells = list(cells)
    heads = ("cell", "gates", "states", "weights per unit", "weights", "FLOP per step", "paper")
    rows = [heads, *(_numbers(cell, inputs, units) for cell in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_aligned(heads, widths)]
    for cell, row in zip(cells, rows[1:], strict=True):
        lines += [_aligned(row, widths), f"    {describe(cell).summary}"]
    return "\n".join(
        [
            *lines,
            "",
            f"Weights and FLOP are of one layer in one direction with I = {inputs:,} inputs and H =",
            f"{units:,} units; a step is of one sequence. Training takes three times the products.",
        ]
    )


def _numbers(cell: Cell, inputs: int, units: int) -> tuple[str, ...]:
    per_unit, steps = weights(cell), flop(cell)
    totals = (f"{units * each.at(inputs, units):,}" for each in (per_unit, steps))
    gates, states = " ".join(cell.gates), " ".join(cell.state)
    return cell.name, gates, states, str(per_unit), *totals, describe(cell).paper


def _aligned(row: Iterable[str], widths: Iterable[int]) -> str:
    """A row of the table, its numbers aligned to the right."""
    cells = zip(row, widths, range(7), strict=True)
    return "  ".join(f"{s:>{w}}" if k in (4, 5) else f"{s:<{w}}" for s, w, k in cells).rstrip()


def sheet(cell: Cell, inputs: int, units: int, backends: Mapping[str, str]) -> str:
    """The full text on one cell. ``backends`` maps a backend's name to a sentence on it."""
    blocks = in_words(cell, f"{cell.name}: ")
    traced = f"traceable values: {', '.join(cell.values)}"
    blocks += [text(cell), _table(parts(cell)), traced, _table(sizes(cell, inputs, units))]
    if backends:
        blocks.append(_table([("backend", ""), *backends.items()]))
    return "\n\n".join(blocks)


def in_words(cell: Cell, title: str = "") -> list[str]:
    """The cell's docstring as paragraphs with lines of WIDTH columns."""
    description = describe(cell)
    source = [f"{_SOURCE}{description.source}"] if description.source else []
    paragraphs = [f"{title}{description.summary}", *source, *description.notes]
    return [textwrap.fill(_plain(each), WIDTH) for each in paragraphs]


def _plain(words: str) -> str:
    return words.replace("``", "")


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{s:<{w}}" for s, w in line).rstrip() for line in lines)


def record(cell: Cell, inputs: int, units: int) -> dict[str, Any]:
    """What ``sheet`` prints, as plain data for JSON."""
    description, per_unit, matrices = describe(cell), weights(cell), products(cell)
    totals = [units * each.at(inputs, units) for each in (per_unit, flop(cell))]
    return {
        "name": cell.name,
        "summary": _plain(description.summary),
        "source": _plain(description.source),
        "paper": description.paper,
        "notes": [_plain(note) for note in description.notes],
        "gates": list(cell.gates),
        "states": list(cell.state),
        "parameters": list(cell.params),
        "feedback": {state: list(gates) for state, gates in cell.connections.items()},
        "shared_gates": list(cell.shared_gates),
        "coupled_states": list(cell.coupled_states),
        "traced": list(cell.values),
        "equations": {"text": text(cell), "latex": latex(cell)},
        "inputs": inputs,
        "units": units,
        "weights": {"per_unit": str(per_unit), "total": totals[0]},
        "flop_per_step": {
            "products_per_unit": str(matrices),
            "elementwise_per_unit": dict(point_wise(cell)),
            "total": totals[1],
        },
    }
