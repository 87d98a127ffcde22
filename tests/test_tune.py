"""Searching a task's best options: trials, resume, pruning, failures, and what is written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise.cli import main
from gatewise.data.sources import SOURCES
from gatewise.errors import (
    DataError,
    GatewiseWarning,
    MissingExtraError,
    ModelFileError,
    OptionError,
    TrainingError,
    caution,
)
from gatewise.report.words import format_number
from gatewise.tasks.ranges import Between, OneOf
from gatewise.tasks.registry import TASKS, sources_of, task_of
from gatewise.train.run import Run
from gatewise.train.training import Training
from gatewise.tuning import result
from gatewise.tuning.page import page
from gatewise.tuning.space import space_of, within
from test_series_tables import table

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"hidden": "3,4,5", "dropout": "0:0.5", "learning_rate": "1e-3:1e-1:log"}
NEEDED = ("--series", "id", "--label", "way")  # by a file
FEW = {"layers": "1", "bidirectional": "false", "pooling": "last", **SMALL}


def waves(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Rising and falling sequences."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    slope = np.where(y, 1.0, -1.0)[:, None] * np.linspace(0, 1, 6)
    return (slope + rng.normal(0, 0.4, slope.shape))[..., None], y


def classifier(**options) -> gw.Classifier:
    return gw.Classifier(**{"epochs": 3, "batch": 8, **options})


def searched(folder: Path | None = None, resume: bool = False, **options):
    X, y = waves()
    run = Run(folder, resume=resume, quiet=True)
    given = dict(trials=4, search=FEW, validation=8, run=run)
    return gw.tune(classifier(), X, y, **{**given, **options})


def tried(tuned) -> list[tuple]:
    """What was tried and found, without the trials that were stopped midway."""
    return [(t.options, t.state, t.value) for t in tuned.trials if t.state != "stopped"]


def same_weights(one, other) -> bool:
    left, right = one.network_.state_dict(), other.network_.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


# -------------------------------------------------------------------------------------- a search


def test_the_best_trial_of_a_search_in_python(monkeypatch):
    assert searched(trials=1).importance == {}
    monkeypatch.setattr(result, "_ENOUGH", 4)
    tuned = searched()
    assert tuned.logarithmic == {"learning_rate"}
    assert tuned.given is None  # 64 hidden units are not among those that are tried
    assert "as they were given" not in page(tuned)
    first, values = tuned.trials[0], [each.value for each in tuned.trials]
    assert first.options == {
        "dropout": 0.0,
        "learning_rate": 0.01,
        "hidden": first.options["hidden"],
    }
    assert tuned.best.value == min(values)
    assert len({tuple(each.options.items()) for each in tuned.trials}) == 4
    X, y = waves()
    single = {"bidirectional": False, "pooling": "last"}  # of FEW
    again = classifier(**single, **tuned.best.options).fit(X, y, validation=8)
    assert same_weights(again, tuned.model)
    assert tuned.best.value == again.history_.validation[again.history_.best]
    frame = tuned.table()
    assert frame["value"].to_list() == values
    assert frame["hidden"].to_list() == [each.options["hidden"] for each in tuned.trials]
    assert sum(tuned.importance.values()) == pytest.approx(1)


def test_a_trials_value_is_that_of_the_round_whose_weights_are_kept():
    X, y = waves()
    y = np.random.default_rng(1).permutation(y)  # the network learns it by heart
    search = {**FEW, "hidden": "4,5", "learning_rate": "0.3", "dropout": "0"}
    tuned = gw.tune(classifier(epochs=16), X, y, trials=1, search=search, validation=8)
    history = tuned.model.history_
    assert history.best < len(history.validation) - 1
    assert tuned.best.value == min(history.validation)


def test_the_page_compares_the_best_trial_with_the_options_as_they_were_given():
    search = {**FEW, "hidden": "3,64", "dropout": "0", "learning_rate": "0.01,0.1"}
    tuned = searched(search=search)
    assert tuned.given is tuned.trials[0]
    assert tuned.given.options == {"hidden": 64, "learning_rate": 0.01}
    assert tuned.best is not tuned.given
    best, given = (format_number(each.value) for each in (tuned.best, tuned.given))
    assert f"is {best}, beside {given} of the options as they were given" in page(tuned)
    one = searched(search=search, trials=1)
    assert "the search found none better" in page(one)


def test_what_every_trial_warns_of_is_said_once(monkeypatch):
    original = gw.Classifier.build

    def build(self):
        caution("it is all noise")
        return original(self)

    monkeypatch.setattr(gw.Classifier, "build", build)
    with pytest.warns(GatewiseWarning, match="noise") as said:
        searched(trials=2)
    assert len([each for each in said if each.category is GatewiseWarning]) == 1


def test_an_option_that_was_given_is_not_searched():
    space, single = space_of(classifier(hidden=7, layers=2), {"pooling": "mean"})
    assert set(space) == {"bidirectional", "dropout", "learning_rate"}
    assert single == {"pooling": "mean"}


@pytest.mark.parametrize(
    ("name", "source"), [(name, source) for name in TASKS for source in sources_of(name)]
)
def test_the_tables_of_tasks_name_options_and_values_that_they_take(name, source):
    kind = task_of(name, source)
    options = kind.options()
    task = kind(1, "y") if name == "forecast" else kind()
    assert set(kind.searched) | set(kind.not_searched) <= set(options)
    assert not set(kind.searched) & set(kind.not_searched)
    space, single = space_of(task, {})
    assert (set(space), single) == (set(kind.searched), {})
    assert all(within(each, task.value_of(option)) for option, each in space.items())


@pytest.mark.parametrize(
    ("kind", "metric", "better"),
    [("classify", "accuracy", max), ("regress", "rmse", min)],
    ids=["accuracy", "rmse"],
)
def test_trials_are_compared_by_a_score_of_the_validation_part(kind, metric, better):
    X, y = waves()
    if kind == "regress":
        y = y * 10.0 + X[:, 0, 0]
    task = task_of(kind)(epochs=2, batch=8)
    tuned = gw.tune(task, X, y, trials=3, search=FEW, validation=8, metric=metric)
    assert tuned.best.value == better(each.value for each in tuned.trials if each.value is not None)
    model, held = tuned.model, tuned.model.held_out_
    assert len(held) == 8
    found = model.predict(X[held])
    by_hand = {
        "accuracy": lambda: (found == y[held]).mean(),
        "rmse": lambda: ((found - y[held]) ** 2).mean() ** 0.5,
    }
    assert tuned.best.value == pytest.approx(by_hand[metric]())
    assert tuned.measure == {"accuracy": "validation accuracy", "rmse": "validation RMSE"}[metric]


def test_a_forecasters_score_is_that_of_a_backtest_on_its_validation_part(hourly):
    north = hourly.filter(pl.col("place") == "north").select("date", "load")[:400]
    task = gw.Forecaster(3, "load", "date", steps=4, batch=16)
    search = {"hidden": "4,8", "layers": "1", "dropout": "0", "learning_rate": "4e-3"}
    tuned = gw.tune(task, north, trials=2, search=search, metric="mae", validation=60, test=60)
    model = tuned.model
    model.seen_ = model.trained_  # as if the validation part had not been seen
    backtest = model.backtest(north[:340], windows=1000, stride=1)
    assert len(backtest.actual) == 58
    assert tuned.best.value == pytest.approx(backtest.scores["gatewise"]["mae"])


def test_a_task_without_a_table_is_searched_in_the_ranges_that_are_given(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "characters", "characters:Characters")
    monkeypatch.setitem(TASKS, "spell", {"characters": "next_character:NextCharacter"})
    text = tmp_path / "text.txt"
    text.write_text("abcabcaabbcc" * 12)
    line = ["tune", "spell", str(text), "--out", str(tmp_path / "run"), "--passes", "1"]
    assert main([*line, "--help"]) == 0
    assert main(line) == 2
    assert main([*line, "--search", "hidden=4,8", "--metric", "nll"]) == 2
    assert main([*line, "--search", "hidden=4,8", "--trials", "2"]) == 0
    assert gw.load(tmp_path / "run").hidden in (4, 8)


def test_the_command_line_searches_scores_the_test_part_once_and_says_how_to_fit(
    tmp_path, capsys, monkeypatch
):
    data, out = tmp_path / "data.csv", tmp_path / "a run"
    table(30).to_csv(data, index=False)
    scored = []
    original = gw.Classifier.evaluate
    monkeypatch.setattr(
        gw.Classifier, "evaluate", lambda *given, **n: scored.append(1) or original(*given, **n)
    )
    line = ["tune", "classify", str(data), "--series", "id", "--time", "t", "--label", "way"]
    line += ["--channels", "a", "--channels", "b", "--epochs", "2", "--out", str(out)]
    line += ["--trials", "3", "--layers", "1", "--search", "hidden=3,4", "pooling=last,mean"]
    assert main(line) == 0
    said = capsys.readouterr()
    assert len(scored) == 1
    assert [row.split()[:2] for row in said.err.splitlines()] == [
        ["trial", "0"],
        ["trial", "1"],
        ["trial", "2"],
    ]
    assert "layers=" not in said.err  # it was given
    assert "Test part, " in said.out
    assert (out / "report.html").exists()
    trials = pl.read_csv(out / "trials.csv")
    best = trials["value"].min()
    assert f"validation loss {best:.4g}" in said.out
    written = (out / "tuning.html").read_text()
    assert "3 trials: 3 complete" in written
    assert "http" not in written.replace("http://www.w3.org", "")
    command = shlex.split(said.out.splitlines()[-1])
    assert command[:3] == ["gatewise", "fit", "classify"]
    assert main(command[1:]) == 0
    one, other = gw.load(out), gw.load(command[-1])
    assert same_weights(one, other)
    assert one.get_params() == other.get_params()
    assert main([*line, "--resume"]) == 0  # nothing is left to try
    assert "trial" not in capsys.readouterr().err


def test_the_command_that_fits_the_best_forecaster_again(hourly, tmp_path, capsys):
    data, out = tmp_path / "north.parquet", tmp_path / "run"
    hourly.filter(pl.col("place") == "north")[:240].write_parquet(data)
    line = ["tune", "forecast", str(data), "--horizon", "3", "--target", "load", "--time", "date"]
    line += ["--past", "wind", "--past", "holiday", "--quantiles", "0.2", "0.8", "--calendar"]
    line += ["--steps", "4", "--test", "60", "--out", str(out), "--trials", "2", "--batch", "16"]
    assert main([*line, "--search", "hidden=4,8", "conformal=true,false"]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:3] == ["gatewise", "fit", "forecast"]
    assert main(command[1:]) == 0
    one, other = gw.load(out), gw.load(command[-1])
    assert same_weights(one, other)
    assert one.checked() == other.checked()


# ---------------------------------------------------------------------------------------- resumed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of five trials that nothing stopped."""
    return searched(tmp_path_factory.mktemp("whole"), trials=5)


