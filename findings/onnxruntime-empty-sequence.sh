#!/bin/sh
# ONNX Runtime 1.32.0, LSTM: of a sequence whose length in sequence_lens is 0, Y_h and Y_c are zero, not the
# initial states that the call gave. Who reads a stream in pieces, each sequence with as many steps as have come,
# loses the state of every sequence that had none. (torch's packed sequences refuse a length of 0.)
#
# Seen (initial_h 0.5, initial_c 0.25, lengths 4 and 0):
#   Y_h of the empty sequence [0. 0. 0.]
#   Y_c of the empty sequence [0. 0. 0.]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
H, I, B, T = 3, 2, 2, 4
weights = dict(W=rng.normal(size=(1, 4 * H, I)), R=rng.normal(size=(1, 4 * H, H)))
node = helper.make_node(
    "LSTM", ["X", "W", "R", "", "lengths", "h", "c"], ["Y", "Y_h", "Y_c"], hidden_size=H
)
shapes = dict(X=[T, B, I], h=[1, B, H], c=[1, B, H])
inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [B]))
outputs = [
    helper.make_tensor_value_info("Y", TensorProto.FLOAT, [T, 1, B, H]),
    *(helper.make_tensor_value_info(k, TensorProto.FLOAT, [1, B, H]) for k in ("Y_h", "Y_c")),
]
stored = [numpy_helper.from_array(v.astype("f4"), k) for k, v in weights.items()]
graph = helper.make_graph([node], "lstm", inputs, outputs, stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
onnx.checker.check_model(model)
feeds = dict(
    X=rng.normal(size=(T, B, I)).astype("f4"),
    h=np.full((1, B, H), 0.5, "f4"),
    c=np.full((1, B, H), 0.25, "f4"),
)

session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
_, h, c = session.run(None, feeds | {"lengths": np.array([4, 0], "i4")})
print("Y_h of the empty sequence", h[0, 1])
print("Y_c of the empty sequence", c[0, 1])
sys.exit(0 if not h[0, 1].any() and not c[0, 1].any() and h[0, 0].all() else 1)
PYTHON
