"""The command line, as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser

import polars as pl
import pytest

import gatewise as gw
from gatewise.cli import main
from gatewise.emit.equations import latex, text


def test_fit_predict_evaluate(hourly, tmp_path, capsys):
    data, out = tmp_path / "data.csv", tmp_path / "run"
    hourly.with_columns(place=pl.col("place").replace("north", "<b>north")).write_csv(data)
    fit = ["fit", "forecast", str(data), "--time", "date", "--target", "load", "--series", "place"]
    quick = ["--horizon", "12", "--steps", "90", "--hidden", "16", "--quiet", "--out", str(out)]
    assert main([*fit, *quick]) == 0
    assert "held out, 40 windows" in capsys.readouterr().out
    names = {"model.json", "model.safetensors", "report.html", "gates.png", "checkpoints"}
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
        (["--horizon", "0"], "horizon must be a whole number from 1 on, not 0"),
        (["--gaps", "fill"], "gaps must be"),
        (["--dropout", "7"], "dropout must be a probability from 0 to 1, not 7.0"),
        (["--lr", "-1"], "learning rate must be a number above 0, not -1.0"),
        (["--precision", "foo"], "Precision 'foo' is invalid"),
        (["--accelerator", "abacus"], "abacus"),
        (["--series", "kind", "--static", "kind"], "kind"),
        (["--test", "5"], "test=5 rows hold no window of horizon 12"),
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
    before = (out / "model.safetensors").read_bytes()
    assert main([*fit, *more, "--precision", "bf16-mixed", "--resume"]) == 0
    capsys.readouterr()
    assert len((out / "model.safetensors").read_bytes()) == len(before)


def test_missing_file_and_cell(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "nothing.csv", "-o", "x.csv"]) == 2
    assert "not a saved model" in capsys.readouterr().err
    assert main(["equations", "lsmt"]) == 2
    assert "did you mean 'lstm'" in capsys.readouterr().err
    assert main(["equations", "lstm"]) == 0
    assert "c[t] = f[t] ⊙ c[t-1] + i[t] ⊙ g[t]" in capsys.readouterr().out


def test_equations_in_one_form_or_both_and_the_list_of_cells(capsys):
    lstm = gw.CELLS["lstm"]
    assert main(["equations", "lstm", "--text"]) == 0
    assert capsys.readouterr().out == text(lstm) + "\n"
    assert main(["equations", "lstm", "--latex"]) == 0
    assert capsys.readouterr().out == latex(lstm) + "\n"
    assert main(["equations", "lstm"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{text(lstm)}\n\n{latex(lstm)}\n")
    assert main(["equations"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(gw.CELLS)


def as_a_process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gatewise", *args],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        timeout=120,
        check=False,
    )


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
    assert main(["equations", "lstm"]) == 130
    assert "Traceback" not in capsys.readouterr().err
