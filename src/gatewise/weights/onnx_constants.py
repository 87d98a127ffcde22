"""What in an ONNX graph is known without running it: its tensors, and what exporters put between them and a node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need

# What exporters leave between an initializer and the node that takes it. None of these makes more of
# its input than there was, but Concat and Gather, which _LARGEST bounds.
_FOLDED = (
    *("Cast", "Concat", "Constant", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
)
_DEEPEST = 64
_LARGEST = 2**31  # bytes: what protobuf can hold in one file


class Constants:
    """The tensors of a graph that depend on none of its inputs, by their names.

    Args:
        graph: an onnx.GraphProto.
        opsets: the model's opset_import.
        given: tensors that the caller has for inputs of the graph; they come before the file's own.
        outer: those of the graph round this one.
    """

    def __init__(
        self,
        graph: Any,
        opsets: Sequence[Any],
        given: Mapping[str, Any],
        outer: Constants | None = None,
    ) -> None:
        self._opsets = opsets
        self._outer = outer
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {name: node for node in graph.node for name in node.output if name}
        own = {each.name for each in graph.input} | {*self._tensors, *self._nodes}
        self._found: dict[str, Any] = {k: v for k, v in given.items() if outer is None or k in own}
        self._own = own

    def find(self, name: str, depth: int = 0) -> Any:
        """An array, or None where the tensor is computed from the graph's inputs.

        Raises:
            ModelFileError: the tensor is damaged, or is kept in a file that was not read.
        """
        if name not in self._found:
            if name not in self._own:
                return None if self._outer is None else self._outer.find(name, depth)
            self._found[name] = self._read(name, depth)
        return self._found[name]

    def _read(self, name: str, depth: int) -> Any:
        if name in self._tensors:
            return array_of(self._tensors[name])
        node = self._nodes.get(name)
        if node is None or node.op_type not in _FOLDED or node.domain not in ("", "ai.onnx"):
            return None
        if depth > _DEEPEST:
            raise ModelFileError(
                f"the tensor '{name}' is more than {_DEEPEST} operations away from the file's "
                f"constants; expected weights that are stored as they are used"
            )
        for attribute in node.attribute:
            if attribute.HasField("t"):
                array_of(attribute.t)  # so that its size is checked before anybody makes an array
        taken = {each: self.find(each, depth + 1) for each in node.input if each}
        if any(each is None for each in taken.values()):
            return None
        return self._computed(node, taken)[list(node.output).index(name)]

    def _computed(self, node: Any, taken: Mapping[str, Any]) -> Sequence[Any]:
        if node.op_type in ("Concat", "Gather"):
            size = sum(np.asarray(taken[each]).nbytes for each in node.input)
            if node.op_type == "Gather":
                table, indices = (np.asarray(taken[each]) for each in node.input)
                size = table.nbytes * max(indices.size, 1)
            if size > _LARGEST:
                raise ModelFileError(
                    f"the node '{node.name or node.output[0]}' ({node.op_type}) makes {size} bytes "
                    f"of the file's constants; at most {_LARGEST} are read"
                )
        helper, reference = need("onnx.helper", "onnx"), need("onnx.reference", "onnx")
        made = helper.make_graph(
            [node],
            "constants",
            [
                helper.make_value_info(each, helper.make_tensor_type_proto(1, None))
                for each in taken
            ],
            [
                helper.make_value_info(o, helper.make_tensor_type_proto(1, None))
                for o in node.output
            ],
        )
        model = helper.make_model(made, opset_imports=list(self._opsets))
        results: Sequence[Any] = reference.ReferenceEvaluator(model).run(None, dict(taken))
        return results


def array_of(tensor: Any) -> Any:
    """The array of an onnx.TensorProto.

    Raises:
        ModelFileError: it holds less, or more, than its dimensions say, or is kept in another file.
    """
    helper, numpy_helper = need("onnx.helper", "onnx"), need("onnx.numpy_helper", "onnx")
    if tensor.data_location == tensor.EXTERNAL:
        raise ModelFileError(
            f"the tensor '{tensor.name}' is kept in a file beside the model, and that was not read; "
            f"give the model's path, or load it with onnx.load"
        )
    shape = tuple(tensor.dims)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"the tensor '{tensor.name}' has the type number {tensor.data_type}, which ONNX has not"
        ) from error
    if any(size < 0 for size in shape):
        raise ModelFileError(f"the tensor '{tensor.name}' has the impossible shape {shape}")
    if tensor.HasField("raw_data"):
        # types of less than a byte are no weights
        expected, held = math.prod(shape) * dtype.itemsize, len(tensor.raw_data)
        if held != expected and dtype.kind in "biufV":
            raise ModelFileError(
                f"the tensor '{tensor.name}' is of shape {shape} and type {dtype.name}, which is "
                f"{expected} bytes, and holds {held}: the file is damaged"
            )
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(
            f"the tensor '{tensor.name}' of shape {shape} and type {dtype.name} cannot be read, the "
            f"file is damaged: {error}"
        ) from error
