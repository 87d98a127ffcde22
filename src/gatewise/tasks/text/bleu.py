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
    return score_with_signatures(translations, references, words)[0]


def score_with_signatures(
    translations: Sequence[str], references: Sequence[str], words: BleuWords
) -> tuple[dict[str, float], dict[str, str], tuple[str, ...]]:
    """The scores; the signature of each, by which it can be repeated; and notes on BLEU."""
    metrics = need("sacrebleu.metrics", "translate")
    scorers = {"bleu": metrics.BLEU(tokenize=words, force=True), "chrf": metrics.CHRF()}
    # a list for each set of references: with a flat list the score would be wrong, without an error
    found = {
        name: scorer.corpus_score(list(translations), [list(references)])
        for name, scorer in scorers.items()
    }
    signatures = {name: str(scorer.get_signature()) for name, scorer in scorers.items()}
    notes = [f"BLEU by sacrebleu ({signatures['bleu']})"]
    if not found["bleu"].totals[-1]:
        notes.append("no translation has four words, so that BLEU is 0: see chrF")
    return {name: float(each.score) for name, each in found.items()}, signatures, tuple(notes)
