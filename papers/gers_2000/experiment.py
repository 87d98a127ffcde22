"""Table 2: training streams, tests on fresh streams, and what became of each network."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import unknown
from papers.gers_2000.grammar import LEGAL, Random, advance, walk
from papers.gers_2000.network import Design, Fixed, Networks

RATE = 0.5
LONGEST = 100_000  # symbols of a stream, in training and in a test
TESTS = 10  # streams of a test
WITHIN = 0.49  # a prediction is right if every output's error is below
STILL = 1e-12  # a rate of learning that changes no float32 weight
MOST_STREAMS = 30_000  # the paper's, for training
GOOD = 1000  # symbols without error, in the mean of a test


@dataclass(frozen=True)
class Paper:
    """What table 2 says, of 100 networks: the share that became perfect and the mean number of
    training streams these needed; the shares of the good ones and of the rest, each with the mean
    number of symbols without error."""

    perfect: float
    good: float
    rest: float
    streams: float | None = None
    good_length: float | None = None
    rest_length: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of table 2."""

    title: str
    design: Design
    paper: Paper


ROWS: Mapping[str, Row] = {
    "reset": Row(
        "standard LSTM, states reset from without",
        Design(reset=True),
        Paper(0.74, 0.0, 0.26, streams=7441, rest_length=31),
    ),
    "standard": Row(
        "standard LSTM",
        Design(),
        Paper(0.0, 0.01, 0.99, good_length=1166, rest_length=37),
    ),
    "state_decay": Row(
        "LSTM, states times 0.9 at each step",
        Design(keep=0.9),
        Paper(0.0, 0.0, 1.0, rest_length=56),
    ),
    "forget": Row(
        "LSTM with forget gates",
        Design(forget=True),
        Paper(0.18, 0.29, 0.53, streams=18889, good_length=39171, rest_length=145),
    ),
    "forget_decay": Row(
        "LSTM with forget gates, the rate times 0.99 at each symbol of a stream",
        Design(forget=True, decay=0.99),
        Paper(0.62, 0.06, 0.32, streams=14087, good_length=68464, rest_length=30),
    ),
}


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    if name not in ROWS:
        raise unknown("row", name, ROWS)
    return ROWS[name]


def error_free(
    network: Fixed,
    rng: Random,
    place: np.ndarray,
    longest: int = LONGEST,
    state: tuple[Tensor, ...] | None = None,
) -> np.ndarray:
    """On how many symbols of fresh streams from ``place`` on, n of them, a network goes on without
    error, ``longest`` at most; from zero states, or from those given."""
    lengths, alive = np.zeros(len(place), np.int64), np.arange(len(place))
    done, steps = 0, 64
    while len(alive) and done < longest:
        steps = min(steps, longest - done)
        symbols, places = walk(rng, place, steps)
        begins = np.concatenate([place[None], places[:-1]]) == 0
        with torch.inference_mode():
            found, state = network.outputs(symbols, state, begins)
        right = (np.abs(found.numpy() - LEGAL[places]) < WITHIN).all(-1)
        first = np.where(right.all(0), steps, right.argmin(0))
        lengths[alive] += first
        on = first == steps
        alive, place, done, steps = alive[on], places[-1, on], done + steps, min(4 * steps, 16384)
        state = tuple(s[:, torch.from_numpy(on)] for s in state)
    return lengths


@dataclass
class Outcome:
    """What became of a network.

    Attributes:
        perfect: every stream of a test went on to its end.
        streams: training streams, until it was perfect or the time was over.
        symbols: training symbols without error, in all.
        best: the longest mean of a test, in symbols without error.
        tests: how often it was tested.
        longest: the longest training stream.
    """

    perfect: bool = False
    streams: int = 0
    symbols: int = 0
    best: float = 0.0
    tests: int = 0
    longest: int = 0


