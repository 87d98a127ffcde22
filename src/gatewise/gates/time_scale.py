"""Time scales of units, measured from gradients: how long what a unit holds matters.

Beside -1 / mean(ln f), which knows only what a unit keeps itself, a gradient knows also what it passes on to
other units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.backends.reference import through_time
from gatewise.errors import DataError
from gatewise.gates.directions import Place
from gatewise.gates.lags import by_lag, last_read, places_of, vectors_of
from gatewise.gates.recorded import Call, run_recorded
from gatewise.nn.masks import make_masks, mask_kinds
from gatewise.nn.parameters import step_parameters, weights_of

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
        For each place and state H numbers of steps. A state whose gradient the cell stops has no entry.
    """
    calls = run_recorded(model, inputs, named_inputs, lengths, modules)
    found = {}
    for place in places_of(calls):
        call = calls[place.module]
        if not len(call.lengths) or int(call.lengths.max()) < 2:
            raise DataError(
                f"the sequences of {place} have fewer than two steps: give a longer one"
            )
        scales = {
            state: _time_scale(call, place, k, samples, seed)
            for k, state in enumerate(call.layer.config.cell.state)
        }
        found[place] = {state: scale for state, scale in scales.items() if scale is not None}
    return found


def _time_scale(call: Call, place: Place, k: int, samples: int | None, seed: int) -> Array | None:
    width = call.layer.config.state_sizes[k]
    vectors, exact = vectors_of(width, samples, seed, call.x)
    norms = _state_norms(call, place, k, vectors)
    if norms is None:
        return None
    norms = norms if exact else norms / np.sqrt(len(vectors))
    steps = int(call.lengths.max())
    norms = norms[:, :steps]
    there = np.arange(steps) < call.lengths.numpy()[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(there[..., None], np.log(norms), 0.0).sum(0) / there.sum(0)[:, None]
        left = logs[1:] > np.log(_LEAST)
        # the lags before the first at which too little is left, and at least 1
        lag = np.where(left.all(0), steps - 1, np.maximum(left.argmin(0), 1))
        found: Array = -lag / logs[lag, np.arange(width)] + 0.0
    return np.where(np.isinf(found), np.inf, found)


def _state_norms(call: Call, place: Place, k: int, vectors: Tensor) -> Array | None:
    """B×T×H: for each unit of the k-th state the root of the sum over v of (v ∂s_t/∂s_{t-lag})², by lag; None if
    the cell stops the state's gradient."""
    x = call.input_of(place.layer)
    if place.direction:
        x = by_lag(x, call.lengths, 0)  # the last step first: in the order of reading
    batch, steps = x.shape[:2]
    width = call.layer.config.state_sizes[k]
    squares = torch.zeros(batch, steps, width, dtype=torch.float64)
    at_once = max(1, _MOST // max(1, batch * steps * width))
    for some in vectors.split(at_once):
        states = _states(call, place, k, x.repeat(len(some), 1, 1), len(some))
        if not states[-1].requires_grad:
            return None
        with torch.enable_grad():
            values = torch.stack(states, 1)
            last = last_read(values, call.lengths.repeat(len(some)), 0)
            number = (last * some.repeat_interleave(batch, 0)).sum()
        each = torch.autograd.grad(number, states, allow_unused=True)
        gradients = torch.stack([torch.zeros_like(last) if g is None else g for g in each], 1)
        squares += gradients.double().square().unflatten(0, (len(some), batch)).sum(0).cpu()
    return by_lag(squares.sqrt(), call.lengths, 0).numpy()


def _states(call: Call, place: Place, k: int, x: Tensor, times: int) -> list[Tensor]:
    """The k-th state after each step of ``x``, B×T×I, as nodes of one graph.

    Args:
        times: how often each sequence stands in ``x``.
    """
    layer, config = call.layer, call.layer.config
    suffix = config.suffixes[place.layer][place.direction]
    weights = weights_of(config, suffix, step_parameters(layer, config, suffix))
    kinds = mask_kinds(None, 0, layer.zoneout)
    masks = make_masks(
        *(kinds, config, x[:1].transpose(0, 1), None, None),
        **dict(reverse=False, recurrent_dropout=0.0, zoneout=layer.zoneout, training=False),  # type: ignore[arg-type]
    )
    state = tuple(s.repeat(times, 1) for s in call.initial_states(place.layer, place.direction))
    states = []
    with torch.enable_grad():
        # a gradient is wanted in a frozen model too
        for step in x.transpose(0, 1).detach().requires_grad_().unbind(0):
            state = through_time(config.cell, step[None], state, weights, masks).state
            states.append(state[k])
    return states
