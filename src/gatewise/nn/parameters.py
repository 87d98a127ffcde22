"""A recurrent layer's parameters: their names and shapes, and how a backend is given them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.backends.contract import Weights, check_tensor
from gatewise.nn.autocast import cast
from gatewise.nn.checks import check_expanded

if TYPE_CHECKING:
    from gatewise.nn.recurrent import Recurrent
    from gatewise.nn.step import RecurrentCell

Shapes = dict[str, tuple[int, ...]]

# In the order of contract.Weights, less the suffix; not every layer has all.
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "norm_ih", "norm_hh")


def step_shapes(layer: Recurrent | RecurrentCell, input_size: int) -> Shapes:
    """Each parameter of the cell's step, of an input so wide: its name, less the suffix, and shape, in
    torch's order."""
    cell, structure = layer.cell, layer._structure
    rows = sum(structure.rows)
    parts = ("ih", "hh") if cell.feedback else ("ih",)
    shapes: Shapes = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, sum(structure.columns)),
    }
    if layer.bias:
        shapes |= {f"bias_{part}": (rows,) for part in parts}
    if layer.proj_size:
        shapes["weight_hr"] = (layer.proj_size, layer.hidden_size)
    if layer.layer_norm:
        shapes |= {f"norm_{part}": (rows,) for part in parts}
    return shapes | dict.fromkeys(cell.params, (layer.hidden_size,))


def shapes_beside(layer: Recurrent) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each parameter that is none of a cell's step."""
    for k in range(layer.num_layers):
        if layer.learn_initial:
            for suffix in layer._suffixes(k):
                for name, size in zip(layer.cell.state, layer._state_sizes(), strict=True):
                    if name not in layer.cell.coupled_states:
                        yield f"initial_{name}{suffix}", (size,)
        if layer.connect == "highway" and k:
            width = layer._layer_input_size(k)
            yield f"highway_weight_l{k}", (width, width)
            yield f"highway_bias_l{k}", (width,)


def weights_of(
    layer: Recurrent | RecurrentCell,
    suffix: str,
    dtype: torch.dtype | None = None,
    dropped: bool = False,
) -> Weights:
    """A layer's weights in one direction, checked, cast where autocast has a ``dtype``, and as the
    backends take them; ``dropped`` says whether ``weight_drop`` is to act.

    They need not be parameters: parametrizations and functional_call put others in their place.

    Raises:
        ShapeError: one has not the shape, type or device that it was made with.
    """
    expected = layer._expected[suffix]
    found = {name: getattr(layer, name + suffix) for name in expected}
    check_expanded(found["weight_ih"])
    if dtype is not None:
        found = {name: cast(weight, dtype) for name, weight in found.items()}
    like = found["weight_ih"]
    for name, shape in expected.items():
        check_tensor(name + suffix, found[name], shape, like, "weight_ih" + suffix)
    if dropped and layer.weight_drop:
        found["weight_hh"] = F.dropout(found["weight_hh"], layer.weight_drop)
    if layer._structured:
        found = layer._structure.full(found)
    return Weights(
        input=found["weight_ih"],
        recurrent=found["weight_hh"],
        input_bias=found.get("bias_ih"),
        recurrent_bias=found.get("bias_hh"),
        projection=found.get("weight_hr"),
        norm_input=found.get("norm_ih"),
        norm_recurrent=found.get("norm_hh"),
        per_unit={name: found[name] for name in layer.cell.params},
    )


def parameter_beside(
    layer: Recurrent, name: str, like: Tensor, dtype: torch.dtype | None
) -> Tensor:
    """One that is none of a cell's step, checked, and cast where autocast has a ``dtype``."""
    found: Tensor = getattr(layer, name)
    found = found if dtype is None else cast(found, dtype)
    check_tensor(name, found, layer._beside[name], like)
    return found
