"""A list of integers as a tensor that torch.compile treats as an input and not as constants.

torch.compile treats the integers of a list as constants: it compiles again for every new list, and gives up
at the ninth. It has no public way to mark a list as data. So this file uses the internal functions by
which torch.compile treats a NumPy array as a tensor. Where a torch version lacks any of them, the integers
are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.backends.torch_private import compiler_parts, constant, mark_length_static


def as_tensor(lengths: Any) -> Tensor:
    """The integers as a tensor: ``torch.as_tensor``, with lists as inputs of a compiled graph."""
    if isinstance(lengths, list | tuple) and torch.compiler.is_dynamo_compiling() and _prepared():
        return _of_list(lengths)
    return torch.as_tensor(lengths)


def _of_list(lengths: Sequence[int]) -> Tensor:
    return torch.as_tensor(lengths)


def _stacked(lengths: Sequence[Any]) -> Tensor:
    """A list of tensors as one tensor; each is an input of the compiled graph."""
    return torch.stack([torch.as_tensor(length) for length in lengths])


_PREPARED: list[bool] = []


@constant
def _prepared() -> bool:
    """Registers ``_of_list`` with the running torch.compile: one call whose list is an input. False where
    this torch version cannot do it."""
    if not _PREPARED:
        parts = compiler_parts()
        if parts is not None:
            torch.compiler.allow_in_graph(_of_list)
            parts.handlers[_of_list] = partial(_input_from, parts)
        _PREPARED.append(parts is not None)
    return _PREPARED[0]


def _input_from(parts: Any, called: Any, tx: Any, lengths: Any) -> Any:
    """The variable of torch.compile for ``_of_list(lengths)``: an input made of the list at each call.

    None for a list that is made in the graph: torch.compile handles it itself."""
    source = lengths.source
    if source is not None and not tx.output.side_effects.is_modified(lengths):
        tensors = [isinstance(each, Tensor) for each in tx.output.resolve_source_value(source)]
    else:
        tensors = [isinstance(each.realize(), parts.TensorVariable) for each in lengths.items]
    if any(tensors):
        stacked: Any = _stacked
        return parts.UserFunctionVariable(stacked).call_function(tx, [lengths], {})
    if source is None or tx.export or tx.output.side_effects.is_modified(lengths):
        return None
    values = tx.output.resolve_source_value(source)
    if not values or not all(
        type(value) is int or isinstance(value, np.integer) for value in values
    ):
        return None
    tensor = torch.as_tensor(values)
    mark_length_static(tensor)  # because a graph is for one length of the list
    found = parts.VariableBuilder(tx, parts.FloatTensorSource(source))(tensor).realize()
    meta = found.as_proxy().node.meta
    meta["grapharg"] = parts.GraphArg(
        source,
        tensor,
        pass_arg_as_tensor=True,
        fake_tensor=meta["grapharg"].fake_tensor,
        is_tensor=True,
        example_strong_ref=tensor,
    )
    return found
