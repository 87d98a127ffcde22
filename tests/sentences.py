"""Sentences with an opinion, in which one word says which: what a text classifier can learn in a second."""

from __future__ import annotations

import numpy as np

GOOD, BAD = ["good", "great", "fine", "lovely", "superb"], ["bad", "awful", "dull", "poor", "weak"]
OTHERS = ["the", "film", "a", "story", "and", "of", "it", "is", "was", "actor", "scene"]


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    draw = np.random.default_rng(seed)
    texts, labels = [], []
    for label in draw.choice(["neg", "pos"], count):
        words = list(draw.choice(OTHERS, draw.integers(2, 12)))
        opinion = draw.choice(GOOD if label == "pos" else BAD)
        words.insert(int(draw.integers(len(words) + 1)), opinion)
        texts.append(" ".join(words))
        labels.append(str(label))
    return texts, labels
