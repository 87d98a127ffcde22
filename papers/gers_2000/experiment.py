"""Table 2: the training of the networks, their tests on fresh streams, and their results."""

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
LONGEST = 100_000  # the most symbols of a stream, in training and in a test
TESTS = 10  # the number of streams of a test
WITHIN = 0.49  # a prediction is right if the error of every output is below this
STILL = 1e-12  # below this learning rate no float32 weight changes
MOST_STREAMS = 30_000  # the paper's number of training streams
GOOD = 1000  # a network is good if its mean number of symbols without error in a test is above this


@dataclass(frozen=True)
class Paper:
    """The results in table 2 for 100 networks.

    perfect, good, rest: the shares of perfect networks, of good ones and of the others. streams: the mean number
    of training streams that the perfect ones needed. good_length, rest_length: the mean number of symbols without
    error of the good ones and of the others."""

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
        "standard LSTM, states reset at the start of each string",
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
        OptionError: there is no such row. The message lists the names.
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
    """The number of symbols that a network predicts without error on each of n fresh streams, at most ``longest``.

    Args:
        place: n, the places in the grammar where the streams start.
        state: the states at the start; zero if not given.
    """
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
    """The result of training a network.

    Attributes:
        perfect: whether it made no error on any stream of a test.
        streams: the number of training streams until it was perfect or the training ended.
        symbols: the number of training symbols without error in all streams.
        best: the largest mean number of symbols without error in a test.
        tests: the number of tests.
        longest: the length of the longest training stream.
    """

    perfect: bool = False
    streams: int = 0
    symbols: int = 0
    best: float = 0.0
    tests: int = 0
    longest: int = 0


class Trial:
    """The training of many networks of a row at the same time, each on its own streams.

    The paper tests a network after each training stream. Here it is tested after a stream that is longer than all
    before, and after a stream without error to its end. A perfect network's streams are such. If the learning
    rate decays until no weight changes any more, the CPU kernels run the rest of the stream.

    Args:
        row: a row of table 2.
        networks: the number of networks.
        seed: the seed of weights, streams and tests.
        streams: the number of training streams after which a network is given up.
        longest: the most symbols of a stream.

    Attributes:
        outcomes: the results of all networks so far.
        ticks: the number of training symbols so far, each for all networks at once.
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
        self._who = np.arange(networks)  # for each column of the arrays, the index of its network
        self._place = np.zeros(networks, np.int64)
        self._length = np.zeros(networks, np.int64)
        self._rate = np.full(networks, RATE, np.float32)

    @property
    def outcomes(self) -> list[Outcome]:
        each = zip(*(values.tolist() for values in self._found.values()), strict=True)
        return [Outcome(*values) for values in each]

    def run(self, seconds: float = math.inf, ticks: float = math.inf) -> list[Outcome]:
        """Trains until all networks are perfect or given up, or until ``seconds`` of processor time or ``ticks``
        symbols have passed. Unfinished streams are not counted."""
        end = time.process_time() + seconds
        while len(self._who) and time.process_time() < end and self.ticks < ticks:
            for coin in self.rng.integers(2, size=(256, len(self._who))):
                if not self._symbol(coin) or self.ticks >= ticks:
                    break
        return self.outcomes

    def _symbol(self, coin: np.ndarray) -> bool:
        """Trains on one symbol of each stream. Returns False if a network has finished."""
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
        """Runs the stream of column k to its end without learning."""
        network, state = self.training.fixed(k), self.training.carried(k)
        left = self.longest - int(self._length[k])
        self._length[k] += error_free(network, self.rng, self._place[k : k + 1], left, state)[0]

    def _ended(self, places: np.ndarray) -> bool:
        """Handles the end of the training streams in these columns. Returns False if a network has finished."""
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
    """The numbers of table 2: the shares of perfect, good and other networks; the mean numbers of training streams
    and symbols that the perfect ones needed; and the mean number of symbols without error of the others."""
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
