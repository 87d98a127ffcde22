"""Writes into a folder what CMake builds the core from: the C++ of every built-in cell, and the levels, flags
and limits. CMake runs it, without torch."""

import sys
import types
from pathlib import Path

# the package without its __init__, which imports torch
package = types.ModuleType("gatewise")
package.__path__ = [str(Path(__file__).parents[1] / "src" / "gatewise")]
sys.modules["gatewise"] = package

from gatewise.cells.catalogue import CELLS  # noqa: E402
from gatewise.emit import core  # noqa: E402
from gatewise.emit.cpp import source  # noqa: E402

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
cells = {f"{name}.cpp": source(cell, f"gw_cell_{name}") for name, cell in CELLS.items()}
places = " ".join(f'"{(folder / name).as_posix()}"' for name in cells)
files = cells | {
    "core.cmake": f"{core.cmake()}set(GW_CELL_SOURCES {places})\n",
    "level_tests.h": core.level_tests(),
}
for name, text in files.items():
    target = folder / name
    if not target.exists() or target.read_text() != text:  # or all would be compiled again
        target.write_text(text)
