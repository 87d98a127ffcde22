"""Reading of arrays for a scikit-learn estimator, which checks that later arrays have the form of the first."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from gatewise.data.sequences import Sequences
from gatewise.data.sources.arrays import CHECKS, Arrays
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting

Array = np.ndarray

_OF_TABLES = ("time", "channels", "time_format")  # options that name what arrays do not have


def check_options_of_arrays(estimator: Any) -> None:
    """Raises OptionError if an option for tables was given, but the data are arrays."""
    for name in _OF_TABLES:
        if value := getattr(estimator, name):
            raise OptionError(
                f"{name}={value!r} is an option for tables, but without series= the data are read as arrays: "
                f"give series=, the column with the names of the series"
            )


def read_arrays(estimator: Any, X: Any, missing: str, reset: bool) -> Sequences:
    """X as sequences.

    Args:
        missing: the option ``missing``.
        reset: whether to store the form of X in the estimator (``n_features_in_``, ``steps_``,
            ``feature_names_in_``). Otherwise X must have the stored form.

    Raises:
        DataError: X is not valid.
    """
    keep_torch_from_waiting()
    kind = type(estimator).__name__
    if isinstance(X, (str, os.PathLike)):
        raise DataError(
            f"'{X}' is a file, but this {kind} takes arrays: to fit it to a table, give series= (--series), "
            f"the column with the names of the series"
        )
    known = None if reset else getattr(estimator, "feature_names_in_", None)
    names = tuple(known) if known is not None and estimator.steps_ is None else None

    def check_table(X: Any) -> Array:
        array: Array = validate_data(estimator, X, reset=reset, **CHECKS)
        return array

    as_table = reset or estimator.steps_ is not None
    sequences, table = Arrays(estimator, names, check_table if as_table else None).read(X)
    sequences.check_values(missing)
    if reset:
        _learn_form(estimator, sequences, table)
        return sequences
    features = len(estimator.input_scale_.location)
    if sequences.inputs != features:
        raise DataError(
            f"X has {sequences.inputs} features, but {kind} is expecting {features} features as input"
        )
    if estimator.steps_ is None:
        _warn_of_names(estimator, sequences)
    return sequences


def _learn_form(estimator: Any, sequences: Sequences, table: bool) -> None:
    estimator.steps_ = int(sequences.lengths[0]) if table else None
    if not table:
        estimator.n_features_in_ = sequences.inputs
        if sequences.names is not None:
            estimator.feature_names_in_ = np.array(sequences.names, dtype=object)


def _warn_of_names(estimator: Any, sequences: Sequences) -> None:
    """Warns, as scikit-learn does, if either X or the data of ``fit`` had column names and the other had not."""
    fitted = hasattr(estimator, "feature_names_in_")
    if fitted and sequences.names is None:
        said = "X does not have valid feature names, but {} was fitted with feature names"
    elif sequences.names is not None and not fitted:
        said = "X has feature names, but {} was fitted without feature names"
    else:
        return
    warnings.warn(said.format(type(estimator).__name__), UserWarning, stacklevel=5)
