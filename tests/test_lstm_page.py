"""docs/lstm.md and docs/ja/lstm.md: their code runs, prints what they show, and draws their figures."""

import importlib.util
import re
import sys
from pathlib import Path

import matplotlib
import pytest
import torch

import gatewise as gw
import pages
from gatewise.tasks.registry import TASKS

matplotlib.use("agg")

pytestmark = [
    pytest.mark.usefixtures("one_thread", "_restored"),
    # Keras's, on NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
LANGUAGES = ["lstm.md", "ja/lstm.md"]


def module(name):
    """A file of docs/lstm as a module."""
    place = importlib.util.spec_from_file_location(
        f"lstm_page_{name}", pages.DOCS / "lstm" / f"{name}.py"
    )
    loaded = importlib.util.module_from_spec(place)
    sys.modules[place.name] = loaded  # dataclasses look a module up by its name
    place.loader.exec_module(loaded)
    return loaded


figures, diagram = module("figures"), module("diagram")


@pytest.fixture
def _restored(monkeypatch):
    """The page sets torch's default dtype and matplotlib's options; other tests must not see that."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    dtype = torch.get_default_dtype()
    with matplotlib.rc_context():
        yield
    matplotlib.pyplot.close("all")
    torch.set_default_dtype(dtype)


def last_place(number):
    """The worth of one unit in the last digit that is printed: 0.01 of 3.14, 1e-7 of 2e-07."""
    digits, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def check_printed(printed, shown, units):
    """Words are equal, numbers are so but for ``units`` in the last place."""
    printed, shown = printed.strip(), shown.strip()
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        allowed = units * last_place(expected) * 1.001
        assert abs(float(found) - float(expected)) <= allowed, f"{found} for {expected}"


def check_page(folder, slow):
    """Runs the page and compares; gives the names of the figures that it drew."""
    checked = 0
    for block, printed in figures.run(figures.PAGES[0], folder, slow):
        if "timings" in block.marks:  # no two runs have them in common
            assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", block.output).split()
        elif block.output is None:
            assert not printed, block.code
        else:
            check_printed(printed, block.output, units=10 if "slow" in block.marks else 1)
            checked += 1
    assert checked > 10
    return {file.name for file in folder.iterdir()}


def drawn_by(blocks):
    return {name for block in blocks for name in re.findall(r'savefig\("(.*?)"', block.code)}


def test_the_quick_code(tmp_path):
    quick = [block for block in figures.blocks(figures.PAGES[0]) if "slow" not in block.marks]
    assert check_page(tmp_path, slow=False) == drawn_by(quick)


@pytest.mark.slow
def test_all_code(tmp_path):
    assert check_page(tmp_path, slow=True) == drawn_by(figures.blocks(figures.PAGES[0]))


def test_both_languages_have_the_same_code_and_output():
    english, japanese = map(figures.blocks, figures.PAGES)
    assert english == japanese


def test_what_prints_is_shown():
    for block in figures.blocks(figures.PAGES[0]):
        assert block.output is None or block.output.strip(), block.code


@pytest.mark.parametrize("page", LANGUAGES)
def test_links_lead_somewhere(page):
    file = pages.DOCS / page
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", pages.text(page))
    assert len(targets) > 10
    for target in targets:
        assert (file.parent / target).is_file(), target


@pytest.mark.parametrize("page", LANGUAGES)
def test_every_figure_is_shown_and_drawn(page):
    shown = {Path(name).name for name in re.findall(r"!\[.+?\]\((.*?)\)", pages.text(page))}
    drawn = drawn_by(figures.blocks(pages.DOCS / page)) | {"cell.svg"}
    assert shown == drawn == {file.name for file in figures.IMAGES.iterdir()}


def test_the_diagram(tmp_path):
    """It has every gate of the cell, and is the same file each time."""
    assert set(diagram.GATE_X) == set(gw.CELLS["lstm"].gates)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        diagram.main(tmp_path / name / "cell.svg")
    first, second = ((tmp_path / name / "cell.svg").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first.startswith(b"<?xml")


def test_outputs_are_written_where_they_belong(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n\n<!-- slow -->\n```python\nprint(x)\n```\n\n```text\nold\n```\n"
    )
    printed = [output for _, output in figures.run(page, tmp_path)]
    assert printed == ["", "1\n"]
    figures.write(page, printed)
    assert page.read_text().endswith("print(x)\n```\n\n```text\n1\n```\n")
    assert [output for _, output in figures.run(page, tmp_path, slow=False)] == [""]
    with pytest.raises(SystemExit, match="followed by a text block"):
        figures.write(page, ["unexpected", "1\n"])


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        pytest.param("error 0.32", "error 0.34", id="value"),
        pytest.param("error 2e-07", "error 2e-09", id="power"),
        pytest.param("error 0.32", "fault 0.32", id="word"),
        pytest.param("1 2", "1", id="missing"),
        pytest.param("+0.32", "-0.32", id="sign"),
    ],
)
def test_other_output_is_found(printed, shown):
    with pytest.raises(AssertionError):
        check_printed(printed, shown, units=1)
    check_printed(shown, shown, units=0)


@pytest.mark.parametrize(("page", "yes"), [("lstm.md", "yes: "), ("ja/lstm.md", "対応：")])
def test_the_table_of_applications_has_every_task(page, yes):
    text = pages.text(page)
    assert [task for task in TASKS if f"| {yes}`gatewise fit {task}" not in text] == []
