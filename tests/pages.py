"""The pages of docs/, the Python and shell code that they show, and the benchmarks that write them."""

import ast
import contextlib
import importlib.util
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), flags=re.DOTALL | re.MULTILINE)


def run(page):
    """Run all Python that a page shows, from top to bottom; return the names that it defined."""
    names: dict = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    return names


@dataclass
class Printed:
    """A print statement of a page: the output that the page shows, and what the statement printed."""

    statement: str
    shown: str
    found: str


def printed(page, names=None):
    """Run all Python of a page; yield each print whose output the page shows.

    The output stands in a comment behind the print, or, for the last print of a block, in the block of
    text that follows. A comment such as ``8, 50, 32`` is a shape.
    """
    names = {} if names is None else names
    found = re.finditer(
        r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)\n```)?",
        text(page),
        flags=re.DOTALL | re.MULTILINE,
    )
    for block in found:
        code, last = block["code"], ""
        for node in ast.parse(code).body:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(ast.Module([node], []), page, "exec"), names)
            statement = ast.get_source_segment(code, node) or ""
            comment = code.splitlines()[node.end_lineno - 1].partition("  # ")[2]
            if statement.startswith("print(") and comment:
                yield Printed(statement, comment, out.getvalue().strip())
            last = out.getvalue().strip() or last
        if block["output"]:
            yield Printed("the block's last print", block["output"], last)


def benchmark(name):
    """A file of benchmarks/ as a module."""
    place = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module  # dataclasses look a module up by its name
    place.loader.exec_module(module)
    return module
