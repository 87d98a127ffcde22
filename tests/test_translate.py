"""The translator: parallel texts, what it learns, its scores, saved models and the command line."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise.cli import main
from gatewise.data.lines import Problems
from gatewise.data.tokens import PAD
from gatewise.errors import DataError, GatewiseWarning, ModelFileError, OptionError
from gatewise.models.output import token_losses
from gatewise.report.alignment import alignment_figure
from gatewise.report.pictures import svg
from gatewise.tasks.text import dictionary, translate
from gatewise.tasks.text.bleu import score_translations, score_with_signatures
from gatewise.tasks.text.dictionary import learn_dictionary, word_by_word
from gatewise.tasks.text.parallel import Parallel, ParallelReader
from gatewise.tasks.text.translate import _search_batches
from gatewise.train import processes
from gatewise.train.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def numbers(count: int = 240) -> tuple[list[str], list[str]]:
    """Numbers of three to six digits in words, and their digits."""
    draw = np.random.default_rng(0)
    found = [draw.integers(0, 10, draw.integers(3, 7)).tolist() for _ in range(count)]
    source = [" ".join(DIGITS[k] for k in each) for each in found]
    return source, [" ".join(map(str, each)) for each in found]


SOURCE, INTO = numbers()
QUICK = dict(unit="word", embedding=8, hidden=8, epochs=1, bleu_words="none")


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    options = dict(
        QUICK, embedding=16, hidden=32, epochs=14, batch=16, learning_rate=0.03, dropout=0.1
    )
    return gw.Translator(**options).fit((SOURCE, INTO), validation=20, test=20, run=Run(quiet=True))


def quick(data=(SOURCE, INTO), run=None, **options):
    parts = {name: options.pop(name) for name in ("validation", "test") if name in options}
    return gw.Translator(**(QUICK | options)).fit(data, run=run or Run(quiet=True), **parts)


# ------------------------------------------------------------------------------- what it learns


def test_it_learns_to_translate(fitted):
    found = fitted.evaluate((SOURCE, INTO))
    assert found.n == 20
    assert found.scores["bleu"] > 80
    assert 1 < found.scores["perplexity"] < 1.5
    assert found.baseline["copy of the source"]["bleu"] == 0
    assert found.baseline["word by word (IBM model 1)"]["bleu"] == pytest.approx(100)
    assert any("tok:none" in note for note in found.notes)


def test_a_translation_has_pieces_and_an_alignment(fitted):
    (found,) = fitted.translate(["three one four"])
    assert found.text == "3 1 4"
    assert found.source == ["three", "one", "four"]
    assert found.pieces == ["3", "1", "4"]
    assert found.alignment.shape == (3, 3)
    assert (found.alignment >= 0).all()
    assert (found.alignment.sum(1) <= 1 + 1e-5).all()
    assert found.score < 0


def test_a_text_is_translated_alike_alone_and_among_others(fitted):
    texts = [*SOURCE[:40], "three one four"]
    together = fitted.translate(texts)
    for k in (0, 17, 40):
        (alone,) = fitted.translate([texts[k]])
        assert alone.text == together[k].text
        assert alone.score == pytest.approx(together[k].score, abs=1e-5)


def test_an_empty_text_has_an_empty_translation(fitted):
    found = fitted.predict(["", "five six seven", "  "])
    assert found["translation"].to_list() == ["", "5 6 7", ""]


def test_an_unknown_word_is_copied_by_alignment(fitted):
    from gatewise.models.beam import Hypothesis

    hypothesis = Hypothesis(
        torch.tensor([fitted.into_tokenizer_.index["3"], 1]),
        -0.5,
        torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]),
    )
    found = fitted._translation(["three", "Xanadu"], hypothesis)
    assert found.text == "3 Xanadu"
    assert found.alignment.tolist() == [
        [pytest.approx(0.7), pytest.approx(0.2)],
        [pytest.approx(0.1), pytest.approx(0.3)],
    ]


@pytest.mark.parametrize("unit", ["subword", "char"])
def test_texts_come_back_from_other_units(unit):
    model = quick(unit=unit, symbols=300)
    (found,) = model.translate(["one two three"])
    assert "".join(found.source).strip() in ("one two three", "onetwothree")
    if unit == "char":
        assert found.text == "".join(found.pieces)
    assert found.alignment.shape == (len(found.pieces), len(found.source))


def test_the_loss_is_the_mean_over_symbols_whatever_the_lengths():
    model = gw.Translator(**QUICK)
    model.options_ = model.checked()
    data = model.prepare((["one two", "one"], ["1 2", "1"]), 0, 0, Run(quiet=True))
    (batch,) = list(data.training)
    network = model.build().eval()
    losses, _ = model.loss(network, batch, None)
    vectors, _ = network(batch.source, batch.lengths, batch.target[:, :-1])
    after = batch.target[:, 1:]
    log_p = network.logits(vectors).log_softmax(-1)[after != PAD]
    expected = -log_p.gather(1, after[after != PAD][:, None]).mean()
    torch.testing.assert_close(losses.mean(), expected)


def test_scheduled_sampling_reads_predictions_and_keeps_beginning_and_padding():
    model = gw.Translator(**QUICK, scheduled_sampling=1.0)
    model.options_ = model.checked()
    data = model.prepare((["one two", "one"], ["1 2", "1"]), 0, 0, Run(quiet=True))
    (batch,) = list(data.training)
    network = model.build().eval()
    before = batch.target[:, :-1]
    found = model._sampled(network, batch, before)
    vectors, _ = network(batch.source, batch.lengths, before)
    predicted = network.logits(vectors).argmax(-1)[:, :-1]
    padded = before[:, 1:] == PAD
    assert (found[:, 0] == before[:, 0]).all()
    assert (found[:, 1:][~padded] == predicted[~padded]).all()
    assert (found[:, 1:][padded] == PAD).all()
    quick(scheduled_sampling=0.5)


def test_a_run_is_repeated_exactly():
    one, other = quick(), quick()
    assert one.history_.train == other.history_.train
    assert one.translate(SOURCE[:3])[2].score == other.translate(SOURCE[:3])[2].score


# --------------------------------------------------------------------------------- dictionary


def test_the_dictionary_has_the_most_probable_translations():
    source = ["the house", "the book", "a book"]
    into = ["das Haus", "das Buch", "ein Buch"]
    found = learn_dictionary(source, into, rounds=20)
    assert found == {"the": "das", "house": "Haus", "book": "Buch", "a": "ein"}
    assert word_by_word("a house, the xyz", found) == "ein Haus , das xyz"


def test_one_round_of_ibm_model_1_is_that_of_the_paper():
    """One pair of two words each and one of one word, counted by hand: with the word NULL each target word is
    shared equally by three source words of the first pair and two of the second."""
    found = learn_dictionary(["b c", "b"], ["x y", "y"], rounds=1)
    # counts of b: x 1/3, y 1/3 + 1/2; of c: x 1/3, y 1/3, of which the last in the order is kept
    assert found["b"] == "y"
    assert set(found) == {"b", "c"}


def test_the_dictionary_leaves_out_very_long_texts():
    assert learn_dictionary(["b " * 201, "c"], ["x", "y"]) == {"c": "y"}
    assert learn_dictionary(["b " * 201], ["x"]) == {}


# -------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_sacrebleu_with_one_set_of_references(caplog):
    ours = ["the cat sat on the mat .", "a dog runs in the park ."]
    references = ["the cat sat on a mat .", "a dog runs through the park ."]
    found = score_translations(ours, references, "none")
    # by hand: n-grams right of all: 12/14, 8/12, 4/10, 1/8; equal lengths
    expected = 100 * (12 / 14 * 8 / 12 * 4 / 10 * 1 / 8) ** 0.25
    assert found["bleu"] == pytest.approx(expected)
    assert score_translations(references, references, "none")["chrf"] == pytest.approx(100)
    with caplog.at_level(logging.WARNING):
        again, signatures, notes = score_with_signatures(ours, references, "none")
    assert again == found
    assert notes == (f"BLEU by sacrebleu ({signatures['bleu']})",)
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:none|")
    assert "|nc:6|nw:0|" in signatures["chrf"]
    assert not caplog.records


def test_a_corpus_of_short_texts_says_that_its_bleu_is_zero():
    assert score_translations(["a b c"], ["a b c"], "none")["bleu"] == 0
    assert (
        "no translation has four words" in score_with_signatures(["a b c"], ["a b c"], "none")[2][1]
    )


# ---------------------------------------------------------------------------------------- data


def test_a_process_of_several_scores_every_pair_and_checks_its_share(fitted, monkeypatch):
    """Of a training run the first process scores the test part, alone."""
    pairs = Parallel(SOURCE[:9], INTO[:9])
    expected = fitted._perplexity(pairs)
    checks = fitted._checks(pairs)
    monkeypatch.setattr(processes, "rank_and_count", lambda: (1, 2))
    assert fitted._perplexity(pairs) == expected
    (batch,) = checks  # made before the processes are started
    assert len(batch.pair) == 4


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two files that the path names."""
    (tmp_path / "train.words").write_text("\n".join(SOURCE) + "\n")
    (tmp_path / "train.digits").write_text("\n".join(INTO) + "\n")
    return tmp_path / "train"


