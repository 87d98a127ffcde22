"""Scores of translations, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gatewise.errors import need

# sacrebleu's rules by which texts are split into words; "none" is for texts that are split already.
BleuWords = Literal["13a", "none", "intl", "char", "zh"]


def score_translations(
    translations: Sequence[str], references: Sequence[str], words: BleuWords
) -> dict[str, float]:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of N translations with a reference each."""
    metrics = need("sacrebleu.metrics", "translate")
    bleu = metrics.BLEU(tokenize=words, force=True)
    found = {"bleu": bleu, "chrf": metrics.CHRF()}
    # a list for each set of references: with a flat list the score would be wrong, without an error
    return {
        name: float(metric.corpus_score(list(translations), [list(references)]).score)
        for name, metric in found.items()
    }


def bleu_notes(
    translations: Sequence[str], references: Sequence[str], words: BleuWords
) -> tuple[str, ...]:
    """The signature of the BLEU score, by which it can be repeated, and a warning if it has no 4-grams."""
    metrics = need("sacrebleu.metrics", "translate")
    bleu = metrics.BLEU(tokenize=words, force=True)
    found = bleu.corpus_score(list(translations), [list(references)])
    notes = [f"BLEU by sacrebleu, {bleu.get_signature()}"]
    if not found.totals[-1]:
        notes.append("no translation has four words, so that BLEU is 0: see chrF")
    return tuple(notes)
