"""The choice of a backend for a call: the first in the order of preference that can run it, or a named one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

import gatewise.backends.operators  # noqa: F401  registers the operators, which a saved graph may use
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

# The backends. Each is a module of this package, and is imported when it is first used.
BACKENDS = ("cpu", "triton", "aten", "scan", "reference")

# The order of preference for "auto", by type of device.
_PREFERRED = {"cuda": ("scan", "triton", "aten", "reference")}
_ELSEWHERE = ("cpu", "aten", "scan", "reference")

# The backend of streams.
_STREAMS = "cpu"

# The imported backends by name.
LOADED: dict[str, Backend] = {}


def checked_name(name: object) -> str:
    """``name``, which must be the name of a backend or "auto".

    Raises:
        OptionError: the name is anything else.
    """
    names = ("auto", *BACKENDS)
    if not isinstance(name, str) or name not in names:
        raise unknown("backend", str(name), names)
    return str(name)


@constant
def choose(name: str = "auto", **fields: Any) -> Choice:
    """The backend for a call, by the fields of its Spec other than ``transformed`` and ``recorded``.

    The choice is cached, and so is the error for fields that no backend can run. In a graph of
    torch.compile it is a constant.

    Raises:
        BackendError: the backend ``name`` cannot run the call, or no backend can. The message has the
            reasons.
    """
    # the cell's name is a part of the key: equal cells may have different names, and messages contain them
    found = _found(name, fields["cell"].name, transformed(), recording(), **fields)
    if isinstance(found, str):
        raise BackendError(found)
    return found


def explain(choice: Choice) -> str:
    """The choice as a sentence, with what torch's global settings change of the call now."""
    of = getattr(LOADED[choice.backend], "settings", None)
    changed = of(choice.spec) if of else None
    return f"{choice}; {changed}" if changed else str(choice)


def forget_choices() -> None:
    """Clears the cache of choices, for example after a package or compiler was installed."""
    _found.cache_clear()


@lru_cache(maxsize=4096)
def _found(
    name: str, cell_name: str, transformed: bool, recorded: str, **fields: Any
) -> Choice | str:
    """The choice, or the error message if there is none."""
    spec = Spec(**fields, transformed=transformed, recorded=recorded)
    if name != "auto":
        backend = load(name)
        if reason := backend.supports(spec):
            return f"the backend '{name}' was asked for, but it {reason}"
        return _with_key(name, spec, f"{backend.describe(spec)}; asked for by name")
    passed_over: list[str] = []
    for candidate in _candidates(spec):
        backend = load(candidate)
        reason = backend.supports(spec) or _outrun(backend, spec)
        if reason is None:
            why = "; ".join(passed_over) or "the first in order of preference"
            return _with_key(candidate, spec, f"{backend.describe(spec)}; {why}")
        passed_over.append(f"'{candidate}' {reason}")
    if recorded:
        why = str(load(OPERATORS[recorded]).supports(spec))
        step = ", and a RecurrentCell, one step of it, can be exported"
        return str(unrecorded(f"this layer of {cell_name}", why, step))
    return f"no backend can run this: {'; '.join(passed_over)}"


def _with_key(backend: str, spec: Spec, reason: str) -> Choice:
    choice = Choice(backend, spec, reason, str(next(_numbers)))
    _BY_KEY[choice.key] = choice
    return choice


def _candidates(spec: Spec) -> tuple[str, ...]:
    if spec.recorded:
        return OPERATORS[spec.recorded], "reference"
    return _PREFERRED.get(spec.device.type, _ELSEWHERE)


def _outrun(backend: Backend, spec: Spec) -> str | None:
    """Why ``backend`` leaves ``spec`` to a faster backend, which can run it too; or None."""
    of = getattr(backend, "outrun", None)
    found = of(spec) if of else None
    return found[1] if found and load(found[0]).supports(spec) is None else None


def run(
    choice: Choice, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    """The outcome of the chosen backend."""
    spec = choice.spec
    if (
        (choice.backend in _BY_OPERATORS and not (spec.trace and spec.differentiated))
        or not torch.compiler.is_dynamo_compiling()
        or torch.compiler.is_exporting()
    ):
        return LOADED[choice.backend].forward(choice.spec, x, state, weights, masks)
    index = int(_index_in_graphs(choice.key))
    return Outcome(*_TRACED[0](index, x, state, _not_none(weights), _not_none(masks)))


def run_with_output(
    choice: Choice,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    masks: Masks,
    output: Tensor,
) -> Outcome | None:
    """The outcome of a traced call without gradients whose output, T×B×P, is known: see ``contract.KnownOutput``.

    None if the chosen backend cannot use that."""
    of = getattr(LOADED[choice.backend], "run_with_output", None)
    return of(choice.spec, x, state, weights, masks, output) if of else None


# Under torch.compile, a choice is made while it traces, and is a constant in the graph. It traces through
# the backends whose work is done by operators. For the others, and for a trace with a gradient, whose named
# values are computed in torch operations, the graph has one call of _run_chosen, which torch traces one level
# below, where Python runs as usual.
_BY_OPERATORS = ("cpu", "triton")
_numbers = count()
_BY_KEY: WeakValueDictionary[str, Choice] = WeakValueDictionary()
_IN_GRAPHS: list[Choice] = []  # the choices that graphs use; they must live as long as the graphs
_TRACED: list[Callable[..., Any]] = []  # _run_chosen as torch.compile calls it, made at first use


@constant
def _index_in_graphs(key: str) -> str:
    """The index in _IN_GRAPHS of the choice with this key, as text: torch.compile may treat a number as an
    input of the graph."""
    choice = _BY_KEY[key]
    if not _TRACED:
        _TRACED.append(nonstrict_trace(_run_chosen))
    if choice not in _IN_GRAPHS:
        _IN_GRAPHS.append(choice)
    return str(_IN_GRAPHS.index(choice))


def _not_none(given: Weights | Masks) -> dict[str, Any]:
    """The fields by name without those that are None, which a graph cannot have as inputs."""
    each = zip(given._fields, given, strict=True)
    return {name: value for name, value in each if value is not None}


def _run_chosen(
    index: int,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: dict[str, Any],
    masks: dict[str, Any],
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    choice = _IN_GRAPHS[index]
    backend = LOADED[choice.backend]
    outcome = backend.forward(choice.spec, x, state, Weights(**weights), Masks(**masks))
    return outcome.output, outcome.state, dict(outcome.trace)


def streaming(cell: Cell) -> WholeNetworks:
    """The backend that makes streams of ``cell``.

    Raises:
        BackendError: it cannot run the cell.
    """
    backend = load(_STREAMS)
    if reason := backend.supports(Spec(cell=cell, input_size=1, hidden_size=1)):
        raise BackendError(f"a stream runs on the backend '{_STREAMS}', which {reason}")
    return cast(WholeNetworks, backend)


def load(name: str) -> Backend:
    """The backend of this name, which is imported at its first use."""
    if name not in LOADED:
        LOADED[name] = cast(Backend, importlib.import_module(f"gatewise.backends.{name}"))
    return LOADED[name]
