"""The paper's networks: many networks in on-line training at once, and one with fixed weights for tests.

The paper updates the weights at each symbol, with a gradient that is carried forward in time (its appendix A: the
derivative of each cell's state with respect to its weights). A call of the C++ core per symbol would be mostly
overhead, and its backward pass would run through time again at each symbol. So the training is written here in
NumPy, for N networks at once, which are the last dimension of the arrays. A network with fixed weights runs as a
cell on the CPU kernels.
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
SOURCES = (
    SYMBOLS + CELLS + 1
)  # a unit reads the inputs, the cells' outputs, and a constant 1 for the bias


@dataclass(frozen=True)
class Design:
    """The options of a row of table 2.

    forget: whether there are forget gates. keep: without forget gates, the factor of the state at each step.
    reset: whether the states are set to zero at the start of each string. decay: the factor of the learning rate
    at each symbol of a stream."""

    forget: bool = False
    keep: float = 1.0
    reset: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.forget and self.keep != 1.0:
            raise OptionError(
                f"keep={self.keep} cannot be given with forget=True; give one of them"
            )

    @property
    def cell(self) -> Cell:
        return forgetting if self.forget else keeping(self.keep)

    @property
    def gates(self) -> int:
        """The number of gates of one network. Their rows come before those of the cells."""
        return (3 if self.forget else 2) * BLOCKS

    @property
    def weights(self) -> int:
        """The number of weights of a network. Gates and outputs have a bias, cells have none. It is 424 with
        forget gates, as in the paper."""
        return CELLS * (SOURCES - 1) + (self.gates + SYMBOLS) * SOURCES


def _logistic(half: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), from ``half`` = tanh(z / 2)."""
    return 0.5 + 0.5 * half


def _wide(gate: np.ndarray) -> np.ndarray:
    """A gate, blocks×N, as blocks×1×N, which broadcasts to the cells of the blocks."""
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

    The rows of ``hidden`` are the input gates, the output gates, the forget gates (if any) and the cells. The
    columns of both matrices are the symbols, the cells' outputs, and the bias.

    Args:
        design: the options of the row of table 2.
        count: N.
        rng: the generator of the initial weights.
        dtype: the dtype of all arrays.

    Attributes:
        hidden: units×16×N.
        output: 7×16×N.
        state: the cell states, blocks×2×N.
        traces: the derivative of each cell's state with respect to the weights of its input, of its input gate
            and of its forget gate, accumulated over time: (2 or 3)×blocks×2×16×N.

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
        """Runs one symbol of each network's stream, and updates the weights by gradient descent on half the
        squared error.

        Args:
            symbols: N integers.
            target: 7×N.
            rate: N, the learning rates; 0 for no update.

        Returns:
            The outputs before the update, 7×N.
        """
        seen = self._seen
        seen[:SYMBOLS] = 0
        seen[symbols, np.arange(self.count)] = 1
        net = np.multiply(self.hidden, seen, out=self._change).sum(1)
        half = np.tanh(0.5 * net)
        old, v, gates = self._advance(half)
        after = seen.copy()  # the outputs read the cells' outputs of this step
        after[SYMBOLS:-1] = (_wide(gates["o"]) * v).reshape(CELLS, -1)
        net = np.multiply(self.output, after, out=self._of_output).sum(1)
        found = _logistic(np.tanh(0.5 * net))
        error = (found - target) * found * (1 - found) * rate
        self._carry(half, old, gates, seen)
        self._step(half, v, gates, error, after)
        seen[SYMBOLS:-1] = after[SYMBOLS:-1]
        return found

    def _advance(self, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The old states, the squashed new states, and the gates. The candidate g is blocks×2×N."""
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
        """Updates ``traces`` for this step (the paper's equations A.3)."""
        B, G = BLOCKS, self.design.gates
        slope = 1 - half * half  # four times the derivative of a logistic function
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
        """Updates all weights. ``error`` is already multiplied by the learning rate."""
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
        """Sets the states, outputs and traces of some networks to zero; ``which`` are booleans or indices."""
        self.state[..., which] = 0
        self.traces[..., which] = 0
        self._seen[SYMBOLS:-1, which] = 0

    def drop(self, places: np.ndarray) -> None:
        """Removes the networks with these indices."""
        for name in _ARRAYS:
            setattr(self, name, np.delete(getattr(self, name), places, axis=-1))

    def fixed(self, k: int) -> Fixed:
        """The k-th network with its present weights, on the CPU kernels."""
        return Fixed(self.design, self.hidden[..., k], self.output[..., k])

    def carried(self, k: int) -> tuple[Tensor, ...]:
        """The present states of the k-th network, h, c and y, from which ``fixed(k)`` can continue."""
        h, c = (
            torch.from_numpy(np.ascontiguousarray(each[..., k]).reshape(1, 1, CELLS))
            for each in (self._seen[SYMBOLS:-1], self.state)
        )
        return h, c, h


class Fixed:
    """One network with fixed weights, on the CPU kernels.

    Attributes:
        layer: a :class:`gatewise.Recurrent` of the design's cell, whose blocks share their gates.
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
        """The outputs for n streams, T×n×7, and the final states.

        Args:
            symbols: T×n integers.
            state: the final states of the call before; zero if not given.
            begins: T×n booleans, true at the start of a string. A design with ``reset`` needs them.

        Raises:
            ShapeError: ``symbols`` is not T×n, or ``begins`` is missing.
        """
        if symbols.ndim != 2:
            raise ShapeError(f"symbols has the shape {symbols.shape}, expected T×n")
        if self.design.reset and begins is None:
            raise ShapeError(
                "begins is None, expected T×n booleans, because this design has reset=True"
            )
        x = self._one_hot[torch.from_numpy(symbols)]
        reset = torch.from_numpy(begins) if self.design.reset else None
        hidden, after = self.layer(x, state, reset=reset)
        weight = self._output
        net = hidden @ weight[:, SYMBOLS:-1].T + weight[:, -1] + x @ weight[:, :SYMBOLS].T
        return torch.sigmoid(net), tuple(after)
