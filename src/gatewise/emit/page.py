"""The pages of docs/cells: one of each cell and one of all, in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gatewise.cells.counts import weights
from gatewise.cells.language import Cell, topological
from gatewise.emit.account import flop, parts, said, sizes
from gatewise.emit.equations import latex
from gatewise.errors import CellError

# The sizes of the pages' examples.
INPUTS, UNITS = 128, 128

_WRITTEN = (
    "*Written by `gatewise cells --docs docs/cells` from "
    "[the cell's definition](../../src/gatewise/cells/catalogue.py).*"
)
# What a symbol means, for the pages whose cells have such an operation.
_SYMBOLS: Mapping[str, str] = {
    "mul": "⊙ multiplies unit by unit",
    "sigmoid": "σ(a) is 1 / (1 + exp(-a))",
    "relu": "relu(a) is max(a, 0)",
    "softplus": "softplus(a) is log(1 + exp(a))",
    "greater": "greater(a, b) is 1 where a > b, else 0",
    "detach": "detach(a) is a, with the gradient cut",
    "gate.h": "d is a recurrent bias that stands apart from the input's, b",
}


def pages(cells: Iterable[Cell]) -> dict[str, str]:
    """The text of each page by its file's name.

    Raises:
        CellError: a cell's name is no identifier, of which a file's could be made.
    """
    cells = list(cells)
    for cell in cells:
        if not cell.name.isidentifier():
            raise CellError(f"a page needs a cell whose name is an identifier, not {cell.name!r}")
    return {"README.md": _index(cells), **{f"{cell.name}.md": page(cell) for cell in cells}}


def write(cells: Iterable[Cell], folder: Path) -> list[Path]:
    """Write the pages into ``folder``, which is made if need be; other files there stay.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in pages(cells).items():
        path = folder / name
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def page(cell: Cell) -> str:
    """One cell: what it is, its source, equations, parts, weights, work, how to use it, and what may
    surprise."""
    told = said(cell)
    blocks = [f"# {cell.name}", _markdown(told.what)]
    if told.source:
        blocks.append(f"Source: {_markdown(told.source)}")
    # a fence and not $$: between dollars GitHub reads \\ and _ as Markdown before they are formulas
    blocks += ["## Equations", f"```math\n{latex(cell)}\n```", _symbols(cell)]
    rows = [(kind, f"`{name}`", what) for kind, name, what in parts(cell)]
    blocks += ["## Parts", _table([("", "name", "what it is"), *rows])]
    blocks.append(f"Can be traced: {', '.join(f'`{name}`' for name in cell.values)}.")
    blocks += ["## Weights and work", _table(sizes(cell, INPUTS, UNITS)), _COUNTED]
    blocks += ["## Use", f"```python\n{_use(cell)}\n```"]
    if told.notes:
        blocks += ["## What may surprise", *map(_markdown, told.notes)]
    return "\n\n".join([*blocks, "[All cells](README.md)", _WRITTEN]) + "\n"


_OPENING = (
    "Every cell that is built in. `gatewise cells` prints this list with the figures of a layer of your "
    "own size, `gatewise cells lstm` all there is to say of one, `--json` the same for machines. A layer "
    'of a cell is `gw.Recurrent("lstm", inputs, units)`; a cell of your own is written '
    "[in a few lines](../../README.md#write-a-cell)."
)
_COUNTED = (
    "I inputs, H units, one layer in one direction, with torch's two biases of each gate (one where "
    "nothing is fed back). A step is of one sequence. Every operation counts as one, σ and tanh too; "
    "training takes three times the products."
)


def _symbols(cell: Cell) -> str:
    ops = {node.op for node in topological(cell.values.values())}
    matrices, biases = ("W, U", "biases' sum") if cell.feedback else ("W", "bias")
    told = [f"x is the input, {matrices} and b are a gate's weights and its {biases}"]
    if len(cell.feedback) > 1:
        told.append("[a; b] is one on top of the other")
    told += [meaning for op, meaning in _SYMBOLS.items() if op in ops]
    return f"{'; '.join(told)}."


def _use(cell: Cell) -> str:
    """Code that runs as it stands."""
    states = ", ".join(cell.state)
    final = f"({states})" if len(cell.state) > 1 else states
    traced = next(iter(cell.values))
    return "\n".join(
        [
            "import torch",
            "",
            "import gatewise as gw",
            "",
            "x = torch.randn(100, 4, 8)  # steps, sequences, inputs",
            f'layer = gw.Recurrent("{cell.name}", 8, 32)',
            f"output, {final} = layer(x)  # output: 100×4×32; {'each' if len(cell.state) > 1 else states}: 1×4×32",
            "output, state, trace = layer(x, trace=True)",
            f"trace.{traced}[0][0]  # {traced} in layer 0, direction 0: 4×100×32",
        ]
    )


def _index(cells: list[Cell]) -> str:
    counted = ("weights of a unit", "FLOP of a unit and step")
    heads = ("cell", "what it is", "gates", "states", *counted, "source")
    rows = [
        (
            f"[`{cell.name}`]({cell.name}.md)",
            _markdown(said(cell).what),
            " ".join(cell.gates),
            " ".join(cell.state),
            str(weights(cell)),
            str(flop(cell)),
            said(cell).paper,
        )
        for cell in cells
    ]
    written = _WRITTEN.replace("the cell's definition", "the cells' definitions")
    return "\n\n".join(["# The cells", _OPENING, _table([heads, *rows]), _COUNTED, written]) + "\n"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *others = (f"| {' | '.join(map(_within_a_table, row))} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])


def _within_a_table(words: str) -> str:
    return words.replace("|", r"\|")


def _markdown(words: str) -> str:
    return words.replace("``", "`")
