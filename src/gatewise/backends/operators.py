"""An engine's calls as operators of torch's dispatcher, which torch.compile and torch.export put in graphs.

``gatewise::run`` is a call. If a gradient is needed it becomes ``run_saving``, and ``run_back`` is its
backward pass. ``run_traced`` also returns the named values. ``run_history`` is a call whose trace has a
gradient; it becomes ``run_saving_history``, and ``run_history_back`` is its backward pass. A graph can be
loaded from a file and run on any tensors, so each operator checks its arguments.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewise.backends.contract import (
    NAMED_WEIGHTS,
    Masks,
    Weights,
    check_lengths,
    check_tensor,
    differentiated,
)
from gatewise.backends.engine import Arguments, Engine, computed_in, engine_for, unnormalised
from gatewise.backends.gradient import Run
from gatewise.backends.history import history
from gatewise.backends.torch_private import below_autograd, constant
from gatewise.cells.catalogue import CELLS
from gatewise.cells.language import Cell, from_signature
from gatewise.emit.steps import layout
from gatewise.errors import BackendError, CellError, ShapeError


class Operands(NamedTuple):
    """The arguments of every operator, in the order of the schema."""

    x: Tensor
    state: list[Tensor]
    weights: list[Tensor | None]
    lengths: Tensor | None
    reset: Tensor | None
    recurrent: Tensor | None
    zoneout: list[Tensor]
    cell: str
    proj_size: int
    reverse: bool

    @property
    def engine(self) -> Engine:
        engine = engine_for(self.x.device)
        if engine is None:
            raise BackendError(f"gatewise::run has no kernels for the device '{self.x.device}'")
        return engine

    def arguments(self) -> Arguments:
        """The arguments of an engine's call.

        Raises:
            ShapeError: the number of states or weights is not the cell's.
        """
        cell = _cell(self.cell)
        weights = _named_weights(self, cell)
        masks = Masks(self.lengths, self.reset, self.recurrent, tuple(self.zoneout) or None)
        return Arguments(cell, self.reverse, self.x, tuple(self.state), weights, masks)


def _as_operands(*given: Any) -> Operands:
    """The operands of an operator's call. A package of AOTInductor passes None for an empty list."""
    operands = Operands(*given)
    return operands if operands.zoneout is not None else operands._replace(zoneout=[])


def operands(given: Arguments) -> Operands:
    """The operands for the arguments of an engine's call."""
    lengths, reset, recurrent, zoneout = given.masks
    return Operands(
        x=given.x,
        state=list(given.state),
        weights=given.weights.listed(given.cell),
        lengths=lengths,
        reset=reset,
        recurrent=recurrent,
        zoneout=list(zoneout or ()),
        cell=_key(given.cell),
        proj_size=given.proj_size,
        reverse=given.reverse,
    )


@constant
def _key(cell: Cell) -> str:
    """The text that identifies ``cell`` in a graph: a built-in cell's name, or the name and the equations.

    The name is followed by gatewise's version. torch.compile keeps compiled graphs on disk and finds them by
    the operators and their arguments, and not by the sizes of results; another version may save other sizes.
    """
    built_in = CELLS.get(cell.name) == cell
    name = cell.name if built_in or cell.name.isidentifier() else "cell"
    return f"{name}@{_version()}" + ("" if built_in else f"\n{cell.signature}")


@lru_cache(maxsize=1)
def _version() -> str:
    return importlib.metadata.version("gatewise")


@lru_cache(maxsize=256)
def _cell(key: str) -> Cell:
    named, _, signature = key.partition("\n")
    name, _, _ = named.partition("@")  # a graph in a file may be of another version
    if signature:
        return from_signature(name, signature)
    if name not in CELLS:
        raise CellError(
            f"this graph uses the cell '{name}', which this version of gatewise does not have"
        )
    return CELLS[name]


# Checks -----------------------------------------------------------------------------------


