#!/bin/sh
# torch 2.13.0, ctc_loss on the CPU: its gradient is right only where log_probs comes straight from log_softmax. It
# returns the gradient of the logits, softmax less the alignment's posterior, as if it were that of log_probs; the two
# agree after log_softmax's own backward, and not where log_probs was scaled between (a temperature, a weight for
# each step). There is no warning.
#
# Seen (largest difference from finite differences, and the largest gradient):
#   log_softmax(z)        0.000 of 0.707
#   log_softmax(z) * 0.5  0.188 of 0.353
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torch.nn.functional as F

torch.manual_seed(0)
logits = torch.randn(6, 1, 4, dtype=torch.float64, requires_grad=True)
target, steps, length = torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])


def loss(z, factor):
    return F.ctc_loss(z.log_softmax(-1) * factor, target, steps, length, reduction="sum")


found = []
for factor in (1.0, 0.5):
    (gradient,) = torch.autograd.grad(loss(logits, factor), logits)
    expected = torch.zeros_like(gradient)
    for k in range(logits.numel()):
        move = torch.zeros(logits.numel(), dtype=torch.float64)
        move[k] = 1e-6
        move = move.view_as(logits)
        change = loss(logits.detach() + move, factor) - loss(logits.detach() - move, factor)
        expected.view(-1)[k] = change / 2e-6
    found.append(float((gradient - expected).abs().max()))
    print(f"factor {factor}: {found[-1]:.3f} of {float(expected.abs().max()):.3f}")
sys.exit(0 if found[0] < 1e-6 and found[1] > 0.1 else 1)
PYTHON