def test_a_study_that_is_resumed_goes_on_as_one_that_was_not_stopped(whole, tmp_path):
    searched(tmp_path / "parts", trials=2)
    searched(tmp_path / "parts", trials=3, resume=True)
    parts = searched(tmp_path / "parts", trials=5, resume=True)
    assert tried(parts) == tried(whole)
    assert len({str(options) for options, _, _ in tried(parts)}) == 5
    assert same_weights(parts.model, whole.model)


KILLED = """
import os, signal, sys
import test_tune
from gatewise.train import loop
from gatewise.tuning import tune as tuning

original = tuning._Search._value

def value(self, trial):
    if trial.number == 2:
        report = trial.report
        def killed(loss, step):
            report(loss, step)
            if step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        trial.report = killed
    return original(self, trial)

tuning._Search._value = value
loop.SAVE_EVERY = 0.0  # each round, however short, writes the checkpoint
test_tune.searched(test_tune.Path(sys.argv[1]), trials=5)
"""


def test_a_study_that_was_killed_goes_on_with_the_trial_that_it_was_in(
    whole, tmp_path, monkeypatch
):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    begun = []
    original = Training.on_train_epoch_start

    def spied(self):
        begun.append(self.current_epoch)
        original(self)

    monkeypatch.setattr(Training, "on_train_epoch_start", spied)
    parts = searched(tmp_path / "killed", trials=5, resume=True)
    assert tried(parts) == tried(whole)
    assert [each.state for each in parts.trials].count("stopped") == 1
    assert begun == [2, 0, 1, 2, 0, 1, 2]  # of the first one, two rounds were done
    assert same_weights(parts.model, whole.model)
    assert {path.name for path in (tmp_path / "killed" / "trials").iterdir()} == {
        folder_of(parts.best)
    }


