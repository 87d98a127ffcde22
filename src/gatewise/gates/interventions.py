"""Interventions: within a ``with`` block, values of a recurrent module's cells are other than they would be.

:func:`clamp` sets values, :func:`ablate` takes a value's information away, :func:`patch` takes values from the
trace of another run. The module's backend runs the steps without an intervention, and the cell's equations are
evaluated in torch operations for those with one. An intervention with the values that are there anyway is none,
and changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import OptionError, ShapeError, unknown
from gatewise.gates.attach import recurrent_module, set_runner
from gatewise.gates.changed_run import Change, ChangedRun, Values
from gatewise.gates.find import is_keras
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.runs import LayerRun
from gatewise.nn.step import RecurrentCell
from gatewise.nn.trace import Trace

Steps = int | Iterable[int]


class Intervention:
    """A change of some values of one recurrent module, in force within a ``with`` block.

    Blocks may be nested. Where two change the same value, the inner one counts.
    """

    def __init__(self, model: nn.Module, module: str, change: Change) -> None:
        self._model, self._module, self._change = model, module, change
        self._block = ExitStack()

    def __enter__(self) -> nn.Module:
        ours = recurrent_module(self._model, self._module)
        if ours.runner is None:
            set_runner(self._model, self._module, ours, ChangedRun(self._module))
        if not isinstance(ours.runner, ChangedRun):
            raise OptionError(f"'{self._module}' is being attributed; intervene outside of that")
        ours.runner.changes.append(self._change)
        if is_keras(self._model):
            from gatewise.keras.model import errors_as_raised  # it loads Keras

            self._block.enter_context(errors_as_raised())
        return self._model

    def __exit__(self, *error: object) -> None:
        self._block.close()
        ours = recurrent_module(self._model, self._module)
        assert isinstance(ours.runner, ChangedRun)
        ours.runner.changes.remove(self._change)
        if not ours.runner.changes:
            set_runner(self._model, self._module, ours, None)


def clamp(
    model: nn.Module,
    module: str,
    name: str,
    *,
    to: float | Tensor,
    units: Steps | None = None,
    steps: Steps | None = None,
    layer: int | None = None,
    direction: int | None = None,
) -> Intervention:
    """Sets values of a recurrent module: ``with clamp(model, "lstm", "f", units=3, to=1.0): y = model(x)``.

    What is computed from a value, in this step and in later ones, follows from the value that is set. A state
    is set after projection and zoneout: what the next step reads. Padding has no values to set.

    Args:
        model: any module with recurrent layers of gatewise or torch.nn, or a Keras model on the torch backend;
            the layers are not replaced.
        module: the qualified name of the recurrent module, as in ``model.named_modules()``; "model" if
            ``model`` is one itself; for a Keras model the layer's path, as in a trace.
        name: a named value of the cell: a gate, a candidate or a state.
        to: a number, or a tensor that broadcasts to B×S×U: S chosen steps, U chosen units. Gradients flow
            to it.
        units: one or more units (channels of a convolutional layer); all if not given.
        steps: one or more steps, counted from 0 from the start of the sequences; all if not given.
        layer: the stacked layer; all if not given.
        direction: 0, or 1 for the one that reads from the end; both if not given.

    Raises:
        OptionError: the module, name, units, layer or direction are not there, or ``to`` is not finite.
        ShapeError: when the model is called: a step is not there, or ``to`` does not fit.
    """
    given = _finite(to)

    def values(run: LayerRun, own: Callable[[str], Tensor], steps: list[int]) -> Tensor:
        return torch.as_tensor(given, dtype=run.x.dtype, device=run.x.device)

    return _made(model, module, name, values, units, steps, layer, direction)


def ablate(
    model: nn.Module,
    module: str,
    name: str,
    *,
    to: str = "zero",
    units: Steps | None = None,
    steps: Steps | None = None,
    layer: int | None = None,
    direction: int | None = None,
) -> Intervention:
    """Takes the information of values away: each unit is set to zero, or to its mean.

    Args:
        to: "zero", or "mean" for the mean that the unit has over all real steps and sequences of the call
            without interventions in its layer.

    The other arguments and errors are those of :func:`clamp`.
    """
    if to not in ("zero", "mean"):
        raise unknown("way to ablate", str(to), ("zero", "mean"))

    def values(run: LayerRun, own: Callable[[str], Tensor], steps: list[int]) -> Tensor:
        if to == "zero":
            return run.x.new_zeros(())
        traced, lengths = own(name), run.masks.lengths  # zero in the padding
        count = len(traced) * traced.shape[1] if lengths is None else int(lengths.sum())
        return traced.sum((0, 1)) / max(count, 1)

    return _made(model, module, name, values, units, steps, layer, direction, full=True)


def patch(
    model: nn.Module,
    module: str,
    name: str,
    source: Trace | Mapping[str, Trace],
    *,
    units: Steps | None = None,
    steps: Steps | None = None,
    layer: int | None = None,
    direction: int | None = None,
) -> Intervention:
    """Takes values from the trace of another run (activation patching).

    A value that equals the unit's own up to rounding is left as it is.

    Args:
        source: the module's trace, or the traces of a model by module. Its sequences are those of the call,
            or one for all. The values come from the same steps.

    The other arguments and errors are those of :func:`clamp`.
    """
    trace = source if isinstance(source, Trace) else _of_module(source, module)
    values = trace[name]

    def chosen(run: LayerRun, own: Callable[[str], Tensor], steps: list[int]) -> Tensor:
        there = _at(_at(values, run.layer, "layer"), run.direction, "direction")
        if steps and steps[-1] >= there.shape[1]:
            raise ShapeError(
                f"the trace to patch '{name}' from has {there.shape[1]} steps, and step {steps[-1]} is "
                f"asked for; choose earlier steps="
            )
        return there[:, steps].to(run.x)

    return _made(
        model, module, name, chosen, units, steps, layer, direction, full=True, rounding=True
    )


def _of_module(source: object, module: str) -> Trace:
    if not isinstance(source, Mapping):
        raise OptionError(
            f"patch takes a trace or a mapping of traces by module, not {type(source).__name__}"
        )
    if module not in source:
        raise unknown("trace of the module", module, source)
    return source[module]


def _at(values: list[Any], index: int, kind: str) -> Any:
    if index >= len(values):
        raise ShapeError(f"the trace to patch from has no {kind} {index}; it has {len(values)}")
    return values[index]


def _finite(to: object) -> float | Tensor:
    if isinstance(to, Tensor):
        if not to.is_floating_point() or not to.isfinite().all():
            raise OptionError("to= must be a tensor of finite floating-point numbers")
        return to
    if isinstance(to, bool) or not isinstance(to, int | float) or not math.isfinite(to):
        raise OptionError(f"to= must be a finite number or a tensor, not {to!r}")
    return float(to)


@dataclass(frozen=True)
class _Sizes:
    layers: int
    directions: int
    width: int


def _made(
    model: nn.Module,
    module: str,
    name: str,
    values: Values,
    units: Steps | None,
    steps: Steps | None,
    layer: int | None,
    direction: int | None,
    **options: Any,
) -> Intervention:
    ours = recurrent_module(model, module)
    cell = ours.cell
    if name not in cell.values:
        raise unknown(f"value of the cell {cell.name}", str(name), cell.values)
    if is_keras(model):
        sizes = _Sizes(1, 1, ours.hidden_size)
    elif isinstance(ours, ConvRecurrent):
        sizes = _Sizes(ours.num_layers, 1 + ours.bidirectional, ours.hidden_channels)
    else:
        config = ours.config
        width = config.state_sizes[0] if name == cell.state[0] else config.hidden_size
        sizes = _Sizes(config.num_layers, 1 + config.bidirectional, width)
    if isinstance(ours, RecurrentCell) and steps is not None:
        raise OptionError(
            f"'{module}' is a {type(ours).__name__}, which has one step a call; give no steps=, and call it "
            f"within the block at the steps that you mean"
        )
    change = Change(
        name,
        values,
        units=_chosen("unit", units, sizes.width, f"{name} of '{module}'"),
        steps=_chosen("step", steps, None, ""),
        layer=_one("layer", layer, sizes.layers, module),
        direction=_one("direction", direction, sizes.directions, module),
        **options,
    )
    return Intervention(model, module, change)


def _one(kind: str, index: int | None, count: int, module: str) -> int | None:
    found = _chosen(kind, index, count, f"'{module}'")
    if found is not None and len(found) != 1:
        raise OptionError(f"give one {kind}, or none for all, not {index!r}")
    return None if found is None else found[0]


def _chosen(kind: str, given: Steps | None, count: int | None, of: str) -> list[int] | None:
    """The indices in order. ``count`` is the number that there are, or None if it is not known yet."""
    if given is None:
        return None
    each = [given] if isinstance(given, int) else given
    if isinstance(each, Tensor):
        each = each.tolist()
    if isinstance(each, str) or not isinstance(each, Iterable):
        raise OptionError(f"{kind}s must be integers, not {given!r}")
    found = list(each)
    for index in found:
        if isinstance(index, bool) or not hasattr(index, "__index__") or int(index) < 0:
            raise OptionError(f"a {kind} must be an integer from 0, not {index!r}")
        if count is not None and int(index) >= count:
            raise OptionError(f"no {kind} {index}: {of} has {count}, counted from 0")
    if not found:
        raise OptionError(f"no {kind} is chosen; give at least one, or nothing for all")
    if len(set(found)) < len(found):
        raise OptionError(f"a {kind} is given twice: {given!r}")
    return [int(index) for index in found]
