"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser

import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise.__main__ import main as command
from gatewise.backends.registry import BACKENDS
from gatewise.cli import main
from gatewise.emit.account import in_words, listing, record
from gatewise.emit.equations import latex, text
from gatewise.emit.page import pages
from gatewise.errors import BackendError


def test_fit_predict_evaluate(hourly, tmp_path, capsys):
    data, out = tmp_path / "data.csv", tmp_path / "run"
    hourly.with_columns(place=pl.col("place").replace("north", "<b>north")).write_csv(data)
    fit = ["fit", "forecast", str(data), "--time", "date", "--target", "load", "--series", "place"]
    quick = ["--horizon", "12", "--steps", "90", "--hidden", "16", "--quiet", "--out", str(out)]
    assert main([*fit, *quick]) == 0
    assert "Test part, 40 windows" in capsys.readouterr().out
    (weights,) = out.glob("model-*.safetensors")
    names = {"model.json", weights.name, "report.html", "gates.png", "checkpoints"}
    assert {p.name for p in out.iterdir()} == names
    assert main(["predict", str(out), str(data), "-o", str(tmp_path / "forecast.csv")]) == 0
    assert len(pl.read_csv(tmp_path / "forecast.csv")) == 24
    assert main(["evaluate", str(out), str(data), "--windows", "5"]) == 0
    assert "10 windows" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "<b>north" not in page
    assert len(page) < 3_000_000

    class Outside(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            for name, value in attrs:
                if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                    self.found.append(value)

    parser = Outside()
    parser.feed(page)
    assert not parser.found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--target", "lod"], "did you mean 'load'"),
        (["--horizon", "0"], "horizon must be a positive integer, not 0"),
        (["--gaps", "fill"], "gaps must be"),
        (["--dropout", "7"], "dropout must be a probability from 0 to 1, not 7.0"),
        (["--lr", "-1"], "learning_rate must be a number above 0, not -1.0"),
        (
            ["--precision", "foo"],
            "precision must be one of '32-true', 'bf16-mixed', '16-mixed', not 'foo'",
        ),
        (["--accelerator", "abacus"], "abacus"),
        (["--series", "kind", "--static", "kind"], "kind"),
        (["--test", "5"], "--test 5 is less than the horizon of 12 rows"),
    ],
)
def test_bad_input_is_said_and_nothing_is_written(hourly, tmp_path, capsys, change, message):
    data, out = tmp_path / "data.csv", tmp_path / "run"
    hourly.filter(pl.col("place") == "north").write_csv(data)
    good = ["fit", "forecast", str(data), "--time", "date", "--horizon", "12", "--out", str(out)]
    target = [] if "--target" in change else ["--target", "load"]
    assert main([*good, *target, *change]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_said(hourly, tmp_path, capsys):
    data = tmp_path / "data.csv"
    hourly.filter(pl.col("place") == "north").write_csv(data)
    fit = ["fit", "forecast", str(data), "--time", "date", "--target", "load", "--horizon", "12"]
    assert main([*fit, "--steps", "9", "--quiet", "--out", str(data / "run")]) == 2
    assert "data.csv" in capsys.readouterr().err


def test_resume_tensorboard_and_mixed_precision(hourly, tmp_path, capsys):
    data, out = tmp_path / "data.csv", tmp_path / "run"
    hourly.filter(pl.col("place") == "north").write_csv(data)
    fit = ["fit", "forecast", str(data), "--time", "date", "--target", "load", "--horizon", "12"]
    more = ["--steps", "18", "--quiet", "--out", str(out), "--tensorboard"]
    assert main([*fit, *more, "--precision", "bf16-mixed"]) == 0
    assert list(out.glob("logs/*/events*"))
    (before,) = (path.stat().st_size for path in out.glob("model-*.safetensors"))
    assert main([*fit, *more, "--precision", "bf16-mixed", "--resume"]) == 0
    capsys.readouterr()
    assert [path.stat().st_size for path in out.glob("model-*.safetensors")] == [before]


def test_missing_file_and_cell(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "nothing.csv", "-o", "x.csv"]) == 2
    assert "not a saved model" in capsys.readouterr().err
    assert main(["equations", "lsmt"]) == 2
    assert "did you mean 'lstm'" in capsys.readouterr().err
    assert main(["equations", "lstm"]) == 0
    assert "c[t] = f[t] ⊙ c[t-1] + i[t] ⊙ g[t]" in capsys.readouterr().out


