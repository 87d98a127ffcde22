"""Opinions, good and bad: what a bidirectional LSTM with attention pooling learns beside a bag of words.

    python examples/sentiment.py

The sentences are made here: a good or a bad word, which "not", "never" or "far from" turns round, some words ahead.
"""

import numpy as np

import gatewise as gw

GOOD = ["good", "great", "lovely", "brilliant", "funny", "clever", "charming", "superb", "fresh"]
BAD = ["bad", "dull", "awful", "weak", "boring", "silly", "tired", "lazy", "slow"]
THINGS = ["film", "story", "plot", "cast", "scene", "music", "script", "camera", "dialogue"]
TURNS = ["not at all", "never", "far from", "anything but", "hardly ever"]
BETWEEN = ["", "very", "what I would call", "in the least", "as they say"]


def opinions(count, seed):
    draw = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        good, turned = draw.integers(2, size=2)
        turn, between = draw.choice(TURNS) if turned else "", draw.choice(BETWEEN)
        parts = [turn, between, draw.choice(GOOD if good else BAD)]
        other = f", and so is the {draw.choice(THINGS)}" if draw.integers(2) else ""
        texts.append(f"The {draw.choice(THINGS)} is {' '.join(filter(None, parts))}{other}.")
        labels.append("good" if good != turned else "bad")
    return texts, labels


if __name__ == "__main__":
    options = dict(dropout=0.2, embedding_dropout=0.1, word_dropout=0.0, patience=12)
    model = gw.TextClassifier(hidden=32, epochs=16, learning_rate=1e-2, **options)
    model.fit(*opinions(1500, seed=0))
    evaluation = model.evaluate(*opinions(500, seed=1))
    print(evaluation.table(), evaluation.verdict(), sep="\n")
    for word, weight in model.attention(["The cast is far from what I would call dull."])[0]:
        print(f"{word:10} {'█' * round(60 * weight)}")
