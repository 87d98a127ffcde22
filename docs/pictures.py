"""Draws the pictures of the pages from runs of the demos: python docs/pictures.py runs/demo runs/demo-text"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path

from matplotlib.figure import Figure

import gatewise as gw
from gatewise.tasks.forecast.pictures import forecast_picture

IMAGES = Path(__file__).parent / "images"


def forecast(run: Path) -> None:
    model = gw.load(run)
    with as_file(files("gatewise.data") / "examples" / "co2.csv") as data:
        backtest = model.backtest(data)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    forecast_picture(backtest, len(backtest.actual) // 2, axis)
    axis.set_xlabel("date")
    axis.set_ylabel("CO2, ppm")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(IMAGES / "forecast.png", dpi=120)
    shutil.copy(run / "gates.png", IMAGES / "gates.png")


def text(run: Path) -> None:
    with as_file(files("gatewise.data") / "examples" / "sonnets.txt") as data:
        figure = next(iter(gw.load(run).figures(data).values()))
        page = gw.load(run).write_gates(data, run / "gates.html", limit=4, steps=500)
    figure.savefig(IMAGES / "text.png", dpi=120)
    gates_page(page)


def gates_page(page: Path) -> None:
    """A picture of the page of gates, taken in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": 1440, "height": 900}, device_scale_factor=1)
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        tab.select_option("#order", "similarity")
        for field, value in {"step": 136, "unit": 7, "range-first": 134, "range-last": 142}.items():
            tab.fill(f"#{field}", str(value))
            tab.press(f"#{field}", "Enter")
        tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        tab.wait_for_timeout(500)
        tab.screenshot(path=IMAGES / "gates-page.png")
        browser.close()


def main(runs: list[Path]) -> None:
    for run in runs:
        (text if run.name == "demo-text" else forecast)(run)


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
