"""Which backend runs what: the first in the list that can, or the one asked for by name."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch

import gatewise.backends.native.operators  # noqa: F401  a saved graph may hold them
from gatewise.backends.contract import Backend, Spec
from gatewise.errors import BackendError, OptionError, near

# In order of preference; each is a module of this package, imported when first asked.
BACKENDS = ("cpu", "aten", "reference")

# Those that were, by name.
LOADED: dict[str, Backend] = {}


def check_name(name: str) -> None:
    """Raises OptionError unless ``name`` is a backend or "auto"."""
    names = ("auto", *BACKENDS)
    if name not in names:
        raise OptionError(f"no backend '{name}'{near(name, names)}; there are: {', '.join(names)}")


def choose(spec: Spec, name: str = "auto") -> tuple[Backend, str]:
    """The backend that is to run ``spec``, and a sentence that says which and why.

    Raises:
        BackendError: ``name`` asks for a backend that cannot run it; the message says what it
            cannot do.
    """
    if name != "auto":
        backend = _load(name)
        if reason := backend.supports(spec):
            raise BackendError(f"the backend '{name}' was asked for, but it {reason}")
        return backend, f"{name}: {backend.describe(spec)}; asked for by name"
    passed_over: list[str] = []
    for candidate in BACKENDS:
        backend = _load(candidate)
        reason = backend.supports(spec)
        if reason is None:
            why = "; ".join(passed_over) or "the first in order of preference"
            return backend, f"{candidate}: {backend.describe(spec)}; {why}"
        passed_over.append(f"'{candidate}' {reason}")
    raise BackendError(f"no backend can run this: {'; '.join(passed_over)}")


@torch.compiler.assume_constant_result
def chosen(name: str, **fields: Any) -> tuple[str, Spec, str]:
    """The name of the backend for the Spec of these fields, the Spec, and the sentence that says
    why. What torch.compile makes holds them fast, for as long as the fields are the same."""
    spec = Spec(**fields, transformed=transformed())
    _, why = choose(spec, name)
    return why.partition(":")[0], spec, why


def transformed() -> bool:
    """Whether torch.func (vmap, jvp, grad, …) or forward-mode differentiation is at work here."""
    level = torch.autograd.forward_ad._current_level
    return level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def _load(name: str) -> Backend:
    if name not in LOADED:
        LOADED[name] = cast(Backend, importlib.import_module(f"gatewise.backends.{name}"))
    return LOADED[name]