READER = ParallelReader("words", "digits")


def test_all_forms_of_data_are_read_alike(corpus):
    frame = pl.DataFrame({"words": SOURCE, "digits": INTO})
    frame.write_csv(corpus.with_suffix(".csv"))
    frame.write_parquet(corpus.with_suffix(".parquet"))
    corpus.with_suffix(".jsonl").write_text(
        "".join(
            json.dumps({"words": a, "digits": b}) + "\n" for a, b in zip(SOURCE, INTO, strict=True)
        )
    )
    packed = corpus.parent / "packed.words.gz", corpus.parent / "packed.digits.gz"
    for path, texts in zip(packed, (SOURCE, INTO), strict=True):
        path.write_bytes(gzip.compress("\n".join(texts).encode()))
    forms = [
        *(corpus, str(corpus), corpus.parent / "packed", frame, frame.to_pandas()),
        *(corpus.with_suffix(f".{kind}") for kind in ("csv", "parquet", "jsonl")),
        *((SOURCE, INTO), [pd.Series(SOURCE), pd.Series(INTO)]),
    ]
    for form in forms:
        found = READER.read(form)
        assert (list(found.source), list(found.into)) == (SOURCE, INTO)
    folder = ParallelReader("train.words", "train.digits").read(corpus.parent)
    assert folder.digest == found.digest
    for form in (corpus, corpus.with_suffix(".csv"), frame, SOURCE, corpus.with_suffix(".words")):
        assert list(READER.read_source(form)) == SOURCE


