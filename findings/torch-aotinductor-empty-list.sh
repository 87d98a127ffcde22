#!/bin/sh
# torch 2.13.0, AOTInductor: a custom operator's argument of the type list[int] that is empty in the exported
# program is handed over as None by the compiled package. Eager, torch.compile and torch.export call it with [];
# the package compiles, loads, and fails at its first call. An operator for a recurrent layer, with a list of
# options that is mostly empty, meets this. Needs g++.
#
# Seen:
#   eager: axes []
#   RuntimeError: ... demo::moved() Expected a value of type 'List[int]' for argument 'axes' but instead found
#   type 'NoneType'.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 setuptools==84.2.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch

warnings.simplefilter("ignore")


@torch.library.custom_op("demo::moved", mutates_args=())
def moved(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    print("axes", axes, flush=True)
    return x.clone()


@moved.register_fake
def _(x, axes):
    return torch.empty_like(x)


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.ops.demo.moved(x, []) + 1


x = torch.randn(3)
program = torch.export.export(Model(), (x,))
path = torch._inductor.aoti_compile_and_package(program, package_path="model.pt2")
run = torch._inductor.aoti_load_package(path)
print("eager: ", end="")
Model()(x)
try:
    run(x)
except RuntimeError as error:
    print(f"RuntimeError: {str(error)[:200]}")
    as_seen = "'axes' but instead found type 'NoneType'" in str(error)
    sys.exit(0 if as_seen else 1)
sys.exit(1)
PYTHON
