"""Time scales of units, measured from gradients: how long what a unit holds matters.

Beside -1 / mean(ln f), which knows only what a unit keeps itself, a gradient knows also what it passes on to
other units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.backends.reference import through_time
from gatewise.errors import DataError
from gatewise.gates.directions import Place
from gatewise.gates.lags import by_lag, last_read, vectors_of
from gatewise.gates.recorded import DirectionCall, directions_of, run_recorded
from gatewise.nn.mlstm import MLSTM
from gatewise.nn.runs import LayerRun

Array = np.ndarray

# What is left of a gradient when the measurement ends. Less is a rounding error of float32, or will soon be.
_LEAST = 1e-6
_MOST = (
    1 << 21
)  # values of a state over all steps, sequences and vectors that are in memory at a time


def gradient_time_scale(
    model: nn.Module,
    *inputs: Any,
    lengths: Any = None,
    modules: str | Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    **named_inputs: Any,
) -> dict[Place, dict[str, Array]]:
    """The time scale of each unit of each state, measured from gradients, in steps.

    It is T = -K / ln ‖∂c_t/∂c_{t-K}‖, where the derivative is with respect to the unit's value at t - K, of the
    last step t of each sequence, and the logarithm is the mean over the sequences. So it counts what passes on
    to other units, unlike -1 / mean(ln f), which :attr:`LayerStatistics.time_scale` has. K is the greatest lag
    at which more than a millionth is left. T is negative where the gradient grows.

    The arguments and errors are those of :func:`memory_horizon`. The layers run step by step, so this takes
    longer.

    Returns:
        For each place and state H numbers of steps. A state whose gradient the cell stops has no entry. The memory
        ``C`` and the normaliser ``n`` of an mLSTM have a number for each head.
    """
    calls = run_recorded(model, inputs, named_inputs, lengths, modules)
    found = {}
    for each in directions_of(calls):
        lengths = each.call.lengths
        if not len(lengths) or int(lengths.max()) < 2:
            raise DataError(
                f"the sequences of {each.place} have fewer than two steps: give a longer one"
            )
        found[each.place] = {
            state: _time_scale(norms[:, : int(lengths.max())].cpu().numpy(), lengths.numpy())
            for state, norms in _norms(each, samples, seed).items()
        }
    return found


def _time_scale(norms: Array, lengths: Array) -> Array:
    """T of each unit, from the norms by lag, B×T×H."""
    steps = norms.shape[1]
    there = np.arange(steps) < lengths[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(there[..., None], np.log(norms), 0.0).sum(0) / there.sum(0)[:, None]
        left = logs[1:] > np.log(_LEAST)
        # the lags before the first at which too little is left, and at least 1
        lag = np.where(left.all(0), steps - 1, np.maximum(left.argmin(0), 1))
        found: Array = -lag / logs[lag, np.arange(norms.shape[2])] + 0.0
    return np.where(np.isinf(found), np.inf, found)


def _norms(each: DirectionCall, samples: int | None, seed: int) -> dict[str, Tensor]:
    """For each state whose gradient the cell does not stop B×T×H: for each unit ‖∂s_t/∂s_{t-lag}‖, by lag."""
    if isinstance(each.call.layer, MLSTM):
        kept = _kept_by_heads(each)
        return {"C": kept, "n": kept}
    given = each.given()
    norms = {name: _state_norms(given, name, each, samples, seed) for name in given.cell.state}
    return {name: found for name, found in norms.items() if found is not None}


def _kept_by_heads(each: DirectionCall) -> Tensor:
    """B×T×heads: what an mLSTM's memory keeps, by lag. It is a product of forget gates, the same for all numbers
    of the memory of a head, because there are no recurrent weights."""
    logs = each.call.trace()["f"][0][0].double().log()
    by_step = by_lag(logs, each.call.lengths, each.direction)
    return (by_step.cumsum(1) - by_step).exp()


def _state_norms(
    given: LayerRun, name: str, each: DirectionCall, samples: int | None, seed: int
) -> Tensor | None:
    """B×T×H, of a state; None if the cell stops the state's gradient.

    It is the root of the sum over the vectors v of (v ∂s_t/∂s_{t-lag})², for random vectors of their mean.
    """
    state = given.state[given.cell.state.index(name)]
    width, (steps, batch) = state[0].numel(), given.x.shape[:2]
    vectors, exact = vectors_of(width, samples, seed, state)
    squares = torch.zeros(batch, steps, width, dtype=torch.float64, device=state.device)
    for some in vectors.split(max(1, _MOST // max(1, batch * steps * width))):
        states = _states(given, name, len(some))
        if not states[-1].requires_grad:
            return None
        with torch.enable_grad():
            values = torch.stack(states, 1).flatten(2)
            last = last_read(values, each.call.lengths.repeat(len(some)), each.direction)
            number = (last * some.repeat_interleave(batch, 0)).sum()
        found = torch.autograd.grad(number, states, allow_unused=True, materialize_grads=True)
        gradients = torch.stack(found, 1).flatten(2)
        squares += gradients.double().square().unflatten(0, (len(some), batch)).sum(0)
    norms = by_lag(squares.sqrt(), each.call.lengths, each.direction)
    return norms if exact else norms / len(vectors) ** 0.5


def _states(given: LayerRun, name: str, times: int) -> list[Tensor]:
    """A state after each step, as nodes of one graph, where each sequence stands so often in the batch."""
    states: list[Tensor] = [given.x.new_empty(0)] * len(given.x)

    def changes(t: int) -> dict[str, Callable[[Tensor], Tensor]]:
        def keep(value: Tensor) -> Tensor:
            states[t] = value
            return value

        return {name: keep}

    lengths, reset = given.masks.lengths, given.masks.reset
    masks = given.masks._replace(
        lengths=None if lengths is None else lengths.repeat(times),
        reset=None if reset is None else reset.repeat(1, times),
    )
    state = tuple(torch.cat([s] * times) for s in given.state)
    with torch.enable_grad():
        # a gradient is wanted in a frozen model too
        x = torch.cat([given.x.detach()] * times, 1).requires_grad_()
        arguments = (given.cell, x, state, given.weights, masks, given.product)
        through_time(*arguments, reverse=given.reverse, changes=changes)
    return states
