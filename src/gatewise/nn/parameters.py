"""The parameters of a recurrent layer: their registration, their checks, and the weights made of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import Weights, check_tensor
from gatewise.nn.autocast import cast
from gatewise.nn.checks import check_expanded
from gatewise.nn.config import LayerConfig

# For each field of contract.Weights, in order, the parameter's name without its suffix. A layer may lack
# some of them.
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
    """Registers the parameters of the configuration with the module. They have no values yet."""
    for name, shape in config.shapes.items():
        empty = torch.empty(shape, device=device, dtype=dtype)
        module.register_parameter(name, nn.Parameter(empty))


def step_parameters(module: nn.Module, config: LayerConfig, suffix: str) -> dict[str, Tensor]:
    """The parameters of one layer and direction, by name without the suffix.

    They may be other tensors, which a parametrization or functional_call has put in a parameter's
    place."""
    return {name: getattr(module, name + suffix) for name in config.step_shapes[suffix]}


def weights_of(
    config: LayerConfig,
    suffix: str,
    stored: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    weight_drop: float = 0.0,
) -> Weights:
    """The checked weights of one layer and direction, as backends get them.

    Args:
        stored: the layer's parameters, from ``step_parameters``.
        dtype: autocast's dtype, or None.
        weight_drop: the probability of dropping a recurrent weight.

    Raises:
        ShapeError: a parameter does not have its original shape, dtype or device.
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
    """A checked parameter of ``LayerConfig.other_shapes``, in autocast's ``dtype`` unless that is None.

    Raises:
        ShapeError: the parameter does not have its original shape, or the dtype and device of ``like``.
    """
    found: Tensor = getattr(module, name)
    found = found if dtype is None else cast(found, dtype)
    check_tensor(name, found, config.other_shapes[name], like)
    return found


def learned_states(
    module: nn.Module, config: LayerConfig, like: Tensor, dtype: torch.dtype | None = None
) -> dict[str, list[Tensor]]:
    """The learned initial states by name: a vector for each layer and direction. Coupled states have
    none."""
    return {
        state: [
            other_parameter(module, config, f"initial_{state}{suffix}", like, dtype)
            for suffix in config.step_shapes
        ]
        for state in config.cell.state
        if state not in config.cell.coupled_states
    }
