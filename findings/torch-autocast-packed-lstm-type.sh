#!/bin/sh
# torch 2.13.0, nn.LSTM under torch.autocast("cpu", torch.bfloat16): a PackedSequence comes back in bfloat16 where
# all lengths are equal, and in float32 where one differs, so that the type of a model's outputs depends on which
# sequences share a batch. (With unequal lengths torch leaves oneDNN for its own loop.) Seen on a processor with
# AVX-512, without which oneDNN may not take bfloat16.
#
# Seen:
#   lengths [6, 6, 6] torch.bfloat16
#   lengths [6, 6, 5] torch.float32
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.nn.utils.rnn import pack_padded_sequence

layer, x = torch.nn.LSTM(8, 16).eval(), torch.randn(6, 3, 8)
found = []
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    for lengths in ([6, 6, 6], [6, 6, 5]):
        output, _ = layer(pack_padded_sequence(x, lengths))
        found.append(output.data.dtype)
        print("lengths", lengths, output.data.dtype)
sys.exit(0 if found == [torch.bfloat16, torch.float32] else 1)
PYTHON
