#!/bin/sh
# narwhals 2.29.0 with pandas 3.1.1: a column of times in a zone whose name has "_", a digit or a sign has the
# type Unknown. Series of measurements come with such zones: half of America's names have "_", and fixed offsets
# are written Etc/GMT+5. Code that asks whether the type is Datetime takes the column for no time at all.
#
# Seen:
#   Europe/Berlin     Datetime(time_unit='us', time_zone='Europe/Berlin')
#   America/New_York  Unknown
#   Etc/GMT+5         Unknown
#   EST5EDT           Unknown
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet narwhals==2.29.0 pandas==3.1.1 tzdata==2026.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import narwhals as nw
import pandas as pd

found = {}
for zone in ("Europe/Berlin", "America/New_York", "Etc/GMT+5", "EST5EDT"):
    times = pd.Series(pd.date_range("2024-01-01", periods=2, tz=zone, unit="us"))
    found[zone] = nw.from_native(times, series_only=True).dtype
    print(f"{zone:17} {found[zone]}")
plain = isinstance(found.pop("Europe/Berlin"), nw.Datetime)
sys.exit(0 if plain and all(each == nw.Unknown for each in found.values()) else 1)
PYTHON
