"""The constants of an ONNX graph: its tensors, and the operations that exporters apply to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need
from gatewise.weights.onnx_tensors import Tensors, type_of

_DEEPEST = 64
_STANDARD = ("", "ai.onnx")


def _as_its_input(node: Any, taken: Sequence[Any]) -> int:
    """The size for an operator that moves its input's numbers or drops some of them."""
    return int(taken[0].nbytes) if taken else 0


def _cast(node: Any, taken: Sequence[Any]) -> int:
    to = next((each.i for each in node.attribute if each.name == "to"), 0)
    return int(taken[0].size) * type_of(node.output[0], to).itemsize


def _concat(node: Any, taken: Sequence[Any]) -> int:
    return sum(int(each.nbytes) for each in taken)


def _gather(node: Any, taken: Sequence[Any]) -> int:
    table, indices = taken
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return int(table.nbytes) // max(table.shape[axis], 1) * int(indices.size)


# The operators that exporters leave between an initializer and the node that uses it, each with an upper
# bound of the bytes of its outputs.
_FOLDED: Mapping[str, Callable[[Any, Sequence[Any]], int]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Flatten": _as_its_input,
    "Gather": _gather,
    "Identity": _as_its_input,
    "Reshape": _as_its_input,
    "Slice": _as_its_input,
    "Split": _as_its_input,
    "Squeeze": _as_its_input,
    "Transpose": _as_its_input,
    "Unsqueeze": _as_its_input,
}


class Constants:
    """The tensors of a graph that do not depend on its inputs, by their names.

    A tensor is kept once, and released when no node needs it any more.

    Args:
        graph: an onnx.GraphProto.
        opsets: the model's opset_import.
        given: the caller's tensors for inputs of the graph; they take precedence over the file's.
        tensors: the reader of stored tensors.
        outer: the constants of the enclosing graph.
    """

    def __init__(
        self,
        graph: Any,
        opsets: Sequence[Any],
        given: Mapping[str, Any],
        tensors: Tensors,
        outer: Constants | None = None,
    ) -> None:
        self._opsets = opsets
        self._outer = outer
        self._read = tensors
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self._nodes = {name: node for node in graph.node for name in node.output if name}
        self._own = {each.name for each in graph.input} | {
            *self._stored,
            *self._sparse,
            *self._nodes,
        }
        own = self._own
        self._found: dict[str, Any] = {k: v for k, v in given.items() if outer is None or k in own}
        self._wanted: Counter[str] = Counter()  # the number of nodes that still need each tensor
        for node in graph.node:
            for name in {*node.input}:
                self._owner(name)._wanted[name] += 1

    def find(self, name: str, depth: int = 0) -> Any:
        """The tensor's array, or None if it depends on the graph's inputs.

        Raises:
            ModelFileError: the tensor is damaged, is in a file that was not read, or is larger than the
                limit for this file.
        """
        owner = self._owner(name)
        if name not in owner._found and name in owner._own:
            owner._make(name, depth)
        return owner._found.get(name)

    def let_go(self, names: Iterable[str]) -> None:
        """Called when one node that uses these tensors has read them."""
        for name in {*names}:
            owner = self._owner(name)
            owner._wanted[name] -= 1
            if owner._wanted[name] <= 0:
                owner._found.pop(name, None)

    def _owner(self, name: str) -> Constants:
        """The constants of the innermost graph that has a tensor of this name."""
        here = self
        while name not in here._own and here._outer is not None:
            here = here._outer
        return here

    def _make(self, name: str, depth: int) -> None:
        if name in self._stored:
            self._found[name] = self._read(self._stored[name])
            return
        if name in self._sparse:
            raise ModelFileError(f"the tensor '{name}' is sparse; weights must be dense")
        node = self._nodes.get(name)
        if node is None or node.domain not in _STANDARD:
            self._found[name] = None
        elif node.op_type == "Constant":
            self._found[name] = self._constant(node)
        elif node.op_type in _FOLDED:
            self._found |= dict(zip(node.output, self._folded(node, name, depth), strict=False))
        else:
            self._found[name] = None

    def _constant(self, node: Any) -> Any:
        if len(node.attribute) != 1:
            raise ModelFileError(
                f"the Constant '{node.output[0]}' has {len(node.attribute)} values, expected one"
            )
        (value,) = node.attribute
        match value.name:
            case "value":
                return self._read(value.t)
            case "value_float" | "value_floats":
                return np.array(value.f if value.name == "value_float" else value.floats, "f4")
            case "value_int" | "value_ints":
                return np.array(value.i if value.name == "value_int" else value.ints, "i8")
        raise ModelFileError(
            f"the Constant '{node.output[0]}' has a {value.name}; expected dense numbers"
        )

    def _folded(self, node: Any, name: str, depth: int) -> Sequence[Any]:
        """The array of each output, or None."""
        if depth > _DEEPEST:
            raise ModelFileError(
                f"the tensor '{name}' is more than {_DEEPEST} operations away from the file's "
                f"constants; store the weights in the form in which the node uses them"
            )
        taken = {each: self.find(each, depth + 1) for each in node.input if each}
        if any(each is None for each in taken.values()):
            return [None] * len(node.output)
        arrays = [np.asarray(taken[each]) for each in node.input if each]
        what = f"the node '{node.name or name}' ({node.op_type})"
        self._read.budget.take(what, _FOLDED[node.op_type](node, arrays))
        made = _evaluated(node, taken, self._opsets)
        self.let_go(taken)
        return made


def _evaluated(node: Any, taken: Mapping[str, Any], opsets: Sequence[Any]) -> Sequence[Any]:
    """The outputs of one node, by ONNX's reference implementation."""
    helper, reference = need("onnx.helper", "onnx"), need("onnx.reference", "onnx")
    untyped = helper.make_tensor_type_proto(1, None)
    graph = helper.make_graph(
        [node],
        "constants",
        [helper.make_value_info(each, untyped) for each in taken],
        [helper.make_value_info(each, untyped) for each in node.output],
    )
    model = helper.make_model(graph, opset_imports=list(opsets))
    with np.errstate(all="ignore"):  # the user of a tensor checks it for NaN
        results: Sequence[Any] = reference.ReferenceEvaluator(model).run(None, dict(taken))
    return results
