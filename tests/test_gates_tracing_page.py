"""docs/gates/tracing.md: the numbers of its table are those of the last run of benchmarks/gates.py."""

import json
import re

import pages

ROWS = (
    "gw.trace of gw.LSTM 1000,1,256",
    "gw.trace of torch.nn.LSTM 1000,1,256",
    "gw.trace of gw.GRU 1000,1,256",
    "gw.trace of torch.nn.GRU 1000,1,256",
    "training with a loss on f, lstm 1000,1,256",
    "training with a loss on all values, lstm 1000,1,256",
    "training with a loss on f, by the reference, lstm 1000,1,256",
    "training with a loss on f, lstm 100,64,64",
    "training with a loss on all values, lstm 100,64,64",
)


def test_the_times_are_those_of_the_last_run():
    shown = re.findall(r"^\| .* \| ([\d.]+) \|$", pages.text("gates/tracing.md"), re.MULTILINE)
    measured = json.loads((pages.ROOT / "benchmarks/results/gates.json").read_text())["rows"]
    assert [float(number) for number in shown] == [round(measured[row]["ratio"], 2) for row in ROWS]
