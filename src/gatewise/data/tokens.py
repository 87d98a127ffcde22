"""Tokenizers: what splits a text into words, subwords or characters, and numbers these symbols."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gatewise.errors import DataError, ModelFileError, OptionError, need
from gatewise.options import choice, integer

Array = np.ndarray
Unit = Literal["word", "subword", "char"]

UNITS = ("word", "subword", "char")
PAD, UNKNOWN, BEGIN, END = range(4)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
"""The names of the symbols 0 to 3: padding, an unknown symbol, the beginning and the end of a text."""

_SPACE = "Ġ"  # as the names of subwords have it
_BYTES = 256  # the smallest alphabet of subwords, with which every text can be written
_TOGETHER = 4096  # texts that are encoded in one call, at most
_CHARACTERS = 1 << 20  # of the texts that are encoded in one call, but for the last of them
# Numbers, words with apostrophes and hyphens inside, and single signs.
_WORDS = r"\d+(?:[.,]\d+)*|\w+(?:['’\-]\w+)*|[^\w\s]"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, and the rule by which a text is split into its symbols.

    ``encode`` gives the index of each symbol. :data:`PAD`, :data:`BEGIN` and :data:`END` are never among
    them: where a text has one of these names, it has an unknown symbol.

    Attributes:
        unit: "word": words, split at white space. "subword": parts of words by byte pair encoding (Sennrich
            et al. 2016) over bytes, so that no text has unknown symbols. "char": characters.
        symbols: the name of each symbol. The first four are the special ones.
        merges: for subwords, the pairs that are merged, in their order.
        lower: whether letters are made small.
        punctuation: for words, whether punctuation marks are symbols of their own.
    """

    unit: Unit
    symbols: tuple[str, ...]
    merges: tuple[tuple[str, str], ...] = ()
    lower: bool = False
    punctuation: bool = False

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        unit: Unit = "word",
        size: int = 10_000,
        min_count: int = 1,
        lower: bool = False,
        punctuation: bool = False,
        specials: Sequence[str] = SPECIALS,
    ) -> Tokenizer:
        """The tokenizer with the most frequent symbols of ``texts``, which are read once.

        Args:
            size: the greatest number of symbols, with the four special ones.
            min_count: how often a symbol, or for subwords a pair, must occur.
            specials: the names of the special symbols.

        Raises:
            OptionError: an option is not valid, or ``size`` is too small.
            DataError: the texts have no symbol.
        """
        choice("unit", unit, UNITS)
        room = integer("size", size, smallest_size(unit)) - len(SPECIALS)
        integer("min_count", min_count)
        if len(set(specials)) != len(SPECIALS):
            raise OptionError(
                f"specials must be {len(SPECIALS)} different names, not {tuple(specials)}"
            )
        empty = cls(unit, tuple(specials), (), lower, punctuation)
        # some more, because names of special symbols that occur as words are left out below
        learned = empty._learned(texts, room + len(SPECIALS), min_count)
        found = [symbol for symbol in learned[0] if symbol not in specials][:room]
        if not found:
            often = f" that occurs {min_count} times or more" if min_count > 1 else ""
            raise DataError(f"the texts have no {unit}{often}: give more texts")
        return cls(unit, (*specials, *found), learned[1], lower, punctuation)

    # ---------------------------------------------------------------------------------- encoding

    def encode(self, text: str) -> list[int]:
        """The index of each symbol of the text."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """The indices of each text's symbols."""
        return [each.tolist() for each in self.encoded(texts)]

    def encoded(self, texts: Iterable[str]) -> Iterator[Array]:
        """The indices of each text's symbols, in int32. The texts are read as they are needed."""
        for some in _together(texts):
            for ids in self._ids(some):
                found = np.asarray(ids, dtype=np.int32)
                found[(found < len(SPECIALS)) & (found != UNKNOWN)] = UNKNOWN
                yield found

    def pieces(self, text: str) -> list[str]:
        """The part of the text that each of its symbols stands for."""
        if self.unit == "char":
            return list(text)
        text = self._composed(text)
        encoding = self.core.encode(text, add_special_tokens=False)
        return [text[first:last] for first, last in encoding.offsets]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these symbols, without padding, beginning and end.

        Subwords and characters give back the text that was encoded; words are joined by spaces.
        """
        kept = [int(k) for k in ids if k not in (PAD, BEGIN, END)]
        if self.unit == "word":
            return " ".join(self.symbols[k] for k in kept)
        if self.unit == "char":
            return "".join(self.symbols[k] for k in kept)
        return str(self.core.decode(kept, skip_special_tokens=False)).removeprefix(" ")

    def unknown_share(self, texts: Iterable[str]) -> float:
        """The share of unknown symbols among all symbols of the texts; 0 for texts without symbols."""
        unknown = total = 0
        for ids in self.encoded(texts):
            unknown += int((ids == UNKNOWN).sum())
            total += len(ids)
        return unknown / max(total, 1)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """The index of each symbol by its name."""
        return {symbol: k for k, symbol in enumerate(self.symbols)}

    @cached_property
    def by_text(self) -> dict[str, int]:
        """The symbol that each text stands for. Of two subwords with the same text it is the one that begins a word."""
        inside = [k for k, name in enumerate(self.symbols) if not self._begins_word(name)]
        begins = [k for k, name in enumerate(self.symbols) if self._begins_word(name)]
        return {self.decode([k]): k for k in (*inside, *begins) if k not in (PAD, BEGIN, END)}

    def _begins_word(self, name: str) -> bool:
        return self.unit == "subword" and name.startswith(_SPACE)

    @cached_property
    def core(self) -> Any:
        """The ``tokenizers.Tokenizer`` of words or subwords."""
        library = need("tokenizers", "text")
        models = library.models
        if self.unit == "word":
            core = library.Tokenizer(models.WordLevel(self.index, unk_token=self.symbols[UNKNOWN]))
            core.pre_tokenizer = (
                library.pre_tokenizers.Split(library.Regex(_WORDS), "removed", invert=True)
                if self.punctuation
                else library.pre_tokenizers.WhitespaceSplit()
            )
        else:
            core = library.Tokenizer(models.BPE(self.index, list(self.merges)))
            core.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            core.decoder = library.decoders.ByteLevel()
        rules = [library.normalizers.Lowercase()] if self.lower else []
        if self.unit == "subword":  # a word is the same symbols at the beginning of a text
            rules.append(library.normalizers.Prepend(" "))
        core.normalizer = library.normalizers.Sequence(rules)
        return core

    # ------------------------------------------------------------------------------------- saving

    def to_json(self) -> str:
        """The tokenizer as JSON, which :meth:`from_json` reads."""
        merges = [list(pair) for pair in self.merges]
        content = dict(unit=self.unit, lower=self.lower, punctuation=self.punctuation)
        return json.dumps(
            {**content, "symbols": list(self.symbols), "merges": merges}, ensure_ascii=False
        )

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that :meth:`to_json` wrote.

        Raises:
            ModelFileError: the text is not that of a tokenizer.
        """
        try:
            content = json.loads(text)
            names = {"unit", "lower", "punctuation", "symbols", "merges"}
            symbols, merges = content["symbols"], content["merges"]
            valid = (
                content.keys() == names
                and content["unit"] in UNITS
                and all(isinstance(content[name], bool) for name in ("lower", "punctuation"))
                and all(isinstance(each, str) for each in symbols)
                and len(set(symbols)) == len(symbols) > len(SPECIALS)
                and all(len(pair) == 2 and {*pair, "".join(pair)} <= {*symbols} for pair in merges)
            )
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"the tokenizer is damaged: {error}") from error
        if not valid:
            raise ModelFileError(
                "the tokenizer is damaged: its unit, symbols or merges are not valid"
            )
        pairs = tuple((first, second) for first, second in merges)
        flags = content["lower"], content["punctuation"]
        return cls(content["unit"], tuple(symbols), pairs, *flags)

    @property
    def digest(self) -> str:
        """A hash of the tokenizer, which tells it from that of another model."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).hexdigest()

    # ----------------------------------------------------------------------------------- internal

    def _learned(
        self, texts: Iterable[str], size: int, min_count: int
    ) -> tuple[list[str], tuple[tuple[str, str], ...]]:
        """The ``size`` most frequent symbols, the first most frequent, and for subwords the merges."""
        if self.unit == "char":
            counts: Counter[str] = Counter()
            for text in texts:
                counts.update(self._cased(text))
            often = sorted((-count, each) for each, count in counts.items() if count >= min_count)
            return [each for _, each in often[:size]], ()
        library = need("tokenizers", "text")
        options: dict[str, Any] = dict(
            vocab_size=size, min_frequency=min_count, show_progress=False
        )
        if self.unit == "word":
            trainer = library.trainers.WordLevelTrainer(**options)
        else:
            alphabet = library.pre_tokenizers.ByteLevel.alphabet()
            # without it, letters that the texts do not have would be dropped by encode
            trainer = library.trainers.BpeTrainer(
                **options | {"vocab_size": size - len(SPECIALS)}, initial_alphabet=sorted(alphabet)
            )
        core = Tokenizer(self.unit, self.symbols, (), self.lower, self.punctuation).core
        core.train_from_iterator(map(self._composed, texts), trainer)
        symbols = [name for name, _ in sorted(core.get_vocab().items(), key=lambda pair: pair[1])]
        if self.unit == "word":
            return symbols, ()
        merges = json.loads(core.to_str())["model"]["merges"]
        return symbols, tuple((first, second) for first, second in merges)

    def _ids(self, texts: list[str]) -> list[Any]:
        if self.unit == "char":
            get = self.index.get
            return [
                np.fromiter((get(each, UNKNOWN) for each in cased), np.int32, len(cased))
                for cased in map(self._cased, texts)
            ]
        composed = [self._composed(text) for text in texts]
        return [
            each.ids for each in self.core.encode_batch_fast(composed, add_special_tokens=False)
        ]

    def _composed(self, text: str) -> str:
        """The text; for words in Unicode's form C, where an "ä" is never an "a" and a sign above it. The other units
        give back a text as it was."""
        return unicodedata.normalize("NFC", text) if self.unit == "word" else text

    def _cased(self, text: str) -> str:
        """The text of as many characters, in small letters where the tokenizer has them alone."""
        if not self.lower:
            return text
        # İ becomes two characters in small letters: it stays as it is
        return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def smallest_size(unit: Unit) -> int:
    """The smallest number of symbols of a tokenizer, with the special ones."""
    return len(SPECIALS) + (_BYTES if unit == "subword" else 1)


def _together(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts that are encoded in one call: many short ones, few long ones."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if len(some) >= _TOGETHER or size >= _CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some
