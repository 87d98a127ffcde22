"""docs/papers.md holds what benchmarks/results say."""

import shutil

import pytest

from pages import ROOT
from papers.benchmarks import page as papers_page


@pytest.mark.short
def test_the_page_is_that_of_the_results():
    page = (ROOT / "docs" / "papers.md").read_text()
    assert page.count("<!-- table ") == 5
    assert papers_page.written(page) == page, "run `python -m papers.benchmarks.page`"


@pytest.mark.short
def test_a_changed_result_changes_the_page(tmp_path):
    shutil.copytree(papers_page.RESULTS, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "paper_1997.json"
    file.write_text(file.read_text().replace('"solved": 10,', '"solved": 9,'))
    page = (ROOT / "docs" / "papers.md").read_text()
    changed = papers_page.written(page, tmp_path)
    assert "| 9 of 10 |" in changed
    assert "| 10 of 10 |" not in changed


@pytest.mark.short
def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="1998"):
        papers_page.written("<!-- table 1998 -->\n<!-- end -->")
