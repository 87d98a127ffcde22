"""The errors gatewise raises on purpose: one family, each saying what was given, what was expected and what to do."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Collection, Iterable
from types import ModuleType


class GatewiseError(Exception):
    """Base of every error that gatewise raises on purpose. The command line prints it and exits with 2."""


class CellError(GatewiseError):
    """A cell's definition does not hold together: an unknown gate, a state that is never set, …"""


class ShapeError(GatewiseError, ValueError, RuntimeError):
    """A tensor, length or state does not have the shape, type or range that the layer needs.

    torch's layers raise a ValueError for some of these and a RuntimeError for others; code written for
    either catches this."""


class StateTypeError(ShapeError, TypeError):
    """A call's states are not given as what they are: tensors, one by itself or several in a tuple.

    torch raises a TypeError for some of these."""


class BackendError(GatewiseError, RuntimeError):
    """A backend was asked for by name and cannot do what was asked; it never falls back in silence."""


class DataError(GatewiseError, ValueError):
    """The user's data cannot be used as it is; the message names the column, series and row at fault."""


class OptionError(GatewiseError, ValueError, TypeError, RuntimeError):
    """An option or argument has a value that cannot be used.

    torch's constructors raise a TypeError, ValueError or RuntimeError for the same; code written for any
    of these catches this."""


class ModelFileError(GatewiseError, ValueError):
    """A saved model cannot be read: not a model, damaged, or written by a newer version."""


class TrainingError(GatewiseError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""


class ForkError(GatewiseError, RuntimeError):
    """A forked process cannot use a library whose threads it has lost; the message says what to do."""


class Stopped(KeyboardInterrupt):
    """A signal stopped what was done. As a KeyboardInterrupt it passes handlers of errors.

    Attributes:
        number: of the signal.
        told_elsewhere: whether another process of the same training says so.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = int(number)
        self.told_elsewhere = False


class MissingExtraError(GatewiseError, ImportError):
    """A feature needs an optional dependency that is not installed; the message has the command that installs it."""


class GatewiseWarning(UserWarning):
    """Something went on that may not be what the user wants; the message says what and why."""


def caution(message: str) -> None:
    """Warn at the line of the caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "gatewise":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, GatewiseWarning, stacklevel=level)


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, which comes with the extra ``gatewise[extra]``.

    Raises:
        MissingExtraError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise missing(error, extra) from error


def missing(error: ModuleNotFoundError, extra: str) -> MissingExtraError:
    """What to raise when a module of the extra ``gatewise[extra]`` is not installed."""
    return MissingExtraError(
        f"this needs the package '{error.name}', which is not installed: "
        f"pip install 'gatewise[{extra}]'"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's, NumPy's or torch's way to say that there is no memory left."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def near(word: str, words: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the word closest to ``word``, or ``""`` where none is close."""
    import difflib  # it alone is slow to load

    folded = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    match = folded[close[0]] if close else None
    return f" (did you mean '{match}'?)" if match else ""


def some(names: Iterable[str], most: int) -> str:
    """The first ``most`` names for a message, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (
        f" and {len(listed) - most} more" if len(listed) > most else ""
    )


def unknown(kind: str, name: str, known: Collection[str]) -> OptionError:
    """What to raise for a ``name`` that is none of the ``known`` ones, which the message lists."""
    return OptionError(f"no {kind} '{name}'{near(name, known)}; there are: {', '.join(known)}")
