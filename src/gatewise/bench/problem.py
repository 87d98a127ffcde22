"""The problem of a benchmark's row, and the check of a contender's results before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.bench.shapes import Shape
from gatewise.cells.catalogue import gru, lstm, rnn_relu, rnn_tanh
from gatewise.cells.language import Cell
from gatewise.nn.recurrent import Recurrent

Arrays = dict[str, np.ndarray]

# The largest allowed error of a result, as a share of the largest expected value.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}

TORCH_LAYERS: Mapping[Cell, Callable[[int, int], nn.Module]] = {
    lstm: nn.LSTM,
    gru: nn.GRU,
    rnn_tanh: nn.RNN,
    rnn_relu: lambda inputs, units: nn.RNN(inputs, units, nonlinearity="relu"),
}


@dataclass(frozen=True)
class Problem:
    """One row of the benchmark.

    It has a layer's weights by torch's names, its input x, T×B×I, and dy, T×B×H, the gradient of the loss with
    respect to its output. All are float32, with values that ``dtype`` can represent. Initial states are zero."""

    cell: Cell
    shape: Shape
    mode: str
    dtype: str
    weights: Arrays
    x: np.ndarray
    dy: np.ndarray


class Prepared(NamedTuple):
    """A contender that is ready: the call that is timed, and the results of one call as arrays.

    The results are "output", T×B×H, and in training "input gradient", T×B×I."""

    call: Callable[[], object]
    results: Callable[[], Arrays]


Builder = Callable[[Problem], Prepared]


def draw(cell: Cell, shape: Shape, mode: str, dtype: str = "float32", seed: int = 0) -> Problem:
    """A problem with weights from U(-1/√H, 1/√H) and x and dy from N(0, 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = Recurrent(cell, shape.I, shape.H)
        x = torch.randn(shape.T, shape.B, shape.I)
        dy = torch.randn(shape.T, shape.B, shape.H)
    kind = getattr(torch, dtype)

    def held(tensor: Tensor) -> np.ndarray:
        return tensor.to(kind).float().numpy()

    weights = {name: held(value) for name, value in layer.state_dict().items()}
    return Problem(cell, shape, mode, dtype, weights, held(x), held(dy))


def torch_layer(problem: Problem) -> nn.Module:
    """torch's own layer with the problem's weights, for a cell that is in TORCH_LAYERS."""
    return _loaded(TORCH_LAYERS[problem.cell](problem.shape.I, problem.shape.H), problem)


def gatewise_layer(problem: Problem, backend: str = "auto") -> Recurrent:
    """gatewise's layer with the problem's weights, for any cell."""
    layer = Recurrent(problem.cell, problem.shape.I, problem.shape.H, backend=backend)
    _loaded(layer, problem)
    return layer


def _loaded(layer: nn.Module, problem: Problem) -> nn.Module:
    layer.load_state_dict({name: torch.from_numpy(w) for name, w in problem.weights.items()})
    return layer.to(getattr(torch, problem.dtype))


def expected(problem: Problem) -> Arrays:
    """The expected results in float32, from torch's layer, or from gatewise's reference for a cell that
    torch does not have."""
    exact = Problem(**{**vars(problem), "dtype": "float32"})
    if problem.cell in TORCH_LAYERS:
        return prepared(torch_layer(exact), exact).results()
    return prepared(gatewise_layer(exact, "reference"), exact).results()


def prepared(layer: nn.Module, problem: Problem, **options: object) -> Prepared:
    """A prepared layer of torch or gatewise. ``options`` are arguments of every call.

    A call is the forward pass under ``inference_mode``, or the forward pass and the gradient of (y·dy).sum()
    with respect to the input and every parameter."""
    dtype = getattr(torch, problem.dtype)
    x, dy = (torch.from_numpy(array).to(dtype) for array in (problem.x, problem.dy))
    if problem.mode == "inference":
        layer.eval()

        def infer() -> Tensor:
            with torch.inference_mode():
                return layer(x, **options)[0]

        return Prepared(infer, lambda: {"output": infer().float().numpy()})
    # a cell without recurrent part has recurrent weights without elements
    wanted = [x.requires_grad_(), *(p for p in layer.parameters() if p.numel())]

    def train() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = layer(x, **options)[0]
        return y, torch.autograd.grad((y * dy).sum(), wanted)

    def results() -> Arrays:
        y, gradients = train()
        found = {"output": y.detach(), "input gradient": gradients[0]}
        return {name: tensor.float().numpy() for name, tensor in found.items()}

    return Prepared(train, results)


def disagreement(wanted: Arrays, found: Arrays, dtype: str) -> str | None:
    """How ``found`` differs from ``wanted``, as the end of "it ..."; None if it agrees."""
    for name, right in wanted.items():
        if name not in found:
            return f"gives no {name}"
        if found[name].shape != right.shape:
            return f"gives an {name} of shape {found[name].shape}, expected {right.shape}"
        scale = max(float(np.abs(right).max()), float(np.finfo(np.float32).tiny))
        error = float(np.abs(found[name] - right).max()) / scale
        if not error <= TOLERANCE[dtype]:  # true for a NaN as well
            return (
                f"gives an {name} that is off by {error:.1e} of the greatest value, "
                f"{TOLERANCE[dtype]:.0e} allowed"
            )
    return None
