#!/bin/sh
# Keras 3.15.1 on torch 2.13.0: model.export(format="onnx") of a recurrent model with Input((None, n)) writes a file
# whose input has a free number of steps, and which reads one: of a longer sequence ONNX Runtime returns the first
# step's output, without an error. Keras exports with an example of one step, and its loop over it is written out.
#
# Seen:
#   the file's input: ['batch', 'dim_0_1', 2]
#   1 step:  Keras (2, 1, 3), ONNX Runtime (2, 1, 3)
#   5 steps: Keras (2, 5, 3), ONNX Runtime (2, 1, 3)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 keras==3.15.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import sys
import warnings

os.environ["KERAS_BACKEND"] = "torch"
warnings.simplefilter("ignore")
import keras
import numpy as np
import onnxruntime

layer = keras.layers.LSTM(3, return_sequences=True)
model = keras.Sequential([keras.Input((None, 2)), layer])
model(np.zeros((1, 4, 2), "f4"))
model.export("lstm.onnx", format="onnx", verbose=False)
session = onnxruntime.InferenceSession("lstm.onnx", providers=["CPUExecutionProvider"])
(taken,) = session.get_inputs()
print("the file's input:", taken.shape)
found = []
for steps in (1, 5):
    x = np.ones((2, steps, 2), "f4")
    found.append((model.predict(x, verbose=0).shape, session.run(None, {taken.name: x})[0].shape))
    print(f"{steps} steps: Keras {found[-1][0]}, ONNX Runtime {found[-1][1]}")
free = not isinstance(taken.shape[1], int)
sys.exit(0 if free and found == [((2, 1, 3), (2, 1, 3)), ((2, 5, 3), (2, 1, 3))] else 1)
PYTHON
