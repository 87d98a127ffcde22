#!/bin/sh
# music21 10.5.1: stripTies() of a part adds the beginning of a note, which is tied from the second voice of a bar into a
# bar without voices, to a note of another pitch, if the first voice has a tie within the bar. Valid MusicXML: notation programs write voices only in
# the bars that need them, and a note of five sixteenths as two tied ones.
#
# Seen, for G3 from 1.0 to 4.0 in 3/4, below an E4 of 1.25 in the first bar (start and length in quarter notes):
#   before stripTies:   E4 at 1.0 for 1.0, G3 at 1.0 for 2.0, E4 at 2.0 for 0.25, G3 at 3.0 for 1.0
#   after:              E4 at 1.0 for 3.25, G3 at 3.0 for 1.0   (expected E4 at 1.0 for 1.25, G3 at 1.0 for 3.0)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet music21==10.5.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from music21 import converter


def note(what, quarters, voice, more=""):
    return f"<note>{what}<duration>{quarters}</duration>{more}<voice>{voice}</voice></note>"


def pitch(step, octave):
    return f"<pitch><step>{step}</step><octave>{octave}</octave></pitch>"


START, STOP = (f'<tie type="{kind}"/>' for kind in ("start", "stop"))
PAGE = f"""<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="4.0">
<part-list><score-part id="P1"><part-name/></score-part></part-list>
<part id="P1">
<measure number="1"><attributes><divisions>4</divisions><time><beats>3</beats><beat-type>4</beat-type></time></attributes>
{note("<rest/>", 4, 1)}{note(pitch("E", 4), 4, 1, START)}{note(pitch("E", 4), 1, 1, STOP)}{note("<rest/>", 3, 1)}
<backup><duration>12</duration></backup>
{note("<rest/>", 4, 2)}{note(pitch("G", 3), 8, 2, START)}
</measure>
<measure number="2">{note(pitch("G", 3), 4, 1, STOP)}{note("<rest/>", 8, 1)}</measure>
</part></score-partwise>"""


def notes_of(part):
    return ", ".join(
        f"{n.nameWithOctave} at {float(n.offset)} for {float(n.quarterLength)}" for n in part.flatten().notes
    )


part = converter.parse(PAGE, format="musicxml").parts[0]
before, after = notes_of(part), notes_of(part.stripTies())
print(f"before stripTies:   {before}\nafter:              {after}")
SEEN = (
    "E4 at 1.0 for 1.0, G3 at 1.0 for 2.0, E4 at 2.0 for 0.25, G3 at 3.0 for 1.0",
    "E4 at 1.0 for 3.25, G3 at 3.0 for 1.0",
)
sys.exit((before, after) != SEEN)
PYTHON