def folder_of(best) -> str:
    """The third trial was stopped and has the number 3 the second time."""
    return str(2 if best.number == 3 else best.number)


def test_a_keyboard_interrupt_says_how_to_go_on(tmp_path):
    def stop(trial):
        if trial.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        searched(tmp_path, after_trial=stop)
    assert caught.value.__notes__ == [
        f"stopped after 2 of 4 trials; the same tune with resume=True (--resume) goes on from "
        f"{tmp_path / 'study.db'}"
    ]
    with pytest.raises(KeyboardInterrupt) as caught:
        searched(after_trial=stop)
    assert caught.value.__notes__ == ["stopped after 2 of 4 trials; nothing is saved"]
    assert len(searched(tmp_path, resume=True).trials) == 4


def test_a_new_search_takes_the_place_of_an_earlier_one(tmp_path):
    searched(tmp_path, trials=2)
    (tmp_path / "trials" / "notes").mkdir()
    assert len(searched(tmp_path, trials=1).trials) == 1
    assert (tmp_path / "trials" / "notes").is_dir()  # it was none of ours


@pytest.fixture(scope="module")
def one_trial(tmp_path_factory):
    """The folder of a study of one trial; a search that it refuses leaves it as it is."""
    folder = tmp_path_factory.mktemp("study")
    searched(folder, trials=1)
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(search={**FEW, "hidden": "3,4"}), "search of hidden was '3,4,5' and is '3,4'"),
        (dict(metric="accuracy"), "metric was None and is 'accuracy'"),
        (dict(validation=6), "validation was 8 and is 6"),
    ],
    ids=["search", "metric", "validation"],
)
def test_a_study_of_something_else_is_not_gone_on_with(one_trial, changed, message):
    with pytest.raises(OptionError, match=message):
        searched(one_trial, trials=2, resume=True, **changed)


