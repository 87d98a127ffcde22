"""Small data sets of sequences: generated ones, each of one kind, and ones that aeon and scikit-learn ship."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

Array = np.ndarray


class Part(NamedTuple):
    X: list[Array]  # T×I each
    y: Array

    def chosen(self, at: Array) -> Part:
        """Of some of the samples."""
        return Part([self.X[k] for k in at], self.y[at])


class Split(NamedTuple):
    learn: Part
    test: Part


def generated(sample: Callable[[Generator, Any], Array], classes: int | None, learn: int) -> Split:
    """``learn`` sequences to learn from and 200 to test on, the classes in turn, or of numbers from 0 to 1."""
    draw = np.random.default_rng(7)

    def part(count: int) -> Part:
        y = draw.random(count) if classes is None else np.arange(count) % classes
        X = [sample(draw, each) for each in y]
        return Part([x if x.ndim == 2 else x[:, None] for x in X], y)

    return Split(part(learn), part(200))


def bump(steps: int, at: int, width: int) -> Array:
    """A Hann window of ``width`` steps that begins at step ``at``, zero elsewhere."""
    x = np.zeros(steps)
    x[at : at + width] = np.hanning(width)
    return x


def frequency(draw: Generator, label: int) -> Array:
    """A sine of one of three periods at a random phase, in noise."""
    t = np.arange(100)
    wave = np.sin(2 * np.pi * (t / (20, 16, 13)[label] + draw.random()))
    return wave + draw.normal(0, 0.5, 100)


def shape(draw: Generator, label: int) -> Array:
    """A saw that rises or one that falls, at a random place, in noise."""
    x = draw.normal(0, 0.3, 100)
    at, saw = draw.integers(0, 85), np.linspace(0, 2, 15)
    x[at : at + 15] += saw if label else saw[::-1]
    return x


def order(draw: Generator, label: int) -> Array:
    """An event in each of two channels; the class is which one comes first."""
    first, second = np.sort(draw.choice(7, 2, replace=False)) * 11 + draw.integers(0, 4, 2)
    x = np.stack([bump(80, first, 8), bump(80, second, 8)], 1) * 2
    return (x[:, ::-1] if label else x) + draw.normal(0, 0.3, (80, 2))


def trend(draw: Generator, label: int) -> Array:
    """A slow slope down, none, or up, on a random level, in noise."""
    return draw.normal() + (label - 1) * np.linspace(-0.7, 0.7, 60) + draw.normal(0, 0.7, 60)


def roughness(draw: Generator, label: int) -> Array:
    """Noise of one variance and three autocorrelations."""
    keep = (0.2, 0.55, 0.85)[label]
    x = draw.normal(0, 1, 80)
    for t in range(1, 80):
        x[t] = keep * x[t - 1] + np.sqrt(1 - keep**2) * x[t]
    return x


def channels(draw: Generator, label: int) -> Array:
    """Three noisy channels; the class is which two of them move together."""
    x = draw.normal(0, 1, (60, 3))
    one, other = ((0, 1), (1, 2), (0, 2))[label]
    x[:, other] = 0.8 * x[:, one] + 0.6 * x[:, other]
    return x


def chirp(draw: Generator, label: int) -> Array:
    """A sweep up or down in frequency, of 30 to 90 steps, in noise."""
    t = np.linspace(0, 1, draw.integers(30, 91))
    t = t if label else 1 - t
    wave = np.sin(2 * np.pi * (1.5 * t + 3 * t**2 + draw.random()))
    return wave + draw.normal(0, 0.3, len(t))


def memory(draw: Generator, label: int) -> Array:
    """A mark in the first steps, of which the rest says nothing; the class is its sign."""
    x = draw.normal(0, 0.5, 120)
    x[3:8] += 1.5 if label else -1.5
    x[20:] += np.sin(2 * np.pi * (np.arange(100) / 25 + draw.random()))
    return x


def pitch(draw: Generator, number: float) -> Array:
    """A noisy sine whose frequency is the number."""
    wave = np.sin(2 * np.pi * (np.arange(80) * (0.03 + 0.07 * number) + draw.random()))
    return wave + draw.normal(0, 0.3, 80)


def height(draw: Generator, number: float) -> Array:
    """A bump at a random place whose height is the number, on a slow wave."""
    x = np.sin(2 * np.pi * (np.arange(80) / 80 + draw.random())) + draw.normal(0, 0.1, 80)
    return x + 4 * number * bump(80, int(draw.integers(0, 70)), 10)


def packaged(load: str, name: str) -> Split:
    """One of the sets inside aeon, by the name of its loader."""
    import aeon.datasets

    def part(split: str) -> Part:
        X, y = getattr(aeon.datasets, load)(name, split=split)
        return Part([np.asarray(x, float).T for x in X], np.asarray(y))

    return Split(part("train"), part("test"))


def digits() -> Split:
    """100 of scikit-learn's digits, eight rows of eight pixels; the rest to test on."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    return Split(Part(list(images[:100]), y[:100]), Part(list(images[100:]), y[100:]))


CLASSES: dict[str, Callable[[], Split]] = {
    "frequency": lambda: generated(frequency, 3, 48),
    "shape": lambda: generated(shape, 2, 50),
    "order": lambda: generated(order, 2, 40),
    "trend": lambda: generated(trend, 3, 48),
    "roughness": lambda: generated(roughness, 3, 48),
    "channels": lambda: generated(channels, 3, 48),
    "chirp (unequal lengths)": lambda: generated(chirp, 2, 40),
    "memory": lambda: generated(memory, 2, 40),
    "BasicMotions": lambda: packaged("load_classification", "BasicMotions"),
    "GunPoint": lambda: packaged("load_classification", "GunPoint"),
    "ArrowHead": lambda: packaged("load_classification", "ArrowHead"),
    "ItalyPowerDemand": lambda: packaged("load_classification", "ItalyPowerDemand"),
    "JapaneseVowels (unequal lengths)": lambda: packaged("load_classification", "JapaneseVowels"),
    "digits": digits,
}
NUMBERS: dict[str, Callable[[], Split]] = {
    "pitch": lambda: generated(pitch, None, 60),
    "height": lambda: generated(height, None, 60),
    "Covid3Month": lambda: packaged("load_regression", "Covid3Month"),
    "CardanoSentiment": lambda: packaged("load_regression", "CardanoSentiment"),
}
