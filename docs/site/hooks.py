"""What MkDocs needs beyond its plugins: pages that live outside docs/, formulas, and command-line help.

GitHub and the site show the same files. A link from a page to a file of the repository that the site
does not have (source, benchmarks) stays as plain text there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

# Pages of the site that are files of the repository's root.
ROOT_PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_PAGE_OF = {name: page for page, name in ROOT_PAGES.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^][]|\[[^]]*\])*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_HELP = re.compile(r"^<!-- help(?P<verbs>[a-z ]*) -->$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):(?=<code)")  # of Sphinx, in docstrings
_MATH = re.compile(r"^```math\n(?P<latex>.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand in the repository's root."""
    for page, name in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with its links, formulas and help texts as the site shows them."""
    source = page.file.src_uri
    if source == "index.md":
        page.meta["hide"] = ["navigation"]
    there = ROOT_PAGES.get(source, f"docs/{source}")
    outside_code = _CODE.split(markdown)
    for i in range(0, len(outside_code), 2):
        outside_code[i] = _LINK.sub(lambda m: _link(m, source, there, files), outside_code[i])
    markdown = _HELP.sub(lambda m: _help(m["verbs"].split()), "".join(outside_code))
    return _MATH.sub(lambda m: mathml(m["latex"]), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """The page's HTML, without the marks of Sphinx in docstrings."""
    return _ROLE.sub("", html)


def _link(found: re.Match[str], source: str, there: str, files: Files) -> str:
    """A link as it is on the site: to a page, or its text alone if the target is no page."""
    target, _, anchor = found["target"].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return found[0]
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(there), target))
    if inside in _PAGE_OF:
        page = _PAGE_OF[inside]
    elif inside.startswith("docs/"):
        page = inside.removeprefix("docs/")
    elif (ROOT / inside).exists():
        return found["text"]
    else:
        return found[0]  # MkDocs reports it
    relative = posixpath.relpath(page, posixpath.dirname(source) or ".")
    return f"{found['image']}[{found['text']}]({relative}{'#' + anchor if anchor else ''})"


def _help(verbs: list[str]) -> str:
    """What `gatewise VERBS --help` prints."""
    import contextlib
    import io
    import os

    from gatewise.cli import main

    os.environ["COLUMNS"] = "88"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if main([*verbs, "--help"]):
            raise ValueError(f"gatewise {' '.join(verbs)} --help failed")
    return f"```text\n{printed.getvalue().strip()}\n```"


def mathml(latex: str) -> str:
    r"""The lines of an ``aligned`` block as MathML, which browsers draw without a script."""
    lines = re.sub(r"\\(begin|end)\{aligned\}", "", latex).strip().split("\\\\\n")
    rows = []
    for line in lines:
        cells = [_fragment(part) for part in line.split("&", 1)]
        sides = zip(("right", "left"), cells, strict=False)
        rows.append(
            "".join(f'<mtd style="text-align: {side}">{cell}</mtd>' for side, cell in sides)
        )
    table = "".join(f"<mtr>{row}</mtr>" for row in rows)
    return f'<div class="equations"><math display="block"><mtable>{table}</mtable></math></div>'


def _fragment(latex: str) -> str:
    """One side of an equation, without the <math> around it."""
    found = re.search(r"<math[^>]*>(.*)</math>", convert(latex.strip()), re.DOTALL)
    assert found is not None
    return found[1]
