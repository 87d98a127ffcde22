"""A new source and a new task, each a short file and a line of a table, have all that tasks have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gatewise as gw
import next_character
from gatewise.cli import main
from gatewise.data.sources import SOURCES
from gatewise.errors import DataError, ModelFileError, OptionError
from gatewise.tasks.registry import TASKS
from gatewise.train.run import Run
from gatewise.train.training import Training, detached
from next_character import NextCharacter

pytestmark = pytest.mark.usefixtures("one_thread", "each_round_saved")

RHYME = "abcabcabcaabbcc" * 20


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SOURCES, "characters", "characters:Characters")
    monkeypatch.setitem(TASKS, "spell", {"characters": "next_character:NextCharacter"})


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "rhyme.txt"
    path.write_text(RHYME)
    return path


def quiet(folder: Path | None = None, **options) -> Run:
    return Run(folder, quiet=True, **options)


def same(one: NextCharacter, other: NextCharacter) -> bool:
    left, right = one.network_.state_dict(), other.network_.state_dict()
    histories = [(m.history_.train, m.history_.validation) for m in (one, other)]
    return histories[0] == histories[1] and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("name", ["characters.py", "next_character.py"])
def test_the_files_are_short(name):
    lines = Path(__file__).with_name(name).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 70


def test_contributing_shows_the_task_as_it_is():
    here = Path(__file__)
    page = (here.parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    assert f"```python\n{here.with_name('next_character.py').read_text('utf-8')}```" in page


@pytest.mark.parametrize(
    ("parts", "seen", "validated"),
    [
        ({}, 255, True),
        ({"test": 45}, 255, True),
        ({"test": 0, "validation": 0}, 300, False),
        ({"test": 0.1, "validation": 40}, 270, True),
    ],
    ids=["shares", "number", "none", "both"],
)
def test_the_parts_are_shares_or_numbers(text, parts, seen, validated):
    model = NextCharacter(hidden=4, passes=1).fit(text, run=quiet(), **parts)
    assert model.seen_ == seen
    assert bool(model.history_.validation) == validated


def test_a_part_in_a_file_is_refused(text):
    with pytest.raises(OptionError, match="test must be a share below 1"):
        NextCharacter(passes=1).fit(text, test=str(text), run=quiet())


def test_the_command_line_fits_resumes_evaluates_and_predicts(text, tmp_path, capsys):
    out = tmp_path / "run"
    line = ["fit", "spell", str(text), "--out", str(out), "--hidden", "8", "--quiet"]
    assert main(line) == 0
    assert "Test part, 45 characters" in capsys.readouterr().out
    assert {"model.json", "report.html", "checkpoints"} < {path.name for path in out.iterdir()}
    page = (out / "report.html").read_text()
    assert "<h1>Say which character comes next</h1>" in page
    assert "<dt>learning rate</dt><dd>0.02</dd>" in page
    assert "all alike" in page
    assert main([*line, "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([*line, "--resume", "--window", "5"]) == 2
    assert "window was 4 and is 5" in capsys.readouterr().err
    assert main(["evaluate", str(out), str(text), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert set(found) == {"task", "scores", "baseline", "n"}
    assert (found["task"], found["n"]) == ("spell", 45)
    assert "all alike" in said.err
    assert main(["predict", str(out), str(text), "-o", str(tmp_path / "next.csv")]) == 0
    assert (tmp_path / "next.csv").read_text().split()[0] == "next"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--windoww", "3"], "--windoww 3 (did you mean '--window'?)"),
        (["--horizon", "3"], "--horizon, which is an option of forecast"),
        (["--window", "0"], "window must be a positive integer, not 0"),
        (["--learning-rate", "-1"], "learning_rate must be a number above 0"),
        (["--test", "1.5"], "test must be a share below 1"),
        (["--precision", "8"], "precision must be one of"),
    ],
)
def test_the_command_line_refuses_by_name(text, tmp_path, capsys, more, message):
    assert main(["fit", "spell", str(text), "--out", str(tmp_path / "run"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_validation_all_of_the_text_is_trained_on(text, tmp_path):
    model = NextCharacter(hidden=4, passes=1)
    assert not model.fit(text, validation=0, run=quiet(tmp_path)).history_.validation
    recipe = _prepared(text, 0).recipe
    assert recipe.steps == 6 * 64  # 255 of 300 characters, four at a time


def _prepared(text, validation):
    model = NextCharacter(hidden=4)
    model.options_ = model.checked()
    return model.prepare(text, validation, 0.15, quiet())


def test_an_empty_training_part_is_refused_before_a_folder_is_made(
    text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(NextCharacter, "encoded", lambda self, text: torch.arange(0))
    line = ["fit", "spell", str(text), "--out", str(tmp_path / "run")]
    assert main(line) == 2
    assert "the training part is empty: give more data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    (tmp_path / "follow_faulty.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TASKS, "follow", {"characters": "follow_faulty:Follower"})


FAULT = "task 'follow' (follow_faulty) cannot be imported: No module named 'nothing_of_that_name'"


def test_a_task_that_cannot_be_imported_stops_no_other(faulty, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "spell", str(text), "--out", str(out), "--quiet", "--passes", "1"]) == 0
    assert main(["evaluate", str(out), str(text)]) == 0
    assert main(["evaluate", "--help"]) == 0
    assert main(["fit", "spell", str(text), "--out", str(out), "--windows", "1"]) == 2
    assert "--windows 1 (did you mean '--window'?)" in capsys.readouterr().err


def test_a_task_that_cannot_be_imported_is_named(faulty, text, tmp_path, capsys):
    for line in (["fit", "follow", str(text)], ["tune", "follow", str(text)]):
        assert main(line) == 2
        assert capsys.readouterr().err == f"gatewise: {FAULT}\n"
    for line in (["fit", "--help"], ["tasks"]):
        assert main(line) == 0
        said = capsys.readouterr()
        assert FAULT in " ".join(f"{said.out}{said.err}".split())


def test_a_package_that_a_task_lacks_is_named_with_its_installation(monkeypatch, capsys):
    def without_scikit_learn(module):
        raise ModuleNotFoundError("No module named 'sklearn.base'", name="sklearn.base")

    monkeypatch.setattr("gatewise.tasks.registry.import_module", without_scikit_learn)
    assert main(["fit", "classify", "--help"]) == 2
    assert capsys.readouterr().err == (
        "gatewise: task 'classify' (gatewise.tasks.classify) cannot be imported: this needs the package "
        "'scikit-learn', which is not installed: pip install 'gatewise[tasks]'\n"
    )


def test_a_task_that_the_module_lacks_is_named(monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "spell", {"characters": "next_character:Speller"})
    assert main(["fit", "spell", "x"]) == 2
    assert "task 'spell' (next_character) cannot be imported: " in capsys.readouterr().err


def test_evaluate_refuses_the_options_of_other_tasks(text, tmp_path, capsys):
    model = NextCharacter(hidden=4, passes=1).fit(text, run=quiet()).save(tmp_path / "model")
    assert main(["evaluate", str(model), str(text), "--stride", "3"]) == 2
    assert "--stride, which is an option of forecast" in capsys.readouterr().err


def test_the_matrix_has_it(capsys):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "spell"
    marks = {line.split()[0]: line.count("✓") for line in lines[1 : lines.index("")]}
    assert marks.keys() == SOURCES.keys()
    assert (marks["series"], marks["characters"]) == (3, 1)


def test_a_saved_model_is_loaded_and_a_damaged_one_is_not(text, tmp_path):
    model = NextCharacter(hidden=8, passes=1).fit(text, run=quiet())
    again = gw.load(model.save(tmp_path / "model"))
    assert again.get_params() == model.get_params()
    assert again.evaluate(text).record() == model.evaluate(text).record()
    page = tmp_path / "model" / "model.json"
    page.write_text(page.read_text().replace('"seen": ', '"seen": 1'))
    with pytest.raises(ModelFileError, match="checksum"):
        gw.load(tmp_path / "model")


def test_errors_are_the_sources(tmp_path):
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(DataError, match="has 1 characters"):
        NextCharacter().fit(tmp_path / "short.txt", run=quiet())
    with pytest.raises(gw.GatewiseError, match="call fit first"):
        NextCharacter().save(tmp_path)
    with pytest.raises(OptionError, match="hidden must be a positive integer"):
        NextCharacter(hidden=0).fit(tmp_path / "short.txt", run=quiet())


# ------------------------------------------------------------------------- the state that is carried


def test_each_batch_goes_on_from_the_last_one_and_each_round_afresh(text, monkeypatch):
    given, left, modes = [], [], []
    original = NextCharacter.loss

    def spied(self, network, batch, carry):
        losses, after = original(self, network, batch, carry)
        given.append(carry)
        left.append(after)
        modes.append(network.training)
        return losses, after

    monkeypatch.setattr(NextCharacter, "loss", spied)
    NextCharacter(hidden=4, passes=2).fit(text, run=quiet())
    fresh = [k for k, carry in enumerate(given) if carry is None]
    begins = [k for k in range(len(modes)) if k == 0 or modes[k] != modes[k - 1]]
    assert fresh == begins  # training, validation, training, validation
    assert len(fresh) == 4
    for k in range(1, len(given)):
        if given[k] is not None:
            assert not any(part.requires_grad for part in given[k])
            assert all(torch.equal(a, b) for a, b in zip(given[k], left[k - 1], strict=True))


def test_what_is_carried_tells_what_a_window_cannot(tmp_path):
    """A letter that comes every seventh time, read four at a time."""
    (tmp_path / "count.txt").write_text("aaaaaab" * 60)

    class Forgetful(NextCharacter):
        def loss(self, network, batch, carry):
            return super().loss(network, batch, None)

    options = dict(hidden=24, passes=12, learning_rate=0.03)
    found = [
        min(kind(**options).fit(tmp_path / "count.txt", run=quiet()).history_.validation)
        for kind in (NextCharacter, Forgetful)
    ]
    assert found[0] < 0.7 * found[1]


def test_a_resumed_run_is_an_uninterrupted_one(text, tmp_path, monkeypatch):
    whole = NextCharacter(hidden=8).fit(text, run=quiet())
    original = Training.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (3, 5):
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            NextCharacter(hidden=8).fit(text, run=quiet(tmp_path / "run"))
    assert same(NextCharacter(hidden=8).fit(text, run=quiet(tmp_path / "run", resume=True)), whole)


def test_what_is_carried_is_detached_in_whatever_it_is():
    leaf = torch.ones(2, requires_grad=True)
    found = detached({"a": (leaf * 2, [leaf * 3]), "b": None})
    assert not found["a"][0].requires_grad
    assert not found["a"][1][0].requires_grad
    assert found["b"] is None


# ---------------------------------------------------------------------- what a task may choose, and hooks


def test_the_optimizer_and_its_schedule_are_the_tasks_choice(text, tmp_path, monkeypatch):
    """Plain gradient descent with momentum, resumed."""

    class Plain(NextCharacter):
        def optimizer(self, network, recipe):
            found = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
            return found, torch.optim.lr_scheduler.ConstantLR(found, 1.0)

    monkeypatch.setattr(next_character, "NextCharacter", Plain)
    whole = Plain(hidden=8).fit(text, run=quiet())
    rounds = []

    def stop(history):
        rounds.append(history.validation[-1])
        if len(rounds) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Plain(hidden=8).fit(text, run=quiet(tmp_path, after_round=stop))
    assert rounds == whole.history_.validation[:3]
    assert same(Plain(hidden=8).fit(text, run=quiet(tmp_path, resume=True)), whole)
