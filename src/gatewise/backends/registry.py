"""Which backend runs what: the first in the list that can, or the one asked for by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

import gatewise.backends.operators  # noqa: F401  a saved graph may hold them
from gatewise.backends.contract import Backend, Masks, Outcome, Spec, Weights, constant
from gatewise.backends.tracing import OPERATORS, recording, unrecorded
from gatewise.errors import BackendError, unknown

# Each is a module of this package, imported when first asked.
BACKENDS = ("cpu", "triton", "cuda", "aten", "scan", "reference")

# In order of preference, by kind of device.
_PREFERRED = {"cuda": ("scan", "triton", "aten", "reference")}
_ELSEWHERE = ("cpu", "aten", "scan", "reference")

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
    for candidate in _candidates(spec):
        backend = _load(candidate)
        reason = backend.supports(spec) or _outrun(backend, spec)
        if reason is None:
            why = "; ".join(passed_over) or "the first in order of preference"
            return backend, f"{candidate}: {backend.describe(spec)}; {why}"
        passed_over.append(f"'{candidate}' {reason}")
    if spec.recorded:
        why = str(_load(OPERATORS[spec.recorded]).supports(spec))
        step = ", and a RecurrentCell, one step of it, can be exported"
        raise unrecorded(f"this layer of {spec.cell.name}", why, step)
    raise BackendError(f"no backend can run this: {'; '.join(passed_over)}")


def _candidates(spec: Spec) -> tuple[str, ...]:
    if spec.recorded:
        return OPERATORS[spec.recorded], "reference"
    return _PREFERRED.get(spec.device.type, _ELSEWHERE)


def _outrun(backend: Backend, spec: Spec) -> str | None:
    """Why a backend that can run ``spec`` leaves it to another that can too, or None."""
    of = getattr(backend, "outrun", None)
    found = of(spec) if of else None
    return found[1] if found and _load(found[0]).supports(spec) is None else None


@constant
def chosen(name: str, **fields: Any) -> tuple[str, tuple[bool, str], str]:
    """The name of the backend for the Spec of these fields, whether it is ``transformed`` and what it is
    ``recorded`` by, and the sentence that says why. In what torch.compile makes they are constants, for as
    long as the fields are the same."""
    around = transformed(), recording()
    _, why = choose(_spec(fields, around), name)
    return why.partition(":")[0], around, why


def _spec(fields: Mapping[str, Any], around: tuple[bool, str]) -> Spec:
    return Spec(**fields, transformed=around[0], recorded=around[1])


def run(
    name: str,
    fields: Mapping[str, Any],
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Callable[[Spec], Masks],
) -> Outcome:
    """What the backend chosen for these fields gives. ``masks`` makes them for the Spec."""
    backend, around, _ = chosen(name, **fields)
    spec = _spec(fields, around)
    if (
        backend in _BY_OPERATORS
        or not torch.compiler.is_dynamo_compiling()
        or torch.compiler.is_exporting()
    ):
        return LOADED[backend].forward(spec, x, state, weights, masks(spec))
    place = int(_kept(name, **fields))
    return Outcome(*_OPAQUE[0](place, x, state, _present(weights), _present(masks(spec))))


# How torch.compile sees it: a choice is made while it traces and is constant in what it makes. The
# backends whose work is in operators it traces through; of the others it has a call in its graph, and
# what they do is seen one level below, where Python runs as it is.
_BY_OPERATORS = ("cpu", "triton")
_RUNS: list[tuple[str, Spec]] = []
_OPAQUE: list[Callable[..., Any]] = []


@constant
def _kept(name: str, **fields: Any) -> str:
    """The place in _RUNS of what is chosen for these fields; as text, since a graph may not take a
    constant such as this for a number."""
    if not _OPAQUE:
        _OPAQUE.append(torch._dynamo.nonstrict_trace(_opaque))
    backend, around, _ = chosen(name, **fields)
    run = backend, _spec(fields, around)
    if run not in _RUNS:
        _RUNS.append(run)
    return str(_RUNS.index(run))


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
    backend, spec = _RUNS[place]
    given = Weights(**weights), Masks(**masks)
    outcome = LOADED[backend].forward(spec, x, state, *given)
    return outcome.output, outcome.state, dict(outcome.trace)


_interpreters = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack
_autocast = torch._C._is_any_autocast_enabled


def transformed() -> bool:
    """Whether torch.func (vmap, jvp, grad, …) or forward-mode differentiation is at work here."""
    return forward_ad._current_level >= 0 or _interpreters() is not None


def watched() -> bool:
    """Whether what is done here is for torch to see operation by operation, or to change: it compiles,
    traces, transforms or casts."""
    return (
        torch.compiler.is_compiling()
        or _modes() > 0
        or transformed()
        or _tracing() is not None
        or _autocast()
    )


def _load(name: str) -> Backend:
    if name not in LOADED:
        LOADED[name] = cast(Backend, importlib.import_module(f"gatewise.backends.{name}"))
    return LOADED[name]
