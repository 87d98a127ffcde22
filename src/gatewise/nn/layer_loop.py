"""The loop over stacked layers and their directions, for recurrent and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.contract import Adjoints, Outcome

# Runs one layer in one direction. Arguments: the layer's index, whether the direction is reversed, the
# suffix of the parameters' names, the input T×B×… and the initial states, each B×….
RunOne = Callable[[int, bool, str, Tensor, tuple[Tensor, ...]], Outcome]
# From the output of a layer to the input of the next layer's cells.
Between = Callable[[Tensor], Tensor]
# The output of a layer with its connection. Arguments: the layer's index, the output of its cells, and
# the layer's input.
Connect = Callable[[int, Tensor, Tensor], Tensor]


class LayersOutcome(NamedTuple):
    """The outcome of all layers.

    output: the output of the last layer. final: the final states of each layer and direction; the
    directions of a layer follow each other. traced: the traced values by name, for each layer and
    direction, B×T×…. adjoints: those of each layer and direction; None for a trace without.
    """

    output: Tensor
    final: list[tuple[Tensor, ...]]
    traced: dict[str, list[list[Tensor]]]
    adjoints: list[list[Adjoints]] | None = None


def run_layers(
    suffixes: Sequence[Sequence[str]],
    x: Tensor,
    states: Sequence[tuple[Tensor, ...]],
    run_one: RunOne,
    between: Between,
    *,
    connect: Connect | None = None,
    traced: Sequence[str] = (),
    channels: int = -1,
) -> LayersOutcome:
    """The outcome of stacked layers over ``x``, T×B×….

    Args:
        suffixes: for each layer the suffixes of its directions, as in ``LayerConfig.suffixes``.
        states: the initial states of each layer and direction, in the order of ``LayersOutcome.final``.
        run_one: runs one layer in one direction.
        between: applied to a layer's output before the next layer's cells read it, such as dropout.
        connect: adds a connection from a layer's input to its output; None for no connection.
        traced: the names of the values to trace.
        channels: the dimension in which the outputs of two directions are concatenated.
    """
    final: list[tuple[Tensor, ...]] = []
    values: dict[str, list[list[Tensor]]] = {name: [] for name in traced}
    adjoints: list[list[Adjoints | None]] = []
    for layer, of_layer in enumerate(suffixes):
        read = between(x) if layer else x
        outputs = []
        for of_name in values.values():
            of_name.append([])
        adjoints.append([])
        for direction, suffix in enumerate(of_layer):
            outcome = run_one(layer, direction == 1, suffix, read, states[len(final)])
            outputs.append(outcome.output)
            final.append(outcome.state)
            adjoints[layer].append(outcome.adjoints)
            for name, of_name in values.items():
                of_name[layer].append(outcome.trace[name].transpose(0, 1))
        output = torch.cat(outputs, channels) if len(outputs) > 1 else outputs[0]
        x = output if connect is None else connect(layer, output, x)
    whole = all(each is not None for of_layer in adjoints for each in of_layer)
    return LayersOutcome(x, final, values, adjoints if whole else None)  # type: ignore[arg-type]
