"""The loop over stacked layers and their directions, which recurrent and convolutional layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.contract import Outcome

# One layer in one direction: its place among the layers, whether it runs from the end, its parameters'
# suffix, the input T×B×… and the initial states, each B×….
RunOne = Callable[[int, bool, str, Tensor, tuple[Tensor, ...]], Outcome]
# What a layer from the second on reads, made of what the last one hands on.
Between = Callable[[Tensor], Tensor]
# What a layer hands on, made of its place, its output and what it was handed.
HandOn = Callable[[int, Tensor, Tensor], Tensor]


class LayersOutcome(NamedTuple):
    """output: what the last layer hands on. final: the final states of each layer and direction, a
    layer's directions one after the other. traced: by name, for each layer and direction, B×T×…."""

    output: Tensor
    final: list[tuple[Tensor, ...]]
    traced: dict[str, list[list[Tensor]]]


def run_layers(
    suffixes: Sequence[Sequence[str]],
    x: Tensor,
    states: Sequence[tuple[Tensor, ...]],
    run_one: RunOne,
    between: Between,
    *,
    hand_on: HandOn | None = None,
    traced: Sequence[str] = (),
    channels: int = -1,
) -> LayersOutcome:
    """The outcome of stacked layers over ``x``, T×B×….

    Args:
        suffixes: for each layer those of its directions, as ``LayerConfig.suffixes``.
        states: the initial states of each layer and direction, in the order of ``final``.
        run_one: runs one layer in one direction.
        between: makes the next layer's input, for example by dropout.
        hand_on: joins a layer's output with what it was handed; the output alone if not given.
        traced: names of the values to be traced.
        channels: the dimension in which the outputs of two directions stand side by side.
    """
    final: list[tuple[Tensor, ...]] = []
    values: dict[str, list[list[Tensor]]] = {name: [] for name in traced}
    for layer, of_layer in enumerate(suffixes):
        read = between(x) if layer else x
        outputs = []
        for of_name in values.values():
            of_name.append([])
        for direction, suffix in enumerate(of_layer):
            outcome = run_one(layer, direction == 1, suffix, read, states[len(final)])
            outputs.append(outcome.output)
            final.append(outcome.state)
            for name, of_name in values.items():
                of_name[layer].append(outcome.trace[name].transpose(0, 1))
        output = torch.cat(outputs, channels) if len(outputs) > 1 else outputs[0]
        x = output if hand_on is None else hand_on(layer, output, x)
    return LayersOutcome(x, final, values)
