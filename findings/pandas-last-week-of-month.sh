#!/bin/sh
# pandas 3.1.1: infer_freq takes the last Friday of each month (LWOM-FRI) for the fourth one and answers WOM-4FRI,
# another series wherever a month has five Fridays. date_range with the answer gives other days, and asfreq drops
# the rows between them without a word.
#
# Seen:
#   inferred: WOM-4FRI
#   same days: 19 of 30; the first others: 2021-01-29 and 2021-01-22
#   asfreq(WOM-4FRI) leaves 19 of 30 values
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import pandas as pd

warnings.simplefilter("ignore")
last = pd.date_range("2021-01-01", periods=30, freq="LWOM-FRI")
inferred = pd.infer_freq(last)
again = pd.date_range("2021-01-01", periods=30, freq=inferred)
same, other = (last == again).sum(), last != again
kept = pd.Series(range(30), last).asfreq(inferred).notna().sum()
print("inferred:", inferred)
print(f"same days: {same} of 30; the first others: {last[other][0].date()} and {again[other][0].date()}")
print(f"asfreq({inferred}) leaves {kept} of 30 values")
sys.exit(0 if (inferred, same, kept) == ("WOM-4FRI", 19, 19) else 1)
PYTHON