def test_files_of_unequal_length_are_refused_with_both_counts(corpus):
    corpus.with_suffix(".digits").write_text("\n".join(INTO[:-3]) + "\n")
    with pytest.raises(DataError, match=r"train.words has 240 lines and .*train.digits has 237"):
        READER.read(corpus)
    with pytest.raises(DataError, match="there are 240 texts and 237 translations"):
        READER.read((SOURCE, INTO[:-3]))


def test_bytes_that_are_not_utf_8_are_named(corpus):
    corpus.with_suffix(".digits").write_bytes(b"1 2 3\n4 \xff 5\n")
    corpus.with_suffix(".words").write_text("one two three\nfour five\n")
    with pytest.raises(DataError, match=r"train.digits, line 2: the byte 0xff at offset 8"):
        READER.read(corpus)


def test_pairs_with_an_empty_text_are_left_out_and_counted():
    found = READER.read((["one", " ", "two", "three"], ["1", "2", "", "3"]))
    assert (list(found.source), list(found.into)) == (["one", "three"], ["1", "3"])
    assert found.notes == ("2 left out: pairs with an empty text (the first: pair 2)",)
    with pytest.raises(DataError, match="the data has no pair of texts: 1 left out"):
        READER.read(([""], ["1"]))


def test_a_fit_reports_what_it_leaves_out():
    empty = [*SOURCE[:30], " "], [*INTO[:30], "1"]
    with pytest.warns(GatewiseWarning, match="1 left out: pairs with an empty text"):
        quick(empty, test=0)
    long = [*SOURCE[:30], "one " * 501], [*INTO[:30], "1"]
    with pytest.warns(GatewiseWarning, match="1 of 31 pairs have a text of more than 500 symbols"):
        quick(long, test=0, validation=0)
    with (
        pytest.raises(DataError, match="all pairs have a text of more than 500 symbols"),
        pytest.warns(GatewiseWarning),
    ):
        quick((["one " * 501], ["1"]), test=0, validation=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam must be a positive integer"),
        ({"normalisation": -1}, "normalisation must be a number from 0"),
    ],
)
def test_options_of_the_search_are_checked(fitted, options, message):
    with pytest.raises(OptionError, match=message):
        fitted.translate(["one"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 9}, "hidden must be an even number, not 9"),
        ({"symbols": 4}, "symbols must be at least 5 with unit='word', not 4"),
        ({"symbols": 259, "unit": "subword"}, "symbols must be at least 260 with unit='subword'"),
        ({"source": "de", "into": "de"}, "source and into are both 'de'"),
    ],
)
def test_options_of_the_network_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        quick(**options)


