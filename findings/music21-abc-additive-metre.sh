#!/bin/sh
# music21 10.5.1: in ABC it reads an additive metre as one number: 2+3/8 is 23/8, and (2+3+2)/8 is 232/8, without a
# warning. The ABC standard 2.1 has such metres in section 3.1.6.
#
# Seen:
#   M:2+3/8:       23/8    (expected 5/8)
#   M:(2+3+2)/8:   232/8   (expected 7/8)
#   M:6/8:         6/8
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet music21==10.5.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from music21 import converter

SEEN = {"2+3/8": "23/8", "(2+3+2)/8": "232/8", "6/8": "6/8"}
wrong = 0
for metre, seen in SEEN.items():
    score = converter.parse(f"%abc-2.1\nX:1\nM:{metre}\nL:1/8\nK:C\nCDEFG|\n", format="abc")
    found = score.flatten().getElementsByClass("TimeSignature")[0].ratioString
    print(f"M:{metre + ':':<12} {found}")
    wrong += found != seen
sys.exit(wrong)
PYTHON
