"""A cell's step and its gradient as Triton functions on tuples of blocks.

A block has the values of some sequences and units in one step. A value that depends on parameters or
numbers alone has no dimension for the sequences; adding ``zero``, a block of zeros, gives it one.
"""

from __future__ import annotations

import math

from gatewise.cells.language import Cell
from gatewise.emit.steps import (
    Dialect,
    Lines,
    backward,
    second_stage_backward,
    second_stage_input,
    step,
)


def source(cell: Cell) -> str:
    """The text of the cell's functions.

    ``step(a, s, p, zero)`` returns the new states, the saved values and the named values.
    ``backward(saved, s, p, seed, zero)`` returns the gradients of the pre-activations, the states
    and the parameters. A cell with a second stage has two further functions.
    ``second_stage_input`` takes what ``step`` takes and returns that stage's recurrent input.
    ``second_stage_backward`` takes what ``backward`` takes and returns the gradients of that stage's
    pre-activations. The functions call each operation by its name in the cell language.
    """
    functions = [
        _function("step", "a, s, p, zero", step(cell, _TRITON)),
        _function("backward", "saved, s, p, seed, zero", backward(cell, _TRITON)),
    ]
    if cell.second_stage:
        functions += [
            _function("second_stage_input", "a, s, p, zero", second_stage_input(cell, _TRITON)),
            _function(
                "second_stage_backward",
                "saved, s, p, seed, zero",
                second_stage_backward(cell, _TRITON),
            ),
        ]
    return "\n\n".join(functions)


def _function(name: str, takes: str, body: Lines) -> str:
    results = ", ".join(_tuple(of) for of in body.results.values())
    lines = [*body.lines, f"return {results}"]
    return f"@jit\ndef {name}({takes}):\n" + "".join(f"    {line}\n" for line in lines)


def _tuple(results: list[str]) -> str:
    """A tuple of blocks. An empty result is one block of zeros, because Triton has no empty tuples."""
    return f"({', '.join(f'{of} + zero' for of in results) or 'zero'},)"


def _number(number: float) -> str:
    return repr(number) if math.isfinite(number) else f'float("{number}")'


_TRITON = Dialect(
    line="{} = {}",
    number=_number,
    operation=lambda op, args: f"{op}({', '.join(args)})",
    zero="0.0",
)