@pytest.mark.quick
def test_equations_in_one_form_or_both_and_the_list_of_cells(capsys):
    lstm = gw.CELLS["lstm"]
    assert main(["equations", "lstm", "--text"]) == 0
    assert capsys.readouterr().out == text(lstm) + "\n"
    assert main(["equations", "lstm", "--latex"]) == 0
    assert capsys.readouterr().out == latex(lstm) + "\n"
    assert main(["equations", "lstm"]) == 0
    words = "\n\n".join(in_words(lstm))
    assert "Source: Gers, Schmidhuber & Cummins 2000" in words
    assert capsys.readouterr().out == f"{words}\n\n{text(lstm)}\n\n{latex(lstm)}\n"
    assert main(["equations"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(gw.CELLS)


def test_the_list_of_cells_and_all_of_one(capsys):
    assert main(["cells", "--inputs", "12", "--units", "5"]) == 0
    assert capsys.readouterr().out == listing(gw.CELLS.values(), 12, 5) + "\n"
    assert main(["cells"]) == 0
    assert capsys.readouterr().out == listing(gw.CELLS.values(), 128, 128) + "\n"
    assert main(["cells", "mingru", "--units", "5"]) == 0
    shown = capsys.readouterr().out
    assert text(gw.CELLS["mingru"]) in shown
    assert "I = 128, H = 5" in shown
    assert (
        "scan       a scan over all steps at once in torch operations, as the states are linear "
        "recurrences" in shown
    )
    assert (
        "aten       no: it has fixed cells (lstm, gru, rnn_tanh, rnn_relu), not 'mingru'" in shown
    )


@pytest.mark.parametrize("name", gw.CELLS)
def test_what_is_said_of_backends_is_what_they_do(name, capsys):
    assert main(["cells", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["backends"]
    assert list(told) == list(BACKENDS)
    x = torch.randn(2, 1, 3)
    automatic = gw.Recurrent(name, 3, 4).explain_backend(x)
    first = next(each for each, sentence in told.items() if not sentence.startswith("no: it "))
    assert automatic.startswith(f"{first}: {told[first]}")
    for backend, sentence in told.items():
        layer = gw.Recurrent(name, 3, 4, backend=backend)
        if sentence.startswith("no: "):
            with pytest.raises(BackendError) as refused:
                layer(x)
            assert str(refused.value).endswith(f"but {sentence.removeprefix('no: ')}")
        else:
            assert layer(x)[0].shape == (2, 1, 4)


def test_cells_for_machines(capsys):
    assert main(["cells", "--json", "--inputs", "3", "--units", "4"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in records] == list(gw.CELLS)
    for cell, each in zip(gw.CELLS.values(), records, strict=True):
        del each["backends"]
        assert each == record(cell, 3, 4)


def test_pages_are_written(tmp_path, capsys):
    folder = tmp_path / "docs" / "cells"
    assert main(["cells", "--docs", str(folder)]) == 0
    assert capsys.readouterr().out == f"pages     {folder} ({2 * len(gw.CELLS) + 1} files)\n"
    assert {p.name: p.read_text("utf-8") for p in folder.iterdir()} == pages(gw.CELLS.values())
    (tmp_path / "file").touch()
    assert main(["cells", "--docs", str(tmp_path / "file" / "cells")]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lsmt"], "no cell 'lsmt' (did you mean 'lstm'?); there are: rnn_tanh,"),
        (["lsmt", "--json"], "no cell 'lsmt' (did you mean 'lstm'?)"),
        (["--units", "0"], "units must be a positive integer, not 0"),
        (["lstm", "--inputs", "-3"], "inputs must be a positive integer, not -3"),
        (
            ["gru", "--docs"],
            "--docs writes a page for every cell, so the cell 'gru' has no effect: leave it out",
        ),
        (
            ["--units", "3", "--docs"],
            "--docs writes a page for every cell, so --units 3 has no effect: leave it out",
        ),
    ],
)
def test_bad_input_to_cells_is_said(tmp_path, capsys, given, message):
    folder = tmp_path / "cells"
    assert main(["cells", *given, *([str(folder)] if "--docs" in given else [])]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"gatewise: {message}")
    assert not folder.exists()


def as_a_process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatewise", *args],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        timeout=120,
        check=False,
    )


@pytest.mark.quick
def test_as_a_process():
    done = as_a_process("equations", "lstm")
    assert (done.returncode, done.stderr) == (0, "")
    assert text(gw.CELLS["lstm"]) in done.stdout
    wrong = as_a_process("equations", "lsmt")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("gatewise: no cell 'lsmt' (did you mean 'lstm'?)")
    assert wrong.stderr.count("\n") == 1


def test_a_terminal_without_greek_gets_no_traceback():
    done = as_a_process("equations", "lstm", "--text", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"i[t] = \u03c3(W_i x[t]")


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gatewise.emit.equations.text", interrupt)
    assert command(["equations", "lstm"]) == 130
    assert "Traceback" not in capsys.readouterr().err
