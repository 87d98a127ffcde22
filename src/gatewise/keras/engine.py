"""Keras with its torch backend, the only one that these layers can run on."""

from __future__ import annotations

import os
import sys

from gatewise.errors import OptionError, need


def require_torch() -> None:
    """Imports Keras with its torch backend, which it chooses unless KERAS_BACKEND or an earlier import has.

    Raises:
        MissingExtraError: Keras is not installed.
        OptionError: another backend has been chosen. The message says how to choose torch.
    """
    if "keras" not in sys.modules:
        asked = os.environ.setdefault("KERAS_BACKEND", "torch")
        if asked != "torch":  # before Keras imports a package that may not be installed
            raise _wrong(f"KERAS_BACKEND is '{asked}'")
    keras = need("keras", "keras")
    if (running := keras.backend.backend()) != "torch":
        raise _wrong(f"keras was imported with its backend '{running}'")


def _wrong(found: str) -> OptionError:
    return OptionError(
        f"gatewise.keras needs Keras's torch backend, and {found}; set KERAS_BACKEND=torch in the "
        f"environment before keras is imported, or leave it unset and import gatewise.keras first"
    )
