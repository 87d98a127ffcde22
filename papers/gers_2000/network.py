"""The paper's networks: many of them side by side in on-line training, and one on the core.

The paper changes the weights at each symbol, by a gradient that is carried forward in time (its
appendix A: what each weight has done to its cell's state so far). A core's call per symbol would be
all overhead, and its gradient would have to go back in time anew at each; so training is written here
in NumPy for N networks at once, with the networks along the last dimension, where the overhead is
shared by all. A network that is to be tested, its weights fixed, runs as a cell on the core's kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.recurrent import Recurrent
from papers.gers_2000.cells import forgetting, keeping

BLOCKS, SIZE, SYMBOLS = 4, 2, 7
CELLS = BLOCKS * SIZE
SOURCES = SYMBOLS + CELLS + 1  # what a unit sees: the inputs, the cells' outputs, and a one


@dataclass(frozen=True)
class Design:
    """What a row of table 2 has: forget gates, or a share of the state that is kept; whether the
    states are reset from without where a string begins; and by what the rate of learning is multiplied
    at each symbol of a stream."""

    forget: bool = False
    keep: float = 1.0
    reset: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.forget and self.keep != 1.0:
            raise OptionError(
                f"a design has forget gates or a fixed share that is kept (here {self.keep}), not both"
            )

    @property
    def cell(self) -> Cell:
        return forgetting if self.forget else keeping(self.keep)

    @property
    def gates(self) -> int:
        """Rows of the gates of one network; those of the cells come after them."""
        return (3 if self.forget else 2) * BLOCKS

    @property
    def weights(self) -> int:
        """How many a network has: cells have no bias, gates and outputs have one; 424 with forget
        gates, as the paper says."""
        return CELLS * (SOURCES - 1) + (self.gates + SYMBOLS) * SOURCES


def _logistic(half: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) of tanh(z / 2)."""
    return 0.5 + 0.5 * half


def _wide(gate: np.ndarray) -> np.ndarray:
    """A gate for the cells of its block: blocks×1×N."""
    return gate[:, None]


_ARRAYS = (
    "hidden",
    "output",
    "state",
    "traces",
    "_seen",
    "_slopes",
    "_room",
    "_change",
    "_of_output",
)