def _checked(*given: Any) -> Operands:
    """The checked operands.

    Raises:
        ShapeError: a tensor does not fit.
        BackendError: the engine cannot run them.
    """
    operands = _as_operands(*given)
    x, cell = operands.x, _cell(operands.cell)
    engine = operands.engine
    if x.dim() != 3 or x.dtype not in engine.DTYPES:
        raise ShapeError(
            f"gatewise::run on '{x.device.type}' takes an input T×B×I of "
            f"{', '.join(map(str, engine.DTYPES))}, not {x.dtype} of the shape {tuple(x.shape)}"
        )
    if reason := engine.unusable(cell):
        raise BackendError(f"the kernels on '{x.device.type}' cannot run this: it {reason}")
    arguments = operands.arguments()
    for name, tensor, shape in _expected(arguments):
        if tensor is not None:
            check_tensor(name, tensor, shape, x)
    _check_masks(arguments)
    resolved = [None if w is None else w.resolve_neg() for w in operands.weights]
    return operands._replace(weights=resolved)


def _named_weights(given: Operands, cell: Cell) -> Weights:
    names = (*NAMED_WEIGHTS, *cell.params)
    there = dict(zip(names, given.weights, strict=False))
    needed = dict.fromkeys(("input", "recurrent", *cell.params), True)
    needed |= {"projection": given.proj_size > 0}
    needed |= {"norm_recurrent": there.get("norm_input") is not None}
    fit = all((there.get(name) is not None) == need for name, need in needed.items())
    if len(given.state) != len(cell.state) or len(given.weights) != len(names) or not fit:
        raise ShapeError(
            f"the cell '{cell.name}' with proj_size={given.proj_size} has the states "
            f"{', '.join(cell.state)} and the weights {', '.join(names)}; the call has "
            f"{len(given.state)} states and {[n for n, w in there.items() if w is not None]}"
        )
    return Weights.from_list(given.weights, cell)


def _recurrent_inputs(given: Arguments) -> int:
    """F, the sum of the widths of the recurrent inputs."""
    sizes = dict(zip(given.cell.state, given.state_sizes(), strict=True))
    return sum(sizes[name] for name in given.cell.feedback)


def _expected(given: Arguments) -> Iterator[tuple[str, Tensor | None, tuple[int, ...]]]:
    """The name, the tensor and the expected shape of each state and weight."""
    cell, units, weights = given.cell, given.hidden_size, given.weights
    batch, stacked = given.x.shape[1], len(cell.gates) * given.hidden_size
    for name, state, size in zip(cell.state, given.state, given.state_sizes(), strict=True):
        yield f"the initial state {name}", state, (batch, size)
    shapes = {
        "input": (stacked, given.x.shape[2]),
        "recurrent": (stacked, _recurrent_inputs(given)),
        "projection": (given.proj_size, units),
    }
    for name in NAMED_WEIGHTS:
        yield name, getattr(weights, name), shapes.get(name, (stacked,))
    for name, weight in weights.per_unit.items():
        yield name, weight, (units,)


def _check_masks(given: Arguments) -> None:
    steps, batch, _ = given.x.shape
    sizes = [state.shape[1] for state in given.state]
    lengths, reset, recurrent, zoneout = given.masks
    if lengths is not None:
        like = given.x.new_empty(0, dtype=torch.int64)
        check_tensor("lengths", lengths.long(), (batch,), like)
        check_lengths(lengths, steps)
    if reset is not None:
        check_tensor("reset", reset, (steps, batch), given.x.new_empty(0, dtype=torch.bool))
    if recurrent is not None:
        shape = (batch, _recurrent_inputs(given))
        check_tensor("the recurrent factors", recurrent, shape, given.x)
    shares = zoneout or ()
    if shares and len(shares) != len(sizes):
        raise ShapeError(f"zoneout has {len(shares)} shares, expected {len(sizes)}")
    for share, size in zip(shares, sizes, strict=False):
        broadcast = [
            full if n == full else 1 for n, full in zip(share.shape, (steps, batch), strict=False)
        ]
        check_tensor("zoneout's share", share, (*broadcast, size), given.x)
    if given.weights.norm_input is not None and unnormalised(given.cell):
        raise BackendError(f"the kernels cannot normalise the parts of '{given.cell.name}'")


