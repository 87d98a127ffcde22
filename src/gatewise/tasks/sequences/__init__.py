"""Classification and regression of sequences given as arrays, by scikit-learn's conventions."""

from gatewise.tasks.sequences.estimators import SequenceClassifier, SequenceRegressor

__all__ = ["SequenceClassifier", "SequenceRegressor"]
