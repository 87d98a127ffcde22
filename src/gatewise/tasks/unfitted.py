"""The error of a model that has not been fitted."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError

from gatewise.errors import GatewiseError


class UnfittedError(GatewiseError, NotFittedError):
    """A method that needs a fitted model was called before ``fit``."""
