"""Hundreds of command lines, most of them odd: each ends in one sentence or in what it asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import gatewise as gw
from gatewise.cli import main
from gatewise.cli.progress import RoundLines
from gatewise.errors import TrainingError, caution
from gatewise.train import loop
from gatewise.train.history import History

HUGE, LONG = "9" * 25, "9" * 5000
ODD = (
    "",
    " ",
    "x",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    HUGE,
    LONG,
    "0x10",
    "None",
    "é",
    "\0",
)

REACHED = "the training is reached"

# The odd values that are fine ones; all others are refused.
FINE = {
    "fit": {
        *("--help", "--quiet", "--tensorboard", "--precision=bf16-mixed", "--quantiles=1e-320"),
        *("--batch=1", "--batch=9223372036854775807", "--steps=1", "--steps=9223372036854775807"),
        *("--horizon=3", "--context=3", "--season=1", "--freq=D", "--gaps=mask", "--devices=auto"),
        *("--dropout=0", "--dropout=1", "--seed=0"),
        *("--lr=1.5", "--lr=1e-300", "--lr=1e300", f"--lr={HUGE}"),
        *("--test=0", "--test=1e-9", "--validation=1e-9"),
    },
    "fit classify": {
        *("--help", "--quiet", "--label=way", "--series=a", "--channels=a"),
        *("--bidirectional", "--no-bidirectional"),
        *("--class-weight=balanced", "--class-weight=up=2"),
        *("--pooling=last", "--missing=mask", "--cell=gru", "--epochs=1", "--patience=1"),
        *("--validation=0", "--validation=1", "--validation=1e-9"),
        *("--test=0", "--test=1", "--test=1e-9"),
    },
    "evaluate": {"--windows=1000000000", "--stride=1000000000"},
    "cells": {"--units=1000000000000", "--units=9223372036854775807"},
}
# What a refusal calls the option, where that is not its name.
_COLUMN, _PLACE = (
    ("column",),
    ("--docs", "expected a path", "cannot write", "File exists", "expected one argument"),
)
CALLED = {
    "--lr": ("learning_rate",),
    "--freq": ("freq", "the step is 1h", "the grid of 1B"),
    **dict.fromkeys(("--target", "--time", "--series", "--past", "--known", "--static"), _COLUMN),
    **dict.fromkeys(("--label", "--channels"), _COLUMN),
    **dict.fromkeys(("--out", "--json", "--docs"), _PLACE),
    "--cells": ("--cells", "no cell"),
    "--backends": ("--backends", "no backend"),
    "--peers": ("--peers", "no peer"),
    "--shapes": ("--shapes", "shape"),
}

FIT = {
    "--target": (*ODD, "dat", "date", "kind"),
    "--horizon": (*ODD, "3", "1000", "-9223372036854775809"),
    "--out": ("", "\0", "a\0b", "{data}", "{data}/run", "/proc/nothing/here", "x" * 300),
    "--time": (*ODD, "y", "kind"),
    "--series": (*ODD, "date", "y"),
    "--past": (*ODD, "y", "date", "kind"),
    "--known": (*ODD, "y", "date", "kind"),
    "--static": (*ODD, "y", "date"),
    "--freq": (
        *ODD,
        "1h",
        "D",
        "99999999999h",
        "99999999999999999999D",
        "-3D",
        "0D",
        "B",
        "W-XYZ",
        "D" * 999,
    ),
    "--gaps": (*ODD, "mask", "MASK"),
    "--context": (*ODD, "3", "1000000000"),
    "--season": (*ODD, "1", "1000000000"),
    "--quantiles": (*ODD, "2", "-0.5", "1", "1e-320"),
    "--validation": (*ODD, "1", "0.999", "1.0", "1e-9", "200", "-0.5"),
    "--test": (*ODD, "1", "0.999", "1.0", "1e-9", "200", "-0.5"),
    "--hidden": (*ODD, "1000000", "1000000000000", "4611686018427387904"),
    "--layers": (*ODD, "1000000000", "4611686018427387904"),
    "--dropout": (*ODD, "1", "1.0000001", "-0.1"),
    "--steps": (*ODD, "1", "9223372036854775807"),
    "--batch": (*ODD, "1", "9223372036854775807"),
    "--lr": (*ODD, "1e-300", "1e300"),
    "--seed": (*ODD, "18446744073709551616", "9223372036854775807", "9223372036854775808"),
    "--devices": (*ODD, "99", "-2", "auto", "1000000"),
    "--nodes": (*ODD, "2", "99"),
    "--accelerator": (*ODD, "tpu", "cuda:0", "gpu", "mps"),
    "--precision": (*ODD, "64-true", "16-true", "transformer-engine", "64", "bf16-mixed"),
    "--tensorboard=": ("1",),
    "--quiet=": ("x",),
    "--nonsense": ("1",),
}
EVALUATE = {
    "--windows": (*ODD, "-3", "99999999999999999999", "1000000000"),
    "--stride": (*ODD, "-3", "99999999999999999999", "1000000000"),
    "--refit": ("", "x", "-1", "1.5", "nan", HUGE, LONG, "\0", "yes", "None"),
}
CLASSIFY = {
    "--label": (*ODD, "way", "a", "id"),
    "--series": (*ODD, "a", "way"),
    "--time": (*ODD, "a", "way", "id"),
    "--channels": (*ODD, "way", "id", "a"),
    "--class-weight": (*ODD, "balanced", "up=2", "up=x", "=3", "up=-1"),
    "--pooling": (*ODD, "last", "max"),
    "--missing": (*ODD, "mask", "MASK"),
    "--cell": (*ODD, "gru", "lsmt"),
    "--epochs": (*ODD, "1", "-9223372036854775809"),
    "--patience": (*ODD, "1"),
    "--validation": (*ODD, "1", "0.999", "1.0", "1e-9", "200", "-0.5", "{folder}"),
    "--test": (*ODD, "1", "0.999", "1.0", "1e-9", "200", "-0.5", "{folder}"),
    "--horizon": ("3",),
    "--bidirectional=": ("x",),
    "--no-bidirectional=": ("x",),
}
CELLS = {
    "--inputs": ODD,
    "--units": (*ODD, "1000000000000", "9223372036854775807"),
    "--docs": ("", "\0", "{data}"),
}
BENCH = {
    "--cells": (*ODD, "lstm,", ",", "lstm,lsmt"),
    "--shapes": (
        *ODD,
        "1,2,3",
        "1,2,3,x",
        "0,1,1,1",
        "1000000000,1000,1000,1000",
        "1,1,1,1000000000",
        f"1,1,1,{HUGE}",
        "1,2,3,4,5",
        "-1,1,1,1",
        f"{LONG},1,1,1",
    ),
    "--mode": (*ODD, "inference,x", ","),
    "--peers": (*ODD, "torch,x", ","),
    "--backends": (*ODD, "aten,x", ","),
    "--dtype": (*ODD, "float16", "int8"),
    "--threads": (*ODD, "1000000", "-5"),
    "--repeats": ("", "x", "-1", "0", "1.5", "nan", "\0"),
    "--seconds": ("", "x", "-1", "0", "nan", "inf", "1e400", "\0"),
    "--json": ("", "\0", "{folder}", "{data}/x.json", "/proc/nothing/x.json"),
}
FIT_LINE = [
    "fit",
    "forecast",
    "{data}",
    "--target",
    "y",
    "--time",
    "date",
    "--horizon",
    "7",
    "--out",
    "{out}",
]
CLASSIFY_LINE = ["fit", "classify", "{walks}", "--series", "id", "--label", "way", "--out", "{out}"]


def lines() -> list[list[str]]:
    found = []

    def each(start: list[str], options: dict[str, tuple[str, ...]]) -> None:
        for option, values in options.items():
            found.extend(
                [*start, f"{option.rstrip('=')}={value}"] for value in dict.fromkeys(values)
            )
            found.append([*start, option.rstrip("=")])  # without its value

    each([*FIT_LINE, "--quiet", "--hidden", "4", "--steps", "9"], FIT)
    each([*CLASSIFY_LINE, "--quiet", "--hidden", "4", "--epochs", "2"], CLASSIFY)
    each(["evaluate", "{model}", "{data}"], EVALUATE)
    each(["cells"], CELLS)
    each(["cells", "lstm"], CELLS)
    each(
        ["bench", "--peers", "none", "--quick"], {k: v for k, v in BENCH.items() if k != "--peers"}
    )
    each(["bench", "--quick"], {"--peers": BENCH["--peers"]})
    for value in ("", "x", "\0", "é", "..", HUGE, "{data}", "{folder}", "{folder}/nothing"):
        found += [
            [value],
            ["fit", value],
            ["fit", "forecast", value, *FIT_LINE[3:]],
            ["predict", value, "{data}", "-o", "{folder}/f.csv"],
            ["predict", "{model}", value, "-o", "{folder}/f.csv"],
            ["predict", "{model}", "{data}", "-o", value],
            ["predict", "{model}", "{data}", "-o", "{folder}/f.csv", "--future", value],
            ["evaluate", value, "{data}"],
            ["evaluate", "{model}", value],
            ["cells", value],
            ["equations", value],
            ["equations", value, "--text"],
            ["equations", value, "--latex"],
            ["equations", "gru", "--diagram", value],
            ["gates", value, "{data}", "-o", "{folder}/g.html"],
            ["gates", "{model}", value, "-o", "{folder}/g.html"],
            ["gates", "{model}", "{data}", "-o", value],
            ["gates", "{model}", "{data}", "-o", "{folder}/g.html", "--limit", value],
        ]
    found += [
        *([verb] for verb in ("fit", "predict", "evaluate", "--help", "--version", "-x", "--")),
        *(
            ["fit", "forecast", *rest]
            for rest in ([], ["{data}"], ["{data}", "--target"], ["--help"])
        ),
        *(
            [*FIT_LINE, *rest]
            for rest in (["more"], ["--target", "y"], ["--past", "y"], ["--series", "date"])
        ),
        ["predict", "{model}", "{data}"],
        ["predict", "{model}", "{data}", "-o", "{folder}/f.xlsx"],
        ["predict", "{model}", "{data}", "-o", "{data}/f.csv"],
        ["predict", "{model}", "{data}", "-o", "{folder}"],
        ["predict", "{model}", "{data}", "-o", "/proc/nothing/f.csv"],
        ["gates", "{model}", "{data}"],
        ["gates", "{model}", "{data}", "-o", "{folder}/g.html", "--steps", "0"],
        ["gates", "{model}", "{data}", "-o", "{data}/g.html"],
        ["gates", "{model}", "{data}", "-o", "/proc/nothing/g.html"],
        ["equations", "--diagram", "{folder}/d.svg"],
        ["equations", "lstm", "--latex", "--diagram", "{folder}/d.svg"],
        ["equations", "lstm", "--diagram", "{data}/d.svg"],
        ["equations", "lstm", "--diagram", "/proc/nothing/d.svg"],
        ["cells", "--json", "--docs", "{folder}/d"],
        ["cells", "lstm", "gru"],
        ["equations", "--text", "--latex"],
        ["equations", "lstm", "gru"],
        ["bench", "--seconds", "1", "--repeats", "1"],
        ["demo", "--out", "{data}"],
        ["demo", "--out", "{data}/demo"],
        ["demo", "--out=\0"],
        ["demo", "--out="],
        ["demo", "more"],
        ["demo", "--out", "/proc/nothing/demo"],
    ]
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lines")
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01", "us") + np.arange(120) * np.timedelta64(86_400_000_000, "us")
    table = pl.DataFrame({"date": days, "y": rng.normal(size=120), "kind": ["a"] * 120})
    table.write_csv(folder / "a.csv")
    names = np.repeat([f"s{k}" for k in range(30)], 4)
    ways = np.repeat(["up", "down"] * 15, 4)
    walks = pl.DataFrame({"id": names, "a": rng.normal(size=120), "b": 1.0, "way": ways})
    walks.write_csv(folder / "walks.csv")
    places = {"folder": folder, "data": folder / "a.csv", "out": folder / "run"}
    places["walks"] = folder / "walks.csv"
    model = gw.Forecaster(horizon=7, target="y", time="date", steps=9, hidden=4).fit(table)
    places["model"] = Path(model.save(folder / "model"))
    return places


@pytest.fixture
def untrained(monkeypatch):
    def reached(*_, **__):
        raise TrainingError(REACHED)

    monkeypatch.setattr(loop, "_fit", reached)
    monkeypatch.setattr("gatewise.bench.run.run", reached)


WITH_OPTIONS = ("fit", "evaluate", "cells", "bench")


def judged(line: list[str], code: int, said: list[str]) -> bool:
    """Whether the option at the line's end is accepted where it is fine, and else refused by its name."""
    if line[-1] in FINE.get(" ".join(line[:2]), FINE.get(line[0], ())):
        return code == 0 or REACHED in said[-1]
    option = line[-1].partition("=")[0]
    named = (option, option.removeprefix("--").replace("-", "_"))
    return code == 2 and any(
        word in said[-1] for word in (*CALLED.get(option, named), f"{option}:")
    )


