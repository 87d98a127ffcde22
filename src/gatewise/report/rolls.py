"""Piano rolls of tunes, as figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewise.data.music.tune import TICKS, Tune
from gatewise.ink import MUTED, RULE
from gatewise.report.pictures import LAST, MODEL, NAIVE, new_figure_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (MODEL, NAIVE, "#4f6d9e", LAST)  # of voices
_MOST = 64  # quarter notes that are shown


def roll_figure(tunes: dict[str, Tune]) -> Figure:
    """The notes of each tune, pitch over time, in a row of its own. The voices have colours.

    Args:
        tunes: the tunes by the headings of their rows.
    """
    figure, axes = new_figure_rows(7.6, 1.5 * len(tunes) + 0.3, len(tunes))
    longest = min(_MOST, max(tune.end for tune in tunes.values()) / TICKS)
    for axis, (heading, tune) in zip(axes, tunes.items(), strict=True):
        for note in tune.notes:
            start = note.start / TICKS
            if start < longest:
                length = min(note.length / TICKS, longest - start)
                axis.broken_barh(
                    [(start, max(length - 0.06, 0.06))],
                    (note.pitch - 0.45, 0.9),
                    color=_COLOURS[note.voice % len(_COLOURS)],
                )
        for time in tune.bars:
            if time / TICKS <= longest:
                axis.axvline(time / TICKS, color=RULE, lw=0.6, zorder=0)
        axis.set_xlim(0, longest)
        axis.set_title(heading, fontsize=8, color=MUTED, loc="left")
        pitches = [note.pitch for note in tune.notes] or [60]
        axis.set_ylim(min(pitches) - 1.5, max(pitches) + 1.5)
        c_notes = [
            pitch for pitch in range(24, 109, 12) if min(pitches) - 1 <= pitch <= max(pitches) + 1
        ]
        axis.set_yticks(c_notes, [f"C{pitch // 12 - 1}" for pitch in c_notes])
    axes[-1].set_xlabel("quarter note", fontsize=8, color=MUTED)
    return figure
