"""The pages: their code runs and prints what they show, their links lead somewhere, and the site builds."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import gatewise as gw
import pages

ROOT = pages.ROOT
BIN = Path(sysconfig.get_path("scripts"))
RUN = (
    "../README.md",
    "tutorials/first-cell.md",
    "tutorials/from-torch.md",
    "torch.md",
    "layers.md",
    "gates/tracing.md",
    "forecast.md",
    "text-generation.md",
    "music.md",
    "tune.md",
    "sentiment.md",
    "translation.md",
    "gates/attribution.md",
    "gates/interventions.md",
    "gates/statistics.md",
)
SHOWN = {
    "../README.md": 0,
    "tutorials/first-cell.md": 5,
    "tutorials/from-torch.md": 4,
    "torch.md": 2,
    "layers.md": 0,
    "gates/tracing.md": 5,
    "forecast.md": 0,
    "text-generation.md": 0,
    "music.md": 0,
    "tune.md": 0,
    "sentiment.md": 0,
    "translation.md": 0,
    "gates/attribution.md": 6,
    "gates/interventions.md": 5,
    "gates/statistics.md": 9,
}


def plain(output):
    """An output without what differs between machines and between ways to write a shape."""
    output = re.sub(r"torch\.Size\(\[(.*)\]\)", r"\1", output)
    return re.sub(r"\blevel \w+", "level v4", output)


@pytest.mark.parametrize("page", RUN, ids=[Path(page).stem for page in RUN])
def test_the_code_of_a_page_prints_what_the_page_shows(page):
    assert pages.blocks(page)
    found = list(pages.printed(page))
    assert len(found) == SHOWN[page]
    for each in found:
        assert plain(each.found) == plain(each.shown), each.statement


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a page's shell blocks in an empty folder with the environment's commands; returns the output."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def run(code):
        done = subprocess.run(
            ["bash", "-euc", code], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def first_forecast(shell, more=""):
    """The tutorial's commands and Python in order; ``more`` are options for ``fit``. Returns the outputs
    of the commands and of the prints."""
    commands = pages.blocks("tutorials/first-forecast.md", "sh")
    outputs = [shell(re.sub(r"(gatewise fit .*)", rf"\1{more}", code)) for code in commands]
    return outputs, list(pages.printed("tutorials/first-forecast.md"))


def test_your_first_forecast(shell):
    outputs, prints = first_forecast(shell, " --steps 2 --hidden 4 --quiet")
    copied, fitted, predicted = outputs
    assert copied == pages.blocks("tutorials/first-forecast.md", "text")[0]
    assert "seasonal naive" in fitted
    lines = pages.blocks("tutorials/first-forecast.md", "text")[2].splitlines()
    assert lines[0] in predicted.splitlines()
    assert lines[1].split(",")[0] in predicted
    columns = prints[0]
    assert columns.found == columns.shown
    assert Path("forecast.csv").read_text().count("\n") == 53


@pytest.mark.slow
def test_your_first_forecast_as_it_stands(shell):
    """With its own training; the scores may differ in the last digits between machines."""
    (_, fitted, _), _ = first_forecast(shell)
    shown = pages.blocks("tutorials/first-forecast.md", "text")[1]

    def error(output):
        return float(re.search(r"^gatewise +([\d.]+)", output, re.MULTILINE)[1])

    assert error(fitted) == pytest.approx(error(shown), rel=0.05)
    assert re.findall(r"^seasonal naive.*", fitted, re.MULTILINE) == re.findall(
        r"^seasonal naive.*", shown, re.MULTILINE
    )


MARKDOWN = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *pages.DOCS.rglob("*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in MARKDOWN]


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)", without_code(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def without_code(page):
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", MARKDOWN, ids=NAMES)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_reference_has_every_public_name():
    text = "".join(page.read_text("utf-8") for page in (pages.DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: gatewise\.(\S+)", text, re.MULTILINE))
    public = {*gw.__all__, *(f"gates.{name}" for name in gw.gates.__all__)}
    elsewhere = {
        "CELLS": "cells/README.md",
        "GatewiseError": "errors",
        "init": "nn.init",
        "gates.Limits": "gates.monitor.Limits",
        "gates.Traces": "Traces",
        "gates.trace": "trace",
    }
    assert public - shown == elsewhere.keys()
    assert {each for each in elsewhere.values() if not each.endswith(".md")} <= shown


@pytest.mark.slow
def test_the_site_builds_and_needs_nothing_from_elsewhere(tmp_path):
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
    for page in tmp_path.rglob("*.html"):
        html = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?(https?:[^\"\s>]+)", html)
        loaded += re.findall(r"<link[^>]* href=\"?(https?:[^\"\s>]+)", html)
        assert not loaded, page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\"' ]*https?:", sheet.read_text("utf-8")), sheet


PATH = re.compile(r"`((?:[\w.-]+/)*[\w-]{2,}\.(?:py|h|cpp|json|md|toml))`")
ROOMS = (ROOT, ROOT / "src" / "gatewise", ROOT / "csrc", pages.DOCS)
WRITTEN_BY_RUNS = {"model.json", "report.html"}


@pytest.mark.parametrize("page", MARKDOWN, ids=NAMES)
def test_the_files_that_a_page_names_exist(page):
    for name in PATH.findall(without_code(page)):
        assert name in WRITTEN_BY_RUNS or any((room / name).exists() for room in ROOMS), name
