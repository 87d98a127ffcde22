"""Draws the words of sentences with their weights, after examples/sentiment.py: python docs/sentiment/picture.py"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import gatewise as gw

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
from sentiment import opinions  # noqa: E402  the folder of examples is no package

SENTENCES = (
    "The plot is brilliant, and so is the music.",
    "The camera is slow.",
    "The cast is far from what I would call dull.",
    "The script is anything but charming, and so is the scene.",
)


def main() -> None:
    options = dict(dropout=0.2, embedding_dropout=0.1, word_dropout=0.0, patience=12)
    model = gw.TextClassifier(hidden=32, epochs=16, learning_rate=1e-2, **options)
    model.fit(*opinions(1500, seed=0))
    figure = Figure(figsize=(8, 0.42 * len(SENTENCES) + 0.1), dpi=144)
    renderer = FigureCanvasAgg(figure).get_renderer()
    classes = model.predict(SENTENCES)
    for row, (words, class_) in enumerate(zip(model.attention(SENTENCES), classes, strict=True)):
        y = 1 - (row + 0.5) / len(SENTENCES)
        figure.text(
            0.01,
            y,
            class_,
            fontsize=11,
            weight="bold",
            va="center",
            color="#0f766e" if class_ == "good" else "#c2700c",
        )
        x, most = 0.1, max(weight for _, weight in words)
        for word, weight in words:
            box = dict(
                boxstyle="round,pad=0.25", fc=(0.06, 0.46, 0.43, 0.55 * weight / most), ec="none"
            )
            text = figure.text(x, y, word, fontsize=11, va="center", bbox=box)
            x = text.get_window_extent(renderer).x1 / figure.bbox.width + 0.016
    figure.savefig(ROOT / "docs" / "images" / "sentiment.png")


if __name__ == "__main__":
    main()
