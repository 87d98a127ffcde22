"""Statistics of traces over a data set: saturation, histograms, time scales, drift, effective rank.

They are counted in a stream, one batch at a time, and do not need the traces afterwards. The statistics of
two parts of a data set can be merged, and are then those of the whole. Counts are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gatewise.cells.bounds import bounds, gates_of
from gatewise.errors import DataError, OptionError
from gatewise.gates.directions import DirectionTrace, Place, directions
from gatewise.gates.moments import Scatter, ValueStatistics, statistics_of
from gatewise.gates.retained import retained
from gatewise.nn.trace import Trace

Array = np.ndarray
Traces = Trace | Mapping[str, Trace]

DEAD = (
    0.01  # a unit is dead if its output stays below this share of the median unit's greatest output
)


@dataclass
class LayerStatistics:
    """The statistics of one layer in one direction.

    Attributes:
        gates: the names of the gates: values between 0 and 1, and those that multiply a state's old value.
        output: the name of the output, usually ``h``.
        steps: the number of steps, without padding.
        sequences: the number of sequences; a sequence that is given in several pieces counts as several.
        moves: the number of steps behind the first ones of their sequences.
        values: the statistics of each traced value, by name.
        log_kept: for each state the sum of ln |factor| over the steps, H numbers. The factor is what
            multiplies the state's old value, such as f.
        moved: for each state its last value minus its first, summed over the sequences, H numbers.
        scatter: mean and scatter matrix of the output.
    """

    gates: tuple[str, ...]
    output: str
    steps: int
    sequences: int
    moves: int
    values: dict[str, ValueStatistics]
    log_kept: dict[str, Array]
    moved: dict[str, Array]
    scatter: Scatter = field(repr=False)

    @property
    def time_scale(self) -> dict[str, Array]:
        """For each state T = -1 / mean(ln f), H numbers of steps: after T steps 1/e of it is left.

        f is what multiplies the state's old value in the cell's equations: 1 - d for a state
        (1 - d) s + d n. T is infinite where f is always 1, and negative where the
        state grows, f > 1 in the mean. A state without such a factor has no entry, nor has one whose factor
        is not a function of traced values: a cell with a parameter in it must return a value that has it.
        """
        with np.errstate(divide="ignore"):
            scales = {name: self.steps / -total for name, total in self.log_kept.items()}
        return {name: np.where(np.isinf(each), np.inf, each) for name, each in scales.items()}

    @property
    def drift(self) -> dict[str, Array]:
        """For each state its mean change from one step to the next, H numbers."""
        return {name: moved / max(self.moves, 1) for name, moved in self.moved.items()}

    @property
    def effective_rank(self) -> float:
        """The number of dimensions in which the output moves (Roy & Vetterli 2007, "The effective rank").

        It is exp of the entropy of the singular values of the centred outputs: between 1 and H, or 0 if the
        output does not vary.
        """
        return self.scatter.effective_rank()

    def saturated(self, name: str) -> float:
        """The share of all steps and units at which a value is in the lowest or the highest tenth of its range."""
        total = self._saturated(name, "low").sum() + self._saturated(name, "high").sum()
        return float(total / max(self.steps * self.values[name].units, 1))

    @property
    def dead(self) -> Array:
        """H booleans: the units whose output is always 0, or always below 1 % of the median unit's greatest."""
        output = self.values[self.output]
        greatest = np.maximum(abs(output.least), abs(output.greatest))
        return (greatest == 0) | (greatest < DEAD * np.median(greatest))

    def closed(self, gate: str) -> Array:
        """H booleans: the units whose gate is in the lowest tenth of its range at every step."""
        return self._saturated(gate, "low") == self.steps

    def open(self, gate: str) -> Array:
        """H booleans: the units whose gate is in the highest tenth of its range at every step."""
        return self._saturated(gate, "high") == self.steps

    def _saturated(self, name: str, end: str) -> Array:
        bounded = [name for name, value in self.values.items() if value.bounded]
        if name not in bounded:
            raise OptionError(
                f"'{name}' has no saturation; values with a finite range are: {', '.join(bounded)}"
            )
        found: Array = getattr(self.values[name], end)
        return found

    def merged(self, other: LayerStatistics) -> LayerStatistics:
        """The statistics of the steps of both."""
        return LayerStatistics(
            self.gates,
            self.output,
            self.steps + other.steps,
            self.sequences + other.sequences,
            self.moves + other.moves,
            {name: value.merged(other.values[name]) for name, value in self.values.items()},
            {name: total + other.log_kept[name] for name, total in self.log_kept.items()},
            {name: total + other.moved[name] for name, total in self.moved.items()},
            self.scatter.merged(other.scatter),
        )


