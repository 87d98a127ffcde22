"""Which backend runs what: the first in the list that can, or the one asked for by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

import gatewise.backends.operators  # noqa: F401  a saved graph may hold them
from gatewise.backends.contract import (
    Backend,
    Choice,
    Masks,
    Outcome,
    Spec,
    Weights,
    WholeNetworks,
)
from gatewise.backends.torch_private import constant, nonstrict_trace, transformed
from gatewise.backends.tracing import OPERATORS, recording, unrecorded
from gatewise.cells.language import Cell
from gatewise.errors import BackendError, unknown

# Each is a module of this package, imported when first asked.
BACKENDS = ("cpu", "triton", "cuda", "aten", "scan", "reference")

# In order of preference, by kind of device.
_PREFERRED = {"cuda": ("scan", "triton", "aten", "reference")}
_ELSEWHERE = ("cpu", "aten", "scan", "reference")

# The one that runs layers one step at a time.
_STREAMS = "cpu"

# Those that were, by name.
LOADED: dict[str, Backend] = {}


def checked_name(name: object) -> str:
    """``name``, which must be a backend's or "auto".

    Raises:
        OptionError: it is none.
    """
    names = ("auto", *BACKENDS)
    if not isinstance(name, str) or name not in names:
        raise unknown("backend", str(name), names)
    return str(name)


@constant
def choose(name: str = "auto", **fields: Any) -> Choice:
    """The backend that is to run the Spec of these fields, but for ``transformed`` and ``recorded``, which
    are found out here. In what torch.compile makes it is a constant, for as long as the fields are the same.

    Raises:
        BackendError: ``name`` asks for a backend that cannot run it, or none can; the message says what
            they cannot do.
    """
    # equal cells may have different names, which reasons hold
    found = _found(name, fields["cell"].name, transformed(), recording(), **fields)
    if isinstance(found, str):
        raise BackendError(found)
    return found


def forget_choices() -> None:
    """Let every choice be made anew: what this machine has may have changed."""
    _found.cache_clear()


@lru_cache(maxsize=4096)
def _found(
    name: str, cell_name: str, transformed: bool, recorded: str, **fields: Any
) -> Choice | str:
    """The choice, or why there is none."""
    spec = Spec(**fields, transformed=transformed, recorded=recorded)
    if name != "auto":
        backend = load(name)
        if reason := backend.supports(spec):
            return f"the backend '{name}' was asked for, but it {reason}"
        return _keyed(name, spec, f"{backend.describe(spec)}; asked for by name")
    passed_over: list[str] = []
    for candidate in _candidates(spec):
        backend = load(candidate)
        reason = backend.supports(spec) or _outrun(backend, spec)
        if reason is None:
            why = "; ".join(passed_over) or "the first in order of preference"
            return _keyed(candidate, spec, f"{backend.describe(spec)}; {why}")
        passed_over.append(f"'{candidate}' {reason}")
    if recorded:
        why = str(load(OPERATORS[recorded]).supports(spec))
        step = ", and a RecurrentCell, one step of it, can be exported"
        return str(unrecorded(f"this layer of {cell_name}", why, step))
    return f"no backend can run this: {'; '.join(passed_over)}"


def _keyed(backend: str, spec: Spec, reason: str) -> Choice:
    choice = Choice(backend, spec, reason, str(next(_numbers)))
    _BY_KEY[choice.key] = choice
    return choice


def _candidates(spec: Spec) -> tuple[str, ...]:
    if spec.recorded:
        return OPERATORS[spec.recorded], "reference"
    return _PREFERRED.get(spec.device.type, _ELSEWHERE)


def _outrun(backend: Backend, spec: Spec) -> str | None:
    """Why a backend that can run ``spec`` leaves it to another that can too, or None."""
    of = getattr(backend, "outrun", None)
    found = of(spec) if of else None
    return found[1] if found and load(found[0]).supports(spec) is None else None


def run(
    choice: Choice, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    """What the chosen backend gives."""
    if (
        choice.backend in _BY_OPERATORS
        or not torch.compiler.is_dynamo_compiling()
        or torch.compiler.is_exporting()
    ):
        return LOADED[choice.backend].forward(choice.spec, x, state, weights, masks)
    place = int(_kept(choice.key))
    return Outcome(*_OPAQUE[0](place, x, state, _present(weights), _present(masks)))


# How torch.compile sees it: a choice is made while it traces and is constant in what it makes. The
# backends whose work is in operators it traces through; of the others it has a call in its graph, and
# what they do is seen one level below, where Python runs as it is.
_BY_OPERATORS = ("cpu", "triton")
_numbers = count()
_BY_KEY: WeakValueDictionary[str, Choice] = WeakValueDictionary()
_KEPT: list[Choice] = []
_OPAQUE: list[Callable[..., Any]] = []


@constant
def _kept(key: str) -> str:
    """The place in _KEPT of the choice of this key; as text, since a graph may not take a constant such as
    this for a number."""
    choice = _BY_KEY[key]
    if not _OPAQUE:
        _OPAQUE.append(nonstrict_trace(_opaque))
    if choice not in _KEPT:
        _KEPT.append(choice)
    return str(_KEPT.index(choice))


def _present(given: Weights | Masks) -> dict[str, Any]:
    """By name, less those that are None: a graph may not take these."""
    each = zip(given._fields, given, strict=True)
    return {name: value for name, value in each if value is not None}


def _opaque(
    place: int,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: dict[str, Any],
    masks: dict[str, Any],
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    choice = _KEPT[place]
    backend = LOADED[choice.backend]
    outcome = backend.forward(choice.spec, x, state, Weights(**weights), Masks(**masks))
    return outcome.output, outcome.state, dict(outcome.trace)


def streaming(cell: Cell) -> WholeNetworks:
    """The backend that runs layers of ``cell`` one step at a time.

    Raises:
        BackendError: it cannot.
    """
    backend = load(_STREAMS)
    if reason := backend.supports(Spec(cell=cell, input_size=1, hidden_size=1)):
        raise BackendError(f"a stream runs on the backend '{_STREAMS}', which {reason}")
    return cast(WholeNetworks, backend)


def load(name: str) -> Backend:
    """The backend of this name, imported when it is first asked for."""
    if name not in LOADED:
        LOADED[name] = cast(Backend, importlib.import_module(f"gatewise.backends.{name}"))
    return LOADED[name]
