"""The run of a layer with changed values: the runner that interventions give a recurrent module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from gatewise.backends import reference
from gatewise.backends.contract import Masks, Outcome, valid_steps
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.runs import LayerRun

_ROUNDINGS = (
    16  # values that are as close as this many units in the last place are equal up to rounding
)

# From the run, a function that returns a value's own trace over all steps by name (T×B×W), and the chosen
# steps: values that broadcast to B×S×U.
Values = Callable[[LayerRun, Callable[[str], Tensor], list[int]], Tensor]


@dataclass(eq=False, frozen=True)
class Change:
    """A change of one named value of a cell.

    Attributes:
        units, steps: the chosen ones, or None for all.
        layer, direction: the chosen one, or None for all.
        full: whether ``values`` returns values of all units and not only of the chosen ones.
        rounding: whether values that equal the own ones up to rounding are taken for equal.
    """

    name: str
    values: Values
    units: list[int] | None
    steps: list[int] | None
    layer: int | None
    direction: int | None
    full: bool = False
    rounding: bool = False

    def concerns(self, run: LayerRun) -> bool:
        return self.layer in (None, run.layer) and self.direction in (None, run.direction)


@dataclass(eq=False, frozen=True)
class ChangeAtStep:
    """What a change does at one step of a run.

    Attributes:
        values: B×U×…, of the change's units, or one number for all.
        rows: B booleans, the sequences that it concerns; None for all.
    """

    change: Change
    values: Tensor
    rows: Tensor | None = None


# For each step with a change, what the changes do, the inner blocks' last.
Plan = dict[int, list[ChangeAtStep]]


@dataclass(eq=False)
class ChangedRun:
    """A runner: the backend runs the steps without a change, and the cell's equations those with one."""

    module: str
    changes: list[Change] = field(default_factory=list)

    def __call__(self, run: LayerRun) -> Outcome:
        traced: dict[str, Tensor] = {}

        def own(name: str) -> Tensor:
            if not traced:
                traced.update(_traced(run))
            return traced[name]

        plan = self._plan(run, own)
        order = list(reference.step_order(len(run.x), run.reverse))
        first = next(
            (k for k, t in enumerate(order) if t in plan and _differs(run, t, plan, own)), None
        )
        if first is None:  # in one call, because a call of some steps may round in another way
            return run.execute(run.x, run.state, run.masks, run.trace)
        for t in order[:first]:
            plan.pop(t, None)
        return _joined(run, plan)

    def _plan(self, run: LayerRun, own: Callable[[str], Tensor]) -> Plan:
        plan: Plan = {}
        for change in self.changes:
            if not change.concerns(run):
                continue
            if change.name not in run.cell.values:
                raise OptionError(
                    f"in this call '{self.module}' has no '{change.name}', because it drops recurrent inputs of "
                    f"each gate; call the model without training"
                )
            steps = list(range(len(run.x))) if change.steps is None else change.steps
            if beyond := [step for step in steps if step >= len(run.x)]:
                raise ShapeError(
                    f"no step {beyond[0]} to change in '{self.module}': the input has {len(run.x)} "
                    f"steps, counted from 0"
                )
            values = self._fitted(change, change.values(run, own, steps), run, len(steps))
            for step, at_step in _by_step(change, values, run, steps):
                plan.setdefault(step, []).append(at_step)
        return plan

    def _fitted(self, change: Change, values: Tensor, run: LayerRun, steps: int) -> Tensor:
        """The values of the chosen units, B×S×U×…, or one number.

        Raises:
            ShapeError: the values do not broadcast to that.
        """
        if not values.dim():
            return values
        rest = run.x.shape[3:]
        if change.full and change.units is not None:
            values = values.index_select(-1 - len(rest), _indices(change.units, values))
        width = _width(run, change.name) if change.units is None else len(change.units)
        shape = (run.x.shape[1], steps, width, *rest)
        try:
            return values.expand(shape)
        except RuntimeError:
            raise ShapeError(
                f"the values for '{change.name}' of '{self.module}' have the shape "
                f"{tuple(values.shape)}, expected one that broadcasts to {shape}: sequences, steps, units"
            ) from None


def _by_step(
    change: Change, values: Tensor, run: LayerRun, steps: list[int]
) -> Iterator[tuple[int, ChangeAtStep]]:
    """A change at each step of the run that it concerns, from the values at the chosen ``steps`` of the input."""
    if run.places is None:
        for k, step in enumerate(steps):
            yield step, ChangeAtStep(change, values[:, k] if values.dim() else values)
        return
    index = torch.full((len(run.x),), -1, device=run.places.device)
    index[steps] = torch.arange(len(steps), device=index.device)
    sequences = torch.arange(run.places.shape[1], device=index.device)
    for step, chosen in enumerate(index[run.places]):
        rows = chosen >= 0
        if rows.any():
            at_step = values[sequences, chosen.clamp(min=0)] if values.dim() else values
            yield step, ChangeAtStep(change, at_step, None if rows.all() else rows)


