#!/bin/sh
# torch 2.13.0 with onnxscript 0.7.2: torch.onnx.export(dynamo=True) of torch.nn.LSTM with proj_size writes a file
# without a warning, and no runtime can run it: ONNX's LSTM has no projection, the node is written as if there were
# none, with an h of 3 units beside a c of 6. ONNX Runtime 1.32.0 makes a session and fails at the first call.
#
# Seen:
#   the exporter wrote a file
#   Fail: ... Input initial_c must have shape {1,1,3}. Actual:{1,1,6}
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import onnxruntime
import torch

layer, x = torch.nn.LSTM(2, 6, proj_size=3).eval(), torch.randn(5, 1, 2)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.onnx.export(layer, (x,), "lstm.onnx", dynamo=True, verbose=False)
print("the exporter wrote a file")
session = onnxruntime.InferenceSession("lstm.onnx", providers=["CPUExecutionProvider"])
try:
    session.run(None, {session.get_inputs()[0].name: x.numpy()})
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(0 if "initial_c must have shape {1,1,3}. Actual:{1,1,6}" in str(error) else 1)
sys.exit(1)
PYTHON
