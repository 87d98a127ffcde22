#!/bin/sh
# torch 2.13.0, torch.export.export(strict=True) of a model that calls a function under nonstrict_trace fails with a
# TypeError about a weak reference to a TreeSpec, which names neither the function nor the model. torch.compile with
# fullgraph=True and the export with strict=False take the same model. (The strict export makes a fake tensor of each
# attribute that the graph reads, and the structure of the function's arguments is one of them.)
#
# Seen:
#   torch.compile   tensor([4., 4.])
#   strict=False    tensor([4., 4.])
#   strict=True     TypeError: cannot create weak reference to 'TreeSpec' object
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


@torch._dynamo.nonstrict_trace
def both(x):
    return x + 1, x * 2


class Model(torch.nn.Module):
    def forward(self, x):
        one, other = both(x)
        return one + other


def said(run):
    try:
        return str(run(torch.ones(2)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def exported(strict):
    return lambda x: torch.export.export(Model(), (x,), strict=strict).module()(x)


runs = {
    "torch.compile": torch.compile(Model(), backend="eager", fullgraph=True),
    "strict=False": exported(False),
    "strict=True": exported(True),
}
found = {name: said(run) for name, run in runs.items()}
for name, text in found.items():
    print(f"{name:<15} {text}")
seen = "TypeError: cannot create weak reference to 'TreeSpec' object"
sys.exit(list(found.values()) != ["tensor([4., 4.])", "tensor([4., 4.])", seen])
PYTHON
