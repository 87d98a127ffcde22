#!/bin/sh
# music21 10.5.1: in ABC it leaves out rests of whole bars (Z) and invisible rests (x), so that the notes after them come
# too early, and it ignores a key within a line ([K:D]). The ABC standard 2.1 has these in sections 4.5 and 3.2.
#
# Seen, with the beginning of each note in quarter notes:
#   C4|Z|E4|:           C4 at 0.0, E4 at 4.0   (expected E4 at 8.0)
#   x2 C2|:             C4 at 0.0              (expected C4 at 2.0)
#   F4|[K:D]F4|:        F4 at 0.0, F4 at 4.0   (expected F#4 at 4.0)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet music21==10.5.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from music21 import converter

SEEN = {
    "C4|Z|E4|": "C4 at 0.0, E4 at 4.0",
    "x2 C2|": "C4 at 0.0",
    "F4|[K:D]F4|": "F4 at 0.0, F4 at 4.0",
}
wrong = 0
for tune, seen in SEEN.items():
    score = converter.parse("%abc-2.1\nX:1\nM:4/4\nL:1/4\nK:C\n" + tune + "\n", format="abc")
    notes = score.flatten().notes
    found = ", ".join(f"{n.pitch.nameWithOctave} at {float(n.offset)}" for n in notes)
    print(f"{tune + ':':<20}{found}")
    wrong += found != seen
sys.exit(wrong)
PYTHON
