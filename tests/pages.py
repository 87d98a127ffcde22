"""The pages of docs/, the Python that they show, and the benchmarks that write them."""

import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page):
    return re.findall(r"```python\n(.*?)```", text(page), flags=re.DOTALL)


def run(page):
    """Runs all that a page shows, from top to bottom; gives the names that it made."""
    names: dict = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    return names


def benchmark(name):
    """A file of benchmarks/ as a module."""
    place = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module  # dataclasses look a module up by its name
    place.loader.exec_module(module)
    return module
