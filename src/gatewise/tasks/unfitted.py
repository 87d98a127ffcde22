"""The error of a model that has learned nothing yet."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError

from gatewise.errors import GatewiseError


class UnfittedError(GatewiseError, NotFittedError):
    """A model was asked for something before ``fit``."""
