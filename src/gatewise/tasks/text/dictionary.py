"""A dictionary of words from a parallel text, by IBM model 1: the baseline of the translator."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

Array = np.ndarray

ROUNDS = 5  # of expectation maximisation
LONGEST = 200  # words of a text that is learned from: the combinations of a pair's words must fit into memory
_WORD = re.compile(r"\w+|[^\w\s]")
_NULL = ""  # the source word of target words that translate none


def learn_dictionary(
    source: Sequence[str], target: Sequence[str], rounds: int = ROUNDS
) -> dict[str, str]:
    """For each word of the source texts the target word to which it is most probably translated.

    The probabilities are those of IBM model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine
    Translation", section 4.2), in which each target word is the translation of one source word of its
    sentence, or of none. Pairs with more than :data:`LONGEST` words in a text are not learned from.
    """
    split = ((words(one), words(other)) for one, other in zip(source, target, strict=True))
    pairs = [each for each in split if max(map(len, each)) <= LONGEST]
    names, first = _numbered([[_NULL, *one] for one, _ in pairs])
    others, second = _numbered([other for _, other in pairs])
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


def _numbered(texts: list[list[str]]) -> tuple[list[str], list[Array]]:
    """The different words, and each text's words as indices."""
    index: dict[str, int] = {}
    found = [np.array([index.setdefault(w, len(index)) for w in each], np.int64) for each in texts]
    return list(index), found


def _links(source: list[Array], target: list[Array], width: int) -> tuple[Array, Array]:
    """All combinations of a source word and a target word of one sentence: source word × ``width`` + target
    word, and the number of the target word among all those of the text."""
    pairs, links, begin = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for one, other in zip(source, target, strict=True):
        pairs.append((one[:, None] * width + other).ravel())
        links.append(np.tile(np.arange(begin, begin + len(other)), len(one)))
        begin += len(other)
    return np.concatenate(pairs), np.concatenate(links)
