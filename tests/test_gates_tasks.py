"""`gatewise gates` for each task: the trace, what was read above it, and what the model said below."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import gatewise as gw
from gatewise.cli import main
from gatewise.data.tokens import BEGIN, END, PAD
from gatewise.errors import DataError, GatewiseWarning, OptionError
from gatewise.train.run import Run
from test_gates_page import read

pytest.importorskip("lightning")
pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Run(quiet=True)


def values(path, name, sequence=0, part=0):
    """T×H of a value in the page."""
    record, numbers = read(path)
    shown, units = record["sequences"][sequence], record["parts"][part]["units"][name]
    start = shown["places"][part][name]
    return numbers[start : start + shown["steps"] * units].reshape(-1, units)


def strips(path):
    record, _ = read(path)
    return [(each["strip"], each["prediction"]) for each in record["sequences"]]


def test_classify_and_regress(tmp_path):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(24, 9, 2))
    small = dict(hidden=4, epochs=1, members=1, filters=0, bidirectional=False)
    classifier = gw.Classifier(**small).fit(X, np.arange(24) % 2)
    path = classifier.write_gates(X[:5], tmp_path / "c.html", limit=3, steps=6)
    record, _ = read(path)
    assert [each["steps"] for each in record["sequences"]] == [6, 6, 6]
    trace = classifier.trace(X[:5])
    for k, (strip, prediction) in enumerate(strips(path)):
        np.testing.assert_allclose(values(path, "f", k), trace.f[0][0][k, :6], atol=1e-6)
        np.testing.assert_allclose(strip["values"], X[k, :6].T, rtol=1e-5)
        assert prediction["names"] == ["0", "1"]
        assert prediction["full"] == 1  # a bar is as long as its probability
        np.testing.assert_allclose(
            prediction["numbers"], classifier.predict_proba(X[:5])[k], rtol=1e-4
        )
    regressor = gw.Regressor(**small, cell="gru").fit(X, X[:, :, 0].sum(1))
    path = regressor.write_gates(X, tmp_path / "r.html", limit=1)
    assert strips(path)[0][1]["numbers"] == [pytest.approx(regressor.predict(X)[0], rel=1e-4)]
    assert read(path)[0]["cells"][0]["name"] == "gru"


def test_forecast_by_the_command_line(tmp_path, capsys):
    import polars as pl

    days = np.datetime64("2020-01-01") + np.arange(60)
    rows = [
        dict(shop=shop, day=day, sales=float(k % 7 + 10 * shop))
        for shop in (1, 2)
        for k, day in enumerate(days.astype(object))
    ]
    table = pl.DataFrame(rows)
    data, run = tmp_path / "sales.csv", tmp_path / "run"
    table.write_csv(data)
    made = gw.Forecaster(
        7, "sales", "day", series="shop", context=14, season=7, hidden=4, steps=3, calendar=False
    )
    made.fit(str(data), run=QUIET)
    made.save(run)
    out = tmp_path / "gates.html"
    assert main(["gates", str(run), str(data), "-o", str(out), "--limit", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"page      {out} (0.")
    record, _ = read(out)
    assert [each["label"] for each in record["sequences"]] == ["1", "2"]
    first = record["sequences"][0]
    # the window ends a horizon before the last day, so that the forecast stands beside what came
    assert first["step_labels"] == ["2020-02-09", "2020-02-16"]
    assert first["strip"]["per_step"] == 7
    assert first["strip"]["note"] == "a step of the network reads 7 values"
    assert first["strip"]["values"] == [[float(k % 7 + 10) for k in range(39, 53)]]
    assert first["prediction"]["names"][:2] == ["forecast", "actual"]
    assert first["prediction"]["values"][1] == [float(k % 7 + 10) for k in range(53, 60)]
    before = table.filter(pl.col("day") < days[53])
    predicted = made.predict(before)["forecast"].to_list()
    np.testing.assert_allclose(first["prediction"]["values"][0], predicted[:7], rtol=1e-4)
    assert len(record["history"]["train"]) >= 1
    for verb, name in (("gates", "a.html"), ("predict", "a.csv")):  # all verbs make the folder
        new = tmp_path / verb / "new" / name
        assert main([verb, str(run), str(data), "-o", str(new)]) == 0
        assert new.is_file()
        capsys.readouterr()
        assert main([verb, "--help"]) == 0
        assert "its folder is made if it does not exist" in " ".join(
            capsys.readouterr().out.split()
        )
    assert main(["gates", str(run), str(data), "-o", str(tmp_path / "a.png")]) == 2
    assert "is an .html file, not" in capsys.readouterr().err


def test_texts_that_are_classified(tmp_path):
    texts = [f"a {word} film {k}" for k in range(12) for word in ("good", "bad")]
    model = gw.TextClassifier(hidden=4, embedding=4, epochs=1, unit="word", min_count=1, members=2)
    model.fit(texts, [k % 2 for k in range(24)])
    path = model.write_gates(texts, tmp_path / "t.html", limit=2)
    assert "The gates are those of the first of 2 networks; the prediction" in path.read_text()
    strip, prediction = strips(path)[0]
    assert strip["words"] == ["⊢", "a", "good", "film", "0", "⊣"]
    weights = [weight for _, weight in model.attention(texts[:1])[0]]
    np.testing.assert_allclose(strip["weights"], [0, *weights, 0], rtol=1e-4)
    np.testing.assert_allclose(prediction["numbers"], model.predict_proba(texts)[0], rtol=1e-4)
    assert [part["backward"] for part in read(path)[0]["parts"]] == [False, True]


def test_a_language_models_state_is_carried_over_the_parts_of_a_text(tmp_path):
    lines = ["the cat sat on the mat\n", "the dog sat on the log\n"] * 4
    model = gw.LanguageModel("char", hidden=4, layers=1, epochs=1, batch=2, window=10)
    model.fit(lines, run=QUIET)
    path = model.write_gates(lines, tmp_path / "l.html", limit=3, steps=10)
    record, _ = read(path)
    assert [each["label"] for each in record["sequences"]][1] == "chars 11 to 20"
    found = np.concatenate([values(path, "c", k) for k in range(3)])
    np.testing.assert_allclose(found, model.trace(lines).c[0][0][0, :30], atol=1e-6)
    read_, said = strips(path)[1]
    text = "\n" + "".join(lines)
    assert "".join(read_["words"]) == text[10:20]
    with torch.no_grad():
        logits, _ = model.network_(*model.inputs(lines))
    chances = logits[0, 10:20].softmax(-1)
    np.testing.assert_allclose(said["weights"], chances.max(-1).values, rtol=1e-4)
    assert said["words"] == model.pieces(chances.argmax(-1).numpy())


ABC = (
    "X:1\nT:one\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n\nX:2\nT:two\nM:4/4\nL:1/4\nK:C\nCCEE|GGcc|C4|\n\n"
)


@pytest.mark.parametrize("unit", ["event", "step"])
def test_tunes(tmp_path, unit):
    pytest.importorskip("music21")
    path = tmp_path / "tunes.abc"
    path.write_text(ABC + ABC.replace("X:1", "X:3").replace("X:2", "X:4"))
    model = gw.MusicModel(
        unit=unit, hidden=4, epochs=1, batch=2, **({} if unit == "event" else dict(grid=1))
    )
    model.fit(str(path), run=QUIET, validation=1, test=0)
    page = model.write_gates(str(path), tmp_path / "m.html", limit=2)
    record, _ = read(page)
    assert [each["steps"] for each in record["sequences"]] == sorted(
        each["steps"] for each in record["sequences"]
    )  # the tunes' own order; the second is longer
    losses = model.predict(str(path))["nll"].to_list()
    for (strip, prediction), mean in zip(strips(page), losses, strict=False):
        assert np.mean(prediction["values"][0]) == pytest.approx(mean, rel=1e-4)
        if unit == "event":
            assert strip["words"][:2] == ["start", "meter:4/4"]
            assert "on:60" in strip["words"]
        else:
            assert strip["notes"][0][:3] == [1.0, 1.0 if strip["notes"][1][2] == 62 else 2.0, 60]
    np.testing.assert_allclose(values(page, "c"), model.trace(str(path)).c[0][0][0], atol=1e-6)


NUMBERS = ["one two", "two three one", "three", "two two one"]
DIGITS = ["1 2", "2 3 1", "3", "2 2 1"]


@pytest.fixture(scope="module")
def translator():
    torch.set_num_threads(1)
    small = dict(unit="word", embedding=8, hidden=16, epochs=20, batch=4, bleu_words="none")
    small |= dict(learning_rate=0.03, dropout=0.0)
    return gw.Translator(**small).fit(
        (NUMBERS * 6, DIGITS * 6), validation=0, test=0, run=Run(quiet=True)
    )


def test_a_translation(tmp_path, translator):
    with pytest.warns(GatewiseWarning, match="1 text without any word left out"):
        path = translator.write_gates(["", *NUMBERS], tmp_path / "t.html", limit=3, steps=3)
    record, _ = read(path)
    assert [part["label"] for part in record["parts"]] == [
        *("encoder, forward", "encoder, backward", "decoder", "second")
    ]
    there = [[k for k, names in enumerate(each["places"]) if names] for each in record["sequences"]]
    assert there == [[0, 1], [2, 3]] * 3  # the encoder reads the text, the others the translation
    network, into = translator.network_, translator.into_tokenizer_
    for k, found in enumerate(translator.translate(NUMBERS[:3])):
        symbols = [BEGIN, *into.encode(found.text)]
        source = [*translator.source_tokenizer_.encode(NUMBERS[k]), END]
        with torch.no_grad():
            traces = gw.trace(network, torch.tensor([source]), None, torch.tensor([symbols]))
            vectors, attention = traces.output
            log_p = network.logits(vectors).log_softmax(-1)[0]
        log_p[:, [PAD, BEGIN]] = -torch.inf  # a translation never has them
        next_ = log_p.argmax(1).tolist()
        (text, under), (read_, following) = strips(path)[2 * k : 2 * k + 2]
        assert text["words"] == [*found.source, "⊣"][:3]
        assert read_["words"] == ["⊢", *found.pieces][:3]
        assert following["words"] == ["⊣" if n == END else into.decode([n]) for n in next_[:3]]
        np.testing.assert_allclose(under["weights"], attention[0].amax(0)[:3], rtol=1e-4)
        most = attention[0].argmax(1).tolist()
        written = " ".join(p for p, at in zip([*found.pieces, "⊣"], most, strict=True) if at == 0)
        assert under["words"][0] == written
        assert under["note"].endswith(f"attention · {found.text}")
        np.testing.assert_allclose(
            values(path, "f", 2 * k), traces["encoder"].f[0][0][0, :3], atol=1e-6
        )
        np.testing.assert_allclose(
            values(path, "c", 2 * k + 1, 3), traces["second"].c[0][0][0, :3], atol=1e-6
        )
    whole = read(translator.write_gates(NUMBERS, tmp_path / "w.html", limit=3))[0]["sequences"]
    steps = [1 + len(each.pieces) for each in translator.translate(NUMBERS[:3])]
    assert len(set(steps)) > 1
    assert [each["steps"] for each in whole[1::2]] == steps
    with pytest.raises(DataError, match="list has no text to show: 2 texts without any word left"):
        translator.write_gates(["", " "], tmp_path / "t.html")


def test_a_text_without_words_is_said(tmp_path):
    texts = [f"a {word} film {k}" for k in range(12) for word in ("good", "bad")]
    model = gw.TextClassifier(hidden=4, embedding=4, epochs=1, unit="word", min_count=1)
    model.fit(texts, [k % 2 for k in range(24)])
    with pytest.warns(GatewiseWarning, match="^1 text without any word$"):
        path = model.write_gates(["", *texts[:2]], tmp_path / "t.html")
    assert strips(path)[0][0]["words"] == ["⊢", "⊣"]
    assert [each["label"] for each in read(path)[0]["sequences"]] == ["text 1 (empty)", *texts[:2]]


def test_a_text_or_tune_that_is_not_valid_is_to_be_corrected_as_there_is_no_option(tmp_path):
    texts = ["a good film", "a bad film"] * 8
    table = pd.DataFrame(dict(text=texts, label=[k % 2 for k in range(16)]))
    small = dict(text="text", label="label", hidden=4, embedding=4, epochs=1, min_count=1)
    model = gw.TextClassifier(**small).fit(table, validation=0, test=0, run=QUIET)
    table.loc[0, "text"] = None
    with pytest.raises(DataError, match=r"row 1: .*\. Correct it$"):
        model.write_gates(table, tmp_path / "t.html")
    pytest.importorskip("music21")
    (tmp_path / "tunes.abc").write_text(ABC)
    music = gw.MusicModel(hidden=4, epochs=1, notes="voices", grid=1)
    music.fit(str(tmp_path / "tunes.abc"), run=QUIET, validation=0, test=0)
    (tmp_path / "chords.abc").write_text(ABC.replace("CDEF", "[CE]DEF"))
    with pytest.raises(DataError, match=r"Correct it$"):
        music.write_gates(str(tmp_path / "chords.abc"), tmp_path / "m.html")


def test_a_task_without_a_page_says_so():
    from gatewise.tasks.base import Task

    class Mute(Task):
        name = "mute"

    with pytest.raises(OptionError, match="a model of the task 'mute' has no page of its gates"):
        Mute().shown(None, 1, 1)
