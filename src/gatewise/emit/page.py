"""The pages of docs/cells in GitHub's Markdown: one for each cell, and an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gatewise.cells.counts import weights
from gatewise.cells.language import Cell, topological
from gatewise.emit.account import describe, flop, parts, sizes
from gatewise.emit.diagram import svg
from gatewise.emit.equations import latex
from gatewise.errors import CellError

# The sizes of the pages' examples.
INPUTS, UNITS = 128, 128

_WRITTEN = (
    "*Written by `gatewise cells --docs docs/cells` from "
    "[the cell's definition](../../src/gatewise/cells/catalogue.py).*"
)
# What the symbols mean, by operation. A page explains the operations of its cell.
_SYMBOLS: Mapping[str, str] = {
    "mul": "⊙ is the element-wise product",
    "sigmoid": "σ(a) is 1 / (1 + exp(-a))",
    "relu": "relu(a) is max(a, 0)",
    "softplus": "softplus(a) is log(1 + exp(a))",
    "greater": "greater(a, b) is 1 where a > b, else 0",
    "detach": "detach(a) is a, and stops the gradient",
    "gate.h": "d is the bias of the recurrent part, separate from the bias b of the input part",
}


def pages(cells: Iterable[Cell]) -> dict[str, str]:
    """The text of each page and of each diagram, by its file's name.

    Raises:
        CellError: a cell's name is not an identifier, so it cannot name a file.
    """
    cells = list(cells)
    for cell in cells:
        if not cell.name.isidentifier():
            raise CellError(
                f"a cell with a page must have an identifier as its name, not {cell.name!r}"
            )
    diagrams = {f"{cell.name}.svg": svg(cell) for cell in cells}
    texts = {f"{cell.name}.md": page(cell) for cell in cells}
    return {"README.md": _index(cells), **texts, **diagrams}


def write(cells: Iterable[Cell], folder: Path) -> list[Path]:
    """Writes the pages into ``folder`` and returns their paths. Other files there stay.

    Raises:
        OSError: a page cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in pages(cells).items():
        path = folder / name
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


def page(cell: Cell) -> str:
    """The page of one cell."""
    description = describe(cell)
    blocks = [f"# {cell.name}", _markdown(description.summary)]
    if description.source:
        blocks.append(f"Source: {_markdown(description.source)}")
    # a fence and not $$, because between dollars GitHub reads \\ and _ as Markdown first
    blocks += ["## Equations", f"```math\n{latex(cell)}\n```", _symbols(cell)]
    blocks += ["## Diagram", f"![{cell.name} as a flow chart]({cell.name}.svg)", _LEGEND]
    rows = [(kind, f"`{name}`", what) for kind, name, what in parts(cell)]
    blocks += ["## Parts", _table([("", "name", "meaning"), *rows])]
    blocks.append(f"Traceable values: {', '.join(f'`{name}`' for name in cell.values)}.")
    blocks += ["## Weights and operations", _table(sizes(cell, INPUTS, UNITS)), _COUNTED]
    blocks += ["## Use", f"```python\n{_use(cell)}\n```"]
    if description.notes:
        blocks += ["## Notes", *map(_markdown, description.notes)]
    return "\n\n".join([*blocks, "[All cells](README.md)", _WRITTEN]) + "\n"


_OPENING = (
    "All built-in cells. `gatewise cells` prints this list for a layer of any size, `gatewise cells lstm` "
    "prints everything on one cell, and `--json` prints the same as JSON. "
    '`gw.Recurrent("lstm", inputs, units)` is a layer of a cell. You can write a cell of your own '
    "[in a few lines](../../README.md#write-a-cell)."
)
_COUNTED = (
    "The numbers are for one layer in one direction with I inputs and H units. As in torch each gate has "
    "two biases (one where the cell has no feedback). A step is of one sequence. Every operation counts "
    "as one, σ and tanh included. Training takes three times the products."
)


_LEGEND = (
    "Yellow boxes have weights: each multiplies the inputs that its lines from below bring. Red ones work "
    "element by element. A thick line is a state on its way from step to step. "
    "`gatewise equations CELL --diagram FILE.svg` writes this picture."
)


def _symbols(cell: Cell) -> str:
    ops = {node.op for node in topological(cell.values.values())}
    matrices, biases = ("W, U", "the sum of its biases") if cell.feedback else ("W", "its bias")
    meanings = [f"x is the input; {matrices} are a gate's weights and b is {biases}"]
    if len(cell.feedback) > 1:
        meanings.append("[a; b] stacks a on b")
    meanings += [meaning for op, meaning in _SYMBOLS.items() if op in ops]
    return f"{'; '.join(meanings)}."


def _use(cell: Cell) -> str:
    """A complete example."""
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
    counted = ("weights per unit", "FLOP per unit and step")
    heads = ("cell", "summary", "gates", "states", *counted, "source")
    rows = [
        (
            f"[`{cell.name}`]({cell.name}.md)",
            _markdown(describe(cell).summary),
            " ".join(cell.gates),
            " ".join(cell.state),
            str(weights(cell)),
            str(flop(cell)),
            describe(cell).paper,
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
