"""What importing gatewise costs, and which room may look into which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gatewise

ROOT = Path(gatewise.__file__).parent
HEAVY = ("lightning", "polars", "pandas", "matplotlib", "narwhals", "triton")
ABOVE = ("tasks", "data", "train", "gates", "ship", "bench", "cli")
BELOW = ("cells", "emit", "backends", "nn", "errors")


def test_import_loads_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import gatewise; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "gatewise" in loaded
    assert not set(loaded) & set(HEAVY)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported(module: str) -> set[str]:
    """The modules of gatewise that ``module`` imports anywhere in its text."""
    found: set[str] = set()
    package = module if MODULES[module].stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "gatewise"}


def reached(module: str) -> set[str]:
    seen: set[str] = set()
    ahead = [module]
    while ahead:
        for name in imported(ahead.pop()) - seen:
            seen.add(name)
            if name in MODULES:
                ahead.append(name)
    return seen


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if "." in name}


def test_the_graph_sees_what_there_is():
    assert "gatewise.cells.language" in imported("gatewise.cells.catalogue")
    assert {"cells", "backends", "errors"} <= rooms(reached("gatewise.nn.layers"))


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.split(".")[1:2] and m.split(".")[1] in BELOW]
)
def test_the_rooms_below_know_nothing_of_those_above(module):
    assert not rooms(reached(module)) & set(ABOVE)
    assert "gatewise" not in imported(module)


def test_backends_do_not_import_each_other():
    from gatewise.backends.registry import BACKENDS

    modules = {f"gatewise.backends.{name}" for name in BACKENDS}
    for module in modules:
        assert not imported(module) & (modules | {"gatewise.backends.registry"}) - {module}
