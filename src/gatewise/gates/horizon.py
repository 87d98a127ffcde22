"""The memory horizon: how strongly a layer's output depends on the input k steps before it.

It is the Frobenius norm ‖∂h_t/∂x_{t-k}‖ against k, of the last step of each sequence. With few units it is
computed exactly, with one backward pass for each. With many it is estimated: for random signs v the mean of
‖v ∂h_t/∂x_{t-k}‖² is the squared norm (Hutchinson 1990, "A Stochastic Estimator of the Trace of the Influence
Matrix").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.errors import DataError
from gatewise.gates.directions import Place
from gatewise.gates.lags import by_lag, last_read, vectors_of
from gatewise.gates.recorded import DirectionCall, directions_of, run_recorded
from gatewise.options import number

Array = np.ndarray


@dataclass(frozen=True)
class Horizon:
    """How far back the output of one layer depends on the input of the recurrent module.

    Attributes:
        norm: the root mean square over the sequences of ‖∂h_t/∂x_{t-k}‖, for k = 0, 1, …, T - 1. For the
            reverse direction k counts the steps behind t.
        sequences: the number of sequences that are long enough for each k.
        exact: whether the norms are exact; otherwise they are estimated from random vectors.
    """

    norm: Array
    sequences: Array
    exact: bool

    def reach(self, share: float = 0.5) -> int:
        """The greatest k whose norm is at least this share of the greatest norm: the horizon in steps.

        With half, a network that was trained to repeat its input N steps later has the horizon N, or one more
        or less.

        Raises:
            OptionError: the share is not above 0 and at most 1.
        """
        share = number("share", share, "a number above 0 and at most 1", above=0, most=1)
        return int(np.flatnonzero(self.norm >= share * self.norm.max())[-1])

    @property
    def mean_lag(self) -> float:
        """The mean of k, weighted with the norms."""
        return float((np.arange(len(self.norm)) * self.norm).sum() / self.norm.sum())

    def table(self) -> dict[str, Array]:
        """The columns ``lag``, ``norm`` and ``sequences``."""
        return dict(lag=np.arange(len(self.norm)), norm=self.norm, sequences=self.sequences)

    def __repr__(self) -> str:
        how = "exact" if self.exact else "estimated"
        return (
            f"<horizon of {self.reach()} steps (‖∂h_t/∂x_(t-k)‖ at least half of its greatest), 1 % is left "
            f"after {self.reach(0.01)}; mean lag {self.mean_lag:.1f}, {how} over {self.sequences[0]} sequences>"
        )


def memory_horizon(
    model: nn.Module,
    *inputs: Any,
    lengths: Any = None,
    modules: str | Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    **named_inputs: Any,
) -> dict[Place, Horizon]:
    """The memory horizon of each layer of a model, by :class:`Place` (module, layer, direction).

    The model runs once, in evaluation mode. Then each recurrent module runs alone on the inputs that it got, so
    that a module's horizon does not depend on the modules before it. A layer's output is that behind its
    projection and its residual connection. The names are those of :func:`gatewise.trace`. A loop over a step cell
    is run as a layer from its first call on, and must pass the cell's state on as it is.

    Args:
        model: a module with recurrent layers or step cells of gatewise or ``torch.nn``, or a Keras model on the torch
            backend, whose masked steps do not count. The units of a convolutional layer are its channels at each
            pixel.
        inputs: the arguments of the model.
        named_inputs: its arguments by name.
        lengths: B integers, the lengths of the sequences. The model gets them if its ``forward`` has the
            argument ``lengths``; otherwise its recurrent layers use them here.
        modules: the name of a recurrent module, or several; the default is all.
        samples: the number of random vectors; by default 32, and none up to 64 units, where the norms are exact.
        seed: of the random vectors.

    Raises:
        OptionError: the model has no recurrent module, does not call it, or has no module of that name; the state
            of a step cell is changed between its calls.
        BackendError: a module computes something else than torch's equations.
        DataError: all sequences are empty, or the output does not depend on the input.
    """
    calls = run_recorded(model, inputs, named_inputs, lengths, modules)
    found = {}
    for each in directions_of(calls):
        horizon = horizon_of_direction(each, samples, seed)
        if not horizon.norm.any() or not np.isfinite(horizon.norm).all():
            what = "is zero" if np.isfinite(horizon.norm).all() else "is not finite"
            raise DataError(
                f"the gradient of the output of {each.place} with respect to its input {what}: look at the weights"
            )
        found[each.place] = horizon
    return found


def horizon_of_direction(each: DirectionCall, samples: int | None, seed: int) -> Horizon:
    """The horizon of one direction of one layer. Its norms may be zero, or not finite.

    Raises:
        DataError: all sequences are empty.
    """
    call = each.call
    steps = int(call.lengths.max()) if len(call.lengths) else 0
    if not steps:
        raise DataError(f"the sequences of {each.place} have no steps: give one that is not empty")
    x = call.x.clone().requires_grad_()
    with torch.enable_grad():
        output = each.output(x).flatten(2)
        last = last_read(output, call.lengths, each.direction)
        vectors, exact = vectors_of(last.shape[1], samples, seed, last)
        squares = _squares(last, x, vectors)
    squares = by_lag(squares, call.lengths, each.direction)[:, :steps].cpu()
    number = (np.arange(steps) < call.lengths.numpy()[:, None]).sum(0)
    mean = squares.numpy().sum(0) / (number if exact else number * len(vectors))
    return Horizon(np.sqrt(mean), number, exact)


def _squares(output: Tensor, x: Tensor, vectors: Tensor) -> Tensor:
    """B×T: the sum over the vectors v of ‖v ∂output/∂x_t‖², where the output is B×H."""
    squares = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    for vector in vectors:
        gradient = torch.autograd.grad((output * vector).sum(), x, retain_graph=True)[0]
        squares += gradient.double().square().flatten(2).sum(2)
    return squares
