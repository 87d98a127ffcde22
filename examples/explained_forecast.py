"""A forecast explained: which past weeks does a forecast of next year's CO2 use?

    python examples/explained_forecast.py

Integrated gradients name the weeks. The check is ablation: these weeks get the window's mean, and the forecast is
made again. So are the weeks that are farthest from the mean, and as many weeks drawn at random.
"""

from importlib.resources import as_file, files

import numpy as np
import torch

import gatewise as gw
from gatewise.gates.page.shown import InputEdit
from gatewise.train.run import Run

SHARE = 0.05  # of the weeks
DRAWS = 50


class MeanForecast(torch.nn.Module):
    """The mean of the point forecast over the horizon, as a function of the past of a window, B×L."""

    def __init__(self, network, window):
        super().__init__()
        self.network, self.window = network, window

    def forward(self, past):
        fields = {
            name: value.expand(len(past), *value.shape[1:])
            for name, value in self.window._asdict().items()
        }
        outputs = self.network(self.window._replace(**{**fields, "target": past}))
        return outputs[..., 0].mean(1, keepdim=True)


def main() -> None:
    with as_file(files("gatewise.data") / "examples" / "co2.csv") as data:
        model = gw.Forecaster(52, "co2", "date", seed=1).fit(data, run=Run(quiet=True))
        shown = model.shown(data, 1, 1000)
    (window,) = shown.inputs
    past, forecast = shown.strips[0].values[0], shown.predictions[0].values[0]
    explained = gw.gates.integrated_gradients(MeanForecast(model.network_, window), window.target)
    size = explained.values[0].abs().numpy()
    count = round(SHARE * len(past))

    def change(weeks):
        """The mean absolute change of the forecast, in ppm, when these weeks get the window's mean."""
        edits = [InputEdit(int(week), float(np.nanmean(past))) for week in weeks]
        return np.abs(shown.edited(0, edits).predictions[0].values[0] - forecast).mean()

    by_year = [part.sum() / size.sum() for part in np.array_split(size[::-1], len(past) // 52)]
    print(
        "share of the contributions by year, the last one first: "
        + " ".join(f"{s:.0%}" for s in by_year)
    )
    print(f"gap of the integrated gradients: {float(explained.gap.abs().max()):.1e}")
    named = size.argsort()[-count:]
    far = np.abs(past - np.nanmean(past)).argsort()[-count:]
    draw = np.random.default_rng(0)
    random = [change(draw.choice(len(past), count, replace=False)) for _ in range(DRAWS)]
    print(f"{count} of {len(past)} weeks at the window's mean change the forecast by")
    print(f"  {change(named):.2f} ppm: the weeks that integrated gradients name")
    print(f"  {change(far):.2f} ppm: the weeks farthest from the mean")
    print(
        f"  {np.median(random):.2f} ppm: random weeks, median of {DRAWS} draws; {max(random):.2f} at most"
    )


if __name__ == "__main__":
    main()
