"""The report's page and the gates' picture, from made-up results."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from gatewise import LSTM, MLSTM, Forecaster
from gatewise.data.timeline import Timeline
from gatewise.errors import OptionError, ShapeError
from gatewise.gates.picture import gate_map
from gatewise.models.forecaster import ForecasterShape, PatchLSTM
from gatewise.report.classes import ClassResults, confusion_figure
from gatewise.report.page import write
from gatewise.report.scores import Evaluation
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.pictures import forecast_picture
from gatewise.tasks.forecast.report import report
from gatewise.tasks.forecast.summary import DataSummary
from gatewise.train.history import History

HOSTILE = '<script>alert("$x$ & $$")</script>'


def made(
    *, names=("",), targets=("load",), horizon=24, rows=2000, dates=8, error=0.1, integers=False
):
    """What ``report`` takes: ``error`` is the model's, beside 0.4 of seasonal naive."""
    rng = np.random.default_rng(0)
    patch = 24 if horizon > 1 else 1
    context = 7 * patch
    levels = (0.1, 0.5, 0.9)
    sizes = dict(past=0, known=0, calendar=0, static=0, hidden=32, layers=1, dropout=0.2)
    shape = ForecasterShape(context, horizon, patch, len(levels), **sizes)
    forecaster = Forecaster(horizon, targets, series="place" if len(names) > 1 else None)
    forecaster.name_columns()
    forecaster.shape_, forecaster.network_, forecaster.season_ = shape, PatchLSTM(shape), 24
    train = [1.9, 0.8, 0.65, 0.6, 0.57, 0.55]
    forecaster.history_ = History(train, [0.82, 0.7, 0.66, 0.64, 0.65, 0.67], 3, 48.2)
    steps = np.arange(rows)
    start = np.datetime64("2024-03-04T00", "us")
    times = 5 + 3 * steps if integers else start + steps * np.timedelta64(1, "h")
    wave = 10 + 3 * np.sin(2 * np.pi * steps / 24) + 2 * np.sin(2 * np.pi * steps / 1100)
    values = np.stack([wave + rng.normal(0, 0.4, rows) for _ in targets])
    values[:, rows // 3 : rows // 3 + rows // 12] = np.nan
    count = len(names) * len(targets) * dates
    origin = np.tile(np.linspace(0.86 * rows, rows - horizon, dates).astype(int), count // dates)
    ahead = origin[:, None] + np.arange(horizon)
    actual, point = wave[ahead] + rng.normal(0, 0.2, ahead.shape), wave[ahead]
    point = point + rng.normal(0, error, ahead.shape)
    spread = np.array([-0.6, 0, 0.6])
    actual[::5, horizon // 3 : horizon // 2] = np.nan
    past = wave[origin[:, None] + np.arange(-context, 0)] + rng.normal(0, 0.2, (count, context))
    past[-1, -9:-6] = np.nan
    backtest = Backtest(
        actual=actual,
        point=point,
        quantiles=point[..., None] + spread,
        levels=levels,
        last_value=np.repeat(past[:, -1:], horizon, 1),
        seasonal_naive=wave[ahead] + rng.normal(0, 0.4, ahead.shape),
        context=past,
        series=np.repeat(np.asarray(names), count // len(names)),
        target=np.tile(np.repeat(np.asarray(targets), dates), len(names)),
        origin=origin,
        times=times[ahead],
        scale=np.full(count, 2.5),
        mase_scale=np.full(count, 0.5),
    )
    lstm = LSTM(patch, 32, batch_first=True)
    inputs = torch.from_numpy(np.nan_to_num(values[:1, -context:])).float().view(1, -1, patch)
    with torch.no_grad():
        _, _, trace = lstm(inputs, trace=True)
    every = "3" if integers else "1h"
    summary = DataSummary(
        rows=rows * len(names),
        series=len(names),
        targets=targets,
        step=Timeline.parse(every, times).name,
        zone=None,
        first=times[0],
        last=times[-1],
        missing=float(np.isnan(values).mean()),
        parts=tuple(int(share * rows * len(names)) for share in (0.7, 0.15, 0.15)),
        name=names[0],
        times=times,
        values=values,
        splits=(int(0.7 * rows), int(0.85 * rows)),
    )
    return forecaster, backtest, trace, values[0, -context:], summary


class Page(HTMLParser):
    """Collects text, tags and every address that a page would load or lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.outside = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            loads = name in ("src", "srcset", "href", "xlink:href", "data", "action")
            if loads and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_escapes_names():
    forecaster, *others = made(names=(HOSTILE, "東京"), targets=(HOSTILE, "$\\frac{"))
    forecaster.history_.warnings = [f"lstm: {HOSTILE}"]
    page = report(forecaster, *others)
    read = Page(page)
    assert "Warnings of the training monitor" in read.text
    assert f"lstm: {HOSTILE}" in read.text
    assert not read.outside
    assert "://" not in page
    assert "@import" not in page
    assert "script" not in read.tags
    assert HOSTILE in read.text
    assert len(page) < 3_000_000
    assert read.tags.count("svg") == 6 + 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (0.1, "The model beats the naive forecasts: its scaled MAE is "),
        (3.0, "The model does not beat the naive forecasts: its scaled MAE is "),
    ],
)
def test_the_verdict_is_plain(error, said):
    forecaster, backtest, *others = made(error=error)
    ours, naive = (backtest.scores[n]["scaled_mae"] for n in ("gatewise", "seasonal naive"))
    share = f"{abs(1 - ours / naive):.0%} {'below' if ours < naive else 'above'} that of"
    text = Page(report(forecaster, backtest, *others)).text
    assert said + share in text
    assert backtest.beats_naive == (error == 0.1)


@pytest.mark.parametrize(
    "case",
    [
        dict(horizon=1),
        dict(integers=True),
        dict(rows=20_000, names=tuple(f"series {k}" for k in range(500)), dates=2),
        dict(targets=("a", "b", "c", "d")),
        dict(dates=1),
    ],
)
def test_every_size_has_a_page(case):
    page = report(*made(**case))
    assert len(page) < 3_000_000
    assert "nan" not in Page(page).text.lower()


def test_without_truths_quantiles_or_test_part():
    forecaster, backtest, *others = made()
    blind = replace(backtest, actual=np.full_like(backtest.actual, np.nan))
    assert "no actual values" in Page(report(forecaster, blind, *others)).text
    plain = replace(backtest, levels=(), quantiles=backtest.quantiles[..., :0])
    interval = "10% to 90% quantile"
    assert interval in Page(report(forecaster, backtest, *others)).text
    assert interval not in Page(report(forecaster, plain, *others)).text
    untested = Page(report(forecaster, None, *others))
    assert "has not been tested" in untested.text
    assert "table" not in untested.tags


def test_forecast_picture_draws_one_window():
    _, backtest, *_ = made()
    figure = forecast_picture(backtest, 2)
    assert {"measured", "forecast", "seasonal naive"} <= {
        t.get_text() for t in figure.axes[0].texts
    }
    axis = figure.add_subplot()
    assert forecast_picture(backtest, 2, axis) is figure


def test_gate_map_of_an_mlstm_has_a_row_for_each_head():
    with torch.no_grad():
        _, _, trace = MLSTM(3, 8, heads=2)(torch.randn(5, 1, 3), trace=True)
    maps = gate_map(trace).axes[: len(trace.names)]
    rows = dict(zip(trace.names, (axis.images[0].get_array() for axis in maps), strict=True))
    np.testing.assert_array_equal(rows["f"], trace.f[0][0][0].T.numpy())
    assert {name: len(row) for name, row in rows.items() if len(row) != 8} == {"f": 2, "log_i": 2}


def test_gate_map_has_a_map_for_every_value():
    lstm = LSTM(3, 8, num_layers=2, bidirectional=True, batch_first=True)
    lengths = torch.tensor([9, 5])
    with torch.no_grad():
        _, _, trace = lstm(torch.randn(2, 9, 3), lengths=lengths, trace=True)
    shown = dict(layer=1, direction=1, sequence=1)
    figure = gate_map(trace, **shown, values=np.arange(10.0), step_labels=list("abcde"), title="$")
    series, *maps = figure.axes[: 1 + len(trace.names)]
    assert series.get_title(loc="left") == "the series"
    for axis, name in zip(maps, trace.names, strict=True):
        assert f"{{{name}}}" in axis.get_title(loc="left")
        (image,) = axis.images
        drawn, real = image.get_array(), trace[name][1][1][1, :5].T.numpy()
        assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, real.tolist()))
        low, high = image.get_clim()
        assert (low, high) == (0, 1) if name in "ifo" else low == -high
    assert len(figure.axes) == 1 + 2 * len(trace.names)  # each map has a colour bar
    with pytest.raises(OptionError, match="layer=2 does not exist: the trace has 2"):
        gate_map(trace, layer=2)
    with pytest.raises(OptionError, match="sequence=0 has no steps to show"):
        gate_map(lstm(torch.randn(1, 9, 3), lengths=[0], trace=True)[2])
    with pytest.raises(ShapeError, match="there are 2 step_labels; there must be 5"):
        gate_map(trace, **shown, step_labels=["a", "b"])


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (0.9, "The model beats its baselines: accuracy 0.9, compared with 0.8 of b."),
        (0.6, "The model does not beat b (0.8) on this data: its accuracy is 0.6."),
        (0.4, "The model does not beat a (0.5) or b (0.8) on this data: its accuracy is 0.4."),
        (
            0.5,
            "The model does not beat b (0.8) and is only as good as a (0.5) on this data: its accuracy is 0.5.",
        ),
        (0.8, "The model is only as good as b (0.8) on this data: its accuracy is 0.8."),
    ],
)
def test_the_verdict_names_the_baselines_that_are_as_good_or_better(ours, said):
    baselines = {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.8}}
    found = Evaluation("classify", {"accuracy": ours}, baselines, 20, "sequences", "accuracy")
    assert found.verdict() == said


def test_notes_are_sentences_of_their_own(tmp_path):
    notes = ("3 rows were left out", "BLEU by sacrebleu (nrefs:1)", "did it work?")
    said = "3 rows were left out. BLEU by sacrebleu (nrefs:1). Did it work?"
    scores = {"bleu": 20.0}
    found = Evaluation("translate", scores, {"copy": scores}, 9, "texts", "bleu", notes)
    assert found.table().endswith(said.replace(". ", ".\n"))
    history = History([0.5], [0.6])
    page = write(tmp_path, "Texts", found, history, LSTM(1, 1), {}, {}).read_text()
    assert said in Page(page).text


@pytest.mark.parametrize("number", [20, 21, 30])
def test_a_confusion_matrix_shows_the_most_frequent_classes_and_all_others_together(number):
    draw = np.random.default_rng(0)
    truth = np.sort(np.concatenate([np.repeat(k, 2 + (7 * k) % number) for k in range(number)]))
    guess = np.where(draw.random(len(truth)) < 0.6, truth, draw.integers(0, number, len(truth)))
    names = tuple(f"class {k}" for k in range(number))
    results = ClassResults(names, truth, np.eye(number)[guess], np.ones(len(truth), int))
    (axis,) = confusion_figure(results).axes
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert rows == [label.get_text() for label in axis.get_xticklabels()]
    counts = np.array([int(text.get_text()) for text in axis.texts]).reshape(20, 20)
    assert counts.sum() == len(truth)
    count = np.bincount(truth)
    shown = [int(name.removeprefix("class ")) for name in rows if name in names]
    assert min(count[shown]) >= max(np.delete(count, shown), default=0)
    for row, k in enumerate(shown):
        np.testing.assert_array_equal(
            counts[row, : len(shown)], [np.sum((truth == k) & (guess == j)) for j in shown]
        )
        assert counts[row].sum() == count[k]
    heading = next(iter(results.figures()))
    if number == 20:
        assert heading == "Confusion matrix"
        assert rows == list(names)
    else:
        assert heading.startswith("Confusion matrix: the 19 most frequent classes")
        assert rows[-1] == f"{number - 19} others"
    assert "ROC curve of the 6 most frequent classes" in results.figures()
