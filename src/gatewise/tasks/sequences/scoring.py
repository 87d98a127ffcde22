"""Scores of classes and of numbers."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_BINS = 15


def softmax(outputs: Array) -> Array:
    """N×C probabilities of N×C logits."""
    odds = np.exp(outputs - outputs.max(1, keepdims=True))
    found: Array = odds / odds.sum(1, keepdims=True)
    return found


def of_classes(truth: Array, probabilities: Array) -> dict[str, float]:
    """The scores of N×C probabilities for N class indices.

    Returns:
        Accuracy; macro F1 over the classes that occur; the area under the ROC curve (with more than two
        classes the mean of one class against the others; NaN if it is not defined); the expected calibration
        error over 15 bins of confidence (Guo et al. 2017); the mean negative log-likelihood.
    """
    from sklearn.metrics import f1_score

    guess = probabilities.argmax(1)
    confidence = probabilities.max(1)
    right = guess == truth
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=_BINS)
    likely = probabilities[np.arange(len(truth)), truth]
    return {
        "accuracy": float(right.mean()),
        "f1_macro": float(f1_score(truth, guess, average="macro", zero_division=0.0)),
        "auroc": _auroc(truth, probabilities),
        "ece": float(np.abs(gaps).sum() / len(truth)),
        "nll": float(-np.log(np.maximum(likely, 1e-15)).mean()),
    }


def _auroc(truth: Array, probabilities: Array) -> float:
    from sklearn.metrics import roc_auc_score

    classes = range(probabilities.shape[1])
    asked = [1] if len(classes) == 2 else classes
    areas = [
        roc_auc_score(truth == k, probabilities[:, k])
        for k in asked
        if 0 < (truth == k).sum() < len(truth)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def of_numbers(truth: Array, values: Array) -> dict[str, float]:
    """The scores of N×K predictions: MAE, MSE, RMSE and R². R² is NaN if it is not defined."""
    from sklearn.metrics import r2_score

    error = truth - values
    squared = float((error**2).mean())
    known = len(truth) > 1 and (np.ptp(truth, axis=0) > 0).all()
    return {
        "mae": float(np.abs(error).mean()),
        "mse": squared,
        "rmse": squared**0.5,
        "r2": float(r2_score(truth, values)) if known else float("nan"),
    }
