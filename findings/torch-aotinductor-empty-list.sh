#!/bin/sh
# torch 2.13.0, AOTInductor: an argument of the type list[int] of a custom operator that is empty in the exported
# program is handed over as None by the compiled package. Eager and torch.export call the operator with []; the package
# compiles and loads, and an operator that goes through the list fails in the first call. One for a recurrent layer,
# with lists of options that are mostly empty, meets this. Needs g++.
#
# Seen:
#   eager: axes []
#   package: RuntimeError: ... TypeError: 'NoneType' object is not iterable
# or, in other runs,
#   package: axes None
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
given = []


@torch.library.custom_op("demo::moved", mutates_args=())
def moved(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    given.append(axes)
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
Model()(x)
print(f"eager: axes {given[-1]}")
as_seen = given == [[]]
try:
    run(x)
    print(f"package: axes {given[-1]}")
    as_seen = as_seen and given[-1] is None
except RuntimeError as error:
    print(f"package: RuntimeError: {error}")
    as_seen = as_seen and "'NoneType' object is not iterable" in str(error)
sys.exit(0 if as_seen else 1)
PYTHON