class Networks:
    """N networks in on-line training.

    Rows of ``hidden`` are a network's units: input gates, output gates, forget gates where there are
    any, cells; columns of both matrices what a unit sees: the symbols, the cells' outputs, one.

    Args:
        design: the row of table 2.
        count: N.
        rng: draws the first weights.
        dtype: of all numbers.

    Attributes:
        hidden: units×16×N.
        output: 7×16×N.
        state: the cells' states, blocks×2×N.
        traces: the derivative of each cell's state by the weights of its own input, of its input
            gate and of its forget gate, as it has come about so far: 2 or 3×blocks×2×16×N.

    Raises:
        OptionError: ``count`` is not a positive integer.
    """

    def __init__(
        self, design: Design, count: int, rng: np.random.Generator, dtype: type = np.float32
    ) -> None:
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise OptionError(f"count must be a positive integer, not {count!r}")
        self.design = design
        units = design.gates + CELLS
        draw: np.ndarray = rng.uniform(-0.2, 0.2, (units + SYMBOLS, SOURCES, count)).astype(dtype)
        self.hidden, self.output = draw[:units].copy(), draw[units:].copy()
        step = 0.5 * np.arange(1, BLOCKS + 1, dtype=dtype)[:, None]
        self.hidden[: 2 * BLOCKS, -1] = np.concatenate([-step, -step])
        self.hidden[2 * BLOCKS : design.gates, -1] = step[: design.gates - 2 * BLOCKS]
        self.hidden[design.gates :, -1] = 0  # cells have no bias
        kinds = 3 if design.forget else 2
        self.state: np.ndarray = np.zeros((BLOCKS, SIZE, count), dtype)
        self.traces: np.ndarray = np.zeros((kinds, BLOCKS, SIZE, SOURCES, count), dtype)
        self._seen: np.ndarray = np.zeros((SOURCES, count), dtype)
        self._seen[-1] = 1
        self._slopes: np.ndarray = np.zeros((kinds, BLOCKS, SIZE, 1, count), dtype)
        self._room = np.empty_like(self.traces)
        self._change = np.empty_like(self.hidden)
        self._of_output = np.empty_like(self.output)

    @property
    def count(self) -> int:
        return self.hidden.shape[-1]

    def learn(self, symbols: np.ndarray, target: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """One symbol of each network's stream, and a step down the gradient of half the squared error.

        Args:
            symbols: N whole numbers.
            target: 7×N.
            rate: of learning, N; 0 where nothing is to be learned.

        Returns:
            the outputs before the step, 7×N.
        """
        seen = self._seen
        seen[:SYMBOLS] = 0
        seen[symbols, np.arange(self.count)] = 1
        net = np.multiply(self.hidden, seen, out=self._change).sum(1)
        half = np.tanh(0.5 * net)
        old, v, gates = self._advance(half)
        after = seen.copy()  # an output sees the cells' outputs of this very step
        after[SYMBOLS:-1] = (_wide(gates["o"]) * v).reshape(CELLS, -1)
        net = np.multiply(self.output, after, out=self._of_output).sum(1)
        found = _logistic(np.tanh(0.5 * net))
        error = (found - target) * found * (1 - found) * rate
        self._carry(half, old, gates, seen)
        self._step(half, v, gates, error, after)
        seen[SYMBOLS:-1] = after[SYMBOLS:-1]
        return found

    def _advance(self, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The states before, the new ones squashed, and the gates; g is blocks×2×N."""
        B, G = BLOCKS, self.design.gates
        gates = dict(i=_logistic(half[:B]), o=_logistic(half[B : 2 * B]))
        gates["g"] = 2 * half[G:].reshape(BLOCKS, SIZE, -1)
        old = self.state
        if self.design.forget:
            gates["f"] = _logistic(half[2 * B : 3 * B])
            kept = _wide(gates["f"]) * old
        else:
            kept = self.design.keep * old
        self.state = kept + _wide(gates["i"]) * gates["g"]
        return old, np.tanh(0.5 * self.state), gates

    def _carry(
        self, half: np.ndarray, old: np.ndarray, gates: dict[str, np.ndarray], seen: np.ndarray
    ) -> None:
        """What each weight has done to its cell's state, one step on (the paper's equations A.3)."""
        B, G = BLOCKS, self.design.gates
        slope = 1 - half * half  # of a logistic function four times as much
        of_own = slope[G:].reshape(BLOCKS, SIZE, -1) * _wide(gates["i"])
        self._slopes[0, :, :, 0] = of_own
        self._slopes[1, :, :, 0] = _wide(0.25 * slope[:B]) * gates["g"]
        if self.design.forget:
            self._slopes[2, :, :, 0] = _wide(0.25 * slope[2 * B : 3 * B]) * old
            self.traces *= gates["f"][:, None, None]
        elif self.design.keep != 1:
            self.traces *= self.design.keep
        self.traces += np.multiply(self._slopes, seen, out=self._room)

    def _step(
        self,
        half: np.ndarray,
        v: np.ndarray,
        gates: dict[str, np.ndarray],
        error: np.ndarray,
        after: np.ndarray,
    ) -> None:
        """The change of all weights; ``error`` has the rate in it."""
        B, G = BLOCKS, self.design.gates
        back = (self.output[:, SYMBOLS:-1] * error[:, None]).sum(0).reshape(BLOCKS, SIZE, -1)
        self.output -= np.multiply(error[:, None], after, out=self._of_output)
        of_gate = 0.25 * (1 - half[B : 2 * B] ** 2) * (v * back).sum(1)
        of_state = 0.5 * (1 - v * v) * _wide(gates["o"]) * back
        change = np.multiply(self.traces, of_state[:, :, None], out=self._room)
        all_of = self._change
        np.sum(change[1], axis=1, out=all_of[:B])
        np.multiply(of_gate[:, None], self._seen, out=all_of[B : 2 * B])
        if self.design.forget:
            np.sum(change[2], axis=1, out=all_of[2 * B : G])
        all_of[G:] = change[0].reshape(CELLS, SOURCES, -1)
        all_of[G:, -1] = 0
        self.hidden -= all_of

    def reset(self, which: np.ndarray) -> None:
        """Zero states, outputs and traces of those networks: booleans or places."""
        self.state[..., which] = 0
        self.traces[..., which] = 0
        self._seen[SYMBOLS:-1, which] = 0

    def drop(self, places: np.ndarray) -> None:
        """Goes on without the networks in those places."""
        for name in _ARRAYS:
            setattr(self, name, np.delete(getattr(self, name), places, axis=-1))

    def fixed(self, k: int) -> Fixed:
        """The k-th network as it is now, on the core."""
        return Fixed(self.design, self.hidden[..., k], self.output[..., k])

    def carried(self, k: int) -> tuple[Tensor, ...]:
        """The states from which ``fixed(k)`` goes on where the k-th network is now: h, c and y."""
        h, c = (
            torch.from_numpy(np.ascontiguousarray(each[..., k]).reshape(1, 1, CELLS))
            for each in (self._seen[SYMBOLS:-1], self.state)
        )
        return h, c, h


class Fixed:
    """One network, its weights fixed, over streams from zero states on: the cell on the core's kernels.

    Attributes:
        layer: a :class:`gatewise.Recurrent` of the design's cell, with blocks that share their gates.
    """

    def __init__(self, design: Design, hidden: np.ndarray, output: np.ndarray) -> None:
        dtype = torch.float64 if hidden.dtype == np.float64 else torch.float32
        self.design, B = design, BLOCKS
        self.layer = Recurrent(design.cell, SYMBOLS, CELLS, block_size=SIZE, dtype=dtype)
        i, o, f, g = np.split(hidden, [B, 2 * B, design.gates])
        rows = torch.from_numpy(np.concatenate([i, f, g, o]))
        with torch.no_grad():
            self.layer.weight_ih_l0.copy_(rows[:, :SYMBOLS])
            self.layer.weight_hh_l0.copy_(rows[:, SYMBOLS:-1])
            self.layer.bias_ih_l0.copy_(rows[:, -1])
            self.layer.bias_hh_l0.zero_()
        self._output = torch.from_numpy(np.ascontiguousarray(output))
        self._one_hot = torch.eye(SYMBOLS, dtype=dtype)

    def outputs(
        self,
        symbols: np.ndarray,
        state: tuple[Tensor, ...] | None = None,
        begins: np.ndarray | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of n streams, T symbols each: the outputs T×n×7, and the states to go on from.

        Args:
            symbols: T×n whole numbers.
            state: that the last call gave; zero if not given.
            begins: T×n booleans, where a string begins: there a design with resets starts afresh.

        Raises:
            ShapeError: ``symbols`` is not T×n, or a design with resets is not told the beginnings.
        """
        if symbols.ndim != 2:
            raise ShapeError(f"symbols has the shape {symbols.shape}, expected T×n")
        if self.design.reset and begins is None:
            raise ShapeError(
                "begins is None, expected T×n booleans: this design resets its states there"
            )
        x = self._one_hot[torch.from_numpy(symbols)]
        reset = torch.from_numpy(begins) if self.design.reset else None
        hidden, after = self.layer(x, state, reset=reset)
        weight = self._output
        net = hidden @ weight[:, SYMBOLS:-1].T + weight[:, -1] + x @ weight[:, :SYMBOLS].T
        return torch.sigmoid(net), tuple(after)
