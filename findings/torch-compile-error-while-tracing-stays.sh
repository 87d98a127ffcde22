#!/bin/sh
# torch 2.13.0: once a function has raised while torch.compile traced it, its code is never traced again in the
# process. Another, sound instance of the same class runs uncompiled and nothing is said, or fails with
# fullgraph=True, until torch._dynamo.reset() is called.
#
# Seen:
#   sound                      1 graphs
#   raises                     ValueError: too long
#   sound, after it            0 graphs
#   the same, fullgraph=True   RuntimeError: torch.compile with fullgraph=True found no compiled frames. …
#   the same, after reset()    1 graphs
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


class Checked(torch.nn.Module):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return self.check(x) + 1

    def check(self, x):
        if x.shape[0] > self.limit:
            raise ValueError("too long")
        return x * 2


def compiled(limit, fullgraph):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    try:
        torch.compile(Checked(limit), backend=backend, fullgraph=fullgraph)(torch.ones(3))
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return f"{len(graphs)} graphs"


found = []
for text, limit, fullgraph, fresh in (
    ("sound", 9, True, True),
    ("raises", 1, False, True),
    ("sound, after it", 9, False, False),
    ("the same, fullgraph=True", 9, True, False),
    ("the same, after reset()", 9, True, True),
):
    if fresh:
        torch._dynamo.reset()
    found.append(compiled(limit, fullgraph))
    print(f"{text:27}{found[-1]}")
one, raised, after, strict, again = found
stays = (one, after, again) == ("1 graphs", "0 graphs", "1 graphs")
sys.exit(0 if stays and "too long" in raised and "no compiled frames" in strict else 1)
PYTHON
