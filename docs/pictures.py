"""Draws the README's pictures from a run of `make demo`: python docs/pictures.py runs/demo"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path

from matplotlib.figure import Figure

import gatewise as gw
from gatewise.tasks.forecast.pictures import forecast_picture


def main(run: Path) -> None:
    images = Path(__file__).parent / "images"
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
    figure.savefig(images / "forecast.png", dpi=120)
    shutil.copy(run / "gates.png", images / "gates.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
