"""Logistic regression on the words of a text: the baseline of the text classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

_HASHES = 1 << 22
_MOST = 100_000  # texts that the baseline is fitted on
_STRENGTH = 4.0  # scikit-learn's C


def _counts(texts: Iterable[str]) -> Any:
    """N×2²²: how often each word and pair of words occurs, by its hash.

    Words may have apostrophes inside; a sign is a word too."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        ngram_range=(1, 2),
        token_pattern=r"\w+(?:'\w+)*|[^\w\s]",
        n_features=_HASHES,
        alternate_sign=False,
        norm=None,
    ).transform(texts)


@dataclass(frozen=True)
class BagOfWords:
    """Logistic regression on TF-IDF features of words and pairs of words.

    Attributes:
        features: F, the sorted hashes of the words and pairs of words.
        rarity: F, their inverse document frequencies.
        weight: F×K.
        bias: K.
        prior: K, the shares of the classes.
    """

    features: Array
    rarity: Array
    weight: Array
    bias: Array
    prior: Array

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        target: Array,
        weight: Array,
        classes: int,
        importance: Array | float = 1.0,
    ) -> BagOfWords:
        """The model of N texts and class indices; of very many texts of some, at even distances.

        Args:
            weight: N, those of the texts.
            importance: N factors of the weights in the regression, such as class weights. The shares of the
                classes are without them.
        """
        from scipy.sparse import csr_matrix

        prior = np.bincount(target, weight, minlength=classes) / weight.sum()
        weight = weight * importance
        at = np.unique(np.linspace(0, len(target) - 1, min(len(target), _MOST)).astype(np.int64))
        counts = _counts(texts[k] for k in at)
        features, column = np.unique(counts.indices, return_inverse=True)
        found = csr_matrix((counts.data, column, counts.indptr), (len(at), max(len(features), 1)))
        often = np.bincount(column, minlength=found.shape[1])
        rarity = np.log((1 + len(at)) / (1 + often)) + 1
        features = features if len(features) else np.zeros(1)
        empty = cls(features.astype(np.int64), rarity, np.empty(0), np.empty(0), prior)
        return cls(empty.features, rarity, *empty._fitted(found, target[at], weight[at]), prior)

    def _fitted(self, counts: Any, target: Array, weight: Array) -> tuple[Array, Array]:
        """The weights and the biases of logistic regression."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        classes = len(self.prior)
        slopes = np.zeros((counts.shape[1], classes))
        bias = np.log(np.maximum(self.prior, 1e-12))
        if len(np.unique(target)) < 2:  # scikit-learn needs two classes
            return slopes, bias
        model = LogisticRegression(C=_STRENGTH, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # good enough for a baseline
            warnings.filterwarnings("ignore", "The number of unique classes")  # the task says it
            model.fit(self._scaled(counts), target, sample_weight=weight)
        coefficients, intercept = model.coef_, model.intercept_
        if len(coefficients) == 1:  # two classes: the first one's logit is 0
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            intercept = np.concatenate([np.zeros(1), intercept])
        bias = np.full(classes, -30.0)  # for classes that are not in the sample
        slopes[:, model.classes_], bias[model.classes_] = coefficients.T, intercept
        return slopes, bias

    def _scaled(self, counts: Any) -> Any:
        from sklearn.preprocessing import normalize

        counts.data = (1 + np.log(counts.data)) * self.rarity[counts.indices]
        return normalize(counts)

    def outputs(self, texts: Sequence[str]) -> Array:
        """N×K logits."""
        from scipy.sparse import csr_matrix

        counts = _counts(texts)
        place = np.searchsorted(self.features, counts.indices).clip(max=len(self.features) - 1)
        known = self.features[place] == counts.indices
        rows = np.repeat(np.arange(len(texts)), np.diff(counts.indptr))
        shape = (len(texts), len(self.features))
        found = csr_matrix((counts.data[known], (rows[known], place[known])), shape)
        outputs: Array = self._scaled(found) @ self.weight + self.bias
        return outputs