def test_a_study_of_other_data_is_not_gone_on_with(one_trial, monkeypatch):
    X, y = waves()
    monkeypatch.setitem(globals(), "waves", lambda: (X + 1, y))
    with pytest.raises(OptionError, match="the values of feature 0 differ"):
        searched(one_trial, trials=2, resume=True)


def test_a_damaged_study_is_refused(tmp_path):
    searched(tmp_path, trials=1)
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ModelFileError, match="cannot be read"):
        searched(tmp_path, trials=2, resume=True)


def test_a_model_that_is_gone_is_trained_again(tmp_path):
    first = searched(tmp_path, trials=2)
    for path in (tmp_path / "trials").rglob("model.json"):
        path.unlink()
    with pytest.warns(GatewiseWarning, match="trained again"):
        again = searched(tmp_path, trials=2, resume=True)
    assert same_weights(first.model, again.model)


# ------------------------------------------------------------------------- trials that end otherwise


def test_trials_that_are_worse_than_the_others_are_pruned():
    search = {**FEW, "hidden": "6", "dropout": "0", "learning_rate": "1e-9:1e-1:log"}
    tuned = searched(trials=14, search=search)
    pruned = [each for each in tuned.trials if each.state == "pruned"]
    assert pruned
    assert all(each.value is None and each.rounds < 3 for each in pruned)
    assert (
        max(each.options["learning_rate"] for each in pruned) < tuned.best.options["learning_rate"]
    )
    assert tuned.counts == {"complete": 14 - len(pruned), "pruned": len(pruned)}


def test_trials_that_diverge_or_are_too_large_fail_and_are_said():
    search = {**FEW, "hidden": "4,10000000", "learning_rate": "4e-3,1e36", "dropout": "0"}
    with pytest.warns(GatewiseWarning, match="trial . failed: ") as said:
        tuned = searched(trials=12, search=search)
    failed = [each for each in tuned.trials if each.state == "failed"]
    assert {each.options["hidden"] for each in failed} == {4, 10**7}
    assert len([each for each in said if each.category is GatewiseWarning]) == len(failed)
    assert any("the loss became" in each.error for each in failed)
    assert any("GiB of memory" in each.error for each in failed)
    assert tuned.best.options == {"hidden": 4, "learning_rate": 4e-3}


def test_a_search_of_which_every_trial_fails_is_an_error():
    search = {**FEW, "hidden": "10000000,20000000", "learning_rate": "4e-3", "dropout": "0"}
    with (
        pytest.warns(GatewiseWarning),
        pytest.raises(TrainingError, match=r"no trial could be trained, of 2: .*GiB"),
    ):
        searched(search=search)


