"""What the pages show runs, each page from top to bottom."""

import re

import pytest

import pages


@pytest.mark.parametrize("page", ["layers.md", "torch.md"])
def test_the_code_of_a_page(page, capsys):
    blocks = pages.blocks(page)
    assert blocks
    pages.run(page)
    shown = re.findall(r"print\(.*\)  # .*?([\d, ]+)$", "\n".join(blocks), flags=re.MULTILINE)
    printed = re.findall(r"torch\.Size\(\[(.*)\]\)", capsys.readouterr().out)
    assert [each.strip() for each in shown] == printed
