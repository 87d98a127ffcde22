"""An account of a cell, in text and as plain data: what its docstring says and what its graph counts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatewise.cells.counts import FUNCTIONS, Count, point_wise, products, weights
from gatewise.cells.language import Cell, topological
from gatewise.emit.equations import latex, sees, text

WIDTH = 100  # of what is printed
_SOURCE = "Source: "


@dataclass(frozen=True)
class Said:
    """A cell's docstring by its parts: what the cell is, in a line; its source, with equations or
    sections; and what may surprise, in paragraphs. Any of them may be empty."""

    what: str
    source: str
    notes: tuple[str, ...]

    @property
    def paper(self) -> str:
        """The source's authors and year."""
        found = re.match(r".*?\b(?:19|20)\d\d\b", self.source)
        return found[0] if found else ""


def said(cell: Cell) -> Said:
    """What the cell's docstring says. The source is its first paragraph that begins "Source: "."""
    what, *others = [" ".join(each.split()) for each in cell.doc.split("\n\n")]
    sources = [each for each in others if each.startswith(_SOURCE)]
    notes = tuple(each for each in others if each not in sources[:1])
    return Said(what, sources[0].removeprefix(_SOURCE) if sources else "", notes)


def flop(cell: Cell) -> Count:
    """Floating-point operations of a unit and step, in the products and point by point."""
    matrices = products(cell)
    return Count(matrices.inputs, matrices.units, point_wise(cell).total())


def parts(cell: Cell) -> list[tuple[str, str, str]]:
    """Each gate, state and parameter: which of these it is, its name, and what there is to say."""
    shared = "; one for all cells of a block, where the layer has a block_size"
    gates = [(g, f"sees {sees(cell, g)}{shared if g in cell.shared else ''}") for g in cell.gates]
    states = [(s, "; ".join(_roles(cell, s))) for s in cell.state]
    params = [(p, "one number of each unit") for p in cell.params]
    kinds = {"gate": gates, "state": states, "parameter": params}
    return [(kind, *each) for kind, those in kinds.items() for each in those]


def _roles(cell: Cell, state: str) -> list[str]:
    roles = ["the output"] if state == cell.state[0] else []
    fed = [g for g in cell.gates if g in cell.fed.get(state, ()) and g not in cell.late]
    if fed:
        roles.append(f"fed back to {', '.join(fed)}")
    if any((v.op, v.name) == ("state", state) for v in topological(cell.values.values())):
        roles.append("a unit sees its own of the step before")
    if state in cell.together:
        others = [name for name in cell.together if name != state]
        roles.append(f"says something only with {', '.join(others)}")
    return roles or ["kept for the caller"]


def sizes(cell: Cell, inputs: int, units: int) -> list[tuple[str, str, str]]:
    """Weights and work: of a unit, and of a layer of that size. The first row says what is what."""
    pointed = Count(0, 0, point_wise(cell).total())
    rows = {
        "weights": weights(cell),
        "FLOP of a step, in products": products(cell),
        f"FLOP of a step, point by point ({work(cell)})": pointed,
    }
    heads = ("", "of a unit", f"of a layer with I = {inputs:,}, H = {units:,}")
    in_all = (f"{units * each.at(inputs, units):,}" for each in rows.values())
    return [heads, *zip(rows, map(str, rows.values()), in_all, strict=True)]


def work(cell: Cell) -> str:
    """What a unit works out point by point: "4 of mul, add and 5 of sigmoid, tanh"."""
    counted = point_wise(cell)
    functions = {name: n for name, n in counted.items() if name in FUNCTIONS}
    arithmetic = {name: n for name, n in counted.items() if name not in FUNCTIONS}
    kinds = [each for each in (arithmetic, functions) if each]
    return " and ".join(f"{sum(each.values())} of {', '.join(each)}" for each in kinds)


def listing(cells: Iterable[Cell], inputs: int, units: int) -> str:
    """A table of cells, two lines for each: its figures, and under them what it is."""
    cells = list(cells)
    heads = ("cell", "gates", "states", "weights of a unit", "weights", "FLOP of a step", "paper")
    rows = [heads, *(_figures(cell, inputs, units) for cell in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_aligned(heads, widths)]
    for cell, row in zip(cells, rows[1:], strict=True):
        lines += [_aligned(row, widths), f"    {said(cell).what}"]
    return "\n".join(
        [
            *lines,
            "",
            f"In all of one layer in one direction with I = {inputs:,} inputs and H = {units:,} units; a",
            "step is of one sequence. Training takes three times the products.",
        ]
    )


def _figures(cell: Cell, inputs: int, units: int) -> tuple[str, ...]:
    per_unit, steps = weights(cell), flop(cell)
    in_all = (f"{units * each.at(inputs, units):,}" for each in (per_unit, steps))
    gates, states = " ".join(cell.gates), " ".join(cell.state)
    return cell.name, gates, states, str(per_unit), *in_all, said(cell).paper


def _aligned(row: Iterable[str], widths: Iterable[int]) -> str:
    """A row with its numbers to the right."""
    cells = zip(row, widths, range(7), strict=True)
    return "  ".join(f"{s:>{w}}" if k in (4, 5) else f"{s:<{w}}" for s, w, k in cells).rstrip()


def sheet(cell: Cell, inputs: int, units: int, backends: Mapping[str, str]) -> str:
    """All there is to say of one cell. ``backends`` are sentences by name."""
    blocks = in_words(cell, f"{cell.name}: ")
    traced = f"can be traced: {', '.join(cell.values)}"
    blocks += [text(cell), _table(parts(cell)), traced, _table(sizes(cell, inputs, units))]
    if backends:
        blocks.append(_table([("backend", ""), *backends.items()]))
    return "\n\n".join(blocks)


def in_words(cell: Cell, title: str = "") -> list[str]:
    """What the docstring says, a paragraph each, in lines of WIDTH."""
    told = said(cell)
    source = [f"{_SOURCE}{told.source}"] if told.source else []
    paragraphs = [f"{title}{told.what}", *source, *told.notes]
    return [textwrap.fill(_plain(each), WIDTH) for each in paragraphs]


def _plain(words: str) -> str:
    return words.replace("``", "")


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{s:<{w}}" for s, w in line).rstrip() for line in lines)


def record(cell: Cell, inputs: int, units: int) -> dict[str, Any]:
    """The same as plain data, for machines."""
    told, per_unit, matrices, pointed = said(cell), weights(cell), products(cell), point_wise(cell)
    in_all = [units * each.at(inputs, units) for each in (per_unit, flop(cell))]
    return {
        "name": cell.name,
        "what": _plain(told.what),
        "source": _plain(told.source),
        "paper": told.paper,
        "notes": [_plain(note) for note in told.notes],
        "gates": list(cell.gates),
        "states": list(cell.state),
        "parameters": list(cell.params),
        "feedback": {state: list(gates) for state, gates in cell.fed.items()},
        "shared": list(cell.shared),
        "together": list(cell.together),
        "traced": list(cell.values),
        "equations": {"text": text(cell), "latex": latex(cell)},
        "inputs": inputs,
        "units": units,
        "weights": {"of_a_unit": str(per_unit), "in_all": in_all[0]},
        "flop_of_a_step": {
            "products_of_a_unit": str(matrices),
            "point_wise_of_a_unit": dict(pointed),
            "in_all": in_all[1],
        },
    }
