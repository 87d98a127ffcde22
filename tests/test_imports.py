"""What importing gatewise costs, and which room may look into which."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gatewise
import pages

ROOT = Path(gatewise.__file__).parent
SCRIPT = Path(sysconfig.get_path("scripts")) / "gatewise"
HEAVY = (
    *("lightning", "polars", "pandas", "matplotlib", "narwhals", "triton"),
    *("keras", "h5py", "onnx", "sklearn", "scipy", "tokenizers"),
)
PICTURE = pages.DOCS / "images" / "rooms.svg"


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


@cache
def imported(module: str) -> frozenset[str]:
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
        elif isinstance(node, ast.Call):
            found |= set(imported_by_name(node))
    return frozenset(name for name in found if name.split(".")[0] == "gatewise")


def imported_by_name(call: ast.Call) -> Iterator[str]:
    """What a call of import_module with a name in the text imports; of a name that ends in a variable, what is
    before it."""
    function = getattr(call.func, "attr", getattr(call.func, "id", None))
    if function == "import_module" and call.args:
        for part in ast.walk(call.args[0]):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value.rstrip(".")


def each_other() -> set[frozenset[str]]:
    """The pairs of modules of which each imports the other, for a type alone too; a package and what is in
    it, which it exports, are no pair."""
    return {
        frozenset((one, other))
        for one in MODULES
        for other in imported(one) & MODULES.keys()
        if one != other
        and one in imported(other)
        and not one.startswith(f"{other}.")
        and not other.startswith(f"{one}.")
    }


def test_no_two_modules_import_each_other():
    assert each_other() == set()


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if "." in name}


def test_the_graph_sees_what_there_is():
    assert "gatewise.cells.language" in imported("gatewise.cells.catalogue")
    assert "gatewise.backends" in imported("gatewise.backends.registry")  # by import_module
    assert {"cells", "backends", "errors"} <= rooms(set(imported("gatewise.nn.recurrent")))


def drawn_rooms() -> dict[str, int]:
    """The rows of the rooms in the picture of the architecture page, counted from the top."""
    named = re.findall(r'y="(\d+)" class="name">(.*?)</text>', PICTURE.read_text("utf-8"))
    return {name: int(y) for y, name in named}


def test_the_picture_has_all_rooms():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"_native"}
    assert drawn_rooms().keys() == packages


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in ("gatewise", "gatewise.__main__")]
)
def test_imports_point_down(module):
    """To rooms that are drawn below, and from all of them to the single files, such as errors.py."""
    rows, (_, own, *_) = drawn_rooms(), module.split(".")
    assert "gatewise" not in imported(module)
    for other in rooms(set(imported(module))) - {own, "_native"}:
        if other in rows:
            assert own in rows, f"{module} imports {other}"
            assert rows[other] > rows[own], f"{module} imports {other}"


def test_the_package_has_no_papers():
    """They are run from the repository, and the wheel does not have them."""
    named = [m for m in MODULES if "papers" in m.split(".")]
    named += [
        m
        for m, path in MODULES.items()
        if re.search(r"^\s*(from|import) papers", path.read_text(), re.M)
    ]
    assert named == []


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_to_a_module_stays_there(module):
    """The compiled core's ``_native`` is a package, and its binding in it no Python file."""
    private = {n for n in imported(module) if n.rpartition(".")[2].startswith("_")}
    assert {n for n in private if not n.startswith("gatewise._native")} == set()


SPY = """
import atexit, signal, sys
from importlib import abc

class Spy(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            handler = signal.getsignal(signal.SIGTERM)
            print("torch is loaded, SIGTERM", "answered" if callable(handler) else "not answered")
            sys.meta_path.remove(self)

sys.meta_path.insert(0, Spy())
"""


@pytest.mark.parametrize("started", [["-m", "gatewise"], [str(SCRIPT)]], ids=["module", "script"])
def test_the_command_answers_signals_before_it_loads_torch(started, tmp_path):
    """Python runs sitecustomize.py before all else."""
    (tmp_path / "sitecustomize.py").write_text(SPY)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = []
    for line in (["--version"], ["cells", "lstm"]):
        run = subprocess.run(
            [sys.executable, *started, *line], capture_output=True, text=True, check=True, env=env
        )
        said.append(run.stdout.splitlines())
    assert said[0] == [f"gatewise {gatewise.__version__}"]
    assert said[1][0] == "torch is loaded, SIGTERM answered"


def test_the_help_of_tasks_loads_no_library_that_only_a_run_needs():
    code = (
        "import sys; from gatewise.cli import main; "
        "main(['fit', 'classify', '--help']); main(['evaluate', '--help']); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, modules = run.stdout.rstrip().rpartition("\n")
    assert text.count("--device") >= 2
    loaded = set(modules.split())
    assert {"gatewise.tasks.classify", "gatewise.tasks.forecast.forecaster"} < loaded
    assert not loaded & {"lightning", "polars", "matplotlib", "rich"}
    assert not loaded & {"sklearn.linear_model", "sklearn.metrics", "sklearn.preprocessing"}


def test_a_library_import_registers_the_operators_of_exported_programs():
    code = "import sys, gatewise; print(*(m in sys.modules for m in sys.argv[1:]))"
    modules = ["gatewise.backends.operators", "gatewise.nn.lengths"]
    line = [sys.executable, "-c", code, *modules]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]


def test_a_trace_can_be_drawn_however_its_layer_was_imported():
    code = (
        "import torch; from gatewise.nn.layers import LSTM; "
        "trace = LSTM(2, 3)(torch.randn(4, 1, 2), trace=True)[2]; "
        "print(type(trace.view()).__name__, type(trace.plot()).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["PageView", "Figure"]


def test_a_trace_says_what_draws_it(monkeypatch):
    from gatewise.errors import OptionError
    from gatewise.nn import trace

    monkeypatch.setattr(trace, "DRAWINGS", {})
    with pytest.raises(OptionError, match=r"plot\(\) draws a trace in gatewise.gates: import"):
        trace.Trace({}, None).plot()


def test_everything_exported_is_there_and_documented():
    assert gatewise.__all__ == sorted(gatewise.__all__, key=sort_key)
    for name in gatewise.__all__:
        if not gatewise._MODULE_OF.get(name, "").startswith("gatewise.tasks"):
            exported = getattr(gatewise, name)
            assert exported is gatewise.CELLS or exported.__doc__, name


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff has it."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def test_backends_do_not_import_each_other():
    from gatewise.backends.registry import BACKENDS

    modules = {f"gatewise.backends.{name}" for name in BACKENDS}
    for module in modules:
        assert not imported(module) & (modules | {"gatewise.backends.registry"}) - {module}


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("images/rooms.svg", r"a cell through time: (.*?)<"),
        ("images/call.svg", r'"file">(cpu, .*?|aten, .*?)<'),
        ("glossary.md", r"^\| backend \| Code that runs a cell through time: (.*)\. \|$"),
    ],
)
def test_pages_and_pictures_name_the_backends_that_there_are(page, lines):
    from gatewise.backends.registry import BACKENDS

    named = re.findall(lines, (pages.DOCS / page).read_text("utf-8"), re.MULTILINE)
    assert re.findall(r"(?<!\()\b\w+", ", ".join(named)) == list(BACKENDS)


def test_what_the_package_lists_is_public():
    import gatewise as gw

    listed = {name for name in dir(gw) if not name.startswith("__")}
    assert listed == {*gw.__all__, "backends", "cells", "emit", "gates", "nn", "options"}
