"""What a page shows of some sequences: traces, and what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gatewise.errors import OptionError
from gatewise.gates.page.record import Places
from gatewise.gates.page.strips import Strip
from gatewise.nn.trace import Trace


@dataclass(frozen=True)
class InputEdit:
    """Another value at one place of a sequence's input.

    Attributes:
        at: the step; of lines the place in the line, as the strip has it.
        to: a number for a line, a text for a word, for a note whether it sounds.
        line: the number of the line, or of a note's voice.
        pitch: of a note, as in MIDI.
    """

    at: int
    to: float | str | bool
    line: int = 0
    pitch: int | None = None


@dataclass(frozen=True)
class Shown:
    """B sequences for a page.

    Attributes:
        traces: of the recurrent modules of a network, by name.
        labels: a name for each sequence.
        strips: what is drawn above the heat maps of each.
        predictions: what is drawn below.
        inputs: the arguments of the network that gave the traces; none if the memory horizon is not shown.
        step_labels: for each sequence the names of its steps, or None.
        begins: for each sequence the network's step at its first step; 0 if not given.
        places: for each sequence the modules that read it, and its row in their traces; all modules read all
            sequences if not given.
        edited: takes the number of a sequence and edits of its input. It runs the network again, and returns
            what is shown of this one sequence then. None if the input cannot be edited.
    """

    traces: Mapping[str, Trace]
    labels: Sequence[str]
    strips: Sequence[Strip | None]
    predictions: Sequence[Strip | None]
    inputs: tuple[Any, ...] = ()
    step_labels: Sequence[Sequence[str] | None] | None = None
    begins: Sequence[int] = ()
    places: Places | None = None
    edited: Callable[[int, Sequence[InputEdit]], Shown] | None = None

    def with_edits(self, edited: Callable[[int, Sequence[InputEdit]], Shown]) -> Shown:
        return replace(self, edited=edited)

    def only(self, sequence: int) -> Shown:
        """The sequence of this number alone."""
        names, row = (self.traces, sequence) if self.places is None else self.places[sequence]
        return Shown(
            {name: in_order(self.traces[name], [row]) for name in names},
            [self.labels[sequence]],
            [self.strips[sequence]],
            [self.predictions[sequence]],
            step_labels=None if self.step_labels is None else [self.step_labels[sequence]],
            begins=[self.begins[sequence]] if self.begins else (),
        )


def with_words(symbols: Any, edits: Sequence[InputEdit], known: Mapping[str, int]) -> Any:
    """A copy of symbols T in which the words of ``edits`` are replaced. A space around a word does not count, unless a
    symbol has it.

    Raises:
        OptionError: a word is not one that the model knows, or the step is not there.
    """
    changed = symbols.copy()
    for edit in edits:
        if not isinstance(edit.to, str) or not 0 <= edit.at < len(symbols):
            raise OptionError(f"there is no text at step {edit.at} that could be replaced")
        symbol = known.get(edit.to, known.get(edit.to.strip(" ")))
        if symbol is None:
            raise OptionError(
                f"the model does not know {edit.to!r}: replace a text by one that stands in its vocabulary"
            )
        changed[edit.at] = symbol
    return changed


def with_numbers(values: Any, edits: Sequence[InputEdit]) -> Any:
    """A copy of values T×lines in which the numbers of ``edits`` are replaced.

    Raises:
        OptionError: an edit is no number, or its place is not there.
    """
    changed = values.copy()
    for edit in edits:
        if isinstance(edit.to, str | bool):
            raise OptionError(f"the input is numbers: give one in place of {edit.to!r}")
        if not (0 <= edit.at < len(values) and 0 <= edit.line < values.shape[1]):
            raise OptionError(f"there is no value {edit.at} of the line {edit.line}")
        changed[edit.at, edit.line] = edit.to
    return changed


def _changed(trace: Trace, change: Callable[[Tensor], Tensor], lengths: Tensor | None) -> Trace:
    """The trace with each value changed."""
    values = {
        name: [[change(each) for each in both] for both in trace[name]] for name in trace.names
    }
    return Trace(values, lengths, trace.cell)


def steps_from(trace: Trace, first: int) -> Trace:
    """The steps from ``first`` on of sequences that are equally long."""
    return _changed(trace, lambda each: each[:, first:], None)


def first_steps(trace: Trace, steps: int, lengths: Tensor | None = None) -> Trace:
    """The first so many steps of each sequence. ``lengths`` are those of the sequences, if the trace has none."""
    own = trace.lengths if lengths is None else lengths
    cut = None if own is None else own.clamp(max=steps)
    return _changed(trace, lambda each: each[:, :steps], cut)


def in_order(trace: Trace, order: Sequence[int]) -> Trace:
    """The sequences ``order`` of a trace."""
    which = torch.tensor(order)
    lengths = None if trace.lengths is None else trace.lengths[which]
    return _changed(trace, lambda each: each[which], lengths)


def in_parts(trace: Trace, steps: int) -> Trace:
    """The trace of one long sequence as that of consecutive parts of so many steps; the last may be shorter."""
    whole = trace[trace.names[0]][0][0].shape[1]
    lengths = torch.tensor([min(steps, whole - k) for k in range(0, whole, steps)])

    def divided(values: Tensor) -> Tensor:
        room = values.new_zeros(len(lengths) * steps, values.shape[-1])
        room[:whole] = values[0]
        return room.view(len(lengths), steps, -1)

    return _changed(trace, divided, lengths)