def test_a_long_text_is_warned_of_and_a_longer_one_refused(fitted, monkeypatch):
    with pytest.warns(
        GatewiseWarning, match=r"1 text of more than 500 symbols \(the first: text 2"
    ):
        (_, found) = fitted.translate(["one", "one " * 501], beam=1)
    assert len(found.source) == 501
    assert len(found.pieces) <= 1010
    with pytest.raises(DataError, match="text 2 has 20,001 symbols, more than 20,000"):
        fitted.translate(["one", "one " * 20_001])


def test_the_memory_of_a_search_is_bounded():
    lengths = np.array([3, 500, 4000, 4000, 2])
    batches = list(_search_batches(lengths, np.arange(5), 5))
    assert sorted(np.concatenate(batches)) == [0, 1, 2, 3, 4]
    weights = [
        len(b) * 5 * lengths[b].max() * min(2 * lengths[b].max() + 10, 1010) for b in batches
    ]
    assert max(weights) <= 1 << 26
    assert len(batches) == 2


def test_a_text_that_is_missing_is_refused_or_counted(fitted):
    reader = ParallelReader(None, None, Problems("skip"))
    found = reader.read((["one", None, "two"], ["1", "2", float("nan")]))
    assert (list(found.source), list(found.into)) == (["one"], ["1"])
    assert found.notes == (
        "2 left out: rows without a text (the first: text 2: the value is missing)",
    )
    frame = pl.DataFrame({"a": ["one", None]})
    assert [*ParallelReader("a", None, Problems("skip")).read_source(frame)] == ["one"]
    with pytest.raises(DataError, match="text 2: the value is missing"):
        list(READER.read_source(["one", None]))
    with pytest.raises(DataError, match=r"text 1: the character U\+D800 at position 2 is half of"):
        fitted.predict(["a\ud800"])