# The operators -------------------------------------------------------------------------------------

_GIVEN = (
    "Tensor x, Tensor[] state, Tensor?[] weights, Tensor? lengths, Tensor? reset, "
    "Tensor? recurrent, Tensor[] zoneout, str cell, int proj_size, bool reverse"
)
_BACK = "Tensor?[] grads, Tensor activations, bool[] wanted"
_LIBRARY = torch.library.Library("gatewise", "DEF")


def _define(name: str, takes: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.define(f"{name}({takes}) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(f"gatewise::{name}", fake, lib=_LIBRARY)


def _run(*given: Any) -> list[Tensor]:
    """The output and the final states."""
    o = _checked(*given)
    return o.engine.forward(o.arguments())


def _run_fake(*given: Any) -> list[Tensor]:
    o = _as_operands(*given)
    steps, batch, _ = o.x.shape
    output = o.x.new_empty(steps, batch, o.state[0].shape[1])
    return [output, *(s.new_empty(s.shape) for s in o.state)]


def _run_differentiably(*operands: Any) -> list[Tensor]:
    """``run`` above autograd: with a gradient if a tensor needs one."""
    o = _as_operands(*operands)
    given = o.arguments()
    tensors = given.tensors()
    if differentiated(tensors):
        return list(Run.apply(_Operators, given, *tensors))
    with below_autograd():
        return torch.ops.gatewise.run(*o)


class _Operators:
    """The operators in the form in which gradient.Run calls an engine, while torch traces."""

    @staticmethod
    def forward_saving(given: Arguments) -> list[Tensor]:
        return torch.ops.gatewise.run_saving(*operands(given))

    @staticmethod
    def backward(
        given: Arguments,
        activations: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        found = iter(torch.ops.gatewise.run_back(grads, activations, wanted, *operands(given)))
        return [next(found) if want else None for want in wanted]


def _run_saving(*given: Any) -> list[Tensor]:
    """The output, the final states and the saved activations."""
    o = _checked(*given)
    return o.engine.forward_saving(o.arguments())


def _run_saving_fake(*given: Any) -> list[Tensor]:
    o = _as_operands(*given)
    return [*_run_fake(*given), o.engine.activations_like(o.arguments())]


def _checked_gradients(
    o: Operands,
    activations: Tensor,
    grads: Sequence[Tensor | None],
    fake: Callable[..., list[Tensor]],
) -> list[Tensor | None]:
    """The gradients as plain arrays, after a check of them and of the saved activations against the results of
    ``fake``."""
    like = o.engine.activations_like(o.arguments())
    check_tensor("the saved activations", activations, tuple(like.shape), like)
    for k, (grad, outcome) in enumerate(zip(grads, fake(*o), strict=True)):
        if grad is not None:
            check_tensor(f"the gradient of result {k}", grad, tuple(outcome.shape), outcome)
    return [None if g is None else g.resolve_neg() for g in grads]


def _run_back(
    grads: list[Tensor | None], activations: Tensor, wanted: list[bool], *given: Any
) -> list[Tensor]:
    """The ``wanted`` gradients of x, the states and the weights."""
    o = _checked(*given)
    plain = _checked_gradients(o, activations, grads, _run_fake)
    found = o.engine.backward(o.arguments(), activations, plain, wanted)
    return [g for g in found if g is not None]


def _run_back_fake(
    grads: Any, activations: Tensor, wanted: list[bool], *given: Any
) -> list[Tensor]:
    each = zip(_as_operands(*given).arguments().tensors(), wanted, strict=True)
    return [t.new_empty(t.shape) for t, want in each if t is not None and want]


def _run_traced(*given: Any) -> list[Tensor]:
    """The output, the final states, and the named values stacked in one tensor."""
    o = _checked(*given)
    outcome, trace = o.engine.traced(o.arguments())
    return [*outcome, torch.stack(list(trace.values()))]


def _run_traced_fake(*given: Any) -> list[Tensor]:
    o = _as_operands(*given)
    arguments = o.arguments()
    (steps, batch, _), values = o.x.shape, len(arguments.cell.values)
    traced = o.x.new_empty(values, steps, batch, arguments.hidden_size)
    return [*_run_fake(*given), traced]


def _run_history(*given: Any) -> list[Tensor]:
    """The results of ``history.RunHistory``."""
    o = _checked(*given)
    found = _history_engine(o).forward_saving_history(o.arguments())
    saved = 1 + len(o.state)
    return [*found[:saved], *found[saved + 1 :]]


def _history_engine(o: Operands) -> Any:
    if o.x.device.type != "cpu":
        raise BackendError(f"gatewise::run_history has no kernels for the device '{o.x.device}'")
    return o.engine


def _run_history_fake(*given: Any) -> list[Tensor]:
    o = _as_operands(*given)
    arguments = o.arguments()
    shape = (*o.x.shape[:2], arguments.hidden_size)
    history = [o.x.new_empty(shape) for _ in o.state[1:]]
    count, dtype = len(layout(arguments.cell).accumulators), computed_in(o.x.dtype)
    return [
        *_run_fake(*given),
        *history,
        *(o.x.new_empty(shape, dtype=dtype) for _ in range(count)),
    ]


def _run_history_differentiably(*operands: Any) -> list[Tensor]:
    """``run_history`` above autograd: with a gradient if a tensor needs one."""
    o = _as_operands(*operands)
    given = o.arguments()
    if differentiated(given.tensors()):
        return history(_HistoryOperators, given)
    with below_autograd():
        return torch.ops.gatewise.run_history(*o)


class _HistoryOperators:
    """The operators in the form in which RunHistory calls an engine, while torch traces."""

    @staticmethod
    def forward_saving_history(given: Arguments) -> list[Tensor]:
        return torch.ops.gatewise.run_saving_history(*operands(given))

    @staticmethod
    def backward_of_history(
        given: Arguments,
        activations: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
        after: bool,
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        assert not after  # a trace from a graph has no adjoints
        back = torch.ops.gatewise.run_history_back
        found = iter(back(grads, activations, wanted, *operands(given)))
        return [next(found) if want else None for want in wanted], []


def _run_saving_history(*given: Any) -> list[Tensor]:
    """The results of ``run_history``, with the saved activations behind the final states."""
    o = _checked(*given)
    return _history_engine(o).forward_saving_history(o.arguments())


def _run_saving_history_fake(*given: Any) -> list[Tensor]:
    o = _as_operands(*given)
    found, saved = _run_history_fake(*given), 1 + len(o.state)
    activations = o.engine.activations_like(o.arguments())
    return [*found[:saved], activations, *found[saved:]]


def _run_history_back(
    grads: list[Tensor | None], activations: Tensor, wanted: list[bool], *given: Any
) -> list[Tensor]:
    """The ``wanted`` gradients of x, the states and the weights."""
    o = _checked(*given)
    plain = _checked_gradients(o, activations, grads, _run_history_fake)
    engine = _history_engine(o)
    found, _ = engine.backward_of_history(o.arguments(), activations, plain, wanted, False)
    return [g for g in found if g is not None]


_define("run", _GIVEN, _run, _run_fake)
_define("run_saving", _GIVEN, _run_saving, _run_saving_fake)
_define("run_back", f"{_BACK}, {_GIVEN}", _run_back, _run_back_fake)
_define("run_traced", _GIVEN, _run_traced, _run_traced_fake)
_define("run_history", _GIVEN, _run_history, _run_history_fake)
_define("run_saving_history", _GIVEN, _run_saving_history, _run_saving_history_fake)
_define("run_history_back", f"{_BACK}, {_GIVEN}", _run_history_back, _run_back_fake)
_LIBRARY.impl("run", _run_differentiably, "Autograd")
_LIBRARY.impl("run_history", _run_history_differentiably, "Autograd")
