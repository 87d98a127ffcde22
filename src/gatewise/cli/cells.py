"""The verbs cells and equations, which print information about cells."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from gatewise.cli.parsing import INTEGER, PATH
from gatewise.errors import OptionError
from gatewise.options import integer

if TYPE_CHECKING:
    from gatewise.backends.contract import Backend
    from gatewise.cells.language import Cell


def add_cells(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_cells)
    verb.add_argument(
        "cell", nargs="?", help="a built-in cell to describe; without it all are listed"
    )
    verb.add_argument(
        "--inputs",
        type=INTEGER,
        help="I, the input size for the counts of weights and operations (default: 128)",
    )
    verb.add_argument(
        "--units", type=INTEGER, help="H, the hidden size for these counts (default: 128)"
    )
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--docs", type=PATH, metavar="FOLDER", help="write a page for each cell to this folder"
    )


def _run_cells(given: argparse.Namespace) -> None:
    from gatewise.cells.catalogue import CELLS, find
    from gatewise.emit.account import listing, record, sheet
    from gatewise.emit.page import write

    if given.docs is not None:
        _check_alone("--docs", cell=given.cell, inputs=given.inputs, units=given.units)
        print(f"pages     {given.docs} ({len(write(CELLS.values(), given.docs))} files)")
        return
    sizes = {name: getattr(given, name) for name in ("inputs", "units")}
    sizes = {name: 128 if size is None else integer(name, size) for name, size in sizes.items()}
    if given.json:
        cells = list(CELLS.values()) if given.cell is None else [find(given.cell)]
        records = [
            {**record(cell, **sizes), "backends": _backends(cell, **sizes)} for cell in cells
        ]
        print(json.dumps(records if given.cell is None else records[0], indent=1))
    elif given.cell is None:
        print(listing(CELLS.values(), **sizes))
    else:
        cell = find(given.cell)
        print(sheet(cell, **sizes, backends=_backends(cell, **sizes)))


def _check_alone(option: str, **others: Any) -> None:
    for name, value in others.items():
        if value is not None:
            what = f"the cell {value!r}" if name == "cell" else f"{name}={value!r}"
            raise OptionError(
                f"{option} writes a page for every cell, so {what} has no effect: leave it out"
            )


def _backends(cell: Cell, inputs: int, units: int) -> dict[str, str]:
    """For each backend, in order of preference, a description of how it runs a plain float32 layer of the
    cell on this machine, or the reason why it cannot."""
    from gatewise.backends.contract import Spec
    from gatewise.backends.registry import BACKENDS

    spec = Spec(cell=cell, input_size=inputs, hidden_size=units)
    descriptions = {}
    for name in BACKENDS:
        backend = cast("Backend", import_module(f"gatewise.backends.{name}"))
        reason = backend.supports(spec)
        descriptions[name] = f"no: it {reason}" if reason else backend.describe(spec)
    return descriptions


def add_equations(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_equations)
    verb.add_argument("cell", nargs="?", help="a built-in cell; without it all are listed")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="print only the text")
    form.add_argument("--latex", action="store_true", help="print only the LaTeX")
    form.add_argument(
        "--diagram", type=PATH, metavar="FILE", help="write the cell as a flow chart, an .svg file"
    )


def _run_equations(given: argparse.Namespace) -> None:
    from gatewise.cells.catalogue import CELLS, find
    from gatewise.emit.account import describe, in_words
    from gatewise.emit.equations import latex, text

    if given.diagram is not None:
        _write_diagram(given)
        return
    if given.cell is None:
        width = max(map(len, CELLS))
        for cell in CELLS.values():
            print(f"{cell.name:<{width}}  {describe(cell).summary}")
        return
    cell = find(given.cell)
    if given.text or given.latex:
        print(text(cell) if given.text else latex(cell))
    else:
        print("\n\n".join([*in_words(cell), text(cell), latex(cell)]))


def _write_diagram(given: argparse.Namespace) -> None:
    from gatewise.atomic import write_atomically
    from gatewise.cells.catalogue import CELLS, find
    from gatewise.emit.diagram import svg

    if given.cell is None:
        names = ", ".join(CELLS)
        raise OptionError(f"--diagram draws one cell, and none is given: name one of {names}")
    if given.diagram.suffix.lower() != ".svg":
        raise OptionError(f"--diagram writes an .svg file, not {given.diagram}")
    content = svg(find(given.cell)).encode()
    write_atomically(given.diagram.parent, {given.diagram.name: content})
    print(f"diagram   {given.diagram}")
