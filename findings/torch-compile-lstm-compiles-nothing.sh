#!/bin/sh
# torch 2.13.0, torch.compile of a module that calls torch.nn.LSTM in its own forward: nothing is compiled, neither
# what stands before the LSTM nor what stands after it, and nothing is said. With the LSTM in a child module, both
# are. (Dynamo doesn't trace an LSTM, and gives up the frame that calls it.)
#
# Seen:
#   linear(lstm(linear(x))[0])          0 graphs
#   the same, the LSTM in a child        2 graphs
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)


class Child(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 8)

    def forward(self, x):
        return self.lstm(x)[0]


class Whole(torch.nn.Module):
    def __init__(self, child):
        super().__init__()
        self.before, self.after = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        self.lstm = Child() if child else torch.nn.LSTM(8, 8)
        self.child = child

    def forward(self, x):
        if self.child:
            return self.after(self.lstm(self.before(x)))
        return self.after(self.lstm(self.before(x))[0])


def graphs(module):
    torch._dynamo.reset()
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    torch.compile(module, backend=backend)(torch.randn(5, 2, 4))
    return len(seen)


one, apart = graphs(Whole(False)), graphs(Whole(True))
print(f"linear(lstm(linear(x))[0])      {one} graphs")
print(f"the same, the LSTM in a child   {apart} graphs")
sys.exit(0 if (one, apart) == (0, 2) else 1)
PYTHON
