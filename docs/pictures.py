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
    figure.savefig(IMAGES / "text.png", dpi=120)


def main(runs: list[Path]) -> None:
    for run in runs:
        (text if run.name == "demo-text" else forecast)(run)


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
