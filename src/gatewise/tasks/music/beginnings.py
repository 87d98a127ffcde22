"""What new tunes begin with, or keep: the steps of a tune to continue, a melody to harmonise, and the bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gatewise.data.music.events import Events
from gatewise.data.music.places import meter_name
from gatewise.data.music.steps import Encoding, Roll, Voices, line_of
from gatewise.data.music.tune import NOTES, TICKS, Tune, bar_lines
from gatewise.errors import OptionError, caution
from gatewise.models.chords import UNKNOWN

Array = np.ndarray


def beginning(encoding: Encoding, tune: Tune | None, meter: str | None) -> Array:
    """T×K: the steps that every new tune begins with: those of a tune, or the metre of events, or none."""
    events = encoding if isinstance(encoding, Events) else None
    if tune is not None:
        return encoding.encode(tune) if events is None else events.beginning(tune)
    if meter is None or events is None:
        return np.zeros((0, encoding.columns), np.int64)
    return np.array([[events.names.index(f"meter:{meter}")]])


def frame(encoding: Encoding, tune: Tune | None, meter: str | None) -> Tune:
    """A tune with the metre and the bars of new tunes: the one that they continue or harmonise, or one without
    notes. Steps of a grid have the most frequent metre of the training part, if not told otherwise.

    Raises:
        OptionError: the metre is not one of the training part.
    """
    known = encoding.places.meters
    if meter is not None and meter not in known:
        raise OptionError(
            f"meter={meter!r} is not a metre of the training part; it had {', '.join(known) or 'none'}"
        )
    if tune is not None:
        name = meter_name(tune.meter)
        if known and name not in known:
            caution(
                f"{tune.name} has {f'the metre {name}' if name else 'no metre, or several'}, and the training part "
                f"had {', '.join(known)}: the new notes may not keep its bars"
            )
        return tune
    if meter is None and known and not isinstance(encoding, Events):
        meter = known[0]
    beats, _, unit = (meter or "").partition("/")
    return Tune("", (), 0, (), (int(beats), int(unit)) if meter else None)


def with_bars(tune: Tune, encoding: Encoding, steps: int, frame: Tune) -> Tune:
    """A decoded tune of so many steps with the metre of ``frame``, and of a grid with its bars. Events have their
    own bar lines, and the metre if it is one of the training part."""
    if isinstance(encoding, Events):
        return tune if tune.meter else replace(tune, meter=frame.meter)
    if frame.meter is None and not frame.bars:
        return tune
    end = steps * TICKS // encoding.places.grid
    return replace(tune, meter=frame.meter, bars=bar_lines(frame, end))


def melody_of(encoding: Encoding, tune: Tune) -> Array:
    """T×K: the notes of a tune's melody, and unknown values below it.

    Raises:
        OptionError: the encoding is that of events.
    """
    line = line_of(tune)
    if isinstance(encoding, Events):
        raise OptionError("melody= is for models of steps (unit='step')")
    if isinstance(encoding, Voices):
        given = Voices(encoding.grid, 1).encode(line)
        unknown = np.full((len(given), encoding.columns - 1), UNKNOWN)
        return np.concatenate([given, unknown], 1)
    roll = Roll(encoding.places.grid).encode(line)
    above = roll[:, ::-1].cumsum(1)[:, ::-1]  # whether the melody's note is here or below
    below = np.arange(NOTES) < roll.argmax(1)[:, None]
    sounding = roll.any(1, keepdims=True)
    return np.where(sounding & ~below, (above == 1) * roll, UNKNOWN)