def test_a_line_that_is_too_long_is_not_read_as_several(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("one\n" + "two " * (1 << 18) + "three\n")
    with pytest.raises(DataError, match=r"long.txt, line 2 is too long for a sentence"):
        list(READER.read_source(path))


def test_a_limit_is_of_the_data_of_fit_alone():
    parts = dict(validation=(SOURCE[50:90], INTO[50:90]), test=6)
    with pytest.warns(GatewiseWarning, match="1 left out: pairs with an empty text"):
        model = quick(([" ", *SOURCE], ["1", *INTO]), limit=30, **parts)
    assert len(model._read((SOURCE[50:90], INTO[50:90]))) == 40
    assert max(model.held_out_) < 30  # of the valid pairs
    assert model.evaluate(([" ", *SOURCE], ["1", *INTO])).n == 6
    assert model.evaluate((SOURCE[30:100], INTO[30:100])).n == 70
    assert len(model.predict(SOURCE[:50], beam=1)) == 50


def test_data_that_is_not_valid_is_left_out_where_it_is_asked_for(fitted, tmp_path):
    pairs = [*SOURCE[:3], None], [*INTO[:3], "1"]
    with pytest.raises(DataError, match="leave such data out with on_error='skip'"):
        fitted.evaluate(pairs)
    found = fitted.evaluate(pairs, on_error="skip", beam=1)
    assert found.n == 3
    assert "1 left out: rows without a text" in found.notes[-1]
    with pytest.raises(DataError, match="text 4: the value is missing"):
        fitted.predict(pairs[0])
    with pytest.warns(GatewiseWarning, match="1 left out: rows without a text"):
        assert len(fitted.predict(pairs[0], on_error="skip", beam=1)) == 3
    with pytest.raises(OptionError, match="on_error must be one of 'stop', 'skip', not 'keep'"):
        fitted.predict(pairs[0], on_error="keep")
    skipping = quick(on_error="skip", test=0)
    with pytest.raises(DataError, match="the value is missing"):
        skipping.evaluate(pairs, on_error="stop")


def test_predictions_in_pieces_are_those_of_all_texts_together(fitted, monkeypatch, tmp_path):
    (tmp_path / "new.txt").write_text("\n".join(SOURCE[:50]))
    whole = fitted.predict(tmp_path / "new.txt", beam=2)
    monkeypatch.setattr("gatewise.data.sources.text.TOGETHER", 20)
    parts = list(fitted.predict_parts(tmp_path / "new.txt", beam=2))
    assert list(map(len, parts)) == [0, 20, 20, 10]
    written = pl.concat(parts[1:])
    assert written["translation"].equals(whole["translation"])
    np.testing.assert_allclose(written["score"], whole["score"], rtol=1e-5)
    assert fitted.predict(tmp_path / "new.txt", beam=2)["source"].to_list() == SOURCE[:50]
    with pytest.warns(
        GatewiseWarning, match=r"1 text of more than 500 symbols \(the first: text 31"
    ):
        fitted.predict([*SOURCE[:30], "one " * 501], beam=1)


def test_a_symbol_has_the_same_weight_in_every_process(fitted, monkeypatch):
    examples = fitted._examples(Parallel(SOURCE[:5], INTO[:5]))
    whole = examples[np.arange(5)]
    totals = []
    monkeypatch.setattr(translate, "sum_of_all", lambda counts: totals.append(counts) or counts)
    with torch.no_grad():
        wanted = fitted.loss(fitted.network_, whole, None)[0]
        monkeypatch.setattr(translate, "sum_of_all", lambda counts: totals[0])
        shares = [
            fitted.loss(fitted.network_, examples[np.arange(k, 5, 2)], None)[0] for k in (0, 1)
        ]
    torch.testing.assert_close(torch.cat(shares), torch.cat([wanted[::2], wanted[1::2]]))
    assert len({len(each.split()) for each in INTO[:5]}) > 1
    assert totals[0].tolist() == [5, sum(len(each.split()) + 1 for each in INTO[:5])]


def test_a_dictionary_of_a_large_text_is_learned_from_evenly_spaced_pairs(monkeypatch):
    source, into = numbers(4000)
    assert dictionary._spacing(source, into) == 1
    combinations = sum(
        (1 + len(a.split())) * len(b.split()) for a, b in zip(source, into, strict=True)
    )
    monkeypatch.setattr(dictionary, "MOST", combinations // 10)
    assert dictionary._spacing(source, into) == 10
    links = dictionary._links
    used = []
    monkeypatch.setattr(
        dictionary, "_links", lambda a, *rest: used.append(len(a)) or links(a, *rest)
    )
    found = learn_dictionary(source, into)
    assert used == [400]
    assert found == {word: str(k) for k, word in enumerate(DIGITS)}


def test_what_is_no_list_of_texts_is_not_translated(fitted):
    with pytest.raises(DataError, match="expected a list of texts"):
        fitted.translate("one")
    with pytest.raises(DataError, match="text 2: 3 is not a text"):
        fitted.translate(["one", 3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "nowhere is neither a file nor a folder, and there is no file nowhere.words"),
        ((["a"], [3]), "translation 1: 3 is not a text"),
        ((["a"],), "expected two lists of texts"),
        (("a", "b"), "expected two lists of texts"),
    ],
)
def test_other_data_is_refused(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        READER.read(data)


def test_the_texts_to_translate_need_no_translations(tmp_path):
    (tmp_path / "new.words").write_text("one two\nthree\n")
    reader = ParallelReader("words", "digits")
    assert list(reader.read_source(tmp_path / "new")) == ["one two", "three"]
    for each in (reader, ParallelReader(None, None)):
        with pytest.raises(DataError, match="; a text itself must be in a list of texts"):
            each.read_source("one two " * 40)  # longer than the name of a file may be


def test_a_missing_file_of_a_folder_and_a_missing_role_are_named(corpus):
    with pytest.raises(DataError, match=r"has no file train\.word"):
        ParallelReader("train.word", "train.digits").read(corpus.parent)
    with pytest.raises(OptionError, match="into is missing"):
        ParallelReader("words", None).read(corpus)


def test_parts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match="240 pairs with validation=200 and test=40 leave no pair"):
        quick(validation=200, test=40)


def test_parts_are_disjoint_and_the_test_part_alone_is_scored():
    model = quick(test=0.1, validation=0.1)
    assert len(model.held_out_) == 24
    assert model.evaluate((SOURCE, INTO)).n == 24
    assert model.evaluate((SOURCE[:7], INTO[:7])).n == 7
    trained = quick(test=0)
    with pytest.raises(DataError, match="the model was trained on these pairs"):
        trained.evaluate((SOURCE, INTO))


def test_symbols_are_learned_from_the_training_part_alone():
    odd = (["one two"] * 30, ["1 2"] * 30)
    other = (["nine"] * 3, ["9"] * 3)
    model = quick(odd, validation=other, test=0)
    assert "nine" not in model.source_tokenizer_.symbols
    found = model.evaluate(other)
    assert "100% of the source symbols are unknown to the model" in found.notes


# ----------------------------------------------------------------------- saving, command line


def test_a_saved_model_translates_alike(fitted, tmp_path):
    fitted.save(tmp_path)
    again = gw.load(tmp_path)
    ours, theirs = (m.translate(SOURCE[:5]) for m in (fitted, again))
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert [each.score for each in ours] == [each.score for each in theirs]
    assert again.evaluate((SOURCE, INTO)).scores == fitted.evaluate((SOURCE, INTO)).scores


def test_the_tokenizer_of_another_model_is_refused(fitted, tmp_path):
    from gatewise.tasks import saved

    fitted.save(tmp_path)
    path = tmp_path / "model.json"
    described = json.loads(path.read_text())
    learned = described["learned"]
    learned["source_tokenizer"], learned["into_tokenizer"] = (
        learned["into_tokenizer"],
        learned["source_tokenizer"],
    )
    described["checksum"] = saved._content(described)
    path.write_text(json.dumps(described))
    with pytest.raises(ModelFileError, match="tokenizer"):
        gw.load(tmp_path)


def test_the_report_draws_alignments(fitted, tmp_path):
    evaluation = fitted.evaluate((SOURCE, INTO))
    page = fitted.report((SOURCE, INTO), evaluation, tmp_path).read_text()
    assert "<h1>Translate texts</h1>" in page
    assert all(f"Alignment {k}: " in page for k in (1, 2, 3))
    width = alignment_figure(["a"] * 10, ["b"], np.ones((1, 10))).get_size_inches()[0]
    drawn = svg(alignment_figure(["a"] * 10, ["b"], np.ones((1, 10))), "a picture")
    assert f'style="max-width: {120 * width:.0f}px"' in drawn
    assert "word by word (IBM model 1)" in page


def test_the_report_draws_texts_of_the_test_part():
    other = (["nine nine", "eight one", "two", "six"], ["9 9", "8 1", "2", "6"])
    model = quick(test=other)
    drawn = []
    model.translate = lambda texts: drawn.append(list(texts)) or []
    model.figures((SOURCE, INTO))
    own = quick(test=4)
    own.translate = model.translate
    own.figures((SOURCE, INTO))
    own.figures((SOURCE[:2], INTO[:2]))  # data of other pairs, and fewer
    assert drawn == [other[0][:3], [SOURCE[k] for k in own.held_out_[:3]], SOURCE[:2]]


def test_the_trace_is_that_of_the_encoder(fitted):
    trace = fitted.trace(["one two", "three"])
    assert trace.f[0][0].shape == (2, 3, 16)
    again = gw.trace(fitted, ["one two", "three"])
    assert torch.equal(again["encoder"].f[0][0], trace.f[0][0])


@pytest.mark.usefixtures("each_round_saved")
def test_the_command_line_fits_evaluates_predicts_and_resumes(corpus, tmp_path, capsys):
    out = tmp_path / "run"
    line = [
        "fit",
        "translate",
        str(corpus),
        "--source",
        "words",
        "--into",
        "digits",
        "--unit",
        "word",
    ]
    line += ["--hidden", "8", "--embedding", "8", "--epochs", "2", "--out", str(out), "--quiet"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "Test part, 12 texts" in said
    assert "nrefs:1|case:mixed" in said
    assert main([*line, "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([*line, "--resume", "--symbols", "9"]) == 2
    assert "symbols was 4000 and is 9" in capsys.readouterr().err
    assert main(["evaluate", str(out), str(corpus), "--json", "--beam", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["n"]) == ("translate", 12)
    assert {"bleu", "chrf", "perplexity"} == set(found["scores"])
    assert found["signatures"]["bleu"].startswith("nrefs:1|case:mixed")
    table = tmp_path / "translated.csv"
    assert main(["predict", str(out), str(corpus) + ".words", "-o", str(table), "--beam", "1"]) == 0
    written = pl.read_csv(table)
    assert written.columns == ["source", "translation", "score"]
    assert written["source"].to_list() == SOURCE


def test_the_command_line_needs_both_roles(corpus, tmp_path, capsys):
    line = ["fit", "translate", str(corpus), "--source", "words", "--out", str(tmp_path / "run")]
    assert main(line) == 2
    assert "--into" in capsys.readouterr().err


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_that_of_torch(smoothing):
    draw = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (11, 5), (11,)]
    given = [torch.randn(s, generator=draw, dtype=torch.double).requires_grad_() for s in shapes]
    target = torch.tensor([4, 3, PAD, 10, PAD, 5, 2])
    ours = token_losses(*given, target, PAD, smoothing)
    theirs = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(*given),
        target,
        label_smoothing=smoothing,
        ignore_index=PAD,
        reduction="none",
    )
    torch.testing.assert_close(ours, theirs)
    each = torch.randn(7, generator=draw, dtype=torch.double)
    gradients = (torch.autograd.grad((each * x).sum(), given) for x in (ours, theirs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
