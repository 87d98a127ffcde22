"""Where else are the same units on? The question of LSTMVis, answered exactly over a whole data set.

Strobelt et al. 2018, "LSTMVis: A Tool for Visual Analysis of Hidden State Dynamics in Recurrent Neural
Networks", section 4: a unit is on at a step if its value is above a threshold. A range of steps selects
the units that are on throughout it, and what is searched are the other ranges where all of them are on.

The index has one bit for each step and unit. A search combines whole rows of bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gatewise.errors import DataError, OptionError
from gatewise.gates.directions import DirectionTrace, Place, one_direction
from gatewise.nn.trace import Trace
from gatewise.options import integer, number, short_repr

Array = np.ndarray
Traces = Trace | Mapping[str, Trace]


@dataclass(frozen=True)
class Alike:
    """Ranges of steps where all of some units are on.

    Attributes:
        units: the units; those that are on throughout the range that was given, if one was given.
        sequences, starts, stops: of each range that was found: the sequence, its first step, and the step
            behind its last one. Ranges are as long as possible and in the order of the data.
    """

    units: Array
    sequences: Array
    starts: Array
    stops: Array

    def __len__(self) -> int:
        return len(self.sequences)

    def longest(self, number: int) -> Alike:
        """The longest ranges, at most ``number``; of equal ones the first."""
        return self.only(np.argsort(self.starts - self.stops, kind="stable")[:number])

    def only(self, which: Array) -> Alike:
        """The ranges with these indices, or where these booleans are true."""
        return Alike(self.units, self.sequences[which], self.starts[which], self.stops[which])

    def table(self) -> dict[str, Array]:
        """The ranges as columns: ``sequence``, ``start``, ``stop``, ``steps``."""
        steps = self.stops - self.starts
        return dict(sequence=self.sequences, start=self.starts, stop=self.stops, steps=steps)

    def __repr__(self) -> str:
        if not len(self.units):
            return "no unit is on throughout the range, so no other range is like it"
        lines = [
            f"{len(self.units)} units on: {', '.join(map(str, self.units[:20]))}"
            + (", …" if len(self.units) > 20 else ""),
            f"{len(self)} ranges where all of them are on",
        ]
        lines += [
            f"  sequence {sequence}, steps {start} to {stop - 1}"
            for sequence, start, stop in zip(
                self.sequences[:10], self.starts[:10], self.stops[:10], strict=True
            )
        ]
        return "\n".join(lines + ["  …"] * (len(self) > 10))


class OnIndex:
    """An index of the steps at which each unit of a layer is on: above a threshold.

    ``OnIndex(gw.trace(model, x) for x in batches)`` goes through a data set with the traces of one batch in
    memory at a time. It needs one bit for each step and unit, and up to one byte more for each sequence and
    unit.

    Args:
        traces: what ``gw.trace`` returns, a layer's trace, or an iterable of these. Sequences are counted
            over all of them, from 0.
        value: the name of the traced value; by default the output, usually ``h``.
        above: the threshold.
        module: the name of the module; not needed if there is one only.
        layer: the index of the layer; -1 is the last one.
        direction: 0, or 1 for the reverse direction.

    Attributes:
        lengths: the number of steps of each sequence.
        units: the number of units.

    Raises:
        OptionError: there is no such module, layer, direction or value, a batch has other units, or the
            threshold is not a number.
        DataError: a value is infinite or NaN, or there are no sequences.
    """

    def __init__(
        self,
        traces: Traces | Iterable[Traces],
        *,
        value: str | None = None,
        above: float = 0.3,
        module: str | None = None,
        layer: int = -1,
        direction: int = 0,
    ) -> None:
        self.value, self.above = value, number("above", above)
        self.place: Place | None = None
        self._where = dict(module=module, layer=layer, direction=direction)
        lengths: list[Array] = []
        packed: list[Array] = []
        for each in self._parts(traces):
            bits, of_each = self._packed(each)
            if packed and bits and len(bits[0]) != len(packed[0]):
                raise OptionError(
                    f"a batch has {len(bits[0])} units of '{self.value}', and those before it have "
                    f"{len(packed[0])}: an index is of one model"
                )
            packed += bits
            lengths.append(of_each)
        if not packed:
            raise DataError("the traces have no sequences: give at least one")
        self.lengths: Array = np.concatenate(lengths)
        self.units = len(packed[0])
        # a sequence has whole bytes and ends with a bit that is off, so no range continues into the next
        self._first = np.concatenate([[0], np.cumsum(self.lengths // 8 + 1)])
        self._rows = np.zeros((self.units, -(-int(self._first[-1]) // 8)), np.uint64)
        np.concatenate(packed, 1, out=self._rows.view(np.uint8)[:, : self._first[-1]])

    def _parts(self, traces: Traces | Iterable[Traces]) -> Iterator[DirectionTrace]:
        for each in [traces] if isinstance(traces, Trace | Mapping) else traces:
            yield from one_direction(each, **self._where).parts()  # type: ignore[arg-type]

    def _packed(self, trace: DirectionTrace) -> tuple[list[Array], Array]:
        """The bits of each sequence, H×(its bytes), and the lengths."""
        self.place = self.place or trace.place
        self.value = self.value or trace.output
        trace.steps(self.value)  # checks that all are finite
        on = (trace.value(self.value) > self.above) & trace.valid[..., None]
        lengths = trace.valid.sum(1).cpu().numpy()
        bits = np.packbits(on.transpose(1, 2).cpu().numpy(), axis=2, bitorder="little")
        bits = np.pad(bits, ((0, 0), (0, 0), (0, 1)))
        return [
            each[:, : length // 8 + 1] for each, length in zip(bits, lengths, strict=True)
        ], lengths

    def on(self, sequence: int, start: int, stop: int, *, switched: bool = False) -> Array:
        """The units that are on at every step from ``start`` to ``stop`` - 1 of a sequence.

        Args:
            switched: only units that are off just before the range and just behind it. At an end of the
                sequence they need not be.

        Raises:
            OptionError: there is no such sequence, or the range is empty or not within it.
        """
        self._check(sequence, start, stop)
        on = self._bits(sequence, start, stop).all(1)
        if switched and start > 0:
            on &= ~self._bits(sequence, start - 1, start)[:, 0]
        if switched and stop < self.lengths[sequence]:
            on &= ~self._bits(sequence, stop, stop + 1)[:, 0]
        found: Array = np.flatnonzero(on)
        return found

    def alike(
        self, sequence: int, start: int, stop: int, *, least: int = 1, switched: bool = False
    ) -> Alike:
        """The other ranges where all units are on that are on throughout this range.

        Ranges that overlap the given one are left out. If no unit is on throughout the given range, nothing
        is found.

        Args:
            sequence: the index of the sequence.
            start: the first step of the range.
            stop: the step behind its last one.
            least: the least number of steps of a range.
            switched: as for :meth:`on`.

        Raises:
            OptionError: there is no such sequence, or the range is empty or not within it.
        """
        units = self.on(sequence, start, stop, switched=switched)
        if not len(units):
            nothing = np.zeros(0, np.int64)
            return Alike(units, nothing, nothing, nothing)
        found = self.where(units, least=least)
        overlaps = (found.sequences == sequence) & (found.starts < stop) & (found.stops > start)
        return found.only(~overlaps)

    def where(self, units: Iterable[int], *, least: int = 1) -> Alike:
        """The ranges where all of these units are on.

        Args:
            units: their indices, at least one.
            least: the least number of steps of a range.

        Raises:
            OptionError: there is no such unit, or none is given.
        """
        least = integer("least", least)
        given = list(units) if isinstance(units, Iterable) else units
        try:
            if not isinstance(given, list) or not given:
                raise OptionError("no list of units")
            chosen = np.unique([integer("a unit", unit, 0, self.units - 1) for unit in given])
        except OptionError as error:
            raise OptionError(
                f"units={short_repr(given)} must be one or more indices from 0 to {self.units - 1}"
            ) from error
        found = Alike(chosen, *self._runs(self._all_on(chosen)))
        return found.only(found.stops - found.starts >= least)

    def _bits(self, sequence: int, start: int, stop: int) -> Array:
        """H×steps booleans."""
        first = int(self._first[sequence])
        part = self._rows.view(np.uint8)[:, first + start // 8 : first + (stop - 1) // 8 + 1]
        bits = np.unpackbits(part, axis=1, bitorder="little")
        return bits[:, start % 8 : start % 8 + stop - start].astype(bool)

    def _all_on(self, units: Array) -> Array:
        """The bits of the steps at which all of these units are on, as bytes."""
        row = self._rows[units[0]].copy()
        for unit in units[1:]:
            np.bitwise_and(row, self._rows[unit], out=row)
        return row.view(np.uint8)

    def _runs(self, row: Array) -> tuple[Array, Array, Array]:
        """The runs of set bits: sequence, first step, and the step behind the last one."""
        at = np.flatnonzero(row)
        bits = np.unpackbits(row[at], bitorder="little").reshape(-1, 8)
        place = (8 * at[:, None] + np.arange(8))[bits.astype(bool)]
        if not len(place):
            return place, place, place
        breaks = np.flatnonzero(np.diff(place) > 1)
        starts = place[np.concatenate([[0], breaks + 1])]
        stops = place[np.concatenate([breaks, [len(place) - 1]])] + 1
        sequences = np.searchsorted(self._first, starts // 8, side="right") - 1
        offset = 8 * self._first[sequences]
        return sequences, starts - offset, stops - offset

    def _check(self, sequence: int, start: int, stop: int) -> None:
        for name, value in (("sequence", sequence), ("start", start), ("stop", stop)):
            integer(name, value, 0)
        if not sequence < len(self.lengths):
            raise OptionError(
                f"sequence={sequence} does not exist: the index has {len(self.lengths)}, from 0 on"
            )
        length = int(self.lengths[sequence])
        if not 0 <= start < stop <= length:
            raise OptionError(
                f"the range from {start} to {stop} is not valid: 0 <= start < stop <= {length}, the number of "
                f"steps of sequence {sequence}"
            )

    def __repr__(self) -> str:
        return (
            f"<on/off of '{self.value}' > {self.above} in {self.place}: {self.units} units, "
            f"{int(self.lengths.sum()):,} steps of {len(self.lengths):,} sequences>"
        )
