"""New tunes from a model of folk songs, as MIDI, and how well they keep their key and their bars.

    python examples/music.py [tunes.png]

The tunes are those that come with gatewise, in ABC notation. The model reads them event by event: time shifts, note-ons
and bar lines. Beside each event it reads where in its bar the event stands: this is counted from the events before.
"""

import sys
from importlib.resources import files
from pathlib import Path

import gatewise as gw
from gatewise.data.music.tune import shares
from gatewise.report.rolls import roll_figure

tunes = files("gatewise.data") / "examples" / "tunes.abc"
model = gw.MusicModel("event", transpose="common", units=64, batch=2, patience=20)
model.fit(tunes, validation=4, test=4)
print(model.evaluate(tunes).table())

# new ones, and one that goes on from the first bars of a tune of the test part
known = model.source().read(tunes).tunes
minuet = next(tune for tune in known if "Minuet" in tune.name)
assert minuet.name not in model.names_
new = model.generate(samples=8, shortest=60, temperature=0.7, meter="3/4")
(continued,) = model.generate(start=minuet, keep=12, temperature=0.7, seed=2)
model.write_samples([*new, continued], Path("tune.mid"))

for name, each in (("of the data", known), ("of the model", new)):
    found = shares(each)
    print(f"Tunes {name}: {found['notes_in_key']:.0%} of the notes are in the key, ", end="")
    print(f"{found['bars_that_add_up']:.0%} of the bars add up")

if len(sys.argv) > 1:
    rows = {"Minuet in G, continued after 12 quarter notes": continued, "a new tune": new[0]}
    roll_figure(rows).savefig(sys.argv[1], dpi=130)
