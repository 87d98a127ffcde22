"""Outputs of a music model: the distribution of all values of one step, given the recurrent layers' output.

A step has K integers: for a piano roll 0 or 1 for each note, for voices the symbol of each voice, for events one
symbol. An output reads a step (:meth:`Output.encoded`), scores it (:meth:`Output.nll`) and draws it
(:meth:`Output.draw`), also where some of its values are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.nn.linear import Linear, few_sizes, linear

UNKNOWN = -1  # a value of a step that is to be drawn


class Output(nn.Module):
    """The distribution of a step's K integers. ``inputs`` is I, the size of an encoded step."""

    inputs: int

    def encoded(self, steps: Tensor) -> Tensor:
        """…×I: the input of the recurrent layers for steps, …×K. Zero for a step of -1, before the first."""
        raise NotImplementedError

    def nll(self, hidden: Tensor, steps: Tensor) -> Tensor:
        """N: the negative log-likelihood in nats of the steps, N×K, for the layers' outputs, N×H."""
        raise NotImplementedError

    def draw(self, hidden: Tensor, given: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """A step for each of B sequences, and the log-likelihood of its given values.

        Args:
            hidden: B×H, the layers' outputs.
            given: B×K, the values to keep; :data:`UNKNOWN` for those to draw.
            temperature: below 1 for more probable steps, above 1 for more surprising ones.
        """
        raise NotImplementedError


class IndependentNotes(Output):
    """Notes of a piano roll that are independent of each other, given the layers' output."""

    def __init__(self, hidden: int, notes: int) -> None:
        super().__init__()
        self.inputs = notes
        self.logits = _mostly_silent(hidden, notes)

    def encoded(self, steps: Tensor) -> Tensor:
        return steps.clamp(0).to(self.logits.weight.dtype)

    def nll(self, hidden: Tensor, steps: Tensor) -> Tensor:
        target = steps.to(hidden.dtype)
        losses = F.binary_cross_entropy_with_logits(self.logits(hidden), target, reduction="none")
        return losses.sum(-1)

    def draw(self, hidden: Tensor, given: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden)
        drawn = torch.bernoulli(torch.sigmoid(logits / temperature)).long()
        chosen = torch.where(given == UNKNOWN, drawn, given)
        return chosen, _log_sigmoid(logits, chosen, given != UNKNOWN)


class NadeNotes(Output):
    """Notes of a piano roll from the highest to the lowest; each depends on the notes above it (NADE).

    The hidden vector of note i is σ(b + Σ W_j) over the sounding notes j above i, and its logit is that vector
    times V_i plus a bias. Both biases depend on the layers' output, as in the RNN-NADE.

    Source: Boulanger-Lewandowski, Bengio & Vincent 2012, "Modeling Temporal Dependencies in High-Dimensional
    Sequences". Larochelle & Murray 2011, "The Neural Autoregressive Distribution Estimator".
    """

    def __init__(self, hidden: int, notes: int, units: int) -> None:
        super().__init__()
        self.inputs = notes
        self.units = Linear(hidden, units)
        self.logits = _mostly_silent(hidden, notes)
        self.sounding = nn.Parameter(torch.randn(notes, units) / units**0.5)  # W
        self.weights = nn.Parameter(torch.randn(notes, units) / units**0.5)  # V

    def encoded(self, steps: Tensor) -> Tensor:
        return steps.clamp(0).to(self.logits.weight.dtype)

    def nll(self, hidden: Tensor, steps: Tensor) -> Tensor:
        # the hidden vector changes only below a sounding note, so a step of n notes has n + 1 of them
        above = steps.sum(-1, keepdim=True) - steps.cumsum(-1)  # N×notes: sounding notes above each
        vectors = steps.sum(-1) + 1
        first = vectors.cumsum(0) - vectors  # the first vector of each step
        step = torch.arange(len(steps), device=steps.device).repeat_interleave(vectors)
        # vectors that no note reads make up one of few numbers, see gatewise.nn.linear
        step = F.pad(step, (0, few_sizes(len(step)) - len(step)))
        level = (
            torch.arange(len(step), device=steps.device) - first[step]
        )  # the notes above a vector
        sounding = (steps == 1)[step] & (above.short()[step] < level.short()[:, None])
        added = linear(sounding.to(hidden.dtype), self.sounding.t())
        every = linear(
            torch.sigmoid(self.units(hidden).index_select(0, step) + added), self.weights
        )
        own = every.gather(0, first[:, None] + above)
        target = steps.to(own.dtype)
        logits = own + self.logits(hidden)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)

    def draw(self, hidden: Tensor, given: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        before, bias = self.units(hidden), self.logits(hidden)
        chosen, known = torch.zeros_like(given), given != UNKNOWN
        found = bias.new_zeros(len(given))
        column = torch.arange(given.shape[1]).expand_as(given)
        next_note = torch.full((len(given), 1), given.shape[1] - 1)  # to decide
        while bool((next_note >= 0).any()):
            # one pass decides all notes down to the next that sounds
            logits = torch.sigmoid(before) @ self.weights.mT + bias
            drawn = torch.bernoulli(torch.sigmoid(logits / temperature)).long()
            drawn = torch.where(known, given, drawn)
            sounding = (drawn == 1) & (column <= next_note)
            lowest = torch.where(sounding, column, -1).amax(1, keepdim=True)
            decided = (column <= next_note) & (column >= lowest)
            chosen = torch.where(decided, drawn, chosen)
            found = found + _log_sigmoid(logits, drawn, known & decided)
            before = before + self.sounding[lowest[:, 0].clamp(0)] * (lowest >= 0)
            next_note = lowest - 1
        return chosen, found


class ChainedVoices(Output):
    """The symbols of V voices in their order; each depends on the symbols of the voices before it.

    Args:
        voices: V, the number of voices.
        symbols: the number of symbols of a voice.
        units: the size of the hidden vector of each voice.
    """

    def __init__(self, hidden: int, voices: int, symbols: int, units: int) -> None:
        super().__init__()
        self.voices, self.symbols = voices, symbols
        self.inputs = voices * symbols
        self.units = Linear(hidden, voices * units)
        self.before = nn.Parameter(torch.randn(voices, voices, symbols, units) / units**0.5)
        self.logits = nn.ModuleList(Linear(units, symbols) for _ in range(voices))

    def encoded(self, steps: Tensor) -> Tensor:
        ones = F.one_hot(steps.clamp(0), self.symbols) * (steps >= 0)[..., None]
        return ones.flatten(-2).to(self.units.weight.dtype)

    def _logits(self, units: Tensor, voice: int, steps: Tensor) -> Tensor:
        """N×symbols: the logits of a voice, for the symbols of the voices before it in N×V steps."""
        vector = units[:, voice]
        for other in range(voice):
            vector = vector + self.before[voice, other][steps[:, other]]
        logits: Tensor = self.logits[voice](torch.relu(vector))
        return logits

    def _units(self, hidden: Tensor) -> Tensor:
        return self.units(hidden).unflatten(-1, (self.voices, -1))

    def nll(self, hidden: Tensor, steps: Tensor) -> Tensor:
        units = self._units(hidden)
        losses = [
            F.cross_entropy(self._logits(units, k, steps), steps[:, k], reduction="none")
            for k in range(self.voices)
        ]
        return torch.stack(losses).sum(0)

    def draw(self, hidden: Tensor, given: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        units, chosen = self._units(hidden), given.clone()
        found = hidden.new_zeros(len(given))
        for k in range(self.voices):
            logits = self._logits(units, k, chosen)
            chosen[:, k], log_likelihood = _symbol(logits, given[:, k], temperature)
            found = found + log_likelihood
        return chosen, found


class Symbols(Output):
    """One symbol a step, as in a language model. A step is N×1."""

    def __init__(self, hidden: int, symbols: int, units: int) -> None:
        super().__init__()
        self.inputs = units
        self.embedding = nn.Embedding(symbols, units)
        self.logits = Linear(hidden, symbols)

    def encoded(self, steps: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(steps[..., 0].clamp(0))
        return embedded * (steps >= 0)

    def nll(self, hidden: Tensor, steps: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(hidden), steps[:, 0], reduction="none")

    def draw(
        self, hidden: Tensor, given: Tensor, temperature: float, barred: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """As that of the base class. The symbols ``barred`` are not drawn."""
        chosen, found = _symbol(self.logits(hidden), given[:, 0], temperature, barred)
        return chosen[:, None], found


def _mostly_silent(hidden: int, notes: int) -> Linear:
    """The logits of notes. At first each sounds in one of twenty steps, as in most music."""
    logits = Linear(hidden, notes)
    nn.init.constant_(logits.bias, -3.0)
    return logits


def _log_sigmoid(logits: Tensor, chosen: Tensor, counted: Tensor) -> Tensor:
    """B: the log-likelihood of those ``chosen`` notes, B×K, that are ``counted``."""
    each = F.logsigmoid(torch.where(chosen == 1, logits, -logits))
    return (each * counted).sum(-1)


def _symbol(
    logits: Tensor, given: Tensor, temperature: float, barred: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """The given symbol of each of B sequences, or a drawn one other than those ``barred``, and the log-likelihood of
    the given ones."""
    allowed = logits.clone()
    allowed[:, list(barred)] = -torch.inf
    below = allowed - allowed.amax(-1, keepdim=True)  # finite also after the division
    drawn = torch.multinomial(torch.softmax(below / temperature, -1), 1)[:, 0]
    known = given != UNKNOWN
    chosen = torch.where(known, given, drawn)
    likelihood = torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0]
    return chosen, likelihood * known
