"""Samples of a music model: new tunes, continued tunes, and voices added to a melody.

The recurrent layers run as a stream, one step a call; see :class:`gatewise.nn.stream.Stream`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gatewise.models.chords import UNKNOWN
from gatewise.models.music import MusicNetwork

Array = np.ndarray


class Sampler:
    """Sequences that are drawn side by side, step by step.

    Args:
        count: B, the number of sequences.
        columns: K, the number of values of a step.
    """

    def __init__(self, network: MusicNetwork, count: int, columns: int) -> None:
        self.output, self.stream = network.output, network.lstm.stream(count)
        self.drawn: list[Tensor] = []
        self.last = torch.full((count, columns), UNKNOWN)

    def step(self, given: Tensor, temperature: float, **options: int) -> Tensor:
        """Draws the next step where ``given``, B×K, is unknown. Returns the log-likelihood of the given values.

        ``options`` are those of the output's ``draw``."""
        row = self.output.encoded(self.last).contiguous()
        hidden = torch.from_numpy(self.stream.step(row))
        self.last, likelihood = self.output.draw(hidden, given, temperature, **options)
        self.drawn.append(self.last)
        return likelihood

    def keep(self, chosen: Tensor) -> None:
        """Continues with the sequences ``chosen``, B indices."""
        state = self.stream.state
        self.stream.state = [each[:, chosen].contiguous() for each in state]
        self.drawn = [each[chosen] for each in self.drawn]
        self.last = self.last[chosen]

    def steps(self) -> Tensor:
        """B×T×K: the steps so far."""
        return torch.stack(self.drawn, 1)


@torch.no_grad()
def continuations(
    network: MusicNetwork,
    start: Array,
    count: int,
    steps: int,
    temperature: float,
    end: int | None,
    shortest: int = 0,
) -> list[Array]:
    """Tunes that begin with the same steps.

    Args:
        start: T×K, the steps that all begin with; T may be 0.
        steps: the number of all steps.
        end: the symbol that ends a tune before that.
        shortest: the number of steps before which no tune ends.
    """
    sampler = Sampler(network, count, start.shape[1])
    unknown = torch.full((count, start.shape[1]), UNKNOWN)
    ended = torch.zeros(count, dtype=torch.bool)
    for at in range(max(steps, len(start))):
        given = torch.from_numpy(start[at]).expand_as(unknown) if at < len(start) else unknown
        barred = {} if end is None or at >= shortest else {"barred": end}
        sampler.step(given.contiguous(), temperature, **barred)
        if end is not None and at >= len(start):
            ended |= sampler.last[:, 0] == end
            if bool(ended.all()):
                break
    tunes = [each.numpy() for each in sampler.steps()]
    return [tune[: _ends_at(tune, end, len(start))] for tune in tunes]


def _ends_at(tune: Array, end: int | None, begun: int) -> int:
    ends = [] if end is None else np.flatnonzero(tune[begun:, 0] == end).tolist()
    return begun + ends[0] + 1 if ends else len(tune)


@torch.no_grad()
def harmonised(network: MusicNetwork, given: Array, particles: int, temperature: float) -> Array:
    """T×K: a tune with the given values, T×K, and values drawn for the unknown ones.

    A particle filter: each particle draws the unknown values of a step from the model, and is weighted by the
    probability that it gave to the given ones. When few particles carry most of the weight, all are drawn anew
    by weight, so that the drawn voices suit the melody that is still to come.

    Source: Gordon, Salmond & Smith 1993, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation".
    """
    sampler = Sampler(network, particles, given.shape[1])
    weights = torch.zeros(particles)
    for row in torch.from_numpy(given):
        weights = weights + sampler.step(row.repeat(particles, 1), temperature)
        shares = torch.softmax(weights, 0)
        if 1 / shares.square().sum() < particles / 2:
            sampler.keep(torch.multinomial(shares, particles, replacement=True))
            weights = torch.zeros(particles)
    best = int(torch.multinomial(torch.softmax(weights, 0), 1))
    tune: Array = sampler.steps()[best].numpy()
    return tune
