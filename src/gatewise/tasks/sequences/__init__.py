"""The common parts of tasks with one output for each sequence: the classifier and the regressor."""
