"""Language models: the output layer, n-grams, sampling, the task and its command line."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

import gatewise as gw
from gatewise.cli import main
from gatewise.data.corpus import Windows, first_input, stream
from gatewise.data.tokens import END, UNKNOWN, Tokenizer
from gatewise.errors import DataError, GatewiseWarning, ModelFileError, OptionError
from gatewise.models.cache import Cache, CachedText
from gatewise.models.language import Dropouts, LanguageNetwork
from gatewise.models.ngrams import KneserNey, discounts, unigram_log_probabilities
from gatewise.models.output import token_losses
from gatewise.models.sampling import Choice, StepProgram, within
from gatewise.train.averaging import AveragingSGD, averaged_weights
from gatewise.train.run import Run

pytestmark = pytest.mark.usefixtures("one_thread", "each_round_saved")

RHYME = "the cat saw a dog\nthe dog saw a cat\na bird sang\n" * 40


def small(**options):
    given = dict(unit="word", hidden=12, layers=1, epochs=3, batch=4, window=6, dropout=0.0)
    return gw.LanguageModel(**(given | options))


def quiet(folder=None, **options):
    return Run(folder, quiet=True, **options)


@pytest.fixture
def rhyme(tmp_path):
    path = tmp_path / "rhyme.txt"
    path.write_text(RHYME)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text(RHYME)
    return small(epochs=6, learning_rate=0.05).fit(path, run=quiet()), path


# ------------------------------------------------------------------------------------ output layer


def layer(symbols=7, width=5, count=6, dtype=torch.float64):
    torch.manual_seed(0)
    x, weight = torch.randn(count, width, dtype=dtype), torch.randn(symbols, width, dtype=dtype)
    bias, target = torch.randn(symbols, dtype=dtype), torch.randint(0, symbols, (count,))
    return [each.requires_grad_() for each in (x, weight, bias)], target


def test_token_losses_have_the_right_gradient():
    inputs, target = layer()
    assert torch.autograd.gradcheck(lambda *given: token_losses(*given, target), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_token_losses_are_the_cross_entropy_also_in_several_chunks(dtype, monkeypatch):
    monkeypatch.setattr("gatewise.models.output._AT_ONCE", 20)
    (x, weight, bias), target = layer(dtype=dtype)
    upstream = torch.rand(len(target), dtype=dtype)
    expected = F.cross_entropy(F.linear(x, weight, bias), target, reduction="none")
    wanted = torch.autograd.grad(expected, (x, weight, bias), upstream)
    losses = token_losses(x, weight, bias, target)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(torch.autograd.grad(losses, (x, weight, bias), upstream), wanted)


def test_token_losses_of_padding_are_zero_and_have_no_gradient():
    (x, weight, bias), target = layer()
    target[[1, 4]] = 0
    losses = token_losses(x.view(2, 3, 5), weight, bias, target.view(2, 3), ignore=0)
    expected = F.cross_entropy(F.linear(x, weight, bias), target, reduction="none") * (target != 0)
    torch.testing.assert_close(losses, expected.view(2, 3))
    slope = torch.autograd.grad(losses.sum(), x)[0]
    assert slope[[1, 4]].abs().max() == 0 < slope[0].abs().max()


def test_token_losses_in_bfloat16_are_near():
    (x, weight, bias), target = layer(dtype=torch.float32)
    expected = F.cross_entropy(F.linear(x, weight, bias), target, reduction="none")
    wanted = torch.autograd.grad(expected.mean(), (x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        losses = token_losses(x, weight, bias, target)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.03, atol=0.03)
    found = torch.autograd.grad(losses.mean(), (x, weight, bias))
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)


# ---------------------------------------------------------------------------------------- n-grams


def test_kneser_ney_bigrams_by_hand():
    # a b a c a b: counts ab 2, ba 1, ac 1, ca 1. D = 3 / (3 + 2) = 0.6 for all counts
    model = KneserNey(np.array([0, 1, 0, 2, 0, 1]), 3, order=2)
    # in how many contexts: a after b and c, b after a, c after a. D = 2 / (2 + 2 * 1) = 0.5
    uniform = 1.5 / 4 / 3
    a, b, c = 1.5 / 4 + uniform, 0.5 / 4 + uniform, 0.5 / 4 + uniform
    assert a + b + c == pytest.approx(1)
    after_a = [1.2 / 3 * a, 1.4 / 3 + 1.2 / 3 * b, 0.4 / 3 + 1.2 / 3 * c]
    found = [model.log_probabilities(np.array([w]), np.array([0]))[0] for w in range(3)]
    assert np.exp(found) == pytest.approx(after_a)
    first = [model.log_probabilities(np.array([w]))[0] for w in range(3)]
    assert np.exp(first) == pytest.approx([a, b, c])


@pytest.mark.parametrize("before", [[], [1], [2, 3], [0, 1, 2, 3, 4], [4, 4, 4]])
def test_kneser_ney_is_a_distribution(before):
    text = np.random.default_rng(0).integers(0, 5, 400)
    model = KneserNey(text, 6, order=4)  # the symbol 5 does not occur
    each = [model.log_probabilities(np.array([w]), np.array(before, int))[0] for w in range(6)]
    assert np.exp(each).sum() == pytest.approx(1)
    assert np.exp(each).min() > 0


def test_kneser_ney_of_a_text_whose_lines_come_four_times():
    # counts of 4 are so many beside those of 3 that the third discount of Chen & Goodman is negative
    rng = np.random.default_rng(0)
    lines = [rng.integers(0, 30, 8) for _ in range(40)]
    text = np.concatenate([line for k, line in enumerate(lines) for _ in range(4 if k > 6 else 1)])
    text = np.concatenate([text, *lines[:3]])
    model = KneserNey(text, 31, order=3)
    for begin in range(0, len(text), 50):
        before = text[begin : begin + 2]
        p = np.exp([model.log_probabilities(np.array([w]), before)[0] for w in range(31)])
        assert p.sum() == pytest.approx(1)
        assert p.min() > 0


def test_kneser_ney_scores_a_text_as_it_does_each_symbol():
    rng = np.random.default_rng(1)
    model, text = KneserNey(rng.integers(0, 4, 200), 4, order=3), rng.integers(0, 4, 20)
    alone = [model.log_probabilities(text[k : k + 1], text[:k])[0] for k in range(20)]
    assert model.log_probabilities(text) == pytest.approx(alone)


def test_the_discounts_of_chen_and_goodman():
    counts = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])
    y = 8 / 16
    expected = [0, 1 - 2 * y * 4 / 8, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2]
    assert discounts(counts) == pytest.approx(expected)
    assert discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.5, 0.5, 0.5])
    many_fours = np.repeat([1, 2, 3, 4], [8, 4, 2, 9])  # 3 - 4 y 9 / 2 is negative
    assert discounts(many_fours) == pytest.approx([0, y, y, y])


def test_frequencies_with_one_added():
    found = unigram_log_probabilities(np.array([0, 0, 1]), np.array([0, 1, 2]), 3)
    assert np.exp(found) == pytest.approx([3 / 6, 2 / 6, 1 / 6])


# ------------------------------------------------------------------------------------------- data


def test_a_stream_has_the_end_of_each_line():
    tokenizer = Tokenizer.learn(["a b", "c"], "word", 20)
    symbols, starts = stream(["a b\n", "\n", "c"], tokenizer)
    names = [tokenizer.symbols[k] for k in symbols]
    assert names == ["a", "b", "</s>", "</s>", "c"]
    assert starts.tolist() == [0, 3, 4, 5]
    assert first_input(tokenizer) == END


def test_a_line_break_inside_a_text_is_the_end_of_a_line():
    for unit, size in (("word", 20), ("subword", 300)):
        tokenizer = Tokenizer.learn(["a b", "c"], unit, size)
        inside, starts = stream(["a b\nc\n", "a"], tokenizer)
        lines, _ = stream(["a b\n", "c\n", "a"], tokenizer)
        assert inside.tolist() == lines.tolist()
        assert inside.tolist().count(END) == 2
        assert starts.tolist() == [0, len(inside) - len(stream(["a"], tokenizer)[0]), len(inside)]


def test_a_stream_of_characters_has_the_newlines_themselves():
    tokenizer = Tokenizer.learn(["ab\n"], "char", 20)
    symbols, _ = stream(["ab\n", "b"], tokenizer)
    assert tokenizer.decode(symbols) == "ab\nb"
    assert tokenizer.symbols[first_input(tokenizer)] == "\n"


def test_windows_have_each_symbol_once_as_a_target_and_continue_each_other():
    text = np.arange(10, 33, dtype=np.int32)
    windows = Windows(text, first=9, batch=2, steps=4)
    parts = [windows[k] for k in range(len(windows))]
    targets = torch.cat([part[:, 1:] for part in parts], 1)
    assert targets.tolist() == [list(range(10, 21)), list(range(21, 32))]
    assert [part.shape[1] - 1 for part in parts] == [4, 4, 3]
    inputs = torch.cat([part[:, :-1] for part in parts], 1)
    assert torch.equal(inputs, targets - 1)


# ---------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("embedding", [None, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_the_step_program_has_the_logits_of_the_network(tied, embedding):
    network = LanguageNetwork(11, 6, 2, tied=tied, embedding=embedding).eval()
    x = torch.randint(0, 11, (3, 7))
    with torch.no_grad():
        expected, _ = network(x)
        program = StepProgram(network, 3, never=[2])
        for t in range(7):
            logits = program.step(x[:, t].numpy())
            assert logits[:, 2].max() == -torch.inf
            logits[:, 2] = expected[:, t, 2]
            torch.testing.assert_close(logits, expected[:, t], rtol=1e-5, atol=1e-6)


def test_tied_weights_are_one_parameter_with_both_gradients():
    tied, free = LanguageNetwork(11, 6, tied=True), LanguageNetwork(11, 6)
    free.load_state_dict(tied.state_dict() | {"head_weight": tied.embedding.weight.detach()})
    x, y = torch.randint(0, 11, (2, 2, 5))
    for network in (tied, free):
        network.losses(x, y)[0].mean().backward()
    both = free.embedding.weight.grad + free.head_weight.grad
    torch.testing.assert_close(tied.embedding.weight.grad, both)


def test_locked_dropout_drops_the_same_units_at_all_steps():
    network = LanguageNetwork(11, 50, dropouts=Dropouts(units=0.5, locked=True))
    with torch.no_grad():
        network.embedding.weight.fill_(1.0)
    embedded = network._embedded(torch.zeros(2, 9, dtype=torch.long))
    assert torch.equal(embedded, embedded[:, :1].expand_as(embedded))
    assert set(embedded.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(embedded[0], embedded[1])


def test_word_dropout_drops_whole_symbols():
    network = LanguageNetwork(40, 8, dropouts=Dropouts(words=0.5))
    embedded = network._embedded(torch.arange(40)[None])[0]
    dropped = (embedded == 0).all(1)
    assert 5 < dropped.sum() < 35
    torch.testing.assert_close(embedded[~dropped], 2 * network.embedding.weight[~dropped])


def test_a_cache_mixes_the_symbols_that_followed_similar_outputs():
    torch.manual_seed(0)
    T, W, flatness, share = 12, 4, 0.7, 0.3
    outputs, symbols = torch.randn(T, 3), torch.randint(0, 3, (T,))
    log_p = torch.randn(T, 3).log_softmax(1)[torch.arange(T), symbols]
    expected = []
    for t in range(T):
        before = range(max(0, t - W), t)
        weights = [math.exp(flatness * float(outputs[t] @ outputs[i])) for i in before]
        hit = sum(w for w, i in zip(weights, before, strict=True) if symbols[i] == symbols[t])
        p = math.exp(log_p[t])
        expected.append(p if not weights else (1 - share) * p + share * hit / sum(weights))
    for parts in ([T], [5, 1, 6]):
        text, found = CachedText(Cache(W, share, flatness)), []
        for piece in zip(*(x.split(parts) for x in (log_p, outputs, symbols)), strict=True):
            found.append(text.log_probabilities(*piece))
        assert torch.cat(found).exp().tolist() == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------------------- sampling


def shares(choice, logits, count=4000):
    generator = torch.Generator().manual_seed(0)
    drawn = choice.draw(torch.tensor([logits]).expand(count, -1), generator)
    return (torch.bincount(drawn, minlength=len(logits)) / count).tolist()


def test_symbols_are_drawn_with_their_probabilities():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.log(p).tolist()
    assert shares(Choice(), logits) == pytest.approx(p, abs=0.03)
    sharper = p**2 / (p**2).sum()
    assert shares(Choice(temperature=0.5), logits) == pytest.approx(sharper, abs=0.03)
    assert shares(Choice(top_k=2), logits) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(Choice(top_p=0.6), logits) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(Choice(), [*logits[:3], -math.inf])[3] == 0
    for coldest in (1e-45, 1e-300):
        assert shares(Choice(temperature=coldest), logits[::-1], 9) == [0, 0, 0, 1]


def test_top_p_keeps_the_fewest_symbols_that_have_the_share():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]])
    assert within(p, 0.7).tolist() == [
        pytest.approx([0, 0.4, 0, 0.3]),
        pytest.approx([0.97, 0, 0, 0]),
    ]


# --------------------------------------------------------------------------------------- averaging


def test_averaging_begins_when_the_loss_stops_falling_and_is_the_mean_of_the_weights():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = AveragingSGD([weight], lr=0.5, patience=2)
    losses, begun = [3.0, 2.0, 2.5, 2.6, 2.0, 2.1], []
    for done in range(1, 7):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
        assert not optimizer.state[weight].get("mean", torch.empty(0)).numel()
        optimizer.after_validation(losses[:done])
        begun.append(optimizer.averaging)
    # 2.6 is compared with 3, 2.0 with 3 and 2 and is not higher, 2.1 with 3, 2 and 2.5
    assert begun == [False, False, False, False, False, True]
    with averaged_weights(optimizer):
        assert weight.item() == 1 - 6 * 0.5
    seen = []
    for slope in (1.0, -4.0, 2.0):
        weight.grad = torch.tensor([slope])
        optimizer.step()
        seen.append(weight.item())
    with averaged_weights(optimizer):
        assert weight.item() == pytest.approx(np.mean(seen))
    assert weight.item() == seen[-1]


# -------------------------------------------------------------------------------------------- task


def test_a_model_learns_a_rhyme_and_its_scores_are_those_of_its_probabilities(fitted):
    model, path = fitted
    evaluation = model.evaluate(path)
    table = model.predict(path)
    lines = RHYME.splitlines()
    assert table["symbols"].to_list() == [len(line.split()) + 1 for line in lines]
    held = evaluation.n
    assert held == sum(table["symbols"][-18:])
    assert evaluation.scores["perplexity"] < 2.2
    assert evaluation.scores["perplexity"] < evaluation.baseline["frequency"]["perplexity"] / 3
    characters = sum(len(line) + 1 for line in lines[-18:])
    assert evaluation.scores["bits_per_character"] == pytest.approx(
        evaluation.scores["nll"] * held / math.log(2) / characters
    )


def test_the_probabilities_are_those_of_the_network_on_the_whole_text(fitted, monkeypatch):
    model, _ = fitted
    text = ["a dog saw the cat\n", "a bird sang\n"]
    symbols, _ = stream(text, model.tokenizer_)
    with torch.no_grad():
        given = torch.tensor([[END, *symbols[:-1]]])
        log_p = model.network_(given)[0][0].log_softmax(1)
    expected = log_p[torch.arange(len(symbols)), torch.tensor(symbols.tolist())]
    monkeypatch.setattr("gatewise.tasks.text.scoring.AT_ONCE", 4)
    found = model.predict(text)["log_probability"]
    sums = [float(expected[:6].sum()), float(expected[6:].sum())]
    assert found.to_list() == pytest.approx(sums, rel=1e-5)


def test_a_saved_model_is_the_same(fitted, tmp_path):
    model, path = fitted
    again = gw.load(model.save(tmp_path / "run"))
    assert again.evaluate(path).record() == model.evaluate(path).record()
    assert again.generate(length=12, seed=3) == model.generate(length=12, seed=3)


def test_symbols_beyond_the_tokenizer_are_found_when_a_model_is_loaded(fitted):
    with pytest.raises(ModelFileError, match="symbols that the tokenizer does not have"):
        fitted[0].restore_tensors({"training": torch.tensor([0, 99], dtype=torch.int32)})


@pytest.mark.parametrize("method", ["adamw", "sgd", "nt-asgd"])
def test_a_resumed_run_is_an_uninterrupted_one(method, rhyme, tmp_path):
    options = dict(method=method, epochs=4, nonmonotone=1, learning_rate=0.5, dropout=0.3)
    if method == "adamw":
        options["learning_rate"] = 0.01
    whole = small(**options).fit(rhyme, run=quiet(tmp_path / "whole"))

    def stop(history):
        if len(history.train) == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        small(**options).fit(rhyme, run=quiet(folder, after_round=stop))
    resumed = small(**options).fit(rhyme, run=quiet(folder, resume=True))
    assert resumed.history_.validation == whole.history_.validation
    for name, weight in whole.network_.state_dict().items():
        assert torch.equal(weight, resumed.network_.state_dict()[name]), name


@pytest.mark.parametrize("unit", ["char", "subword"])
def test_other_units(unit, rhyme):
    model = small(unit=unit, vocabulary=300, epochs=1).fit(rhyme, run=quiet())
    evaluation = model.evaluate(rhyme)
    assert evaluation.unit == ("characters" if unit == "char" else "subwords")
    text = model.generate(prompt="the c", length=8)[0]
    assert text.startswith("the c")
    assert len(text) > 5
    if unit == "char":
        assert evaluation.n == sum(map(len, RHYME.splitlines(True)[-18:]))
        assert evaluation.scores["bits_per_character"] == pytest.approx(
            math.log2(evaluation.scores["perplexity"])
        )


def test_generated_texts(fitted):
    model, _ = fitted
    one, two = model.generate(prompt="a bird", length=9, samples=2, seed=1)
    assert one != two
    assert [one, two] == model.generate(prompt="a bird", length=9, samples=2, seed=1)
    words = set(RHYME.split())
    for text in (one, two):
        assert text.startswith("a bird")
        assert set(text.split()) <= words
    # the most probable symbol at each step
    assert model.generate(prompt="a bird", length=2, top_k=1) == ["a bird sang\n"]
    stopped = model.generate(prompt="a bird", length=50, top_k=1, stop="\n")
    assert stopped == ["a bird sang"]
    whole = model.generate(length=20, top_k=1)[0]
    assert model.generate(length=20, top_k=1, stop="saw a") == [whole.partition("saw a")[0]]


def test_an_unknown_word_in_the_prompt_is_said(fitted):
    with pytest.warns(GatewiseWarning, match="1 of the 2 symbols of the prompt are unknown"):
        fitted[0].generate(prompt="a zebra", length=1)


def test_a_cache_helps_on_a_text_that_repeats_itself(fitted):
    model, _ = fitted
    text = ["dog dog dog dog dog dog dog dog\n"] * 8
    plain, cached = model.evaluate(text), model.evaluate(text, cache=40, cache_share=0.5)
    assert cached.scores["perplexity"] < plain.scores["perplexity"] / 1.5


def test_penalties_are_added_in_training_alone(fitted):
    model, _ = fitted
    batch = torch.randint(4, 8, (2, 5))
    plain = model.loss(model.network_, batch, None)[0]
    other = small(activation_penalty=2.0, change_penalty=3.0)
    other.options_ = other.checked()
    assert torch.equal(other.loss(model.network_, batch, None)[0], plain)
    outputs = model.network_.losses(batch[:, :-1], batch[:, 1:])[1]
    model.network_.train()
    penalised = other.loss(model.network_, batch, None)[0]
    model.network_.eval()
    changes = (outputs[:, 1:] - outputs[:, :-1]) ** 2
    expected = plain + 2 * (outputs**2).mean((1, 2)) + 3 * changes.mean((1, 2))
    torch.testing.assert_close(penalised, expected)


# ---------------------------------------------------------------------------------------- bad input


def test_a_text_that_is_too_short(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("one line\n")
    with pytest.raises(DataError, match="has 1 line, too few"):
        small().fit(path, validation=1, test=1, run=quiet())
    for empty in ("", "  \n \n", "   "):
        path.write_text(empty)
        with pytest.raises(DataError, match="has no text"):
            small().fit(path, run=quiet())


def test_a_text_of_one_line_has_no_test_part(tmp_path, capsys):
    path = tmp_path / "short.txt"
    path.write_text("one line of text\n")
    given = ["--unit=word", "--hidden=4", "--layers=1", "--epochs=1", "--quiet"]
    assert main(["fit", "generate", str(path), "--out", str(tmp_path / "run"), *given]) == 0
    printed = capsys.readouterr()
    assert "has 1 line, of which --test 0.15 is none: there is no test part" in printed.err
    assert "Test part" not in printed.out


def test_a_text_of_spaces_is_not_scored(fitted, tmp_path):
    (tmp_path / "spaces.txt").write_text("   \n ")
    with pytest.raises(DataError, match=r"spaces.txt has no text"):
        fitted[0].evaluate(tmp_path / "spaces.txt")


@pytest.mark.parametrize("wrong", [None, [1, 2, 3], 5])
def test_data_that_is_no_text(wrong):
    with pytest.raises(DataError, match="is not a text: give a file"):
        small().fit(wrong, run=quiet())


def test_a_folder_of_midi_files_needs_another_model(tmp_path, capsys):
    (tmp_path / "tunes").mkdir()
    (tmp_path / "tunes" / "a.mid").write_bytes(b"MThd\xff")
    given = ["--out", str(tmp_path / "run")]
    assert main(["fit", "generate", str(tmp_path / "tunes"), *given]) == 2
    assert "a.mid is music: give --unit event or --unit step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 4}, "vocabulary must be an integer of at least 5, not 4"),
        ({"unit": "subword", "vocabulary": 100}, "vocabulary must be an integer of at least 260"),
        ({"dropout": 1.0}, "dropout must be a probability from 0 to below 1, not 1.0"),
        ({"word_dropout": 1}, "word_dropout must be a probability from 0 to below 1"),
    ],
)
def test_options_that_are_not_valid(options, message):
    with pytest.raises(OptionError, match=message):
        small(**options).checked()


def test_options_of_the_methods_that_are_not_valid(fitted):
    with pytest.raises(OptionError, match="cache_share must be a share from 0 to below 1, not 1"):
        fitted[0].evaluate(["a bird\n"], cache=5, cache_share=1)
    with pytest.raises(OptionError, match="stop must be a text of one character or more"):
        fitted[0].generate(stop="")


def test_bytes_that_are_not_utf8_stop_or_are_counted(rhyme):
    rhyme.write_bytes(RHYME.encode() + b"a caf\xe9\n")
    with pytest.raises(DataError, match=r"line 121: the byte 0xe9 at offset"):
        small().fit(rhyme, run=quiet())
    with pytest.warns(GatewiseWarning, match="1 left out: bytes that are not UTF-8"):
        small(epochs=1, on_error="skip").fit(rhyme, run=quiet())


def test_a_model_is_not_scored_on_what_it_was_trained_on(rhyme):
    model = small(epochs=1).fit(rhyme, test=0, validation=0, run=quiet())
    with pytest.raises(DataError, match="trained on all 120 lines"):
        model.evaluate(rhyme)
    assert model.evaluate(["the bird saw a cat\n"]).n == 6


def test_unknown_symbols_are_counted(fitted):
    evaluation = fitted[0].evaluate(["the zebra\n"])
    assert evaluation.notes == ("33% of the symbols are unknown to the model.",)
    symbols, _ = stream(["the zebra\n"], fitted[0].tokenizer_)
    assert symbols.tolist()[1:] == [UNKNOWN, END]


def test_the_baselines_know_the_end_of_a_long_text(rhyme, monkeypatch):
    monkeypatch.setattr("gatewise.tasks.text.generate.COUNTED", 100)
    model = small(epochs=1).fit(rhyme, run=quiet())
    symbols, _ = stream(RHYME.splitlines(True)[:87], model.tokenizer_)
    assert np.array_equal(model.training_, symbols[-100:])
    notes = model.evaluate(rhyme).notes
    assert notes == ("The baselines know the last 100 symbols of the training part.",)


def test_a_search_can_choose_by_perplexity(fitted):
    history = fitted[0].history_
    scores = fitted[0].validation_scores(None)
    assert scores["perplexity"] == pytest.approx(math.exp(min(history.validation)))


def test_averaging_needs_more_patience():
    with pytest.raises(OptionError, match=r"patience=6 ends .* nonmonotone=5 .*: give 7 or more"):
        small(method="nt-asgd", patience=6).checked()


@pytest.mark.parametrize(
    ("method", "expected"),
    [("adamw", (4e-3, 0.01, 4)), ("sgd", (20, 0, 4)), ("nt-asgd", (20, 1.2e-6, 11))],
)
def test_each_method_has_its_own_defaults(method, expected):
    model = small(method=method)
    model.options_ = model.checked()
    recipe = model.recipe(3)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.patience) == expected


@pytest.mark.parametrize("method", ["sgd", "nt-asgd"])
def test_the_defaults_of_sgd_learn(method, rhyme):
    model = small(method=method, epochs=6).fit(rhyme, run=quiet())
    assert model.history_.validation[-1] < 0.7 * model.history_.validation[0]


def test_rare_words_are_unknown_and_learned_as_such(rhyme):
    text = [line if k % 9 else f"{line} word{k}" for k, line in enumerate(RHYME.splitlines())]
    model = small(epochs=6, learning_rate=0.05, min_count=2).fit(text, run=quiet())
    assert not any(each.startswith("word") for each in model.tokenizer_.symbols)
    assert (model.training_ == UNKNOWN).sum() == 10
    plain = small(epochs=6, learning_rate=0.05).fit(text, run=quiet())
    new = ["a bird sang word999"]
    assert model.predict(new)["log_probability"][0] > plain.predict(new)["log_probability"][0] + 1


def test_the_validation_loss_is_of_symbols_and_not_of_windows(rhyme):
    model = small(epochs=1, batch=1, window=100).fit(rhyme, run=quiet())
    lines = RHYME.splitlines(True)[87:102]
    symbols, _ = stream(lines, model.tokenizer_)
    assert len(symbols) % 100 > 20  # a short window at the end
    nll = -model.scorer(torch.device("cpu")).log_probabilities(symbols).mean()
    assert model.history_.validation == pytest.approx([nll], rel=1e-5)


def test_a_limit_is_of_the_data_of_fit_alone(rhyme):
    rhyme.with_name("other.txt").write_text("a dog barked\n")
    model = small(epochs=1, limit=20).fit(rhyme, validation=rhyme, run=quiet())
    assert len(model.predict(rhyme)) == 120
    words = [len(line.split()) + 1 for line in RHYME.splitlines()]
    for found in (model.evaluate_held_out(rhyme, 0.15), model.evaluate(rhyme)):
        assert found.n == sum(words[17:20])
    assert model.evaluate_held_out(rhyme, rhyme.with_name("other.txt")).n == 4
    untested = small(epochs=1, limit=20).fit(rhyme, test=0, run=quiet())
    assert untested.evaluate_held_out(rhyme, 0) is None
    assert untested.evaluate(rhyme).n == sum(words[20:])


def test_left_out_lines_are_said_and_the_others_keep_their_numbers(rhyme):
    model = small(epochs=1, on_error="skip").fit(rhyme, run=quiet())
    other = rhyme.with_name("other.txt")
    other.write_bytes(b"a dog\ncaf\xe9\nthe cat\n")
    assert "1 left out: bytes that are not UTF-8" in " ".join(model.evaluate(other).notes)
    with pytest.warns(GatewiseWarning, match="1 left out: bytes that are not UTF-8"):
        table = model.predict(other)
    assert table["line"].to_list() == [1, 3]
    assert table["text"].to_list() == ["a dog", "the cat"]
    assert table["file"].to_list() == [str(other)] * 2
    strict = small(epochs=1).fit(rhyme, run=quiet())
    for method in (strict.evaluate, strict.predict):
        with pytest.raises(DataError, match="or leave such data out with on_error='skip'"):
            method(other)
        with pytest.raises(DataError, match="save the file as UTF-8"):
            getattr(model, method.__name__)(other, on_error="stop")
    with pytest.raises(DataError, match=r"save the file as UTF-8. Correct it$"):
        strict.trace(other)  # it has no option on_error
    assert strict.evaluate(other, on_error="skip").n == 6
    with pytest.warns(GatewiseWarning, match="1 left out: bytes that are not UTF-8"):
        assert len(strict.predict(other, on_error="skip")) == 2


def test_a_prediction_in_pieces_is_that_of_the_whole_text(rhyme, monkeypatch):
    model = small(epochs=1).fit(rhyme, run=quiet())
    whole = model.predict(rhyme)
    monkeypatch.setattr("gatewise.data.sources.text.TOGETHER", 50)
    parts = list(model.predict_parts(rhyme))
    assert list(map(len, parts)) == [50, 50, 20]
    found = pl.concat(parts)
    assert found.select("line", "text", "symbols").equals(whole.select("line", "text", "symbols"))
    np.testing.assert_allclose(found["log_probability"], whole["log_probability"], rtol=1e-5)
    alone = model.predict(parts[1]["text"][:1].to_list())["log_probability"][0]
    assert abs(parts[1]["log_probability"][0] - alone) > 3e-4  # the state goes on
    blank = rhyme.with_name("blank.txt")
    blank.write_text("  \n" * 60)
    with pytest.raises(DataError, match="has no text"):
        model.predict(blank)


def test_a_model_without_its_training_text(rhyme, tmp_path):
    model = small(epochs=1, keep_text=False).fit(rhyme, run=quiet())
    assert "frequency" in model.evaluate_held_out(rhyme, 0.15).baseline
    again = gw.load(model.save(tmp_path / "run"))
    found = again.evaluate(rhyme)
    assert found.baseline == {}
    assert "saved without the text of the baselines" in found.notes[0]
    assert found.scores == model.evaluate(rhyme).scores
    assert found.verdict().startswith("The model's perplexity is ")


def test_a_space_after_the_prompt_is_not_doubled(fitted):
    assert fitted[0].generate(prompt="a bird ", length=1, top_k=1) == ["a bird sang"]


def test_a_line_break_in_a_prompt_is_read(fitted):
    model, _ = fitted
    one, two = (
        model.generate(prompt=p, length=1, top_k=1) for p in ("a bird sang\n", "a bird sang")
    )
    assert two == ["a bird sang\n"]
    assert one[0].startswith("a bird sang\n")
    assert one[0].split("\n")[1] in ("a", "the")


def test_penalties_with_dropout(fitted):
    network = LanguageNetwork(9, 6, 1, tied=True, embedding=4, dropouts=Dropouts(units=0.5))
    model = small(activation_penalty=2.0, change_penalty=3.0, dropout=0.5)
    model.options_ = model.checked()
    batch = torch.randint(4, 8, (2, 5))
    torch.manual_seed(1)
    read = network.losses(batch[:, :-1], batch[:, 1:])
    assert (read.outputs.shape, read.features.shape) == ((2, 4, 6), (2, 4, 4))
    assert (read.features == 0).any()
    assert not (read.outputs == 0).any()
    torch.manual_seed(1)
    each = model.loss(network, batch, None)[0]
    expected = (
        read.losses.mean(1)
        + 2 * read.features.square().mean((1, 2))
        + 3 * (read.outputs[:, 1:] - read.outputs[:, :-1]).square().mean((1, 2))
    )
    torch.testing.assert_close(each, expected)


def test_the_command_line(rhyme, tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--unit=word", "--hidden=8", "--epochs=1", "--batch=4", "--window=6", "--quiet"]
    assert main(["fit", "generate", str(rhyme), "--out", run, *options]) == 0
    assert main(["evaluate", run, str(rhyme), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["task"] == "generate"
    assert set(found["baseline"]) == {"Kneser-Ney 5-gram", "frequency"}
    assert main(["generate", run, "--prompt", "the cat", "--length", "5"]) == 0
    assert capsys.readouterr().out.startswith("the cat")
    out = tmp_path / "new.txt"
    assert main(["generate", run, "--length", "5", "--samples", "3", "-o", str(out)]) == 0
    assert out.read_text().count("-" * 20) == 2
    assert main(["predict", run, str(rhyme), "-o", str(tmp_path / "lines.csv")]) == 0
    assert len((tmp_path / "lines.csv").read_text().splitlines()) == 121


def test_the_command_line_says_what_was_written(fitted, tmp_path, capsys):
    run, out = str(fitted[0].save(tmp_path / "run")), tmp_path / "new.txt"
    assert main(["generate", run, "--length", "3", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"written   {out} (1 sample)\n"


def test_the_list_of_tasks_says_what_generate_makes_of_each_source(capsys):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("generate  "))
    assert "of a text" in lines[at]
    assert "tunes" in lines[at + 1]


def test_a_part_that_is_a_missing_file(rhyme, tmp_path, capsys):
    given = ["--out", str(tmp_path / "run"), "--validation", "valid.txt"]
    assert main(["fit", "generate", str(rhyme), *given]) == 2
    said = capsys.readouterr().err
    assert "expected a share below 1, a number, or a file that exists, not 'valid.txt'" in said


def test_generation_of_other_tasks_is_refused():
    with pytest.raises(OptionError, match="'regress' does not generate"):
        gw.Regressor().generate()


@pytest.mark.slow
def test_the_demo_writes_a_model_a_report_and_a_sample(tmp_path, capsys):
    assert main(["demo", "text", "--out", str(tmp_path)]) == 0
    assert "The model beats its baselines" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "samples.txt").read_text().startswith("Shall I compare ")
