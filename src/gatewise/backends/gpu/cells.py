"""A cell's functions in Triton, compiled from the emitted text."""

from __future__ import annotations

import hashlib
import linecache
from functools import cache
from types import SimpleNamespace

import triton

from gatewise.backends.gpu.maths import OPERATIONS
from gatewise.cells.language import Cell
from gatewise.emit.triton import source


@cache
def functions(cell: Cell) -> SimpleNamespace:
    """``step``, ``backward``, ``second_stage_input`` and ``second_stage_backward``; the last two are None
    for a cell of one stage."""
    text = source(cell)
    # Triton reads a function's source from its file, and this source is in memory only
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"<gatewise cell {cell.name!a} {digest}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    # `__name__` is part of the key under which Triton caches compiled kernels
    within = {
        "jit": triton.jit,
        "tl": triton.language,
        "__name__": f"gatewise_cell_{digest}",
        **OPERATIONS,
    }
    exec(compile(text, name, "exec"), within)
    names = ("step", "backward", "second_stage_input", "second_stage_backward")
    return SimpleNamespace(**{name: within.get(name) for name in names})
