"""gatewise's errors and warnings. A message says what was given, what was expected and what to do."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Collection, Iterable
from types import ModuleType

_PACKAGES = {"sklearn": "scikit-learn", "google": "protobuf"}  # of modules with another name


class GatewiseError(Exception):
    """The base class of gatewise's errors. The command line prints the message and exits with code 2."""


class CellError(GatewiseError):
    """A cell's definition is not valid: an unknown gate, a state that is not returned, …"""


class ShapeError(GatewiseError, ValueError, RuntimeError):
    """A tensor, length or state does not have the shape, dtype or range that the layer needs.

    torch's layers raise a ValueError or a RuntimeError for these. This error is both, so that code written
    for torch catches it."""


class StateTypeError(ShapeError, TypeError):
    """A call's states are not a tensor or a tuple of tensors.

    torch raises a TypeError for some of these."""


class BackendError(GatewiseError, RuntimeError):
    """A backend that was chosen by name cannot do what was asked. No other backend is used in its place."""


class DataError(GatewiseError, ValueError):
    """The user's data is not valid. The message names the column, series and row at fault."""


class OptionError(GatewiseError, ValueError, TypeError, RuntimeError):
    """An option or argument has a value that is not valid.

    torch's constructors raise a TypeError, ValueError or RuntimeError for these. This error is all three, so
    that code written for torch catches it."""


class TooLargeError(OptionError):
    """Options ask for more memory than this machine has."""


class ModelFileError(GatewiseError, ValueError):
    """A file of a model cannot be read or written: it is not a model, is damaged, or is of a newer version."""


class TaskImportError(GatewiseError, ImportError):
    """The module of a task cannot be imported, or does not have the task's class."""


class TrainingError(GatewiseError, RuntimeError):
    """Training cannot continue, for example because the loss is NaN."""


class ForkError(GatewiseError, RuntimeError):
    """A forked process cannot use a library, because it does not have the library's threads."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the program. It is a KeyboardInterrupt, so ``except Exception`` does not catch it.

    Attributes:
        number: the signal's number.
        reported_elsewhere: whether another process of the same training run prints the message.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = int(number)
        self.reported_elsewhere = False


class MissingExtraError(GatewiseError, ImportError):
    """A feature needs a package that is not installed. The message has the command that installs it."""


class GatewiseWarning(UserWarning):
    """A result may not be what the user expects. The message says what and why."""


def caution(message: str) -> None:
    """Warns; the warning points to the line of the caller outside gatewise."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "gatewise":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, GatewiseWarning, stacklevel=level)


def need(module: str, extra: str) -> ModuleType:
    """The imported ``module``, which the extra ``gatewise[extra]`` installs.

    Raises:
        MissingExtraError: the module is not installed. The message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise missing(error, extra) from error


def missing(error: ModuleNotFoundError, extra: str) -> MissingExtraError:
    """The error for a module of the extra ``gatewise[extra]`` that is not installed."""
    module = (error.name or "").partition(".")[0]
    return MissingExtraError(
        f"this needs the package '{_PACKAGES.get(module, module)}', which is not installed: "
        f"pip install 'gatewise[{extra}]'"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, in Python, NumPy or torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def near(word: str, words: Iterable[str]) -> str:
    """The text ``" (did you mean 'x'?)"`` with the word closest to ``word``, or ``""`` if none is close."""
    import difflib  # imported here because it is slow to load

    folded = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    match = folded[close[0]] if close else None
    return f" (did you mean '{match}'?)" if match else ""


def some(names: Iterable[str], most: int) -> str:
    """The first ``most`` names, and the number of the others, for a message."""
    listed = list(names)
    return ", ".join(listed[:most]) + (
        f" and {len(listed) - most} more" if len(listed) > most else ""
    )


def unknown(kind: str, name: str, known: Collection[str]) -> OptionError:
    """The error for a ``name`` that is not among ``known``. The message lists these."""
    return OptionError(f"no {kind} '{name}'{near(name, known)}; there are: {', '.join(known)}")
