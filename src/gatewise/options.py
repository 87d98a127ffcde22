"""Checks of options. Each check returns the value as one of Python's types.

A number may be Python's or NumPy's, or an array or tensor without dimensions.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from gatewise.errors import OptionError, near

_LARGEST = 2**63 - 1  # numpy and torch count with 64 bits
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100  # characters


def integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int of at least ``least`` and, where given, at most ``most``.

    Raises:
        OptionError: the value is not an integer or not in this range. The message has the value.
    """
    scalar = _scalar(value)
    integral = isinstance(scalar, Integral)
    if integral and least <= int(scalar) <= (_LARGEST if most is None else most):
        return int(scalar)
    if most is None and integral and int(scalar) > _LARGEST:
        most = _LARGEST
    raise OptionError(f"{name} must be {_range(least, most)}, not {short_repr(value)}")


def number(
    name: str,
    value: Any,
    expected: str = "a finite number",
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """``value`` as a finite float within the bounds, which ``expected`` describes for the message.

    Raises:
        OptionError: the value is not a number, not finite or out of bounds. The message has the value.
    """
    scalar = _scalar(value)
    if isinstance(scalar, Real):
        try:
            found = float(scalar)
        except OverflowError:  # an integer of hundreds of digits
            found = math.inf
        if math.isfinite(found) and above < found < below and least <= found <= most:
            return found
    raise OptionError(f"{name} must be {expected}, not {short_repr(value)}")


def probability(name: str, value: Any) -> float:
    """``value`` as a float from 0 to 1.

    Raises:
        OptionError: the value is anything else. The message has the value.
    """
    return number(name, value, "a probability from 0 to 1", least=0, most=1)


def flag(name: str, value: Any) -> bool:
    """``value`` as a bool. 0 and 1 are accepted too, as in torch.

    Raises:
        OptionError: the value is anything else. The message has the value.
    """
    found = _single(value)
    if is_bool(found) or (isinstance(found, Integral) and int(found) in (0, 1)):
        return bool(found)
    raise OptionError(f"{name} must be True or False, not {short_repr(value)}")


def choice(name: str, value: Any, known: Collection[str]) -> str:
    """``value``, which must be one of the ``known`` words.

    Raises:
        OptionError: the value is anything else. The message has the value and the known words.
    """
    if isinstance(value, str) and value in known:
        return str(value)
    hint = near(value, known) if isinstance(value, str) else ""
    raise OptionError(
        f"{name} must be one of {', '.join(map(repr, known))}, not {short_repr(value)}{hint}"
    )


def is_bool(value: Any) -> bool:
    """Whether the value is a bool of Python or NumPy, without importing NumPy."""
    return type(value).__name__ in ("bool", "bool_")


def short_repr(value: Any) -> str:
    """``repr(value)`` for a message, shortened if it is long."""
    return _SHORT.repr(value)


def _range(least: int, most: int | None) -> str:
    """The integers from ``least`` to ``most``, in words."""
    if most is not None:
        return f"an integer from {least} to {most}"
    return {0: "a non-negative integer", 1: "a positive integer"}.get(
        least, f"an integer of at least {least}"
    )


def _scalar(value: Any) -> Any:
    """The number in ``value``, or None for a bool, which does not count as a number here."""
    found = _single(value)
    return None if is_bool(found) else found


def _single(value: Any) -> Any:
    """The element of an array or tensor without dimensions; any other value unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            return value.item()
        except (ValueError, RuntimeError):  # a tensor on the meta device has no value
            return value
    return value
