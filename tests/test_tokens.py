"""Tokenizers: what they learn, encode, decode and save."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest

from gatewise.data.tokens import BEGIN, END, PAD, UNKNOWN, Tokenizer
from gatewise.errors import DataError, ModelFileError, OptionError

TEXTS = ["the cat sat", "the cat , the dog", "a dog isn't a cat !"]


@pytest.fixture(params=["word", "subword", "char"])
def tokenizer(request):
    return Tokenizer.learn(TEXTS, request.param, 300)


def test_words_are_numbered_by_their_frequency():
    found = Tokenizer.learn(TEXTS, "word", 8)
    assert found.symbols == ("<pad>", "<unk>", "<s>", "</s>", "cat", "the", "a", "dog")
    assert found.encode("the bird , a cat") == [5, UNKNOWN, UNKNOWN, 6, 4]
    assert found.unknown_share(["the bird", "a cat"]) == 0.25
    assert len(found) == 8


def test_min_count_leaves_out_what_is_rare():
    assert Tokenizer.learn(TEXTS, "word", min_count=3).symbols[4:] == ("cat", "the")
    assert set(Tokenizer.learn(TEXTS, "char", min_count=5).symbols[4:]) == set(" at")
    with pytest.raises(DataError, match="no word that occurs 4 times or more"):
        Tokenizer.learn(TEXTS, "word", min_count=4)


def test_punctuation_is_split_off():
    words = Tokenizer.learn(["It's well-made (3.5 of 5)!"], "word", punctuation=True)
    assert words.pieces("It's well-made (3.5 of 5)!") == [
        *("It's", "well-made", "(", "3.5", "of", "5", ")", "!"),
    ]


def test_a_word_is_the_same_whether_its_accents_are_apart():
    together, apart = (unicodedata.normalize(form, "Käse à la carte") for form in ("NFC", "NFD"))
    for one, other in ((together, apart), (apart, together)):
        tokenizer = Tokenizer.learn([one])
        assert tokenizer.encode(one) == tokenizer.encode(other)
        assert UNKNOWN not in tokenizer.encode(other)
        assert tokenizer.pieces(other) == together.split()


def test_letters_are_made_small():
    for unit in ("word", "subword", "char"):
        small = Tokenizer.learn(["Das Ölbild"], unit, 300, lower=True)
        assert small.encode("DAS ölBILD") == small.encode("das ölbild")
        assert UNKNOWN not in small.encode("DAS ölBILD")
    assert len(Tokenizer.learn(["İi"], "char", lower=True).encode("İi")) == 2


@pytest.mark.parametrize("text", ["the cat", " two  spaces ", "tab\tand line\n", "☃ ünknown", ""])
def test_subwords_give_back_every_text(text):
    subwords = Tokenizer.learn(TEXTS, "subword", 280)
    assert subwords.decode([BEGIN, *subwords.encode(text), END, PAD]) == text
    assert UNKNOWN not in subwords.encode(text)
    assert len(subwords) <= 280


def test_a_word_is_the_same_subwords_everywhere():
    subwords = Tokenizer.learn(TEXTS * 5, "subword", 300)
    assert subwords.encode("cat cat") == subwords.encode("cat") * 2


def test_characters_give_back_a_text_of_known_ones():
    characters = Tokenizer.learn(TEXTS, "char")
    assert characters.decode(characters.encode("that cat")) == "that cat"
    assert characters.encode("t☃") == [characters.index["t"], UNKNOWN]


def test_names_of_special_symbols_in_a_text_are_unknown(tokenizer):
    ids = tokenizer.encode("<s> the </s> <pad> cat")
    assert not {PAD, BEGIN, END} & set(ids)
    named = Tokenizer.learn(["a <unk> <unk> <s> b"], "word")
    assert named.symbols == ("<pad>", "<unk>", "<s>", "</s>", "a", "b")
    assert named.encode("a <unk> <s> b") == [4, UNKNOWN, UNKNOWN, 5]


def test_the_pieces_are_those_of_the_symbols(tokenizer):
    for text in (*TEXTS, "a bird ☃", ""):
        assert len(tokenizer.pieces(text)) == len(tokenizer.encode(text))
    assert "".join(tokenizer.pieces("the cat")).replace(" ", "") == "thecat"


def test_texts_are_encoded_as_they_are_read(tokenizer, monkeypatch):
    monkeypatch.setattr("gatewise.data.tokens._TOGETHER", 2)
    read = []

    def texts():
        for text in TEXTS:
            read.append(text)
            yield text

    first = next(ahead := tokenizer.encoded(texts()))
    assert read == TEXTS[:2]
    assert first.dtype == np.int32
    assert [first.tolist(), *(each.tolist() for each in ahead)] == tokenizer.encode_all(TEXTS)


def test_json_gives_the_tokenizer_back(tokenizer):
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again == tokenizer
    assert again.digest == tokenizer.digest
    assert again.encode_all(TEXTS) == tokenizer.encode_all(TEXTS)
    assert Tokenizer.learn(["another"], "char").digest != tokenizer.digest


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(("unit", "line"), ("lower", 1), ("symbols", ["a"]), ("symbols", ["a"] * 6)),
        *(("symbols", [1, 2, 3, 4, 5]), ("merges", [["the", "cat"]]), ("merges", [["a"]])),
        *(("merges", 3), ("more", 1)),
    ],
)
def test_damaged_json_is_refused(entry, value):
    content = json.loads(Tokenizer.learn(TEXTS, "word").to_json())
    with pytest.raises(ModelFileError, match="the tokenizer is damaged"):
        Tokenizer.from_json(json.dumps(content | {entry: value}))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "{}", "[" * 100_000])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(ModelFileError, match="the tokenizer is damaged"):
        Tokenizer.from_json(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(unit="line"), "unit must be one of 'word', 'subword', 'char', not 'line'"),
        (dict(unit="subword", size=259), "size must be an integer of at least 260, not 259"),
        (dict(size=4), "size must be an integer of at least 5, not 4"),
        (dict(min_count=0), "min_count must be a positive integer, not 0"),
        (dict(specials=("a", "b")), "specials must be 4 different names"),
    ],
)
def test_options_that_are_not_valid(options, message):
    with pytest.raises(OptionError, match=message):
        Tokenizer.learn(TEXTS, **options)
