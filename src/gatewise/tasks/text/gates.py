"""What a page of gates shows of translations: each text as the encoder reads it, then its translation as the decoder
reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from gatewise.data.buckets import padded_ids
from gatewise.data.spool import flat
from gatewise.data.tokens import BEGIN, END, PAD, Tokenizer
from gatewise.gates.page.shown import InputEdit, Shown, first_steps, with_words
from gatewise.gates.page.strips import Strip, words
from gatewise.nn.trace import Trace
from gatewise.report.words import shortened
from gatewise.tasks.text.pairs import NEVER_WRITTEN

Array = np.ndarray

_ENCODER = "encoder"  # the module that reads the text; the others read the translation


@dataclass(frozen=True)
class Pair:
    """A text and its translation.

    Attributes:
        label: of the text.
        source: T symbols of the text, with the end.
        pieces: the T texts that these stand for.
        into: S symbols that the decoder reads: the beginning, and the translation.
    """

    label: str
    source: Array
    pieces: Sequence[str]
    into: Array


def shown(model: Any, texts: Sequence[str], steps: int) -> Shown:
    """The sequences 2k and 2k + 1 are the text k and the translation that the translator ``model`` gives it.

    Other words in a text give it another translation. Other words in a translation are what the decoder reads.
    """
    tokenizer: Tokenizer = model.source_tokenizer_
    ids = tokenizer.encode_all(texts)
    pieces = [[*tokenizer.pieces(text), "⊣"] for text in texts]
    pairs = [
        _translated(model, shortened(text), np.array([*each, END]), piece)
        for text, each, piece in zip(texts, ids, pieces, strict=True)
    ]

    def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
        changed = _with_words(model, pairs[k // 2], bool(k % 2), edits)
        return _shown(model, [changed], steps).only(k % 2)

    return _shown(model, pairs, steps).with_edits(edited)


def _translated(model: Any, label: str, source: Array, pieces: Sequence[str]) -> Pair:
    ((_, best),) = model.hypotheses([source])
    return Pair(label, source, pieces, np.array([BEGIN, *best.symbols.tolist()]))


def _with_words(model: Any, pair: Pair, in_translation: bool, edits: Sequence[InputEdit]) -> Pair:
    if in_translation:
        known = model.into_tokenizer_.by_text
        return replace(pair, into=with_words(pair.into, edits, known))
    source = with_words(pair.source, edits, model.source_tokenizer_.by_text)
    pieces = list(pair.pieces)
    for edit in edits:
        pieces[edit.at] = str(edit.to)
    return _translated(model, pair.label, source, pieces)


def _shown(model: Any, pairs: Sequence[Pair], steps: int) -> Shown:
    source, lengths = _padded([pair.source for pair in pairs])
    into, sizes = _padded([pair.into for pair in pairs])
    traces = model.traces((source, lengths, into))
    vectors, attention = traces.output
    probabilities = model.network_.logits(vectors).softmax(-1)
    probabilities[..., list(NEVER_WRITTEN)] = 0
    surest, following = probabilities.max(-1)
    decoders = [name for name in traces if name != _ENCODER]
    cut: dict[str, Trace] = {_ENCODER: first_steps(traces[_ENCODER], steps)}
    cut |= {name: first_steps(traces[name], steps, sizes) for name in decoders}
    labels, strips, predictions, places = [], [], [], []
    for k, pair in enumerate(pairs):
        T, S = len(pair.source), len(pair.into)
        pieces = _pieces(model.into_tokenizer_, pair.into)
        labels += [pair.label, f"its translation: {shortened(_joined(model, pair))}"]
        strips += [
            words("text", pair.pieces[:steps]),
            words("translation, as the decoder reads it", pieces[:steps]),
        ]
        next_ = _pieces(model.into_tokenizer_, following[k, :S].numpy())[:steps]
        said = words("most probable next", next_, surest[k, :S].tolist()[:steps])
        predictions += [
            _aligned([*pieces[1:], "⊣"], attention[k, :S, :T], steps, _joined(model, pair)),
            said.with_note("the bar is its probability"),
        ]
        places += [((_ENCODER,), k), (decoders, k)]
    return Shown(cut, labels, strips, predictions, places=places)


def _aligned(written: Sequence[str], attention: Tensor, steps: int, text: str) -> Strip:
    """Under each piece of the text the pieces of the translation whose attention S×T was on it most."""
    under: list[list[str]] = [[] for _ in range(attention.shape[1])]
    for piece, at in zip(written, attention.argmax(1).tolist(), strict=True):
        under[at].append(piece.strip())
    most = attention.max(0).values.tolist()
    strip = words("translation, where it attends most", map(" ".join, under[:steps]), most[:steps])
    return strip.with_note(f"the bar is the greatest attention · {text}")


def _joined(model: Any, pair: Pair) -> str:
    return str(model.into_tokenizer_.decode(pair.into.tolist()))


def _pieces(tokenizer: Tokenizer, symbols: Array) -> list[str]:
    marks = {BEGIN: "⊢", END: "⊣"}
    return [marks.get(int(k)) or tokenizer.decode([k]) for k in symbols]


def _padded(symbols: Sequence[Array]) -> tuple[Tensor, Tensor]:
    return padded_ids(*flat(symbols), np.arange(len(symbols)), PAD)
