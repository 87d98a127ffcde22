"""A dictionary of words from a parallel text, by IBM model 1: the baseline of the translator."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

Array = np.ndarray

ROUNDS = 5  # of expectation maximisation
LONGEST = 200  # words of a text that is learned from
MOST = (
    1 << 23
)  # combinations of a source word and a target word of one pair: all of them are in memory
_LOOKED_AT = 1000  # pairs by which the number of combinations is estimated
_WORD = re.compile(r"\w+|[^\w\s]")
_NULL = ""  # the source word of target words that translate none


def learn_dictionary(
    source: Sequence[str], target: Sequence[str], rounds: int = ROUNDS
) -> dict[str, str]:
    """For each word of the source texts the target word to which it is most probably translated.

    The probabilities are those of IBM model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine
    Translation", section 4.2), in which each target word is the translation of one source word of its
    sentence, or of none. Pairs with more than :data:`LONGEST` words in a text are not learned from. Of a large text
    evenly spaced pairs are, about as many as have :data:`MOST` combinations of their words together.
    """
    index: dict[str, int] = {}
    other_index: dict[str, int] = {}
    first, second = [], []
    for one, other in _words_of_pairs(source, target, _spacing(source, target)):
        first.append(_numbered([_NULL, *one], index))
        second.append(_numbered(other, other_index))
    names, others = list(index), list(other_index)
    pair, link = _links(first, second, len(others))
    entries, place = np.unique(pair, return_inverse=True)
    from_word = entries // max(len(others), 1)
    probability = np.full(len(entries), 1.0)
    for _ in range(rounds):
        each = probability[place]
        share = each / np.bincount(link, each)[link]
        count = np.bincount(place, share, minlength=len(entries))
        probability = count / np.bincount(from_word, count)[from_word]
    best: dict[str, str] = {}
    for k in np.argsort(probability, kind="stable"):  # the most probable comes last
        best[names[from_word[k]]] = others[entries[k] % len(others)]
    best.pop(_NULL, None)
    return best


def word_by_word(text: str, dictionary: dict[str, str]) -> str:
    """The text with each word replaced by its entry; a word without one is kept."""
    return " ".join(dictionary.get(word, word) for word in words(text))


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return _WORD.findall(text)


def _words_of_pairs(
    source: Sequence[str], target: Sequence[str], spacing: int
) -> Iterator[tuple[list[str], list[str]]]:
    """The words of every ``spacing``-th pair, without pairs that are too long."""
    for k in range(0, len(source), spacing):
        pair = words(source[k]), words(target[k])
        if max(map(len, pair)) <= LONGEST:
            yield pair


def _spacing(source: Sequence[str], target: Sequence[str]) -> int:
    """The distance of pairs that have about :data:`MOST` combinations of words together."""
    spacing = max(1, len(source) // _LOOKED_AT)
    some = _words_of_pairs(source, target, spacing)
    return max(1, round(spacing * sum((1 + len(a)) * len(b) for a, b in some) / MOST))


def _numbered(text: list[str], index: dict[str, int]) -> Array:
    """The words as indices in ``index``, to which new words are added."""
    return np.array([index.setdefault(word, len(index)) for word in text], np.int32)


def _links(source: list[Array], target: list[Array], width: int) -> tuple[Array, Array]:
    """All combinations of a source word and a target word of one sentence: source word × ``width`` + target
    word, and the number of the target word among all those of the text."""
    pairs, links, begin = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for one, other in zip(source, target, strict=True):
        pairs.append((one[:, None].astype(np.int64) * width + other).ravel())
        links.append(np.tile(np.arange(begin, begin + len(other)), len(one)))
        begin += len(other)
    return np.concatenate(pairs), np.concatenate(links)
