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
from gatewise.gates.lags import by_lag, last_read, places_of, vectors_of
from gatewise.gates.recorded import Call, run_recorded
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
    projection and its residual connection.

    Args:
        model: a module with recurrent layers of gatewise or ``torch.nn``.
        inputs: the arguments of the model.
        named_inputs: its arguments by name.
        lengths: B integers, the lengths of the sequences. The model gets them if its ``forward`` has the
            argument ``lengths``; otherwise its recurrent layers use them here.
        modules: the name of a recurrent module, or several; the default is all.
        samples: the number of random vectors; by default 32, and none up to 64 units, where the norms are exact.
        seed: of the random vectors.

    Raises:
        OptionError: the model has no recurrent layer, does not call it, or has no module of that name.
        DataError: all sequences are empty, or the output does not depend on the input.
    """
    calls = run_recorded(model, inputs, named_inputs, lengths, modules)
    found = {}
    for place in places_of(calls):
        call = calls[place.module]
        width = call.layer.config.state_sizes[0]
        vectors, exact = vectors_of(width, samples, seed, call.x)
        norm, sequences = norms_by_lag(call, place, vectors, exact)
        if not norm.any() or not np.isfinite(norm).all():
            what = "is zero" if np.isfinite(norm).all() else "is not finite"
            raise DataError(
                f"the gradient of the output of {place} with respect to its input {what}: look at the weights"
            )
        found[place] = Horizon(norm, sequences, exact)
    return found


def norms_by_lag(call: Call, place: Place, vectors: Tensor, exact: bool) -> tuple[Array, Array]:
    """The root mean square over the sequences of ‖∂h_t/∂x_{t-k}‖ for each k, and the numbers of sequences.

    Args:
        vectors: unit vectors for all units, or random signs.
        exact: which of both they are.

    Raises:
        DataError: all sequences are empty.
    """
    steps = int(call.lengths.max()) if len(call.lengths) else 0
    if not steps:
        raise DataError(f"the sequences of {place} have no steps: give one that is not empty")
    squares = _squares(call, place, vectors)[:, :steps].cpu().numpy()
    number = (np.arange(steps) < call.lengths.numpy()[:, None]).sum(0)
    return np.sqrt(squares.sum(0) / (number if exact else number * len(vectors))), number


def _squares(call: Call, place: Place, vectors: Tensor) -> Tensor:
    """B×T: the sum over the vectors v of ‖v ∂h_t/∂x_{t-k}‖² for k = 0, 1, …, where t is the last step that is
    read. It is zero for lags beyond the sequence."""
    x = call.x.clone().requires_grad_()
    width = vectors.shape[1]
    squares = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    with torch.enable_grad():
        output = call.output(x, place.layer + 1)
        own = output[..., place.direction * width : (place.direction + 1) * width]
        last = last_read(own, call.lengths, place.direction)
        for vector in vectors:
            gradient = torch.autograd.grad((last * vector).sum(), x, retain_graph=True)[0]
            squares += gradient.double().square().sum(2)
    return by_lag(squares, call.lengths, place.direction)
