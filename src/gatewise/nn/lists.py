"""A list of integers as a tensor that torch.compile treats as an input and not as constants.

torch.compile treats the integers of a list as constants: it compiles again for every new list, and gives up
at the ninth. It has no public way to mark a list as data. So this file uses the internal functions by
which torch.compile treats a NumPy array as a tensor. Where a torch version lacks any of them, the integers
are constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.backends.contract import constant


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
_GRAPH_ARG = {"pass_arg_as_tensor", "fake_tensor", "is_tensor", "example_strong_ref"}


@constant
def _prepared() -> bool:
    """Registers ``_of_list`` with the running torch.compile: one call whose list is an input. False where
    this torch version cannot do it."""
    if not _PREPARED:
        handlers = _handlers()
        if handlers is not None:
            torch.compiler.allow_in_graph(_of_list)
            handlers[_of_list] = _input_from
        _PREPARED.append(handlers is not None)
    return _PREPARED[0]


def _handlers() -> dict[Any, Any] | None:
    """torch.compile's handlers of known functions; None where this torch version lacks anything that
    ``_input_from`` uses."""
    try:
        from torch._dynamo.output_graph import OutputGraph
        from torch._dynamo.side_effects import SideEffects
        from torch._dynamo.source import FloatTensorSource  # noqa: F401
        from torch._dynamo.variables import TensorVariable, UserFunctionVariable  # noqa: F401
        from torch._dynamo.variables.builder import GraphArg, VariableBuilder  # noqa: F401
        from torch._dynamo.variables.torch import TorchInGraphFunctionVariable

        handlers: dict[Any, Any] = TorchInGraphFunctionVariable._get_handlers()
    except (ImportError, AttributeError):
        return None
    fits = (
        hasattr(OutputGraph, "resolve_source_value")
        and hasattr(SideEffects, "is_modified")
        and inspect.signature(GraphArg).parameters.keys() >= _GRAPH_ARG
    )
    return handlers if fits else None


def _input_from(called: Any, tx: Any, lengths: Any) -> Any:
    """The variable of torch.compile for ``_of_list(lengths)``: an input made of the list at each call.

    None for a list that is made in the graph: torch.compile handles it itself."""
    from torch._dynamo.source import FloatTensorSource
    from torch._dynamo.variables import TensorVariable, UserFunctionVariable
    from torch._dynamo.variables.builder import GraphArg, VariableBuilder

    source = lengths.source
    if source is not None and not tx.output.side_effects.is_modified(lengths):
        tensors = [isinstance(each, Tensor) for each in tx.output.resolve_source_value(source)]
    else:
        tensors = [isinstance(each.realize(), TensorVariable) for each in lengths.items]
    if any(tensors):
        stacked: Any = _stacked
        return UserFunctionVariable(stacked).call_function(tx, [lengths], {})
    if source is None or tx.export or tx.output.side_effects.is_modified(lengths):
        return None
    values = tx.output.resolve_source_value(source)
    if not values or not all(
        type(value) is int or isinstance(value, np.integer) for value in values
    ):
        return None
    tensor = torch.as_tensor(values)
    # static, because a graph is for one length of the list; mark_static works only before compilation
    tensor._dynamo_static_indices = {0}  # type: ignore[attr-defined]
    found = VariableBuilder(tx, FloatTensorSource(source))(tensor).realize()
    meta = found.as_proxy().node.meta
    meta["grapharg"] = GraphArg(
        source,
        tensor,
        pass_arg_as_tensor=True,
        fake_tensor=meta["grapharg"].fake_tensor,
        is_tensor=True,
        example_strong_ref=tensor,
    )
    return found
