"""The command line, as a user meets it."""

from __future__ import annotations

from html.parser import HTMLParser

import polars as pl
import pytest

from gatewise.cli import main


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


def test_missing_file_and_cell(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "nothing.csv", "-o", "x.csv"]) == 2
    assert "not a saved model" in capsys.readouterr().err
    assert main(["equations", "lsmt"]) == 2
    assert "did you mean 'lstm'" in capsys.readouterr().err
    assert main(["equations", "lstm"]) == 0
    assert "c[t] = f[t] ⊙ c[t-1] + i[t] ⊙ g[t]" in capsys.readouterr().out
