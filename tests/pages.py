"""The pages of docs/, and the Python that they show."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


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