@torch.no_grad()
def _traced(run: LayerRun) -> dict[str, Tensor]:
    """The trace of all steps without changes."""
    state = tuple(s.detach() for s in run.state)
    return dict(run.execute(run.x.detach(), state, run.masks, True, any_backend=True).trace)


@torch.no_grad()
def _differs(run: LayerRun, t: int, plan: Plan, own: Callable[[str], Tensor]) -> bool:
    """Whether a change gives a real step a value that is not its own."""
    for name, to in _targets(plan[t], lambda name: own(name)[t]).items():
        differs = to != own(name)[t]
        if run.masks.lengths is not None:
            differs = differs[valid_steps(len(run.x), run.masks.lengths)[t]]
        if differs.any():
            return True
    return False


def _targets(changes: Iterable[ChangeAtStep], own: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """B×W×…: the values after the changes, by name, where ``own`` has those before."""
    targets: dict[str, Tensor] = {}
    for each in changes:
        name = each.change.name
        targets[name] = _changed(each, targets[name] if name in targets else own(name))
    return targets


def _changed(at_step: ChangeAtStep, before: Tensor) -> Tensor:
    """B×W×…: the values ``before``, with those of a change in their place."""
    change, rows = at_step.change, at_step.rows
    units = None if change.units is None else _indices(change.units, before)
    there = before if units is None else before.index_select(1, units)
    values = at_step.values.to(before.dtype).expand_as(there)
    if rows is not None:
        values = torch.where(rows[:, None], values, there)
    if change.rounding and there.dtype.itemsize >= 4:
        near = _ROUNDINGS * torch.finfo(there.dtype).eps * there.abs().clamp(min=1.0)
        values = torch.where((values - there).abs() <= near, there, values)
    return values if units is None else before.index_copy(1, units, values)


def _joined(run: LayerRun, plan: Plan) -> Outcome:
    """The outcome of all steps, of which the equations run those in ``plan``."""
    state, parts = run.state, []
    for first, last in _segments(len(run.x), plan, run.reverse):
        if first in plan:
            found = _by_equations(run, first, last, state, plan)
        else:
            masks = _sliced(run.masks, first, last)
            found = run.execute(run.x[first:last], state, masks, run.trace)
        parts.append(found)
        state = found.state
    parts = parts[::-1] if run.reverse else parts
    trace = {name: torch.cat([part.trace[name] for part in parts]) for name in parts[0].trace}
    return Outcome(torch.cat([part.output for part in parts]), state, trace)


def _segments(steps: int, plan: Plan, reverse: bool) -> list[tuple[int, int]]:
    """The first and last step (exclusive) of each part with or without changes, in the order of the run."""
    ends = [0, *(t for t in range(1, steps) if (t in plan) != (t - 1 in plan)), steps]
    pairs = list(pairwise(ends))
    return pairs[::-1] if reverse else pairs


def _sliced(masks: Masks, first: int, last: int) -> Masks:
    """The masks of some steps."""
    lengths, zoneout = masks.lengths, masks.zoneout
    return masks._replace(
        lengths=None if lengths is None else (lengths - first).clamp(0, last - first),
        reset=None if masks.reset is None else masks.reset[first:last],
        zoneout=zoneout
        and tuple(share if len(share) == 1 else share[first:last] for share in zoneout),
    )


def _by_equations(
    run: LayerRun, first: int, last: int, state: tuple[Tensor, ...], plan: Plan
) -> Outcome:
    """The outcome of the steps from ``first`` to ``last`` (exclusive), all of which have changes."""

    def changes(t: int) -> dict[str, Callable[[Tensor], Tensor]]:
        at_step = plan[first + t]
        names = [each.change.name for each in at_step]
        return {name: partial(_after, at_step, name) for name in names}

    masks = _sliced(run.masks, first, last)
    return reference.through_time(
        *(run.cell, run.x[first:last], state, run.weights, masks, run.product),
        reverse=run.reverse,
        trace=run.trace,
        changes=changes,
    )


def _after(changes: list[ChangeAtStep], name: str, value: Tensor) -> Tensor:
    """The value, B×W×…, after the changes of that name."""
    concerned = [each for each in changes if each.change.name == name]
    return _targets(concerned, lambda _: value).get(name, value)


def _width(run: LayerRun, name: str) -> int:
    """The number of units of a named value."""
    if name == run.cell.state[0]:
        return run.state[0].shape[1]
    return run.weights.input.shape[0] // len(run.cell.gates)


def _indices(units: list[int], like: Tensor) -> Tensor:
    return torch.tensor(units, device=like.device)
