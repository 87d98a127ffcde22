"""The paper's networks: their connections, their weights, and one update of the weights.

The cell is the catalogue's ``lstm_1997_truncated``, or the same cell with the whole gradient, on the CPU
kernels. The learned weights are those that the paper counts. The cell's matrices are filled with them before
each sequence.
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
    """A fully connected network of memory blocks (the paper's section 5).

    The cells of a block share an input gate and an output gate. Every cell and gate reads the inputs, all
    cells and all gates. The outputs read the cells.

    biased: the units with a bias: "none", "gates", "hidden" (gates and cells) or "all" (outputs too).
    input_gate_bias, output_gate_bias: the initial bias of each block's gate; None if it is drawn like a
    weight.
    linear: whether the outputs are linear; otherwise they are logistic.
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


class WeightIndices:
    """The index of each learned weight in a flat array, and the elements of the cell's matrices that use it.

    The rows of ``hidden`` are the input gates, then the output gates, then the cells."""

    def __init__(self, t: Topology) -> None:
        sources = t.inputs + t.hidden
        self.hidden = np.arange(t.hidden * sources).reshape(t.hidden, sources)
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
        """For each element of the cell's matrices the index of its weight, or ``count`` for a zero.

        The cell has a gate for each unit. The gates of a block get the same weights, and the recurrent
        input of a shared gate is that of the block's first unit."""
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
    """A network of the paper, with on-line training.

    Args:
        spread: the initial weights are drawn from U(-spread, spread).
        truncated: whether the gradient is truncated as in the paper: none flows back through a cell's
            recurrent inputs.

    Attributes:
        weights: the learned weights, float32, as many as the paper counts.
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
        self.indices = indices = WeightIndices(topology)
        self._padded = np.zeros(indices.count + 1, np.float32)  # the last one stays zero
        self.weights = self._padded[:-1]
        self.weights[:] = rng.uniform(-spread, spread, indices.count)
        for given, first in ((topology.input_gate_bias, 0), (topology.output_gate_bias, 1)):
            if given is not None:
                start = first * topology.blocks
                self.weights[indices.biases[start : start + topology.blocks]] = given
        of_units = lstm_1997_truncated if truncated else lstm_1997_whole
        self._run = Online(of_units, topology.inputs, topology.cells, task.longest)
        self._flat = np.concatenate([indices.of_cell[name].ravel() for name in _FILLED])
        self._gradients = np.zeros(len(self._flat), np.float32)
        self._layer = Recurrent(of_units, topology.inputs, topology.cells)

    def learn(self, sequences: Sequences, k: int, rate: float) -> np.ndarray:
        """One update of the weights by gradient descent on half the squared error of sequence k.

        Returns:
            The outputs before the update: O for the last step, or T×O if each step has a target.
        """
        run, steps = self._run, sequences.put(k, self._run.x)
        self._fill()
        hidden = run.forward(steps)
        judged = hidden if self.task.each_step else hidden[-1:]
        output, matrix = self._outputs(judged)
        target = sequences.targets[k]
        error = output - (target[:steps] if self.task.each_step else target)
        gradient = error if self.topology.linear else error * output * (1 - output)
        run.grad_output[:steps] = 0
        run.grad_output[steps - len(judged) : steps] = gradient @ matrix
        run.backward(steps)
        self._update(gradient, judged, rate)
        return output if self.task.each_step else output[0]

    def outputs(self, sequences: Sequences) -> np.ndarray:
        """The outputs of all sequences, computed at once: n×O for their last steps, or n×T×O for all steps."""
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
                self._padded, self.indices.of_cell[name], out=self._run.weights[name], mode="clip"
            )

    def _outputs(self, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = self.weights[self.indices.output]
        net = hidden @ matrix.T
        if len(self.indices.output_bias):
            net += self.weights[self.indices.output_bias]
        return net if self.topology.linear else logistic(net), matrix

    def _update(self, of_outputs: np.ndarray, hidden: np.ndarray, rate: float) -> None:
        """Updates all weights. ``of_outputs`` is the gradient of the outputs' pre-activations."""
        indices, at = self.indices, 0
        for name in _FILLED:
            gradient = self._run.gradients[name]
            self._gradients[at : at + gradient.size] = gradient.ravel()
            at += gradient.size
        change = np.bincount(self._flat, self._gradients, indices.count + 1)[:-1]
        change[indices.output.ravel()] += (of_outputs.T @ hidden).ravel()
        if len(indices.output_bias):
            change[indices.output_bias] += of_outputs.sum(0)
        self.weights -= rate * change


_FILLED = ("input", "recurrent", "input_bias")


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5


@dataclass(frozen=True)
class DirectTopology:
    """The network of experiments 2a and 2b.

    input_gate: the mean of the input gate's initial weights, as it has no bias.
    errors_at_end: whether only the last step has an error."""

    input_gate: float = 0.0
    errors_at_end: bool = False


class DirectNetwork:
    """The network of experiments 2a and 2b: the inputs are connected to the outputs directly.

    When the error no longer falls, one cell with an input gate is added between them. There are no biases."""

    def __init__(
        self, direct: DirectTopology, task: Task, spread: float, rng: np.random.Generator
    ) -> None:
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
        """One update by gradient descent on half the squared error. Returns the outputs before it, T×O."""
        run, steps = self._run, sequences.put(k, self._run.x)
        x = run.x[:steps]
        net = x @ self._direct.T
        if self.with_cell:
            hidden = run.forward(steps)
            net += hidden * self._from_cell
        output = logistic(net)
        gradient = (output - sequences.targets[k, :steps]) * output * (1 - output)
        if self._errors_at_end:
            gradient[:-1] = 0
        if self.with_cell:
            run.grad_output[:steps, 0] = gradient @ self._from_cell
            run.backward(steps)
            self._from_cell -= rate * (gradient.T @ hidden)[:, 0]
            run.weights["input"][...] -= rate * run.gradients["input"]
            self.weights[-2 * self.task.inputs :] = run.weights["input"].ravel()
        self._direct -= rate * (gradient.T @ x)
        return output
