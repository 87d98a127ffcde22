"""Pretraining of the text classifier: vectors from counts of unlabelled text, and two language models of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.data.tokens import PAD, UNKNOWN, Tokenizer
from gatewise.errors import DataError, OptionError
from gatewise.models.text import PretrainingNetwork, TextShape
from gatewise.tasks.text import cooccurrence
from gatewise.tasks.text.cooccurrence import vectors_from_counts
from gatewise.tasks.text.examples import Encoded
from gatewise.train.recipe import Recipe
from sentences import BAD, GOOD, sentences

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(hidden=12, embedding=12, epochs=6, learning_rate=2e-2, dropout=0.2)
ONCE = QUICK | dict(epochs=1)
TEXTS, LABELS = sentences(260)


def with_a_word_that_tells(count):
    """Unlabelled texts with a word at the end, by which good and bad words differ."""
    pairs = zip(*sentences(count, seed=5), strict=True)
    return [f"{text} {'hooray' if label == 'pos' else 'alas'}" for text, label in pairs]


# ---------------------------------------------------------------------------------- vectors from counts


def test_the_counts_and_the_information_of_a_text(monkeypatch):
    tokenizer = Tokenizer.learn(["a b c"], "word")
    encoded = Encoded.of(tokenizer, ["a b", "a c"], 10)
    monkeypatch.setattr(cooccurrence, "WINDOW", 2)
    counts = cooccurrence._counts(encoded, len(tokenizer)).toarray()
    begin, end, a, b, c = (tokenizer.index[name] for name in ("<s>", "</s>", "a", "b", "c"))
    wanted = np.zeros((7, 7))
    for one, other, count in [
        *((begin, a, 2.0), (begin, b, 0.5), (begin, c, 0.5), (a, b, 1.0), (a, c, 1.0)),
        *((a, end, 1.0), (b, end, 1.0), (c, end, 1.0)),
    ]:
        wanted[one, other] = wanted[other, one] = count
    np.testing.assert_allclose(counts, wanted)
    contexts = wanted.sum(0) ** 0.75
    contexts /= contexts.sum()
    information = cooccurrence._information(cooccurrence._counts(encoded, 7)).toarray()
    assert information[a, b] == pytest.approx(np.log(1.0 / (wanted[a].sum() * contexts[b])))
    assert information[b, c] == 0  # never together


def test_the_counts_are_the_same_in_parts(monkeypatch):
    tokenizer = Tokenizer.learn(TEXTS, "word")
    encoded = Encoded.of(tokenizer, TEXTS, 100)
    whole = cooccurrence._counts(encoded, len(tokenizer))
    monkeypatch.setattr(cooccurrence, "_TOGETHER", 50)
    parts = cooccurrence._counts(encoded, len(tokenizer))
    np.testing.assert_allclose(parts.toarray(), whole.toarray(), rtol=1e-6)
    assert whole.sum() > 0


def test_words_that_stand_near_the_same_words_have_vectors_alike():
    texts = with_a_word_that_tells(500)
    tokenizer = Tokenizer.learn(texts, "word")
    vectors = vectors_from_counts(Encoded.of(tokenizer, texts, 100), len(tokenizer), 12, 0)
    good, bad = (vectors[[tokenizer.index[word] for word in words]] for words in (GOOD, BAD))
    good, bad = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (good, bad))
    assert (good @ good.T).mean() > (good @ bad.T).mean() + 0.3
    assert (vectors[[PAD, UNKNOWN]] == 0).all()
    assert vectors[UNKNOWN + 1 :].std() == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("texts", [["a"], ["a b"], [""]])
def test_vectors_of_the_shortest_texts_are_finite(texts):
    tokenizer = Tokenizer.learn(["a b"], "word")
    found = vectors_from_counts(Encoded.of(tokenizer, texts, 10), len(tokenizer), 20, 0)
    assert found.shape == (len(tokenizer), 20)
    assert np.isfinite(found).all()


def test_the_embeddings_of_all_members_start_from_the_counts():
    options = ONCE | dict(learning_rate=1e-6, members=2, pretrain=["hooray superb", "alas dull"])
    model = gw.TextClassifier(**options).fit(TEXTS, LABELS)
    tokenizer = Tokenizer.learn(
        [*TEXTS, *options["pretrain"]], "word", punctuation=True, lower=True
    )
    assert {"hooray", "superb"} <= model.tokenizer_.index.keys()
    texts = Encoded.of(model.tokenizer_, [*TEXTS, *options["pretrain"]], 100)
    wanted = vectors_from_counts(texts, len(tokenizer), 12, 0)
    for encoder in model.network_.encoders:
        np.testing.assert_allclose(encoder.embedding.weight.detach(), wanted, atol=1e-4)
    one, other = (each.encoder.first.weight_ih_l0 for each in model.network_.members)
    assert (one != other).any()


def test_the_embedding_learns_more_slowly_after_pretraining():
    model = gw.TextClassifier(pretrain=TEXTS, members=2, **ONCE).fit(TEXTS, LABELS)
    for text, slow in ((model, True), (gw.TextClassifier(**ONCE).fit(TEXTS, LABELS), False)):
        network = text.network_
        recipe = Recipe(steps=20, rounds=2)
        optimizer, _ = text.optimizer(network, recipe)
        groups = [(len(each["params"]), each["lr"]) for each in optimizer.param_groups]
        assert sum(number for number, _ in groups) == len(list(network.parameters()))
        assert len(groups) == 1 + slow
        if slow:
            (_, fast), (number, rate) = groups
            assert number == 2
            assert rate == pytest.approx(0.3 * fast)
            encoders = {id(each.embedding.weight) for each in network.encoders}
            assert {id(each) for each in optimizer.param_groups[1]["params"]} == encoders


def test_the_start_of_the_embedding_is_said_once(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("superb 1 2 3\nfilm 1 0 2\n")
    options = ONCE | dict(embedding=3, vectors=path, pretrain=TEXTS)
    with pytest.raises(OptionError, match="vectors= and pretrain= both say what the embedding"):
        gw.TextClassifier(**options).fit(TEXTS, LABELS)
    model = gw.TextClassifier(**options, pretrain_epochs=1).fit(TEXTS, LABELS)
    assert len(model.pretraining_.train) == 1


# ------------------------------------------------------------------------------------- language models


def test_the_language_models_learn_words_before_their_classes():
    options = QUICK | dict(batch=8, learning_rate=0.1)
    model = gw.TextClassifier(pretrain=with_a_word_that_tells(1500), pretrain_epochs=6, **options)
    model.fit(TEXTS[:200], LABELS[:200])
    losses = model.pretraining_.validation
    assert len(losses) == 6
    assert model.history_.seconds > model.pretraining_.seconds > 0
    assert losses[-1] < min(losses[0] - 0.1, np.log(24) - 0.2)  # of 22 words alike and two ends
    assert model.evaluate(TEXTS[200:], LABELS[200:]).scores["accuracy"] > 0.9


def test_unlabelled_text_that_is_not_there(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="pretrain= has no text"):
        gw.TextClassifier(pretrain=tmp_path / "empty.txt", **ONCE).fit(TEXTS, LABELS)
    with pytest.raises(DataError, match=r"no file .*more.txt"):
        gw.TextClassifier(pretrain=[tmp_path / "more.txt"], **ONCE).fit(TEXTS, LABELS)
    with pytest.raises(OptionError, match=r"pretrain must be a path, a list of pathlib.Path or a"):
        gw.TextClassifier(pretrain=3, **ONCE).fit(TEXTS, LABELS)
    with pytest.raises(OptionError, match=r"is the name of a file: give files as pathlib.Path"):
        gw.TextClassifier(pretrain=[str(tmp_path / "empty.txt")], **ONCE).fit(TEXTS, LABELS)


def shape(**changes):
    sizes = dict(symbols=50, outputs=3, embedding=6, hidden=5, layers=1)
    return TextShape(**sizes | dict(dropout=0.0, embedding_dropout=0.0, word_dropout=0.0) | changes)


def test_a_sample_of_all_symbols_is_the_whole_softmax():
    torch.manual_seed(0)
    network = PretrainingNetwork("lstm", shape(), torch.rand(50) + 0.5)
    x, lengths = torch.randint(4, 50, (6, 9)), torch.tensor([9, 8, 5, 2, 9, 3])
    whole = network(x, lengths)
    network.sampled = 49
    estimates = torch.stack([network(x, lengths) for _ in range(50)])
    assert abs(estimates.mean() - whole.mean()) < 0.02
    assert (estimates[0] != whole).any()


def test_the_whole_softmax_is_the_same_in_parts(monkeypatch):
    torch.manual_seed(0)
    network = PretrainingNetwork("lstm", shape(), torch.ones(50)).eval()
    x, lengths = torch.randint(4, 50, (6, 9)), torch.tensor([9, 8, 5, 2, 9, 3])
    whole = network(x, lengths)
    monkeypatch.setattr("gatewise.models.text._TOGETHER", 7)
    torch.testing.assert_close(network(x, lengths), whole)


def test_the_two_language_models_see_only_their_side():
    torch.manual_seed(0)
    network = PretrainingNetwork("lstm", shape(), torch.ones(50)).eval()
    x = torch.randint(4, 50, (1, 7))
    other = x.clone()
    other[0, 3] = (x[0, 3] + 1 - 4) % 46 + 4

    def parts(symbols):
        states = network.encoder.first(network.encoder.embedded(symbols))[0]
        return states.chunk(2, -1)

    (before, after), (changed_before, changed_after) = parts(x), parts(other)
    assert torch.equal(before[:, :3], changed_before[:, :3])
    assert not torch.equal(before[:, 3], changed_before[:, 3])
    assert torch.equal(after[:, 4:], changed_after[:, 4:])
