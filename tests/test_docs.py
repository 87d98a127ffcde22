"""What the pages show runs, each page from top to bottom."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["layers.md", "torch.md"])
def test_the_code_of_a_page(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    shown = re.findall(r"print\(.*\)  # .*?([\d, ]+)$", "\n".join(blocks), flags=re.MULTILINE)
    printed = re.findall(r"torch\.Size\(\[(.*)\]\)", capsys.readouterr().out)
    assert [each.strip() for each in shown] == printed
