"""The classifier of texts: what it learns, how it scores, what it saves, and what it says about bad input."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

import gatewise as gw
from gatewise.cli import main
from gatewise.data.tokens import PAD, UNKNOWN, Tokenizer
from gatewise.data.vectors import read_vectors
from gatewise.errors import DataError, GatewiseWarning, ModelFileError, OptionError
from gatewise.models.text import PhraseFilters, TextEnsemble, TextNetwork, TextShape
from gatewise.tasks.text.baseline import BagOfWords
from gatewise.tasks.text.examples import Encoded, TextBatch
from gatewise.train.run import Run
from sentences import BAD, GOOD, sentences

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(hidden=12, embedding=12, epochs=6, learning_rate=2e-2, dropout=0.2)
ONCE = QUICK | dict(epochs=1)
TEXTS, LABELS = sentences(260)


@pytest.fixture(scope="module")
def model():
    return gw.TextClassifier(**QUICK).fit(TEXTS[:200], LABELS[:200])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "reviews.csv"
    pl.DataFrame({"review": TEXTS, "stars": LABELS}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def of_table(table):
    return gw.TextClassifier(text="review", label="stars", **QUICK).fit(table)


# ----------------------------------------------------------------------------------------- learning


def test_it_learns_which_words_matter(model):
    assert model.evaluate(TEXTS[200:], LABELS[200:]).scores["accuracy"] > 0.9
    assert model.classes_.tolist() == ["neg", "pos"]
    (pairs,) = model.attention(["the story is superb and it was a film"])
    assert [word for word, _ in pairs] == [
        "the",
        "story",
        "is",
        "superb",
        "and",
        "it",
        "was",
        "a",
        "film",
    ]
    assert 0 < sum(weight for _, weight in pairs) < 1
    assert max(pairs, key=lambda pair: pair[1])[0] == "superb"


def test_weights_are_kept_only_where_they_are_asked_for(model):
    encoded = model._encoded(TEXTS[:20])
    outputs, none = model._outputs(encoded, "cpu")
    again, weights = model._outputs(encoded, "cpu", weighted=True)
    assert none == []
    np.testing.assert_array_equal(outputs, again)
    assert [len(each) for each in weights] == [len(text.split()) for text in TEXTS[:20]]
    assert all(each.base is None for each in weights)  # no view that keeps the weights of a batch


def test_a_text_gives_the_same_alone_and_in_a_batch(model):
    together = model.predict_proba([*TEXTS[200:], "", "superb " * 40])
    alone = np.concatenate([model.predict_proba([text]) for text in [*TEXTS[200:], ""]])
    np.testing.assert_allclose(together[:-1], alone, rtol=1e-12)
    np.testing.assert_allclose(together.sum(1), 1)
    assert model.predict(TEXTS[200:]).tolist() == model.classes_[together[:60].argmax(1)].tolist()


def test_the_same_seed_gives_the_same_model():
    def fitted(seed):
        found = gw.TextClassifier(seed=seed, **ONCE).fit(TEXTS, LABELS)
        return found.predict_proba(TEXTS[:5])

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert (fitted(1) != fitted(2)).any()


@pytest.mark.parametrize("unit", ["subword", "char"])
def test_subwords_and_characters(unit):
    options = dict(unit=unit, vocabulary=300, **QUICK)
    found = gw.TextClassifier(**options).fit(TEXTS[:200], LABELS[:200])
    assert found.evaluate(TEXTS[200:], LABELS[200:]).scores["accuracy"] > 0.6
    assert found.tokenizer_.unit == unit


@pytest.mark.parametrize("labels", [[0, 1], [True, False], [3.0, 4.0], ["b", "a"]])
def test_labels_of_several_kinds(labels, tmp_path):
    given = [labels[label == "pos"] for label in LABELS[:40]]
    found = gw.TextClassifier(**ONCE).fit(TEXTS[:40], given)
    assert found.classes_.tolist() == sorted(set(labels))
    again = gw.load(found.save(tmp_path / "m"))
    assert again.classes_.dtype == found.classes_.dtype
    assert again.predict(TEXTS[:3]).tolist() == found.predict(TEXTS[:3]).tolist()


@pytest.mark.parametrize(
    "column",
    [
        pd.Series,
        lambda labels: pd.Series(labels, dtype="category"),
        lambda labels: np.array(labels, dtype=object),
        pl.Series,
        pytest.param(
            lambda labels: np.array(labels, dtype=np.dtypes.StringDType()),
            marks=pytest.mark.skipif(
                np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="needs NumPy 2"
            ),
        ),
    ],
    ids=["pandas", "categories", "objects", "polars", "numpy's texts"],
)
def test_labels_in_columns_of_any_library(column, tmp_path):
    texts, labels = TEXTS[:40], LABELS[:40]
    expected = gw.TextClassifier(**ONCE).fit(texts, labels)
    found = gw.TextClassifier(**ONCE).fit(pd.Series(texts), column(labels), run=Run(tmp_path))
    assert found.classes_.tolist() == expected.classes_.tolist()
    again = gw.load(found.save(tmp_path / "m"))
    assert again.predict(texts).tolist() == expected.predict(texts).tolist()
    assert found.data_ == expected.data_  # the hash of the data, which has no addresses in it


def test_it_is_scored_and_searched_by_scikit_learn():
    texts, labels = pd.Series(TEXTS[:60]), pd.Series(LABELS[:60])
    assert cross_val_score(gw.TextClassifier(**ONCE), texts, labels, cv=2).shape == (2,)
    search = GridSearchCV(gw.TextClassifier(**ONCE), {"hidden": [4, 8]}, cv=2)
    assert search.fit(texts, labels).best_params_["hidden"] in (4, 8)


def test_a_class_of_one_text_is_trained_on_and_not_in_the_test_part():
    labels = [f"rare {k}" if k < 30 else label for k, label in enumerate(LABELS)]
    data = pl.DataFrame({"review": TEXTS, "stars": labels})
    model = gw.TextClassifier(text="review", label="stars", **ONCE)
    model.fit(data)
    assert set(model.classes_) == {*labels}
    with pytest.warns(GatewiseWarning, match="'stars' has .* classes in .* texts: is it a column"):
        model.fit(data[:60])
    model.fit(data)
    assert model.evaluate(data).n == len(model.tested_) > 0
    with pytest.raises(DataError, match=r"test=.* of 4 texts would hold out whole classes"):
        model.fit(data[:4])


def test_a_model_of_a_table_takes_lists_of_texts_too(of_table, table):
    texts, labels = pl.read_csv(table)["review"], pl.read_csv(table)["stars"]
    expected = of_table.predict(table)["prediction"].to_list()
    for given in (texts.to_list(), texts, texts.to_numpy(), texts.to_pandas(), texts.to_arrow()):
        assert of_table.predict(given).tolist() == expected
    np.testing.assert_array_equal(of_table.predict_proba(table), of_table.predict_proba(texts))
    assert of_table.attention(texts) == of_table.attention(table)
    found = of_table.evaluate(texts[:50], labels[:50])
    assert found.n == 50
    assert found.scores["accuracy"] == of_table.score(texts[:50], labels[:50])
    assert of_table.score(table) == of_table.evaluate(table).scores["accuracy"]
    with pytest.raises(OptionError, match="labels in a column: leave y out"):
        of_table.score(table, labels)
    with pytest.raises(DataError, match="requires y to be passed"):
        of_table.evaluate(texts)
    with pytest.raises(DataError, match="no file a film; a text itself must be in a list of texts"):
        of_table.predict("a film")
    with pytest.raises(DataError, match=r"no file a superb film.*…; a text itself must be in a"):
        of_table.predict("a superb film " * 40)  # longer than the name of a file may be


def test_class_weights_and_sample_weights():
    few = [k for k, label in enumerate(LABELS) if label == "neg" or k % 8 == 0]
    texts, labels = [TEXTS[k] for k in few], [LABELS[k] for k in few]
    plain, balanced = (
        gw.TextClassifier(class_weight=weight, **ONCE).fit(texts, labels).predict_proba(texts)
        for weight in (None, "balanced")
    )
    assert balanced[:, 1].mean() > plain[:, 1].mean() + 0.1
    weight = np.array([label == "neg" for label in LABELS], float)
    with pytest.raises(DataError, match=r"y has only the class 'neg' in \d+ texts to train on"):
        gw.TextClassifier(**ONCE).fit(TEXTS, LABELS, weight)
    with pytest.raises(OptionError, match="class_weight='even'"):
        gw.TextClassifier(class_weight="even", **ONCE).fit(TEXTS, LABELS)
    with pytest.raises(OptionError, match="embedding_dropout=1 leaves nothing of any word"):
        gw.TextClassifier(embedding_dropout=1, **ONCE).fit(TEXTS, LABELS)


def test_the_majority_class_is_that_of_the_texts_whatever_the_class_weights():
    texts, labels = TEXTS[:60], ["z"] * 40 + ["a"] * 20
    model = gw.TextClassifier(class_weight="balanced", **ONCE).fit(texts, labels)
    np.testing.assert_allclose(model.baseline_.prior, [1 / 3, 2 / 3])
    majority = model.evaluate(["a film", "a story", "it"], ["z", "z", "a"]).baseline[
        "majority class"
    ]
    assert majority["accuracy"] == pytest.approx(2 / 3)
    weight = np.where(np.array(labels) == "a", 2.0, 1.0)
    features = BagOfWords.fit(texts, (weight == 1).astype(int), np.ones(60), 2, weight)
    weighted = BagOfWords.fit(texts, (weight == 1).astype(int), weight, 2)
    np.testing.assert_allclose(features.outputs(texts), weighted.outputs(texts))


def test_it_is_an_estimator():
    model = gw.TextClassifier(hidden=7, smoothing=0.1)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(gw.GatewiseError, match="has not been fitted yet: call fit first"):
        model.predict(["a"])


# ------------------------------------------------------------------------------------------- tables


def test_tables_of_every_form_give_the_same(of_table, table, tmp_path):
    frame = pl.read_csv(table)
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ndjson(tmp_path / "t.jsonl")
    wanted = of_table.predict(table)
    assert wanted.columns == [
        *("row", "text", "prediction", "probability_neg", "probability_pos", "unknown")
    ]
    assert wanted["row"].to_list() == list(range(1, 261))
    for data in (frame, tmp_path / "t.parquet", tmp_path / "t.jsonl"):
        assert of_table.predict(data).equals(wanted)
    pandas = of_table.predict(frame.to_pandas())
    assert isinstance(pandas, pd.DataFrame)
    assert pandas["prediction"].tolist() == wanted["prediction"].to_list()


def test_the_test_part_of_the_data_of_fit_is_scored(of_table, table):
    found = of_table.evaluate(table)
    assert found.n == len(of_table.tested_) == 39
    assert found.scores["accuracy"] > 0.9
    assert set(found.baseline) == {"majority class", "TF-IDF, logistic regression"}
    trained = np.setdiff1d(np.arange(260), of_table.tested_)
    with pytest.raises(DataError, match="the model was trained on all of these texts"):
        of_table.evaluate(pl.read_csv(table)[trained.tolist()])
    known = pl.DataFrame({"review": [TEXTS[trained[0]], "a new text"], "stars": ["pos", "neg"]})
    notes = " ".join(of_table.evaluate(known).notes)
    assert "1 text of these also occur in the training part" in notes


def test_parts_as_files(table, tmp_path):
    other = tmp_path / "more.csv"
    texts, labels = sentences(40, seed=3)
    pl.DataFrame({"review": texts, "stars": labels}).write_csv(other)
    model = gw.TextClassifier(text="review", label="stars", **ONCE)
    model.fit(table, validation=other, test=other)
    assert model.held_out_.tolist() == list(range(260, 300))
    assert len(model.seen_) == 260
    assert len(model.history_.validation) == 1
    assert model.evaluate(other).n == 40


def test_numbers_as_classes_are_the_same_in_every_file(tmp_path):
    numbers = ["1" if label == "pos" else "0" for label in LABELS]
    pl.DataFrame({"t": TEXTS, "l": numbers}).write_csv(tmp_path / "a.csv")
    model = gw.TextClassifier(text="t", label="l", **ONCE).fit(tmp_path / "a.csv", test=0)
    assert model.classes_.tolist() == [0, 1]
    new = {"t": ["a fine film", "a dull film"], "l": [1, 0]}
    assert model.evaluate(pl.DataFrame(new)).n == 2


def test_texts_of_validation_of_an_unknown_class_are_in_no_part(table, tmp_path):
    other = tmp_path / "more.csv"
    other.write_text("review,stars\na film,pos\nstrange words,maybe\na story,neg\n")
    model = gw.TextClassifier(text="review", label="stars", on_error="skip", **ONCE)
    model.fit(table, validation=other, test=0)
    assert model.held_out_.tolist() == [260, 262]
    assert len(model.seen_) == 260
    assert "strange" not in model.tokenizer_.index


def test_numbers_are_scored_as_numbers_beside_an_unknown_class():
    numbers = [10 if label == "pos" else 2 for label in LABELS]
    model = gw.TextClassifier(text="t", label="l", on_error="skip", **QUICK)
    model.fit({"t": TEXTS, "l": numbers}, test=0)
    new = {"t": ["a superb film", "a dull film", "a film"], "l": ["10", "2", "many"]}
    found = model.evaluate(new)
    assert found.scores["accuracy"] == 1
    assert found.details.truth.tolist() == [1, 0]


def test_a_first_row_that_is_left_out_does_not_stop_the_report(tmp_path):
    rows = [json.dumps(dict(t=text, l=label)) for text, label in zip(TEXTS, LABELS, strict=True)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(['{"t": null, "l": "pos"}', *rows]))
    model = gw.TextClassifier(text="t", label="l", on_error="skip", **ONCE).fit(path)
    (heading,) = model.figures(path)
    assert heading.startswith(f"Gates over the text {TEXTS[0][:10]}")


def test_what_is_counted_is_reported(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(["t,l", *rows, "no label,", ",pos", "strange words,pos"]))
    model = gw.TextClassifier(text="t", label="l", **ONCE)
    with pytest.raises(DataError, match=r"column 'l', row 261 \(line 262 of a.csv\): the value"):
        model.fit(path)
    model.set_params(on_error="skip", longest=8).fit(path, test=0)
    notes = " ".join(model.notes_)
    assert "1 left out: rows without a label (the first: column 'l', row 261" in notes
    assert "1 text without any word" in notes
    assert re.search(r"of \d+ texts only the first 8 words were read", notes)
    other = tmp_path / "b.csv"
    other.write_text("t,l\nsome unheard strange words film story,pos\na film,maybe\n")
    found = model.evaluate(other)
    assert found.n == 1
    said = " ".join(found.notes)
    assert "33% of the words are unknown to the model; a model of subwords or characters" in said
    assert "1 left out: texts of a class that is unknown to the model (the first: text 2" in said
    model.set_params(on_error="stop").options_.on_error = "stop"
    with pytest.raises(
        DataError, match="text 2 of the data has the class 'maybe', which is unknow"
    ):
        model.evaluate(other)


def test_limit_reads_only_some_rows(table):
    model = gw.TextClassifier(text="review", label="stars", limit=50, **ONCE).fit(table, test=10)
    assert len(model.seen_) == 40
    assert len(model.predict(table)) == 260
    assert model.evaluate(table).n == 10  # the test part of the first 50 rows
    assert model.evaluate({"review": TEXTS[50:], "stars": LABELS[50:]}).n == 210


def test_rows_left_out_of_a_prediction_are_named(of_table):
    with pytest.raises(DataError, match="column 'review', row 2: the value is missing"):
        of_table.predict(pl.DataFrame({"review": ["a film", None]}))
    skipping = gw.TextClassifier(text="review", label="stars", on_error="skip", **ONCE)
    skipping.fit({"review": TEXTS, "stars": LABELS})
    with pytest.warns(GatewiseWarning, match="1 left out: rows without a text"):
        found = skipping.predict(pl.DataFrame({"review": ["a film", None, "a story"]}))
    assert found["row"].to_list() == [1, 3]
    for method in (skipping.predict_proba, skipping.attention):
        with pytest.warns(GatewiseWarning, match="1 left out: rows without a text"):
            method(pl.DataFrame({"review": ["a film", None]}))


def test_a_row_is_left_out_of_one_call_alone(of_table, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(
        "review,stars\na film,maybe\n" + "".join(f"{t},pos\n" for t in TEXTS[:5]) + "b\n"
    )
    for method in (of_table.predict, of_table.predict_proba, of_table.attention):
        with pytest.raises(
            DataError, match=r"row 7 .* or leave such data out with on_error='skip'"
        ):
            method(path)
        with pytest.warns(GatewiseWarning, match="1 left out: rows with another number of columns"):
            assert len(method(path, on_error="skip")) == 6
    with pytest.raises(DataError, match="row 7"):
        of_table.evaluate(path)
    found = of_table.evaluate(path, on_error="skip")
    assert found.n == 5
    assert "1 left out: texts of a class that is unknown" in " ".join(found.notes)
    path.write_text("review,stars\na film,maybe\na story,pos\n")
    assert of_table.evaluate(path, on_error="skip").n == 1
    with pytest.raises(DataError, match="maybe"):
        of_table.evaluate(path)


def test_predictions_in_pieces_are_those_of_all_texts_together(of_table, table, monkeypatch):
    whole = of_table.predict(table)
    monkeypatch.setattr("gatewise.data.sources.text.TOGETHER", 100)
    parts = list(of_table.predict_parts(table))
    assert list(map(len, parts)) == [100, 100, 60]
    for found in (pl.concat(parts), of_table.predict(table)):
        assert found.drop(cs.float()).equals(whole.drop(cs.float()))
        np.testing.assert_allclose(found.select(cs.float()), whole.select(cs.float()), atol=1e-12)


def test_no_text_is_left_out_of_a_list():
    model = gw.TextClassifier(on_error="skip", limit=2, **ONCE).fit(TEXTS, LABELS)
    with pytest.raises(OptionError, match="on_error='skip' is for tables"):
        model.predict(TEXTS[:5], on_error="skip")
    assert len(model.predict(TEXTS[:5])) == 5
    with pytest.raises(DataError, match="text 2: the value is missing"):
        model.predict(["a", None])


# ------------------------------------------------------------------------------------------- scores


def test_the_baseline_is_that_of_scikit_learn():
    target = np.array([label == "pos" for label in LABELS], int)
    ours = BagOfWords.fit(TEXTS[:200], target[:200], np.ones(200), 2)
    theirs = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"\w+(?:'\w+)*|[^\w\s]", sublinear_tf=True
    )
    wanted = LogisticRegression(C=4.0, max_iter=200).fit(
        theirs.fit_transform(TEXTS[:200]), target[:200]
    )
    odds = ours.outputs(TEXTS[200:])
    np.testing.assert_allclose(
        odds[:, 1] - odds[:, 0], wanted.decision_function(theirs.transform(TEXTS[200:])), atol=1e-3
    )


def test_the_report_has_its_parts(of_table, table, tmp_path):
    page = of_table.report(table, of_table.evaluate(table), tmp_path).read_text()
    for part in ("Confusion matrix", "ROC curve", "Precision and recall", "Share of errors by leng",
                 "Right and wrong", "TF-IDF, logistic regression", "Gates over the text"):  # fmt: skip
        assert f"{part}" in page, part
    deepest = re.findall(r'model\) 45%, transparent\)">(\w+)<', page)
    assert sum(word in GOOD + BAD for word in deepest) >= len(deepest) / 2 > 2


# ------------------------------------------------------------------------------------ vectors of words


def test_vectors_of_words(tmp_path):
    words = [*GOOD, *BAD, "the", "zebra"]
    numbers = np.random.default_rng(0).normal(size=(len(words), 5)).round(3)
    lines = [f"{w} {' '.join(map(str, row))}" for w, row in zip(words, numbers, strict=True)]
    glove, fasttext = tmp_path / "glove.txt", tmp_path / "wiki.vec"
    glove.write_text("\n".join(lines) + "\n")
    fasttext.write_text(f"{len(words)} 5\n" + " \n".join(lines) + "\n")
    index = {"superb": 4, "zebra": 9, "unseen": 5}
    for path in (glove, fasttext):
        found = read_vectors(path, index)
        assert found.keys() == {4, 9}
        np.testing.assert_allclose(found[9], numbers[-1], rtol=1e-6)
    options = ONCE | dict(embedding=None, learning_rate=1e-6)
    model = gw.TextClassifier(vectors=glove, **options).fit(TEXTS, LABELS)
    assert model.shape_.embedding == 5
    row = model.network_.encoders[0].embedding.weight[model.tokenizer_.index["superb"]]
    np.testing.assert_allclose(row.detach(), numbers[words.index("superb")], atol=1e-4)
    assert "of the vocabulary has a vector in" in model.notes_[-1]
    with pytest.raises(OptionError, match=r"embedding=7, but the vectors of .* have 5 numbers"):
        gw.TextClassifier(vectors=glove, **options | dict(embedding=7)).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("good 1 2", "line 2 has 2 numbers, expected 3 as in the first line"),
        ("good 1 2 3 4", "line 2 has 4 numbers, expected 3 as in the first line"),
        ("good 1 two 3", "line 2: could not convert string to float: 'two'"),
        ("good 1 nan 3", "line 2: the vector of 'good' is not finite"),
    ],
)
def test_vectors_that_are_not_valid(tmp_path, line, message):
    path = tmp_path / "v.txt"
    path.write_text(f"the 1 2 3\n{line}\nbad 1 2 3\n")
    with pytest.raises(DataError, match=message):
        read_vectors(path, {"good": 4})
    with pytest.raises(DataError, match="is a folder: give a text file of word vectors"):
        read_vectors(tmp_path, {"good": 4})
    with pytest.raises(OptionError, match="vectors= are those of words, but unit='char'"):
        gw.TextClassifier(vectors=path, unit="char").fit(TEXTS, LABELS)


# ------------------------------------------------------------------------------------------- network


def shape(**changes):
    sizes = dict(symbols=50, outputs=3, embedding=6, hidden=5, layers=1)
    return TextShape(**sizes | dict(dropout=0.0, embedding_dropout=0.0, word_dropout=0.0) | changes)


def test_dropped_words_are_unknown_ones():
    torch.manual_seed(0)
    network = TextNetwork("lstm", shape(word_dropout=1.0))
    x = torch.tensor([[5, 6, PAD], [7, 8, 9]])
    embedded = network.encoder.embedded(x)
    unknown = network.encoder.embedding.weight[UNKNOWN]
    assert (embedded[1] == unknown).all()
    assert (embedded[0, 2] == 0).all()
    network.eval()
    assert (network.encoder.embedded(x)[1] != unknown).any()
    network = TextNetwork("lstm", shape(embedding_dropout=0.5, embedding=400))
    ratio = network.encoder.embedded(x[1:]) / network.encoder.embedding.weight[x[1:]]
    assert set(ratio.detach().round().flatten().tolist()) == {0.0, 2.0}
    assert (ratio[0, 0] == ratio[0, 1]).all()


def test_the_largest_output_of_each_filter():
    filters = PhraseFilters(1, 1)
    with torch.no_grad():
        for width, each in zip((3, 4, 5), filters.of_width, strict=True):
            each.weight[:] = torch.arange(1.0, width + 1)
            each.bias[:] = 0.5
    x = torch.tensor([5.0, 1.0, 2.0, 9.0, 9.0])[None, :, None]
    after = torch.tensor([False, False, False, True, True])[None, :, None]
    # of three: 2·5 + 3·1; of four: 2·5 + 3·1 + 4·2; of five: 3·5 + 4·1 + 5·2; nothing of the steps behind the end
    torch.testing.assert_close(filters(x, after), torch.tensor([[13.5, 21.5, 29.5]]))


def test_members_and_filters_in_a_batch_and_alone():
    torch.manual_seed(0)
    network = TextEnsemble("lstm", shape(members=2, filters=4)).eval()
    x, lengths = torch.randint(4, 50, (3, 9)), torch.tensor([9, 4, 2])
    x[torch.arange(9) >= lengths[:, None]] = PAD
    outputs, weights = network.with_weights(x, lengths)
    torch.testing.assert_close(outputs, network(x, lengths))
    torch.testing.assert_close(network(x, lengths, trace=True)[0], outputs)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    one, other = (member(x, lengths) for member in network.members)
    assert (one - other).abs().min() > 1e-4
    torch.testing.assert_close(outputs, (one + other) / 2)
    for k, length in enumerate(lengths):
        alone = network(x[k : k + 1, :length], lengths[k : k + 1])
        torch.testing.assert_close(alone, outputs[k : k + 1])
    states, phrases = network.members[0].parts(x, lengths)
    network.members[0].phrases.of_width[0].bias.data += 1  # the filters lead to one part alone
    again, changed = network.members[0].parts(x, lengths)
    torch.testing.assert_close(again, states, rtol=0, atol=0)
    assert (changed - phrases).abs().max() > 1e-3
    torch.testing.assert_close(network.members[0](x, lengths), (states + changed) / 2)


def test_filters_read_whole_embeddings_in_training():
    network = TextNetwork("lstm", shape(filters=4, embedding_dropout=0.5, embedding=40))
    x, lengths = torch.randint(4, 50, (3, 9)), torch.tensor([9, 9, 9])
    once, again = network.parts(x, lengths), network.parts(x, lengths)
    torch.testing.assert_close(once[1], again[1], rtol=0, atol=0)
    assert (once[0] - again[0]).abs().max() > 1e-4


def test_each_part_of_each_member_has_its_own_loss_in_training():
    model = gw.TextClassifier(members=2, filters=3, smoothing=0.1, **ONCE | dict(dropout=0.0))
    options = dict(embedding_dropout=0.0, word_dropout=0.0)
    model.set_params(**options).fit(TEXTS, LABELS)
    texts = model._encoded(TEXTS[:5])
    target = torch.tensor([0, 1, 1, 0, 1])
    batch = TextBatch(*texts.padded(np.arange(5)), target, torch.arange(5.0), torch.arange(5))
    network = model.network_
    outputs = network.parts(batch.symbols, batch.lengths)
    assert len(outputs) == 4  # the states and the filters of two members
    mean = F.cross_entropy(sum(outputs) / 4, target, reduction="none")
    torch.testing.assert_close(model.loss(network.eval(), batch, None)[0], mean * batch.weight)
    each = [F.cross_entropy(o, target, reduction="none", label_smoothing=0.1) for o in outputs]
    own = model.loss(network.train(), batch, None)[0]
    network.eval()
    torch.testing.assert_close(own, sum(each) / 4 * batch.weight)


def test_members_and_filters_are_saved(tmp_path):
    model = gw.TextClassifier(members=2, filters=3, **ONCE).fit(TEXTS, LABELS)
    again = gw.load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(again.predict_proba(TEXTS[:9]), model.predict_proba(TEXTS[:9]))
    for option in ("members", "filters"):
        kept = getattr(model, option)
        setattr(model, option, kept + 1)
        with pytest.raises(ModelFileError, match=r"was changed|in one place"):
            model.save(tmp_path / "other")
        setattr(model, option, kept)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_two_layers_of_any_cell(cell):
    found = gw.TextClassifier(cell, layers=2, **ONCE).fit(TEXTS, LABELS)
    assert found.network_.encoders[0].upper.num_layers == 1
    longest = max(len(text.split()) for text in TEXTS[:2])
    assert found.trace(TEXTS[:2]).h[0][1].shape == (2, longest + 2, 12)


def test_encoded_texts_are_framed_and_cut():
    tokenizer = Tokenizer.learn(["a b c"], "word")
    found = Encoded.of(tokenizer, ["a b c", "", "c z"], 2)
    assert found.values.tolist() == [2, 4, 5, 3, 2, 3, 2, 6, 1, 3]
    assert (found.cut, found.empty, found.unknown_share) == (1, 1, 0.25)
    assert found.unknown_shares.tolist() == [0, 0, 0.5]
    parts = Encoded.parts_of(tokenizer, ["a b c", "", "c z"], 2)
    assert parts.values.tolist() == [2, 4, 5, 3, 2, 6, 3, 2, 6, 1, 3]
    assert found.chosen(np.array([2, 1])).values.tolist() == [2, 6, 1, 3, 2, 3]


# ------------------------------------------------------------------------------------------- saving


def test_a_saved_model_gives_the_same(of_table, table, tmp_path):
    again = gw.load(of_table.save(tmp_path / "m"))
    assert type(again) is gw.TextClassifier
    assert again.tokenizer_ == of_table.tokenizer_
    assert again.predict(table).equals(of_table.predict(table))
    one, other = again.evaluate(table), of_table.evaluate(table)
    assert one.record() == other.record()
    assert again.notes_ == of_table.notes_
    saved = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (saved["task"], saved["source"]) == ("classify", "text")
    assert json.loads(saved["learned"]["tokenizer"])["unit"] == "word"


def test_the_tokenizer_of_another_model_is_refused(model, tmp_path):
    path = model.save(tmp_path / "m") / "model.json"
    saved = json.loads(path.read_text())
    saved["learned"]["tokenizer"] = Tokenizer.learn(TEXTS, "word", 10).to_json()
    path.write_text(json.dumps(saved))
    with pytest.raises(ModelFileError, match="its content does not match its checksum"):
        gw.load(tmp_path / "m")
    kept = model.tokenizer_
    try:
        for other in (Tokenizer.learn(TEXTS, "word", 10), Tokenizer.learn(TEXTS, "char")):
            model.tokenizer_ = other
            with pytest.raises(ModelFileError, match=r"of the tokenizer is .* in another"):
                model.save(tmp_path / "other")
    finally:
        model.tokenizer_ = kept


# ------------------------------------------------------------------------------------- command line


def test_the_command_line(table, tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--hidden", "8", "--embedding", "8", "--epochs", "2", "--lr", "0.02", "--quiet"]
    unlabelled = tmp_path / "more.txt"
    unlabelled.write_text("\n".join(TEXTS))
    pretrain = ["--pretrain", str(unlabelled), "--pretrain-epochs", "1"]
    given = ["fit", "classify", str(table), "--text", "review", "--label", "stars", "--out", run]
    assert main([*given, *options, *pretrain]) == 0
    shown = capsys.readouterr().out
    assert "Test part, 39 texts" in shown
    assert "TF-IDF, logistic regression" in shown
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["predict", run, str(table), "-o", str(tmp_path / "p.csv")]) == 0
    assert len(pl.read_csv(tmp_path / "p.csv")) == 260
    capsys.readouterr()
    assert main(["evaluate", run, str(table), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n"] == 39
    assert {"accuracy", "f1_macro", "auroc", "ece"} <= record["scores"].keys()
    assert main([*given, *options, *pretrain, "--resume"]) == 0
    assert "is finished, and its model and report are complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "revue", "--label", "stars"], "no column 'revue' (did you mean 'review'?)"),
        (["--text", "review", "--label", "review"], "'review' is given as text and as label"),
        (["--text", "review"], "the following arguments are required: --label"),
        (["--text", "review", "--label", "stars", "--series", "a"], "--series"),
    ],
)
def test_command_lines_that_are_not_valid(table, tmp_path, capsys, words, message):
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    assert main(["fit", "classify", str(table), *words, *out]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x", "x"], "y has only the class 'x' in 2 texts to train on; a classifier"),
        (["a", "b"], ["x"], "X has 2 samples and y has 1"),
        (["a", None], ["x", "y"], "text 2: the value is missing"),
        (["", ""], ["x", "y"], "the texts have no word: give more texts"),
        ("a text", ["x"], "is one text or path, expected a list of texts"),
    ],
)
def test_texts_that_are_not_valid(texts, labels, message):
    with pytest.raises(DataError, match=message):
        gw.TextClassifier(**ONCE).fit(texts, labels)