@dataclass(repr=False)
class Statistics:
    """The statistics of all recurrent layers of a model, by :class:`Place` (module, layer, direction).

    ``update`` adds the traces of a batch, and ``a + b`` are the statistics of two parts of a data set together.
    """

    layers: dict[Place, LayerStatistics] = field(default_factory=dict)

    def update(self, traces: Traces) -> Statistics:
        """Adds the traces of a batch, and returns the statistics.

        Args:
            traces: the traces of a model by module, as ``gw.trace`` returns them, or one layer's trace.

        Raises:
            DataError: a traced value is infinite or NaN. Nothing of the batch is counted then.
            OptionError: a layer has other values or units than before.
        """
        total = Statistics(self.layers)
        for each in directions(traces):
            total = total + Statistics({each.place: _of_batch(each)})
        self.layers = total.layers
        return self

    def __add__(self, other: Statistics) -> Statistics:
        total = dict(self.layers)
        for place, new in other.layers.items():
            known = total.get(place)
            if known is not None and _units(known) != _units(new):
                raise OptionError(
                    f"{place} had the units {_units(known)} and now has {_units(new)}: statistics are those of "
                    f"one model"
                )
            total[place] = new if known is None else known.merged(new)
        return Statistics(total)

    def table(self) -> dict[str, Array]:
        """The statistics as columns, with a row for each unit of each value.

        The columns are ``module``, ``layer``, ``direction``, ``value``, ``unit``, ``mean``, ``std``, ``least``,
        ``greatest``, ``low`` and ``high`` (the shares of steps in the lowest and the highest tenth of the value's
        range), and for states ``time_scale`` and ``drift``. What a value does not have is NaN.
        """
        parts = [
            _columns(place, layer, name)
            for place, layer in self.layers.items()
            if layer.steps
            for name in layer.values
        ]
        names = parts[0] if parts else ()
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def __repr__(self) -> str:
        each = [_described(place, layer) for place, layer in self.layers.items()]
        return "\n".join(each) or "<statistics of no steps>"


def gate_statistics(traces: Traces | Iterable[Traces]) -> Statistics:
    """The statistics of traces: of one batch, or of a stream of batches.

    ``gate_statistics(gw.trace(model, x) for x in batches)`` goes through a data set with the traces of one batch in
    memory at a time.

    Args:
        traces: what ``gw.trace`` returns, a layer's trace, or an iterable of these.

    Raises:
        DataError: there are no steps, or a traced value is infinite or NaN.
        OptionError: a layer's values or units change from batch to batch.
    """
    found = Statistics()
    for each in [traces] if isinstance(traces, Trace | Mapping) else traces:
        found.update(each)
    if not any(layer.steps for layer in found.layers.values()):
        raise DataError("the traces have no steps: give at least one sequence that is not empty")
    return found


def _of_batch(trace: DirectionTrace) -> LayerStatistics:
    cell, valid = trace.cell, trace.valid
    gates = gates_of(cell) if cell is not None else ()
    ranges = {} if cell is None else bounds(cell.values.values())
    range_of = {} if cell is None else {name: ranges[v] for name, v in cell.values.items()}
    range_of |= dict.fromkeys(gates, (0.0, 1.0))
    steps = {name: trace.steps(name) for name in trace.names}
    kept = {} if cell is None else retained(cell, steps)
    lengths = valid.sum(1)
    there = lengths > 0
    return LayerStatistics(
        gates,
        trace.output,
        steps=int(lengths.sum()),
        sequences=int(there.sum()),
        moves=int((lengths - 1).clamp(min=0).sum()),
        values={name: statistics_of(x, range_of.get(name)) for name, x in steps.items()},
        log_kept={
            name: factor.double().abs().log().sum(0).cpu().numpy() for name, factor in kept.items()
        },
        moved=_moved(trace, lengths),
        scatter=Scatter.of(steps[trace.output]),
    )


def _moved(trace: DirectionTrace, lengths: Any) -> dict[str, Array]:
    """For each state its last value minus its first in the order of reading, summed over the sequences."""
    there = (lengths > 0).nonzero()[:, 0]
    found = {}
    for name in () if trace.cell is None else trace.cell.state:
        value = trace.value(name).double()
        change = value[there, lengths[there] - 1] - value[there, 0]
        found[name] = (change.sum(0) * (-1 if trace.place.direction else 1)).cpu().numpy()
    return found


def _units(layer: LayerStatistics) -> dict[str, int]:
    return {name: value.units for name, value in layer.values.items()}


def _columns(place: Place, layer: LayerStatistics, name: str) -> dict[str, Array]:
    value = layer.values[name]
    nothing = np.full(value.units, np.nan)
    low, high = (nothing if end is None else end / layer.steps for end in (value.low, value.high))
    same = dict(module=place.module, layer=place.layer, direction=place.direction, value=name)
    return {
        **{column: np.full(value.units, each) for column, each in same.items()},
        "unit": np.arange(value.units),
        "mean": value.mean,
        "std": value.std,
        "least": value.least,
        "greatest": value.greatest,
        "low": low,
        "high": high,
        "time_scale": layer.time_scale.get(name, nothing),
        "drift": layer.drift.get(name, nothing),
    }


def _described(place: Place, layer: LayerStatistics) -> str:
    """Some lines about one layer, for people."""
    lines = [f"{place}: {layer.steps:,} steps of {layer.sequences:,} sequences"]
    if not layer.steps:
        return lines[0]
    for gate in layer.gates:
        value = layer.values[gate]
        total = layer.steps * value.units
        low, high = layer._saturated(gate, "low"), layer._saturated(gate, "high")
        lines.append(
            f"  {gate}: mean {value.mean.mean():.2f}; below .1 at {low.sum() / total:.0%} of steps, above .9 at "
            f"{high.sum() / total:.0%}; {layer.closed(gate).sum()} units always closed, "
            f"{layer.open(gate).sum()} always open"
        )
    for state, scale in layer.time_scale.items():
        quarters = ", ".join(f"{each:.3g}" for each in np.percentile(scale, [25, 50, 75]))
        lines.append(f"  {state}: time scale in steps, quartiles of the units: {quarters}")
    dead, width = int(layer.dead.sum()), len(layer.dead)
    lines.append(
        f"  {layer.output}: effective rank {layer.effective_rank:.1f} of {width}; {dead} dead units"
    )
    return "\n".join(lines)
