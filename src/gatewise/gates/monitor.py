"""A monitor of training: at a few steps it looks at the gates and at how far gradients reach, and warns.

It works on copies of the inputs that the recurrent layers get, after the backward pass. Neither the weights nor
their gradients nor the random numbers of the training change.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gatewise.cells.language import Cell
from gatewise.cells.retention import retention
from gatewise.errors import DataError, OptionError, caution
from gatewise.gates.directions import Place
from gatewise.gates.find import find_modules, is_keras
from gatewise.gates.horizon import horizon_of_direction
from gatewise.gates.recorded import Call, DirectionCall, directions_of, recording
from gatewise.gates.statistics import LayerStatistics, gate_statistics
from gatewise.options import integer

Array = np.ndarray

_VECTORS = 4  # for which gradients are taken at a look
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Limits:
    """When the monitor warns.

    Attributes:
        vanished: a gradient vanishes if less than this share of its greatest norm is left …
        vanished_after: … after this many steps, in sequences of at least ten times as many.
        exploded: a gradient explodes if its norm reaches this multiple of the norm of the input weights.
        saturated: a gate is saturated if this share of its values is in the lowest or the highest tenth of its
            range. Candidates and states between bounds, such as tanh, count alike.
        dead: the share of a layer's units whose output is always 0, or below 1 % of the median unit's.
        in_a_row: the number of looks in a row that must find it.
    """

    vanished: float = 0.01
    vanished_after: int = 3
    exploded: float = 100.0
    saturated: float = 0.95
    dead: float = 0.1
    in_a_row: int = 3


@dataclass(frozen=True)
class Look:
    """What the monitor saw in one layer at one training step.

    Attributes:
        step: the number of training steps before it.
        place: the layer.
        saturated: for each value with a finite range the share of values in its lowest or highest tenth.
        dead: the share of dead units.
        norms: ‖∂h_t/∂x_{t-k}‖ of the recurrent module's last layer against k, as multiples of the norm of the
            module's input weights. For lower layers it is empty.
    """

    step: int
    place: Place
    saturated: dict[str, float]
    dead: float
    norms: Array


class Monitor:
    """Looks at a model's recurrent layers during training, and warns of what goes wrong.

    Call ``step()`` once for each training step, after the backward pass::

        monitor = gw.gates.Monitor(model)
        for x, y in batches:
            loss = loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            monitor.step()
            optimizer.step()

    A warning names the layer, what was found and what helps. Each is given once.

    Args:
        model: a module with recurrent layers or step cells of gatewise or ``torch.nn``, or a Keras model. A loop
            over a step cell is looked at from its first call to the first that gets another state than the one
            before returned.
        every: the number of training steps between two looks. By default as often as takes at most the
            share ``overhead`` of the time.
        overhead: the greatest share of the time that is spent on looking.
        sequences: the number of sequences of a batch that are looked at.
        steps: the number of their first steps that are looked at.
        limits: when to warn.

    Attributes:
        looks: what was seen, a list of :class:`Look`.
        warnings: the warnings, as sentences.
        seconds: the time that was spent on looking.

    Raises:
        OptionError: the model has no recurrent module, or one of Keras with an activation that gatewise has no
            equation for; or an option is not valid.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int | None = None,
        overhead: float = 0.02,
        sequences: int = 4,
        steps: int = 256,
        limits: Limits | None = None,
    ) -> None:
        if not 0 < overhead < 1:
            raise OptionError(f"overhead={overhead} must be a share between 0 and 1")
        self.every = None if every is None else integer("every", every)
        self.overhead = float(overhead)
        self.sequences, self.steps = integer("sequences", sequences), integer("steps", steps)
        self.limits = Limits() if limits is None else limits
        self.looks: list[Look] = []
        self.warnings: list[str] = []
        self.seconds = 0.0
        self._modules = find_modules(model)
        if is_keras(model):
            from gatewise.keras.model import check_equations  # it loads Keras

            check_equations(self._modules, "the monitor cannot watch it")
        self._count = 0
        self._in_a_row: Counter[tuple[Place, str]] = Counter()
        self._said: set[tuple[Place, str]] = set()
        self._open: ExitStack | None = None
        self._calls: dict[str, list[Call]] = {}
        self._begun = time.perf_counter()
        if self.every is not None:
            self._listen()

    def step(self) -> None:
        """Marks the end of a training step's backward pass; at some steps the monitor looks."""
        if self._open is not None:
            begun = time.perf_counter()
            self.close()
            for call in (call for of_module in self._calls.values() for call in of_module):
                self._look(call.few(self.sequences, self.steps))
            self._calls = {}
            self.seconds += time.perf_counter() - begun
        self._count += 1
        if self._due():
            self._listen()

    def close(self) -> None:
        """Removes the monitor's hooks from the model; they are there only in steps at which it looks."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def table(self) -> dict[str, Array]:
        """The looks as columns: ``step``, ``module``, ``layer``, ``direction``, ``dead``, ``reach`` (the greatest k
        with 1 % of the greatest norm; -1 for lower layers) and ``gain`` (the greatest norm; NaN for lower
        layers), and the saturated share of each value."""
        names = sorted({name for look in self.looks for name in look.saturated})
        rows = [
            {
                "step": look.step,
                **look.place._asdict(),
                "dead": look.dead,
                "reach": _reach(look.norms, self.limits.vanished),
                "gain": look.norms.max() if len(look.norms) else np.nan,
                **{name: look.saturated.get(name, np.nan) for name in names},
            }
            for look in self.looks
        ]
        return (
            {column: np.array([row[column] for row in rows]) for column in rows[0]} if rows else {}
        )

    def __repr__(self) -> str:
        heading = f"{len(self.looks)} looks at {len(self._modules)} recurrent modules in {self._count} steps"
        return "\n".join([heading, *(self.warnings or ["nothing to warn of"])])

    def _due(self) -> bool:
        if self.every is not None:
            return self._count % self.every == 0
        # the first look comes when there is something to compare its time with
        elapsed = time.perf_counter() - self._begun
        return self._count > 1 and self.seconds <= self.overhead * elapsed

    def _listen(self) -> None:
        if self._open is None:
            self._open = ExitStack()
            block = recording(self._modules, in_training=True, checked=False)
            self._calls = self._open.enter_context(block)

    def _look(self, call: Call) -> None:
        if not len(call.lengths) or not int(call.lengths.max()):
            return
        each = list(directions_of({call.name: [call]}))
        with torch.autocast(call.x.device.type, enabled=False):
            try:
                statistics = gate_statistics({call.name: call.trace()}).layers
            except DataError as error:
                self._warn(each[0].place, "not finite", str(error))
                return
            for one in each:
                of_call = statistics[Place(call.name, one.layer, one.direction)]
                look = _seen(self._count, one, of_call)
                self.looks.append(look)
                self._judge(look, call)

    def _judge(self, look: Look, call: Call) -> None:
        found = dict(_complaints(look, call, self.limits))
        for key in [key for key in self._in_a_row if key[0] == look.place]:
            if key[1] not in found:
                self._in_a_row[key] = 0
        for kind, sentence in found.items():
            self._in_a_row[look.place, kind] += 1
            if self._in_a_row[look.place, kind] >= self.limits.in_a_row:
                self._warn(look.place, kind, sentence)

    def _warn(self, place: Place, kind: str, sentence: str) -> None:
        if (place, kind) not in self._said:
            self._said.add((place, kind))
            self.warnings.append(f"{place}, training step {self._count}: {sentence}")
            caution(self.warnings[-1])


def _seen(step: int, each: DirectionCall, layer: LayerStatistics) -> Look:
    saturated = {
        name: layer.saturated(name) for name, value in layer.values.items() if value.bounded
    }
    norms = np.zeros(0)
    if each.is_last:
        norms = horizon_of_direction(each, _VECTORS, step).norm
        norms = norms / max(float(each.call.input_weight.norm()), _TINY)
    return Look(step, each.place, saturated, float(layer.dead.mean()), norms)


def _reach(norms: Array, share: float) -> int:
    """The greatest lag whose norm is at least this share of the greatest; -1 if there is none."""
    found = np.flatnonzero((norms >= share * norms.max(initial=0)) & (norms > 0))
    return int(found[-1]) if len(found) else -1


def _complaints(look: Look, call: Call, limits: Limits) -> Iterator[tuple[str, str]]:
    """What is wrong: a key, and a sentence."""
    norms, steps = look.norms, int(call.lengths.max())
    if len(norms) and not np.isfinite(norms).all():
        yield "exploding", "gradients explode over time: ‖∂h_t/∂x_(t-k)‖ is not finite"
    elif len(norms):
        reach, gain = _reach(norms, limits.vanished), norms.max()
        if reach < limits.vanished_after <= steps / 10:
            yield (
                "vanishing",
                f"gradients vanish over time: less than {limits.vanished:.0%} of ‖∂h_t/∂x_(t-k)‖ is left after "
                f"{reach + 1} of {steps} steps. A greater forget bias or orthogonal recurrent weights help "
                f"(gatewise.init)",
            )
        if gain >= limits.exploded:
            yield (
                "exploding",
                f"gradients explode over time: ‖∂h_t/∂x_(t-k)‖ grows to {gain:.3g} times the norm of the input "
                f"weights within {steps} steps. Smaller recurrent weights or a lower learning rate help",
            )
    keeping = set() if call.cell is None else _keeping(call.cell)
    for name, share in look.saturated.items():
        # a gate that keeps the state may stay open: that is memory, and its gradient is judged above
        if share >= limits.saturated and name not in keeping:
            yield (
                f"saturated {name}",
                f"'{name}' is saturated: {share:.0%} of its values are in the lowest or the highest tenth of "
                f"their range, so it hardly learns. Smaller weights or inputs, or a lower learning rate help",
            )
    if look.dead >= limits.dead:
        yield (
            "dead",
            f"{look.dead:.0%} of the units are dead: their output is 0, or below 1% of the median unit's. Fewer "
            f"units or a lower learning rate help",
        )


def _keeping(cell: Cell) -> set[str]:
    """The names of the values that a state's old value is multiplied by."""
    factors = [factor for factor in retention(cell).values() if factor is not None]
    return {
        name
        for name, value in cell.values.items()
        for factor in factors
        if value in (factor, *factor.args)
    }
