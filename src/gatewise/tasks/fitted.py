"""What the tasks' estimators share: bounds of their options, and a fit that is taken over whole."""

from __future__ import annotations

from sklearn.base import BaseEstimator

MOST_LAYERS = 1000
MOST_SEED = 2**32 - 1  # the bound of numpy and Lightning


def take_over(estimator: BaseEstimator, fresh: BaseEstimator) -> None:
    """Give an estimator all that a fresh copy of it has learned, in place of what it had learned before.

    A fit that is stopped midway has then changed nothing: no scale of the new data stands beside weights
    of the old.
    """
    kept = {name: value for name, value in vars(estimator).items() if not name.endswith("_")}
    learned = {name: value for name, value in vars(fresh).items() if name.endswith("_")}
    estimator.__dict__ = kept | learned
