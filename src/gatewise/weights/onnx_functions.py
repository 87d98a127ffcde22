"""Inlining of the functions that an ONNX model defines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gatewise.errors import ModelFileError, need
from gatewise.weights.budget import Budget

# The size of a node in memory, with all data about it, in multiples of its size in the file.
_IN_MEMORY = 8

_Key = tuple[str, str, str]


def written_out(model: Any, budget: Budget) -> Any:
    """The model with its functions inlined.

    Raises:
        ModelFileError: a function calls itself, or the result exceeds the limit for this file: thirty
            functions that each call the one before twice give a thousand million nodes.
    """
    if not model.functions:
        return model
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[_Key, int | None] = {}  # None while a function is being measured

    def size_of(node: Any) -> int:
        key = (node.domain, node.op_type, node.overload)
        if key not in functions:
            return 0
        if key not in sizes:
            sizes[key] = None
            function = functions[key]
            called = sum(size_of(each) for each in all_nodes(function))
            sizes[key] = int(function.ByteSize()) + called
        size = sizes[key]
        if size is None:
            raise ModelFileError(f"the function '{node.op_type}' of the file calls itself")
        return size

    size = sum(size_of(node) for node in all_nodes(model.graph))
    budget.take("what the file's functions are, written out,", _IN_MEMORY * size)
    return need("onnx.inliner", "onnx").inline_local_functions(model)


def all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes, and the nodes of the graphs inside them."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from all_nodes(inner)


def graphs_of(node: Any) -> Iterator[Any]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g
