"""Samples of a music model: new tunes, continued tunes, and voices added to a melody.

The recurrent layers run as a stream, one step a call; see :class:`gatewise.nn.stream.Stream`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gatewise.data.music.events import END, Events
from gatewise.data.music.places import Clock
from gatewise.models.chords import UNKNOWN
from gatewise.models.music import MusicNetwork

Array = np.ndarray


class Sampler:
    """Sequences that are drawn side by side, step by step.

    Args:
        clock: where the next step of each of the B sequences stands in its bar.
        columns: K, the number of values of a step.
    """

    def __init__(self, network: MusicNetwork, clock: Clock, columns: int) -> None:
        self.network, self.clock = network, clock
        count = len(clock.places())
        self.stream = network.lstm.stream(count)
        self.drawn: list[Tensor] = []
        self.last = torch.full((count, columns), UNKNOWN)

    def step(self, given: Tensor, temperature: float, **options: Sequence[int]) -> Tensor:
        """Draws the next step where ``given``, B×K, is unknown. Returns the log-likelihood of the given values.

        ``options`` are those of the output's ``draw``."""
        output, places = self.network.output, torch.from_numpy(self.clock.places())
        row = self.network.with_place(output.encoded(self.last), places).contiguous()
        hidden = self.network.with_place(torch.from_numpy(self.stream.step(row)), places)
        self.last, likelihood = output.draw(hidden, given, temperature, **options)
        self.clock.advance(self.last.numpy())
        self.drawn.append(self.last)
        return likelihood

    def keep(self, chosen: Tensor) -> None:
        """Continues with the sequences ``chosen``, B indices."""
        state = self.stream.state
        self.stream.state = [each[:, chosen].contiguous() for each in state]
        self.clock.keep(chosen.numpy())
        self.drawn = [each[chosen] for each in self.drawn]
        self.last = self.last[chosen]

    def steps(self) -> Tensor:
        """B×T×K: the steps so far."""
        return torch.stack(self.drawn, 1)


@torch.no_grad()
def continuations(
    network: MusicNetwork,
    start: Array,
    clock: Clock,
    steps: int,
    temperature: float,
    events: Events | None,
    shortest: int = 0,
) -> list[Array]:
    """Tunes that begin with the same steps.

    Args:
        start: T×K, the steps that all begin with; T may be 0.
        clock: where the first step of each tune stands in its bar.
        steps: the number of all steps.
        events: the encoding, if the steps are events: one of them ends a tune before that.
        shortest: the number of events before which no tune ends.
    """
    sampler = Sampler(network, clock, start.shape[1])
    unknown = torch.full_like(sampler.last, UNKNOWN)
    ended = torch.zeros(len(unknown), dtype=torch.bool)
    for at in range(max(steps, len(start))):
        given = torch.from_numpy(start[at]).expand_as(unknown) if at < len(start) else unknown
        barred = {} if events is None else {"barred": _barred(events, at, shortest)}
        sampler.step(given.contiguous(), temperature, **barred)
        if events is not None and at >= len(start):
            ended |= sampler.last[:, 0] == END
            if bool(ended.all()):
                break
    tunes = [each.numpy() for each in sampler.steps()]
    return [tune[: _ends_at(tune, len(start))] if events else tune for tune in tunes]


def _barred(events: Events, at: int, shortest: int) -> list[int]:
    """The events that are not drawn at this place: the first event is the metre, and no other is."""
    meters = [k for k, name in enumerate(events.names) if name.startswith("meter:")]
    if at == 0:
        return [k for k in range(events.symbols) if k not in meters]
    return meters if at >= shortest else [*meters, END]


def _ends_at(tune: Array, begun: int) -> int:
    ends = np.flatnonzero(tune[begun:, 0] == END).tolist()
    return begun + ends[0] + 1 if ends else len(tune)


@torch.no_grad()
def harmonised(network: MusicNetwork, given: Array, clock: Clock, temperature: float) -> Array:
    """T×K: a tune with the given values, T×K, and values drawn for the unknown ones.

    A particle filter with a particle for each sequence of ``clock``. Each particle draws the unknown values of a step
    from the model, and is weighted by the probability that it gave to the given ones. When few particles carry most
    of the weight, all are drawn anew by weight, so that the drawn voices suit the melody that is still to come.

    Source: Gordon, Salmond & Smith 1993, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation".
    """
    sampler = Sampler(network, clock, given.shape[1])
    particles = len(sampler.last)
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
