"""Linear models on simple features of sequences: the baselines that the model is compared with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from gatewise.data.sequences import Scale, Sequences

Array = np.ndarray

PER_CHANNEL = 6
_MOST = 20_000  # sequences that a linear model is fitted on


def features(sequences: Sequences) -> Array:
    """N×(6I + 1): mean, standard deviation, minimum, maximum, first and last value of each channel, and the
    logarithm of the length.

    Missing values are ignored. Without any value of a channel its features are NaN.
    """
    values, starts = sequences.values.astype(np.float64), sequences.starts[:-1]
    lengths = sequences.lengths[:, None]
    known = ~np.isnan(values)
    count = np.add.reduceat(known, starts, axis=0).astype(np.float64)
    count = np.where(count > 0, count, np.nan)
    mean = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0) / count
    apart = np.where(known, values - np.repeat(mean, sequences.lengths, axis=0), 0.0)
    spread = np.sqrt(np.add.reduceat(apart**2, starts, axis=0) / count)
    low, high = (each.reduceat(values, starts, axis=0) for each in (np.fmin, np.fmax))
    ends = values[starts], values[sequences.starts[1:] - 1]
    return np.concatenate([mean, spread, low, high, *ends, np.log(lengths)], axis=1)


@dataclass(frozen=True)
class LinearModel:
    """A linear model on F scaled features with K outputs.

    Attributes:
        location, spread: F, mean and standard deviation of the features.
        weight: F×K.
        bias: K.
        prior: K, the prediction without features: the shares of the classes, or the mean of the targets.
    """

    location: Array
    spread: Array
    weight: Array
    bias: Array
    prior: Array

    def outputs(self, plain: Array) -> Array:
        """N×K outputs for N×F features."""
        scaled = np.nan_to_num((plain - self.location) / self.spread)
        found: Array = scaled @ self.weight + self.bias
        return found


def logistic(plain: Array, classes: Array, weight: Array, count: int) -> LinearModel:
    """Logistic regression of N class indices, which are less than ``count``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    prior = np.bincount(classes, weight, minlength=count) / weight.sum()
    plain, classes, weight = _some(plain, classes, weight)
    scale = Scale.of(plain, weight)
    if len(np.unique(classes)) < 2:  # scikit-learn needs two classes
        slopes = np.zeros((plain.shape[1], count))
        return LinearModel(scale.location, scale.spread, slopes, np.log(prior + 1e-12), prior)
    model = LogisticRegression(max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough for a baseline
        warnings.filterwarnings("ignore", "The number of unique classes")  # the task says it
        model.fit(_scaled(plain, scale), classes, sample_weight=weight)
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes: the first one's logit is 0
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros(1), intercept])
    slopes = np.zeros((plain.shape[1], count))
    bias = np.full(count, -30.0)  # for classes that are not in the sample
    slopes[:, model.classes_], bias[model.classes_] = coefficients.T, intercept
    return LinearModel(scale.location, scale.spread, slopes, bias, prior)


def ridge(plain: Array, numbers: Array, weight: Array) -> LinearModel:
    """Ridge regression of N×K ``numbers``."""
    from sklearn.linear_model import Ridge

    plain, numbers, weight = _some(plain, numbers, weight)
    scale = Scale.of(plain, weight)
    model = Ridge(alpha=1.0).fit(_scaled(plain, scale), numbers, sample_weight=weight)
    mean = np.average(numbers, axis=0, weights=weight)
    slopes = np.reshape(model.coef_, (numbers.shape[1], -1)).T
    bias = np.broadcast_to(model.intercept_, mean.shape).copy()
    return LinearModel(scale.location, scale.spread, slopes, bias, mean)


def _scaled(plain: Array, scale: Scale) -> Array:
    return np.nan_to_num((plain - scale.location) / scale.spread)


def _some(plain: Array, target: Array, weight: Array) -> tuple[Array, Array, Array]:
    """The samples with a positive weight; of many samples a limited number, spread evenly."""
    there = np.flatnonzero(weight > 0)
    at = there[np.unique(np.linspace(0, len(there) - 1, min(len(there), _MOST)).astype(np.int64))]
    return plain[at], target[at], weight[at]