def test_an_error_of_the_data_ends_the_search():
    X, y = waves()
    X[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        gw.tune(classifier(), X, y, search=FEW, validation=8)


def test_a_search_ends_where_all_combinations_are_tried():
    search = {**FEW, "hidden": "3,4,5,6", "learning_rate": "0.01", "dropout": "0"}
    tuned = searched(trials=50, search=search)
    fresh = [each for each in tuned.trials if each.repeats is None]
    assert sorted(each.options["hidden"] for each in fresh) == [3, 4, 5, 6]
    assert 4 < len(tuned.trials) < 50
    results = {each.number: (each.state, each.value) for each in fresh}
    assert all((t.state, t.value) == results[t.repeats] for t in tuned.trials if t not in fresh)
    assert tuned.best in fresh


def test_a_search_stops_when_its_time_is_over(whole, tmp_path):
    tuned = searched(tmp_path, seconds=1e-6)
    assert [each.state for each in tuned.trials] == ["complete"]  # one is trained in any case
    more = searched(tmp_path, trials=5, resume=True)
    assert tried(more) == tried(whole)


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("hiden=3", "no option of classify 'hiden' (did you mean 'hidden'?)"),
        ("hidden", "search must be NAME=A,B,C or"),
        ("hidden=", "the range of hidden must have an integer below 2**63 at each place, not ''"),
        (
            "hidden=3,x",
            "the range of hidden must have an integer below 2**63 at each place, not 'x'",
        ),
        ("hidden=0,4", "hidden must be a positive integer, not 0"),
        ("hidden=8:4", "the range of hidden is empty: 8 must be below 4"),
        ("hidden=4:4", "the range of hidden is empty: 4 must be below 4"),
        ("dropout=0:2", "dropout must be a probability from 0 to 1, not 2.0"),
        ("dropout=0:0.5:log", "the range of dropout is logarithmic, and 0.0 must be above 0"),
        ("dropout=0:0.5:lin", "the range of dropout must be NAME=A,B,C"),
        (
            "pooling=first",
            "pooling must be one of 'mean_max', 'mean', 'last', 'attention', not 'first'",
        ),
        ("pooling=last:mean", "pooling takes no numbers: list its values"),
        ("bidirectional=maybe", "the range of bidirectional must have true or false, not 'maybe'"),
        ("seed=1,2", "seed cannot be searched: it is part of the problem"),
        ("class_weight=balanced", "class_weight cannot be searched"),
        ("channels=a,b", "channels cannot be searched"),
    ],
    ids=lambda value: value if "=" in value and " " not in value else "",
)
def test_ranges_that_cannot_be_searched_are_refused_by_name(search, message, tmp_path, capsys):
    line = ["tune", "classify", str(tmp_path / "no.csv"), *NEEDED, "--out", str(tmp_path / "run")]
    assert main([*line, "--search", search]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "study.db").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(search={"hidden": Between(4, 2)}), "the range of hidden is empty"),
        (dict(search={"hidden": []}), "the range of hidden is empty: give at least one value"),
        (dict(search={"hidden": OneOf(("x",))}), "hidden must be a positive integer, not 'x'"),
        (dict(search={"hidden": {4, 5}}), "the range of hidden must be a text, a list"),
        (dict(search=["hidden=3", "hidden=4"]), "search has two ranges of hidden"),
        (dict(search=dict.fromkeys(gw.Classifier.searched, None)), "must be a text, a list"),
        (dict(search={**FEW, "hidden": 3 * [4], "dropout": [0], "learning_rate": [0.1]}),
         "there is nothing to search"),
        (dict(trials=0), "trials must be a positive integer, not 0"),
        (dict(seconds=-1), "seconds must be a number above 0, not -1"),
        (dict(metric="acuracy"), "metric must be one of .*did you mean 'accuracy'"),
        (dict(metric="coverage"), "is best at neither end"),
        (dict(metric="mase"), "metric must be one of 'accuracy', .* not 'mase'"),
        (dict(validation=0), "trials are compared on the validation part, and there is none"),
        (dict(run=Run(devices=2)), "a search trains on one device"),
        (dict(run=Run(monitor=True)), "monitor: a search has no report"),
    ],
    ids=["between", "none", "kind", "set", "twice", "form", "single", "trials", "seconds", "typo",
         "coverage", "mase", "validation", "devices", "monitor"],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        searched(**options)


def test_an_option_is_not_given_and_searched(tmp_path, capsys):
    line = ["tune", "classify", "no.csv", *NEEDED, "--out", str(tmp_path), "--hidden", "3"]
    assert main([*line, "--search", "hidden=3,4"]) == 2
    assert "--hidden gives a value and --search a range" in capsys.readouterr().err
    assert main([*line, "--horizon", "4"]) == 2
    assert "--horizon, which is an option of forecast" in capsys.readouterr().err
    assert main([*line, "--devices", "2"]) == 2
    assert "unrecognized arguments: --devices" in capsys.readouterr().err


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gatewise\[tune\]'"):
        searched()
    assert main(["tune", "classify", "no.csv", *NEEDED, "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'gatewise[tune]'" in capsys.readouterr().err
    assert main(["tune", "classify", "--help"]) == 0
