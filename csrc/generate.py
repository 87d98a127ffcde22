"""Writes the C++ of every built-in cell into a folder. CMake runs it, without torch."""

import sys
import types
from pathlib import Path

# the package without its __init__, which imports torch
package = types.ModuleType("gatewise")
package.__path__ = [str(Path(__file__).parents[1] / "src" / "gatewise")]
sys.modules["gatewise"] = package

from gatewise.cells.catalogue import CELLS  # noqa: E402
from gatewise.emit.cpp import source  # noqa: E402

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for cell in CELLS.values():
    text = source(cell, f"gw_cell_{cell.name}")
    target = folder / f"{cell.name}.cpp"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
print(";".join(str(folder / f"{name}.cpp") for name in CELLS), end="")