def test_every_line_ends_in_a_sentence(places, untrained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # "{data}" and the like are the places; what else is in braces stays
    names = {f"{{{name}}}": str(place) for name, place in places.items()}
    strange = []
    for line in lines():
        given = line
        for name, place in names.items():
            given = [part.replace(name, place) for part in given]
        code = main(given)
        said = capsys.readouterr().err.splitlines()
        sentences = all(each.startswith("gatewise: ") and len(each) < 600 for each in said)
        # what was wrong with it, after at most two things that it is warned of
        if code not in (0, 2) or not sentences or not (code == 2) <= len(said) <= 2 + (code == 2):
            strange.append((line, code, [each[-300:] for each in said]))
        elif line[0] in WITH_OPTIONS and line[-1].startswith("--") and not judged(line, code, said):
            strange.append((line, code, said[-1:]))
    assert not strange, f"{len(strange)} of {len(lines())}"


def test_what_is_warned_of_is_a_line_too(monkeypatch, capsys):
    monkeypatch.setattr("gatewise.emit.equations.text", lambda _: caution("take\ncare") or "c = 0")
    assert main(["equations", "lstm", "--text"]) == 0
    assert capsys.readouterr() == ("c = 0\n", "gatewise: take care\n")


def test_a_forecast_is_not_written_over_its_data(places, capsys):
    data = places["data"]
    before = data.read_bytes()
    assert main(["predict", str(places["model"]), str(data), "-o", str(data)]) == 2
    assert f"--out is the same file as the data, {data}" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_a_fault_of_our_own_says_so_and_hides_nothing(monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError("by none")

    monkeypatch.setattr("gatewise.emit.equations.text", broken)
    assert main(["equations", "lstm"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("gatewise: an internal error, ZeroDivisionError: by none. Please report")
    monkeypatch.setenv("GATEWISE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["equations", "lstm"])


def test_what_the_sentences_say(places, capsys):
    """Each names the option, what was given and what is expected."""
    model, data = str(places["model"]), str(places["data"])
    fit = [part.format_map(places) for part in FIT_LINE]
    for line, told in (
        (
            [*fit, "--horizon", "x"],
            "--horizon: expected an integer below 2**63, not 'x'",
        ),
        (
            [*fit, "--test", "nan"],
            "--test: expected a share below 1, a number, or a file that exists, not 'nan'",
        ),
        ([*fit, "--seed", "-1"], "seed must be an integer from 0"),
        ([*fit, "--hidden", "1000000"], "--hidden 1000000, --layers 1"),
        ([*fit, "--devices", "-1"], "devices must be 'auto' or a positive integer, not -1"),
        ([*fit, "--devices", "100000"], "--devices 100000 needs a CPU core for each process"),
        ([*fit, "--nodes", "2"], "--nodes 2 needs a launcher: start the processes with torchrun"),
        ([*fit[:-1], "a\0b"], "--out: expected a path, not 'a\\x00b'"),
        ([*fit, "--nonsense"], "unrecognized arguments: --nonsense"),
        ([*fit[:3], "--nonsense", "1"], "unrecognized arguments: --nonsense"),
        (fit[:3], "the following arguments are required: "),
        (
            [*fit, "--past", "a", "b", "c"],
            "unrecognized arguments: b c; repeat the flag for each value: --past a --past b (",
        ),
        ([*fit, "b"], "unrecognized arguments: b ("),
        (["predict", model, data, "-o", "f.csv", "--future", data], "future"),
        (["evaluate", model, data, "--stride", "-3"], "stride must be"),
        (["evaluate", model, data, "--windows", "9" * 20], "--windows: expected an integer below"),
        (
            ["bench", "--shapes", "1000000000,1000,1000,1000"],
            "the shape 1000000000,1000,1000,1000 needs",
        ),
        (["bench", "--threads", "1000000"], "threads must be an integer from 1 to"),
        (["fit"], "the following arguments are required: TASK"),
        (
            ["fit", "--quiet"],
            "options come after the task, as in gatewise fit forecast: --quiet (g",
        ),
        (
            ["fit", "--quiet", "forecast"],
            "options come after the task, as in gatewise fit forecast",
        ),
        (["fit", "forcast"], "TASK: expected one of forecast, classify, "),
        (["fit", "forcast"], "not 'forcast' (did you mean 'forecast'?) (gatewise fit --help"),
        (["predct"], "VERB: expected one of fit, tune, "),
        (["predct"], "not 'predct' (did you mean 'predict'?) (gatewise --help"),
        (["--jsn", "cells"], "unrecognized arguments: --jsn (gatewise --help"),
        (["bench", "--quik"], "--quik (did you mean '--quick'?) (gatewise bench --help"),
        (
            ["bench", "--dtype", "float23"],
            "--dtype: expected one of float32, bfloat16, not 'float23'",
        ),
        (["cells", "--jsn"], "--jsn (did you mean '--json'?) (gatewise cells --help"),
        (["tasks", "forecast"], "unrecognized arguments: forecast (gatewise tasks --help"),
    ):
        assert main(line) == 2, line
        assert told in capsys.readouterr().err


def test_a_log_has_lines_about_long_rounds(capsys):
    times = iter([0.0, 4.0, 11.0, 12.0, 21.0])
    lines = RoundLines(clock=lambda: next(times))
    lines.prepared(SimpleNamespace(recipe=SimpleNamespace(rounds=8)))
    history = History()
    for k in range(1, 5):
        history.train.append(1 / k)
        history.validation.append(2 / k)
        lines.after_round(history)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 2 of 8: training loss 0.5, validation loss 1",
        "epoch 4 of 8: training loss 0.25, validation loss 0.5",
    ]


@pytest.mark.parametrize("words", [[], ["--quiet"]], ids=["", "quiet"])
def test_a_fit_prints_them_where_no_terminal_is(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gatewise.cli.progress.EVERY", 0.0)
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\n" + "good,1\nbad,0\n" * 20)
    fit = f"fit classify {table} --text text --label label --hidden 2 --epochs 2 --out {tmp_path / 'run'}"
    assert main([*fit.split(), *words]) == 0
    said = capsys.readouterr().err
    assert said.count("epoch 1 of 2: training loss 0.") == said.count("epoch ") / 2 == (not words)
