#!/bin/sh
# onnx 1.23.2, onnx.reference.ReferenceEvaluator: an LSTM's input sequence_lens changes nothing. The evaluator is
# the yardstick that backends are compared with, and of padded batches it gives the state after the padding.
#
# Seen (two sequences; lengths 4, 2 and then 4, 4):
#   reference: outputs for both lengths are equal: True
#   ONNX Runtime: outputs for both lengths are equal: False
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
from onnx.reference import ReferenceEvaluator

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
equal = {}
for name, run in (("reference", ReferenceEvaluator(model).run), ("ONNX Runtime", session.run)):
    short, whole = (run(None, feeds | {"lengths": np.array([4, n], "i4")}) for n in (2, 4))
    equal[name] = all(np.array_equal(a, b) for a, b in zip(short, whole))
    print(f"{name}: outputs for both lengths are equal: {equal[name]}")
sys.exit(0 if equal == {"reference": True, "ONNX Runtime": False} else 1)
PYTHON
