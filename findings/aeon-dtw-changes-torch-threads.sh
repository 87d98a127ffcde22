#!/bin/sh
# aeon 1.6.0 (numba 0.63.1) with torch 2.13.0: a 1-NN classifier with DTW, left at its default n_jobs=1, sets the number
# of threads of the whole process: torch, told to use one thread, computes with all cores afterwards. A network that is
# trained after it in the same process, such as in a comparison of both on many data sets, takes other cores and, since
# sums are split otherwise, has other bits. 1-NN and ROCKET both are aeon's usual yardsticks.
#
# Seen on a machine with two cores, with OMP_NUM_THREADS=1:
#   threads of torch before: 1
#   threads of torch after 1-NN with DTW: 2
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 aeon==1.6.0 numba==0.63.1 'numpy<2.4'
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import os
import sys
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")
from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

X = np.random.default_rng(0).normal(size=(20, 1, 30))
y = np.arange(20) % 2
torch.randn(100, 100) @ torch.randn(100, 100)
before = torch.get_num_threads()
print("threads of torch before:", before)
KNeighborsTimeSeriesClassifier(distance="dtw").fit(X, y).predict(X)
after = torch.get_num_threads()
print("threads of torch after 1-NN with DTW:", after)
sys.exit(0 if before == 1 and after == os.cpu_count() > 1 else 1)
PYTHON
