"""Runs docs/lstm.md: draws its figures, and writes what its code prints into both languages.

    python docs/lstm/figures.py

A Python block of the page that prints is followed by a ``text`` block. A comment before the Python
block says how far its output can be repeated: ``<!-- slow -->`` marks training that takes longer
than a few seconds, ``<!-- timings -->`` output that no two runs have in common.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewise.cli import main as gatewise

DOCS = Path(__file__).parents[1]
PAGES = (DOCS / "lstm.md", DOCS / "ja" / "lstm.md")
IMAGES = DOCS / "images" / "lstm"
_BLOCK = re.compile(
    r"(?:<!-- (?P<marks>[a-z ]+) -->\n)?"
    r"```(?P<language>python|sh)\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<output>.*?)```\n)?",
    flags=re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One piece of code of the page and, where it prints, what the page says that it prints."""

    code: str
    language: str
    marks: frozenset[str]
    output: str | None

    @property
    def runs(self) -> bool:
        """Whether it is run here; of shell commands only gatewise's are."""
        return self.language == "python" or self.code.startswith("gatewise ")


def blocks(page: Path) -> list[Block]:
    """Every block of code of a page, in order."""
    return [_block(found) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def _block(found: re.Match[str]) -> Block:
    marks = frozenset((found["marks"] or "").split())
    return Block(found["code"], found["language"], marks, found["output"])


def run(page: Path, folder: Path, slow: bool = True) -> Iterator[tuple[Block, str]]:
    """Runs the page's blocks in ``folder``, where figures go; gives each block and what it printed."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for block in blocks(page):
            if block.runs and (slow or "slow" not in block.marks):
                yield block, _printed(block, page.name, names)


def _printed(block: Block, page: str, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if block.language == "sh":
            gatewise(block.code.split()[1:])
        else:
            exec(compile(block.code, page, "exec"), names)
    return printed.getvalue()


def write(page: Path, outputs: list[str]) -> None:
    """Puts what the blocks printed into a page; ``outputs`` has one text for each block that runs."""
    rest = iter(outputs)

    def replaced(found: re.Match[str]) -> str:
        block = _block(found)
        output = next(rest) if block.runs else ""
        if bool(output) != (block.output is not None):
            raise SystemExit(
                f"{page}: a block that prints must be followed by a text block, and no other:\n"
                f"{block.code}"
            )
        if block.output is None:
            return found[0]
        start, end = found.start("output") - found.start(), found.end("output") - found.start()
        return found[0][:start] + output.rstrip("\n") + "\n" + found[0][end:]

    text = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(replaced, text), encoding="utf-8")


def main() -> None:
    os.environ |= {"SOURCE_DATE_EPOCH": "0", "MPLBACKEND": "agg", "KERAS_BACKEND": "torch"}
    IMAGES.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, DOCS / "lstm" / "diagram.py"], check=True)
    outputs = [output for _, output in run(PAGES[0], IMAGES)]
    for page in PAGES:
        write(page, outputs)


if __name__ == "__main__":
    main()
