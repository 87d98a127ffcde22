"""A cell's step and its derived gradient, printed as Triton functions on tuples of blocks.

A block is the values of some sequences and units in one step. What rests on parameters or numbers
alone has no sequences of its own; adding ``zero``, a block of zeros, gives it them.
"""

from __future__ import annotations

import math

from gatewise.cells.language import Cell
from gatewise.emit.steps import Dialect, Lines, back, back_late, early, step


def source(cell: Cell) -> str:
    """The text of ``step`` and ``back`` and, where the cell has late gates, ``early`` and ``back_late``.

    ``step(a, s, p, zero)`` gives the new states, what is saved and the named values;
    ``back(saved, s, p, seed, zero)`` the gradients of the sums, the states and the parameters.
    ``early`` takes what ``step`` takes and gives what the late gates are fed with; ``back_late`` takes
    what ``back`` takes and gives the gradients of the late gates' sums. The operations are called by
    their names in the language.
    """
    functions = [
        _function("step", "a, s, p, zero", step(cell, _TRITON)),
        _function("back", "saved, s, p, seed, zero", back(cell, _TRITON)),
    ]
    if cell.late:
        functions += [
            _function("early", "a, s, p, zero", early(cell, _TRITON)),
            _function("back_late", "saved, s, p, seed, zero", back_late(cell, _TRITON)),
        ]
    return "\n\n".join(functions)


def _function(name: str, takes: str, body: Lines) -> str:
    results = ", ".join(_tuple(of) for of in body.results.values())
    lines = [*body.lines, f"return {results}"]
    return f"@jit\ndef {name}({takes}):\n" + "".join(f"    {line}\n" for line in lines)


def _tuple(results: list[str]) -> str:
    """A tuple of blocks; of one zero where there is none, as Triton has no empty results."""
    return f"({', '.join(f'{of} + zero' for of in results) or 'zero'},)"


def _number(number: float) -> str:
    return repr(number) if math.isfinite(number) else f'float("{number}")'


_TRITON = Dialect(
    line="{} = {}",
    number=_number,
    operation=lambda op, args: f"{op}({', '.join(args)})",
    nothing="0.0",
)
