"""Calls that are checked against the shapes in a function's annotations."""

import runpy
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

import jaxtyping
import pytest
from beartype import beartype

from gatewise.nn import shapes


@cache
def names() -> dict[str, Any]:
    """What ``gatewise.nn.shapes`` has for a type checker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typing, "TYPE_CHECKING", True)
        return runpy.run_path(str(shapes.__file__))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with every call and result checked: jaxtyping.TypeCheckError where one differs."""
    hints = typing.get_type_hints(
        function, {**function.__globals__, **names()}, include_extras=True
    )
    copied = types.FunctionType(
        *(function.__code__, function.__globals__, function.__name__),
        *(function.__defaults__, function.__closure__),
    )
    copied.__kwdefaults__, copied.__annotations__ = function.__kwdefaults__, hints
    copied.__module__, copied.__qualname__ = function.__module__, function.__qualname__
    return jaxtyping.jaxtyped(copied, typechecker=beartype)
