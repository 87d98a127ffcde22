"""docs/gates/findings.md: its two examples run whole, and find what the page says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import gatewise as gw
from gatewise.train.run import Run
from pages import text as page

pytest.importorskip("lightning")
pytestmark = pytest.mark.usefixtures("one_thread")


def example(name):
    """A file of examples/ as a module."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(printed):
    """The first number of each line that begins with one."""
    return [float(found) for found in re.findall(r"^ *([+-]?[0-9.]+)(?=%| )", printed, re.M)]


def said(printed):
    """The lines without their numbers."""
    return [
        " ".join(re.sub(r"[+-]?[0-9.]+(e-[0-9]+)?%?", "#", line).split())
        for line in printed.splitlines()
    ]


def test_the_text_with_brackets_and_what_is_looked_for():
    language_model = gw.LanguageModel("char", hidden=4, layers=1, epochs=1, batch=2, window=10)
    written = ["the cat; sat on (the) mat\n", "(the dog; sat on the log)\n"]
    language_model.fit(written * 4, run=Run(quiet=True))
    brackets = example("brackets")
    lines = brackets.bracketed(200)
    assert lines == brackets.bracketed(200)
    for line in lines:
        depth = brackets.depths(line)
        assert depth[-1] == 0
        assert depth.min() >= 0
        end = re.fullmatch(r"[^;]*;(\)*)\n", line)
        assert len(end[1]) == brackets.depths(line[: line.index(";")])[-1]
    assert {len(line) - line.index(";") - 2 for line in lines} >= {0, 1, 2, 3}
    assert list(brackets.depths("a(b(c))d")) == [0, 1, 1, 2, 2, 1, 0, 0]
    given = ["the cat sat;\n", "a(b;)\n"]
    at, bracket, symbols = brackets.ends_of_lines(language_model, given)
    text = "\n" + "".join(given)
    assert [text[k] for k in at] == [";", ";", ")"]
    assert bracket.tolist() == [False, True, False]
    assert symbols.shape == (1, len(text) - 1)


@pytest.mark.slow
def test_a_unit_counts_brackets_and_the_network_uses_it(tmp_path, capsys):
    example("brackets").main(tmp_path)
    printed = capsys.readouterr().out
    counts, control, whole, guess, without, median = numbers(printed)
    assert abs(counts) > 0.8 > 2 * abs(control)
    assert whole > 90
    assert median > 90
    assert without < 70
    assert 50 <= guess < 60
    for name in ("unit.png", "gates.html", "text.txt", "run"):
        assert (tmp_path / name).exists()
    shown = page("gates/findings.md")
    assert all(line in said(shown) for line in said(printed)[:-2])  # the last two are paths


@pytest.mark.slow
def test_the_weeks_that_a_forecast_uses_are_those_that_move_it(capsys):
    example("explained_forecast").main()
    printed = capsys.readouterr().out
    (gap,) = re.findall(r"gradients: (\S+)", printed)
    assert float(gap) < 1e-3
    named, far, random = numbers(printed)[-3:]
    assert named > 1.3 * far > 1.3 * random
    (most,) = re.findall(r"; ([0-9.]+) at most", printed)
    assert named > float(most)
    shown = page("gates/findings.md")
    assert all(line in said(shown) for line in said(printed))
