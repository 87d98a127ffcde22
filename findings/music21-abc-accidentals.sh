#!/bin/sh
# music21 10.5.1: in ABC an accidental holds for its note alone, where the ABC standard 2.1 (section 4.2) lets it hold
# to the end of the bar. It does so only if the file begins with a line such as %abc-2.1, which most files do not have.
#
# Seen:
#   without the line: G#4 G4 G4
#   with %abc-2.1:    G#4 G#4 G4
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet music21==10.5.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from music21 import converter

tune = "X:1\nM:2/4\nL:1/4\nK:C\n^GG|G2|\n"


def names(text):
    notes = converter.parse(text, format="abc").flatten().notes
    return " ".join(note.pitch.nameWithOctave for note in notes)


plain, version = names(tune), names("%abc-2.1\n" + tune)
print("without the line:", plain)
print("with %abc-2.1:   ", version)
sys.exit(0 if (plain, version) == ("G#4 G4 G4", "G#4 G#4 G4") else 1)
PYTHON
