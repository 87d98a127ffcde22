#!/bin/sh
# torch 2.13.0: torch.compile keeps compiled graphs on disk, also those with a library's custom operators, and finds
# them by the operators' names and arguments. What the operator's fake kernel says of the result is not part of the
# key. So when a library's new version returns a result of another size from an operator (saved activations in another
# layout, say), a new process gets the graph of the old version, and its check of the size fails. A library with
# kernels does well to pass its version to its operators as an argument.
#
# Seen, in three processes that share a cache on disk:
#   version 1, 4 numbers: torch.Size([4])
#   version 2, 8 numbers: AssertionError: expected size 8==4, stride 1==1 at dim=0
#   version 2, 8 numbers, the version is an argument: torch.Size([8])
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/library.py" <<'PYTHON'
import sys

import torch

size, version = int(sys.argv[1]), sys.argv[2]


@torch.library.custom_op("library::work", mutates_args=())
def work(x: torch.Tensor, version: str) -> torch.Tensor:
    return x.new_ones(size)


@work.register_fake
def _(x, version):
    return x.new_empty(size)


@torch.compile(fullgraph=True)
def model(x):
    return work(2 * x, version).sin()


try:
    print(model(torch.ones(3)).shape)
except AssertionError as error:
    print(f"AssertionError: {str(error).splitlines()[0]}")
PYTHON
export TORCHINDUCTOR_CACHE_DIR="$folder/cache"
seen=$(for given in "4 any" "8 any" "8 2"; do "$folder/venv/bin/python" "$folder/library.py" $given; done)
echo "$seen"
[ "$seen" = "torch.Size([4])
AssertionError: expected size 8==4, stride 1==1 at dim=0
torch.Size([8])" ]
