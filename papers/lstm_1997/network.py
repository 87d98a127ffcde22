"""The paper's networks: which unit sees which, the weights that there are, and one step of learning.

The cell is the catalogue's ``lstm_1997_truncated`` (or the same with the whole gradient), on the core's
kernels; what is learned are the weights that the paper counts, from which the cell's matrices are
filled in before each sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gatewise.cells.catalogue import lstm_1997_truncated
from gatewise.nn.layers import Recurrent
from papers.lstm_1997.cells import lstm_1997_whole, memory
from papers.lstm_1997.tasks import Sequences, Task
from papers.online import Online


@dataclass(frozen=True)
class Topology:
    """Blocks of cells that share two gates, fully connected (the paper's section 5): every cell and
    every gate sees the inputs, all cells and all gates; the outputs see the cells.

    biased: "none", "gates", "hidden" (cells too) or "all" (outputs too).
    input_gate_bias, output_gate_bias: where each block's begin; None: drawn like a weight.
    linear: outputs are the sums themselves, not logistic.
    """

    inputs: int
    outputs: int
    blocks: int
    block_size: int
    biased: str = "none"
    input_gate_bias: tuple[float, ...] | None = None
    output_gate_bias: tuple[float, ...] | None = None
    linear: bool = False

    @property
    def cells(self) -> int:
        return self.blocks * self.block_size

    @property
    def hidden(self) -> int:
        return self.cells + 2 * self.blocks


class Places:
    """Where each weight that is learned stands in a flat array, and in which places of the cell's
    matrices it is used. Rows of the hidden units are in the order: input gates, output gates, cells."""

    def __init__(self, t: Topology) -> None:
        seen = t.inputs + t.hidden
        self.hidden = np.arange(t.hidden * seen).reshape(t.hidden, seen)
        count = self.hidden.size
        biased = {"none": 0, "gates": 2 * t.blocks, "hidden": t.hidden, "all": t.hidden}[t.biased]
        self.biases = count + np.arange(biased)
        count += biased
        self.output = count + np.arange(t.outputs * t.cells).reshape(t.outputs, t.cells)
        count += self.output.size
        self.output_bias = count + np.arange(t.outputs if t.biased == "all" else 0)
        self.count = count + len(self.output_bias)
        self.of_cell = self._of_cell(t)

    def _of_cell(self, t: Topology) -> Mapping[str, np.ndarray]:
        """For each number of the cell's matrices the weight that it is, or ``count``: zero.

        The cell has a gate for each unit: those of a block are given the same weights, and what a
        gate feeds back is taken from its first unit."""
        block = np.arange(t.cells) // t.block_size
        rows = np.concatenate([block, 2 * t.blocks + np.arange(t.cells), t.blocks + block])
        none = np.full((t.hidden, t.cells), self.count)
        of_input, of_output = none.copy(), none.copy()
        first = t.block_size * np.arange(t.blocks)
        in_gates, out_gates, cells = np.split(
            self.hidden[:, t.inputs :], [t.blocks, 2 * t.blocks], axis=1
        )
        of_input[:, first], of_output[:, first] = in_gates, out_gates
        bias = np.full(t.hidden, self.count)
        bias[: len(self.biases)] = self.biases
        return {
            "input": self.hidden[rows, : t.inputs],
            "recurrent": np.concatenate([cells, of_input, of_output], 1)[rows],
            "input_bias": bias[rows],
        }


class Network:
    """A network of the paper in training: its weights, and a step down the gradient.

    Args:
        truncated: whether the gradient is the paper's, cut where it would leave a cell through its
            inputs; else the whole one.

    Attributes:
        weights: those that are learned, float32, as many as the paper counts.
    """

    def __init__(
        self,
        topology: Topology,
        task: Task,
        spread: float,
        rng: np.random.Generator,
        truncated: bool = True,
    ) -> None:
        self.topology, self.task = topology, task
        self.places = places = Places(topology)
        self._padded = np.zeros(places.count + 1, np.float32)  # the last one stays zero
        self.weights = self._padded[:-1]
        self.weights[:] = rng.uniform(-spread, spread, places.count)
        for given, first in ((topology.input_gate_bias, 0), (topology.output_gate_bias, 1)):
            if given is not None:
                start = first * topology.blocks
                self.weights[places.biases[start : start + topology.blocks]] = given
        of_units = lstm_1997_truncated if truncated else lstm_1997_whole
        self._run = Online(of_units, topology.inputs, topology.cells, task.longest)
        self._flat = np.concatenate([places.of_cell[name].ravel() for name in _FILLED])
        self._gradients = np.zeros(len(self._flat), np.float32)
        self._layer = Recurrent(of_units, topology.inputs, topology.cells)

    def learn(self, sequences: Sequences, k: int, rate: float) -> np.ndarray:
        """One step down the gradient of half the squared error of sequence k.

        Returns:
            the outputs before it: O of the last step, or T×O of each where each has a target.
        """
        run, steps = self._run, sequences.put(k, self._run.x)
        self._fill()
        hidden = run.forward(steps)
        judged = hidden if self.task.each_step else hidden[-1:]
        output, matrix = self._outputs(judged)
        target = sequences.targets[k]
        wrong = output - (target[:steps] if self.task.each_step else target)
        slope = wrong if self.topology.linear else wrong * output * (1 - output)
        run.grad_output[:steps] = 0
        run.grad_output[steps - len(judged) : steps] = slope @ matrix
        run.backward(steps)
        self._step(slope, judged, rate)
        return output if self.task.each_step else output[0]

    def outputs(self, sequences: Sequences) -> np.ndarray:
        """The outputs for all sequences at once: n×O of their last steps, or n×T×O of each."""
        self._fill()
        with torch.inference_mode():
            for name, array in (("weight_ih_l0", "input"), ("weight_hh_l0", "recurrent")):
                getattr(self._layer, name).copy_(torch.from_numpy(self._run.weights[array]))
            self._layer.bias_ih_l0.copy_(torch.from_numpy(self._run.weights["input_bias"]))
            self._layer.bias_hh_l0.zero_()
            x = torch.from_numpy(sequences.inputs(self.task.inputs))
            hidden = self._layer(x, lengths=sequences.lengths)[0].numpy().transpose(1, 0, 2)
        if not self.task.each_step:
            hidden = hidden[np.arange(len(sequences)), sequences.lengths - 1]
        return self._outputs(hidden)[0]

    def _fill(self) -> None:
        for name in _FILLED:
            np.take(
                self._padded, self.places.of_cell[name], out=self._run.weights[name], mode="clip"
            )

    def _outputs(self, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = self.weights[self.places.output]
        net = hidden @ matrix.T
        if len(self.places.output_bias):
            net += self.weights[self.places.output_bias]
        return net if self.topology.linear else logistic(net), matrix

    def _step(self, slope: np.ndarray, hidden: np.ndarray, rate: float) -> None:
        places, at = self.places, 0
        for name in _FILLED:
            gradient = self._run.gradients[name]
            self._gradients[at : at + gradient.size] = gradient.ravel()
            at += gradient.size
        change = np.bincount(self._flat, self._gradients, places.count + 1)[:-1]
        change[places.output.ravel()] += (slope.T @ hidden).ravel()
        if len(places.output_bias):
            change[places.output_bias] += slope.sum(0)
        self.weights -= rate * change


_FILLED = ("input", "recurrent", "input_bias")


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


@dataclass(frozen=True)
class Direct:
    """The network of experiments 2a and 2b. input_gate: the middle of the input gate's first weights
    (it has no bias); errors_at_end: whether the last step alone is learned from."""

    input_gate: float = 0.0
    errors_at_end: bool = False


class DirectNetwork:
    """Experiments 2a and 2b's network: inputs go straight to the outputs, and once the error falls no
    longer, through one cell with an input gate as well. No biases."""

    def __init__(self, direct: Direct, task: Task, spread: float, rng: np.random.Generator) -> None:
        self.task, self._errors_at_end = task, direct.errors_at_end
        count, width = task.outputs * task.inputs, task.inputs
        self.weights = rng.uniform(-spread, spread, count + task.outputs + 2 * width)
        self.weights[-2 * width : -width] += direct.input_gate
        self.weights = self.weights.astype(np.float32)
        self._direct = self.weights[:count].reshape(task.outputs, width)
        self._from_cell = self.weights[count : count + task.outputs]
        self._run = Online(memory, width, 1, task.longest)
        self._run.weights["input"][...] = self.weights[-2 * width :].reshape(2, width)
        self.with_cell = False

    def learn(self, sequences: Sequences, k: int, rate: float) -> np.ndarray:
        """One step down the gradient of half the squared error; the outputs before it, T×O."""
        run, steps = self._run, sequences.put(k, self._run.x)
        x = run.x[:steps]
        net = x @ self._direct.T
        if self.with_cell:
            hidden = run.forward(steps)
            net += hidden * self._from_cell
        output = logistic(net)
        slope = (output - sequences.targets[k, :steps]) * output * (1 - output)
        if self._errors_at_end:
            slope[:-1] = 0
        if self.with_cell:
            run.grad_output[:steps, 0] = slope @ self._from_cell
            run.backward(steps)
            self._from_cell -= rate * (slope.T @ hidden)[:, 0]
            run.weights["input"][...] -= rate * run.gradients["input"]
            self.weights[-2 * self.task.inputs :] = run.weights["input"].ravel()
        self._direct -= rate * (slope.T @ x)
        return output
