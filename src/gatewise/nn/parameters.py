"""A recurrent layer's parameters: how they are named, checked, and given to a backend."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import Weights, check_tensor
from gatewise.nn.autocast import cast
from gatewise.nn.checks import check_expanded
from gatewise.nn.config import LayerConfig

# By the names of contract.Weights, in its order: a parameter's name, less the suffix. Not every layer
# has all.
STORED = dict(
    input="weight_ih",
    recurrent="weight_hh",
    input_bias="bias_ih",
    recurrent_bias="bias_hh",
    projection="weight_hr",
    norm_input="norm_ih",
    norm_recurrent="norm_hh",
)


def register_parameters(
    module: nn.Module,
    config: LayerConfig,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    """Give the module the parameters of its configuration, without values."""
    for name, shape in config.shapes.items():
        empty = torch.empty(shape, device=device, dtype=dtype)
        module.register_parameter(name, nn.Parameter(empty))


def step_parameters(module: nn.Module, config: LayerConfig, suffix: str) -> dict[str, Tensor]:
    """Those of one layer and direction, by their names less the suffix. They need not be parameters:
    parametrizations and functional_call put others in their place."""
    return {name: getattr(module, name + suffix) for name in config.step_shapes[suffix]}


def weights_of(
    config: LayerConfig,
    suffix: str,
    stored: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    weight_drop: float = 0.0,
) -> Weights:
    """The weights of one layer and direction as the backends take them, checked.

    Args:
        stored: the layer's, as ``step_parameters`` has them.
        dtype: what autocast asks for.
        weight_drop: probability of dropping a recurrent weight.

    Raises:
        ShapeError: one has not the shape, type or device that it was made with.
    """
    check_expanded(stored["weight_ih"])
    if dtype is not None:
        stored = {name: cast(weight, dtype) for name, weight in stored.items()}
    like = stored["weight_ih"]
    for name, shape in config.step_shapes[suffix].items():
        check_tensor(name + suffix, stored[name], shape, like, "weight_ih" + suffix)
    if weight_drop:
        dropped = F.dropout(stored["weight_hh"], weight_drop)
        stored = {**stored, "weight_hh": dropped}
    if not config.structure.plain:
        stored = config.structure.full(stored)
    named = [stored.get(name) for name in STORED.values()]
    per_unit = {name: stored[name] for name in config.cell.params}
    return Weights._make((*named, per_unit))


def other_parameter(
    module: nn.Module, config: LayerConfig, name: str, like: Tensor, dtype: torch.dtype | None
) -> Tensor:
    """One that belongs to no step, checked, and cast where autocast has a ``dtype``.

    Raises:
        ShapeError: it has not the shape that it was made with, or the type and device of ``like``.
    """
    found: Tensor = getattr(module, name)
    found = found if dtype is None else cast(found, dtype)
    check_tensor(name, found, config.other_shapes[name], like)
    return found


def learned_states(
    module: nn.Module, config: LayerConfig, like: Tensor, dtype: torch.dtype | None = None
) -> dict[str, list[Tensor]]:
    """The learned initial states by name, a vector for each layer and direction; coupled states have
    none."""
    return {
        state: [
            other_parameter(module, config, f"initial_{state}{suffix}", like, dtype)
            for suffix in config.step_shapes
        ]
        for state in config.cell.state
        if state not in config.cell.coupled_states
    }