class Trial:
    """Many networks of a row in training, each with its own stream.

    The paper tests after each training stream. Here a network is tested after one that is longer than
    any it had before, and after one without error to its end: a perfect network's are. Where the
    rate falls with each symbol until nothing is learned any more, the core runs what is left of the
    stream.

    Args:
        row: of table 2.
        networks: how many.
        seed: of weights, streams and tests.
        streams: training streams after which a network is given up.
        longest: symbols of a stream at most.

    Attributes:
        outcomes: of each network so far.
        ticks: symbols of training, each of all networks at once.
    """

    def __init__(
        self,
        row: Row,
        networks: int,
        seed: int,
        streams: int = MOST_STREAMS,
        longest: int = LONGEST,
    ) -> None:
        self.row, self.streams, self.longest = row, streams, longest
        self.rng = np.random.default_rng([seed, 2000])
        self.training = Networks(row.design, networks, self.rng)
        self.ticks = 0
        kinds = [(f.name, type(f.default)) for f in fields(Outcome)]
        self._found = {name: np.zeros(networks, kind) for name, kind in kinds}
        self._who = np.arange(networks)  # whose weights are in each place
        self._place = np.zeros(networks, np.int64)
        self._length = np.zeros(networks, np.int64)
        self._rate = np.full(networks, RATE, np.float32)

    @property
    def outcomes(self) -> list[Outcome]:
        each = zip(*(values.tolist() for values in self._found.values()), strict=True)
        return [Outcome(*values) for values in each]

    def run(self, seconds: float = math.inf, ticks: float = math.inf) -> list[Outcome]:
        """Trains until all are perfect or given up, for so many seconds of this process, or for so many
        symbols of each; streams that are under way then are not counted."""
        end = time.process_time() + seconds
        while len(self._who) and time.process_time() < end and self.ticks < ticks:
            for coin in self.rng.integers(2, size=(256, len(self._who))):
                if not self._symbol(coin) or self.ticks >= ticks:
                    break
        return self.outcomes

    def _symbol(self, coin: np.ndarray) -> bool:
        """One symbol of each stream. Whether all networks go on."""
        design, length = self.row.design, self._length
        if design.reset:
            self.training.reset(self._place == 0)
        symbol, self._place = advance(self._place, coin)
        target = LEGAL[self._place].T
        found = self.training.learn(symbol, target, self._rate)
        self.ticks += 1
        wrong = (np.abs(found - target) >= WITHIN).any(0)
        length += ~wrong
        ended = wrong | (length >= self.longest)
        if design.decay != 1:
            self._rate *= design.decay
            for k in np.flatnonzero((self._rate < STILL) & ~ended):
                self._run_on(int(k))
                ended[k] = True
        return self._ended(np.flatnonzero(ended)) if ended.any() else True

    def _run_on(self, k: int) -> None:
        """To the end of the stream in place k, of which nothing more is learned."""
        network, state = self.training.fixed(k), self.training.carried(k)
        left = self.longest - int(self._length[k])
        self._length[k] += error_free(network, self.rng, self._place[k : k + 1], left, state)[0]

    def _ended(self, places: np.ndarray) -> bool:
        """The training streams in those places have ended. Whether these networks need others."""
        found, who, length = self._found, self._who[places], self._length[places]
        test = (length > found["longest"][who]) | (length >= self.longest)
        found["streams"][who] += 1
        found["symbols"][who] += length
        found["longest"][who] = np.maximum(found["longest"][who], length)
        for k in places[test]:
            self._test(int(k))
        self.training.reset(places)
        self._place[places] = self._length[places] = 0
        self._rate[places] = RATE
        over = places[found["perfect"][who] | (found["streams"][who] >= self.streams)]
        if len(over):
            self.training.drop(over)
            for name in ("_who", "_place", "_length", "_rate"):
                setattr(self, name, np.delete(getattr(self, name), over))
        return not len(over)

    def _test(self, k: int) -> None:
        found, who = self._found, self._who[k]
        begin = np.zeros(TESTS, np.int64)
        lengths = error_free(self.training.fixed(k), self.rng, begin, self.longest)
        found["tests"][who] += 1
        found["best"][who] = max(found["best"][who], lengths.mean())
        found["perfect"][who] = (lengths == self.longest).all()


def summary(outcomes: list[Outcome]) -> dict[str, float | None]:
    """As table 2 has it: the shares of perfect, good and other networks, the mean number of training
    streams and of symbols that the first needed, and the mean length without error of the others."""
    perfect = [o for o in outcomes if o.perfect]
    good = [o for o in outcomes if not o.perfect and o.best > GOOD]
    rest = [o for o in outcomes if not o.perfect and o.best <= GOOD]

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    count = len(outcomes)
    return {
        "networks": count,
        "perfect": len(perfect) / count,
        "good": len(good) / count,
        "rest": len(rest) / count,
        "streams": mean([o.streams for o in perfect]),
        "symbols": mean([o.symbols for o in perfect]),
        "good_length": mean([o.best for o in good]),
        "rest_length": mean([o.best for o in rest]),
        "streams_of_others": mean([o.streams for o in (*good, *rest)]),
        "symbols_of_others": mean([o.symbols for o in (*good, *rest)]),
    }
