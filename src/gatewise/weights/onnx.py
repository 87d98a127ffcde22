"""Layers from the LSTM, GRU and RNN nodes of an ONNX file.

Source: the operators' definitions, https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html
and onnx__RNN.html.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.cells.activations import ONNX, Activation
from gatewise.cells.language import Cell
from gatewise.cells.variants import gru_cell, lstm_cell, rnn_cell
from gatewise.errors import ModelFileError, ShapeError, near, need, unknown
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.weights.budget import Budget
from gatewise.weights.checks import as_tensor, check_shape, chosen, existing_file, reading
from gatewise.weights.layers import Layer, Part, gates_of, recurrent, split_gates
from gatewise.weights.onnx_constants import Constants
from gatewise.weights.onnx_functions import all_nodes, graphs_of, written_out
from gatewise.weights.onnx_tensors import Tensors

_KIND = "an ONNX model"
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# The cells' gates in the order of ONNX's rows, and the activations of a node that names none.
_OPERATORS = {
    "LSTM": ("i o f g", ("Sigmoid", "Tanh", "Tanh")),
    "GRU": ("z r n", ("Sigmoid", "Tanh")),
    "RNN": ("h", ("Tanh",)),
}
_FUNCTIONS = {name.lower(): each for name, each in ONNX.items()}  # some files write "tanh"
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_SETTINGS: Mapping[str, type] = {
    "activation_alpha": list,
    "activation_beta": list,
    "activations": list,
    "clip": float,
    "direction": bytes,
    "hidden_size": int,
    "input_forget": int,
    "layout": int,
    "linear_before_reset": int,
    "output_sequence": int,  # in the first opset: whether the node has the output Y
}


_SHOWN = 20  # the number of lengths that a message shows


@dataclass(frozen=True)
class _Node:
    """A recurrent node: its name, its operator, its inputs by their names in the operator's definition, its
    attributes, and the constants of its graph."""

    name: str
    operator: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    constants: Constants
    budget: Budget
    shapes: Mapping[str, tuple[int | None, ...]]

    def refuse(self, attribute: str, value: object, why: str) -> ModelFileError:
        return ModelFileError(
            f"the {self.operator} node '{self.name}' has {attribute}={value!r}: {why}"
        )

    def called(self, name: str) -> str:
        return f"{name} ('{self.inputs[name]}') of the {self.operator} node '{self.name}'"

    def constant(self, name: str) -> Any:
        given = self.inputs.get(name)
        return self.constants.find(given) if given else None

    def weight(self, name: str, *shape: int) -> Tensor | None:
        """One of W, R, B and P, D×…; None if the node does not have it."""
        if not self.inputs.get(name):
            return None
        found = self.constant(name)
        if found is None:
            raise ModelFileError(
                f"{self.called(name)} is not a constant of the file; if it is an input of the graph, "
                f"give it: tensors={{'{self.inputs[name]}': …}}"
            )
        if shape:
            check_shape(self.called(name), np.shape(found), shape)
        self.budget.take(self.called(name), _bytes_of(found))
        return as_tensor(self.called(name), found)

    @property
    def direction(self) -> str:
        direction: str = self.settings.get("direction", b"forward").decode(errors="replace")
        if direction not in _DIRECTIONS:
            raise self.refuse("direction", direction, f"expected one of {', '.join(_DIRECTIONS)}")
        return direction

    def flag(self, name: str) -> bool:
        value = self.settings.get(name, 0)
        if value not in (0, 1):
            raise self.refuse(name, value, "expected 0 or 1")
        return bool(value)


def from_onnx(
    model: str | os.PathLike[str] | Any,
    *,
    tensors: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Layer]:
    """The LSTM, GRU and RNN nodes of an ONNX model as layers in eval mode, in the order of the graph.

    A layer is a :class:`gatewise.LSTM`, ``GRU`` or ``RNN`` where the node computes the same, else a
    :class:`gatewise.Recurrent` with a cell of the node's equations (peepholes, coupled gates, other
    activations, a clip). For "reverse", or for two directions with different activations, it is a module
    that is called like one. It takes T×B×I, or B×T×I for layout 1, and keeps the file's dtype. The caller
    gives lengths and initial states that are inputs of the graph or computed in it. An initial state that
    is stored in the file is the layer's initial state.

    Args:
        model: the path of the file, or an onnx.ModelProto.
        tensors: arrays for weights that are inputs of the graph, by their names there.
        only: the names of the layers to import; the default is all.

    Returns:
        Layers by the names of their nodes, or of the first output where a node has no name;
        ``loop/name`` for a node inside the node ``loop``.

    Raises:
        ModelFileError: the file is not an ONNX model, is damaged, or a node has something that no layer
            supports. The message names the node, the attribute and its value.
        ShapeError: a tensor does not fit. The message has the shape and the expected shape.
        DataError: a weight is not finite, or not a floating-point number.
        MissingExtraError: the package onnx is not installed.
    """
    onnx = need("onnx", "onnx")
    what = "the model" if isinstance(model, onnx.ModelProto) else f"'{model}'"
    with reading(what, _KIND):
        loaded, tensors_of = _loaded(onnx, model)
        graph = loaded.graph
        names = [each.name for each in (*graph.input, *graph.initializer)]
        for name in tensors or {}:
            if name not in names:
                raise unknown("input of the graph", name, names)
        tensors_of.budget.holds(sum(_bytes_of(each) for each in (tensors or {}).values()))
        constants = Constants(graph, loaded.opset_import, tensors or {}, tensors_of)
        nodes: dict[str, _Node] = {}
        for node in _nodes(graph, constants, loaded.opset_import, tensors_of, ""):
            if node.name in nodes:
                raise ModelFileError(f"{what} has two recurrent nodes with the name '{node.name}'")
            nodes[node.name] = node
        if not nodes:
            found = sorted({_full_name(node) for node in all_nodes(graph)})
            raise ModelFileError(
                f"{what} has no LSTM, GRU or RNN node; it has: {', '.join(found) or 'no nodes'}"
            )
        return {name: _layer(node) for name, node in chosen(nodes, only, what).items()}


def run_node(
    layer: Layer,
    X: Tensor,
    sequence_lens: Tensor | Sequence[int] | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The outputs of the ONNX node that ``layer`` was made from, in the node's shapes.

    Args:
        layer: as :func:`from_onnx` returns it.
        X: T×B×I; B×T×I for layout 1.
        sequence_lens: B integers, or None.
        initial_h: D×B×H; B×D×H for layout 1.
        initial_c: like initial_h; only for an LSTM.

    Returns:
        Y, T×D×B×H (B×T×D×H for layout 1), Y_h, D×B×H (B×D×H), and for an LSTM Y_c in the same shape.
    """
    batch_first = layer.batch_first
    given = [initial_h, initial_c]
    hx: Any = None
    if initial_h is not None or initial_c is not None:
        like = initial_h if initial_h is not None else initial_c
        assert like is not None
        states = [torch.zeros_like(like) if each is None else each for each in given]
        states = [each.transpose(0, 1) if batch_first else each for each in states]
        assert layer.cell is not None
        hx = tuple(states) if len(layer.cell.state) == 2 else states[0]
    output, state = layer(X, hx, lengths=sequence_lens)
    finals = [state] if isinstance(state, Tensor) else list(state)
    Y = output.unflatten(-1, (finals[0].shape[0], -1))
    if batch_first:
        return (Y, *(each.transpose(0, 1) for each in finals))
    return (Y.transpose(1, 2), *finals)


def _loaded(onnx: Any, model: Any) -> tuple[Any, Tensors]:
    """The model, with its functions inlined, and the reader of its tensors."""
    folder = None
    if isinstance(model, onnx.ModelProto):
        size = _size_in_memory(model)
    else:
        path = existing_file(model, _KIND)
        folder, size = path.parent, path.stat().st_size
        # tensors in external files are read when they are needed
        model = onnx.load(path, format="protobuf", load_external_data=False)
    budget = Budget(size)
    return written_out(model, budget), Tensors(budget, folder)


def _size_in_memory(model: Any) -> int:
    try:
        return int(model.ByteSize())
    except need("google.protobuf.message", "onnx").EncodeError:
        return 2**31  # bytes; a larger model cannot be serialised, so its size cannot be measured


def _bytes_of(array: Any) -> int:
    return int(array.nbytes if hasattr(array, "nbytes") else np.asarray(array).nbytes)


def _full_name(node: Any) -> str:
    """The name of a node's operator, with its domain unless it is the standard one."""
    return f"{node.op_type} (of the domain '{node.domain}')" if node.domain else str(node.op_type)


def _nodes(
    graph: Any, constants: Constants, opsets: Any, tensors: Tensors, within: str
) -> Iterator[_Node]:
    """The recurrent nodes of a graph and of the graphs inside its nodes."""
    shapes = {each.name: _static_shape(each) for each in (*graph.input, *graph.value_info)}
    for proto in graph.node:
        output = next((name for name in proto.output if name), "")
        name = within + (proto.name or output)
        if proto.op_type in _OPERATORS and proto.domain in ("", "ai.onnx"):
            inputs = dict(zip(_INPUTS, proto.input, strict=False))
            settings = _settings(name, proto)
            yield _Node(name, proto.op_type, inputs, settings, constants, tensors.budget, shapes)
        for inner in graphs_of(proto):
            seen = Constants(inner, opsets, {}, tensors, constants)
            yield from _nodes(inner, seen, opsets, tensors, f"{name}/")


def _static_shape(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(each.dim_value if each.HasField("dim_value") else None for each in dims)


def _settings(name: str, proto: Any) -> dict[str, Any]:
    value_of = need("onnx.helper", "onnx").get_attribute_value
    settings = {}
    for attribute in proto.attribute:
        known = {*_SETTINGS} - ({"linear_before_reset"} if proto.op_type != "GRU" else set())
        known -= {"input_forget"} if proto.op_type != "LSTM" else set()
        if attribute.name not in known:
            raise ModelFileError(
                f"the {proto.op_type} node '{name}' has the attribute '{attribute.name}', which "
                f"{proto.op_type} does not have{near(attribute.name, known)}"
            )
        value = value_of(attribute)
        value = list(value) if not isinstance(value, (bytes, int, float)) else value
        if not isinstance(value, _SETTINGS[attribute.name]):
            raise ModelFileError(
                f"the {proto.op_type} node '{name}' has {attribute.name}={value!r}, which has the wrong "
                f"type"
            )
        settings[attribute.name] = value
    return settings


def _layer(node: _Node) -> Layer:
    direction = node.direction
    node.budget.take(f"the {node.operator} node '{node.name}'", 0)
    parts = _parts(node, _DIRECTIONS[direction])
    _check_lengths(node)
    node.constants.let_go(node.inputs.values())
    batch_first = node.flag("layout")
    if len({part.cell for part in parts}) > 1:
        ahead, back = (recurrent([[part]], batch_first) for part in parts)
        return Bidirectional(ahead, back).eval()
    layer = recurrent([parts], batch_first)
    return Reversed(layer).eval() if direction == "reverse" else layer


def _parts(node: _Node, directions: int) -> list[Part]:
    """The cell and the weights of each direction."""
    gates, _ = _OPERATORS[node.operator]
    R = node.weight("R")
    W = node.weight("W")
    if R is None or W is None or R.dim() != 3 or W.dim() != 3:
        found = {n: None if w is None else tuple(w.shape) for n, w in (("W", W), ("R", R))}
        raise ShapeError(
            f"the {node.operator} node '{node.name}' has W and R of the shapes {found['W']} and "
            f"{found['R']}; both must have three dimensions"
        )
    H = node.settings.get("hidden_size", R.shape[-1])
    if H < 1 or W.shape[-1] < 1:
        raise node.refuse(
            "hidden_size",
            H,
            f"W has the shape {tuple(W.shape)}; there must be at least one unit and one input",
        )
    rows = len(gates.split()) * H
    check_shape(node.called("R"), R.shape, (directions, rows, H))
    check_shape(node.called("W"), W.shape, (directions, rows, W.shape[-1]))
    B = node.weight("B", directions, 2 * rows)
    P = node.weight("P", directions, 3 * H) if node.operator == "LSTM" else None
    initial = _initial_states(node, directions, H)
    parts = []
    for d, cell in enumerate(_cells(node, directions, P is not None)):
        blocks = {"weight_ih": split_gates(W[d], gates), "weight_hh": split_gates(R[d], gates)}
        if B is not None:
            for name, half in zip(("bias_ih", "bias_hh"), B[d].chunk(2), strict=True):
                blocks[name] = split_gates(half, gates)
        if P is not None:
            blocks["p"] = split_gates(P[d], "i o f")
        parts.append(
            Part(cell, {**_tensors(cell, blocks), **{k: v[d] for k, v in initial.items()}})
        )
    return parts


def _tensors(cell: Cell, blocks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The cell's parameters, from the rows of each gate."""
    if "f" in cell.gates and "i" not in cell.gates:
        # the catalogue's coupled cells have i = 1 - f, ONNX f = 1 - i: sigmoid(-x) = 1 - sigmoid(x)
        blocks = {kind: {**rows, "f": -rows["i"]} for kind, rows in blocks.items()}
    peepholes = blocks.get("p", {})
    stacked = {kind: gates_of(cell, rows) for kind, rows in blocks.items() if kind != "p"}
    return {**stacked, **{name: peepholes[name[1:]].clone() for name in cell.params}}


def _cells(node: _Node, directions: int, peepholes: bool) -> Iterator[Cell]:
    clip = node.settings.get("clip")
    if clip is not None and not 0 < clip < math.inf:
        raise node.refuse("clip", clip, "expected a positive finite number")
    functions = _activations(node, directions)
    count = len(functions) // directions
    for d in range(directions):
        used = functions[d * count : (d + 1) * count]
        match node.operator:
            case "LSTM":
                coupled = node.flag("input_forget")
                yield lstm_cell(*used, clip=clip, peepholes=peepholes, coupled=coupled)
            case "GRU":
                yield gru_cell(*used, clip=clip, reset_after=node.flag("linear_before_reset"))
            case _:
                yield rnn_cell(*used, clip=clip)


def _activations(node: _Node, directions: int) -> list[Activation]:
    """The activation functions of each direction, with their alpha and beta."""
    _, usual = _OPERATORS[node.operator]
    names = [each.decode(errors="replace") for each in node.settings.get("activations", ())]
    names = names or [*usual] * directions
    if len(names) != len(usual) * directions:
        raise node.refuse("activations", names, f"expected {len(usual) * directions} of them")
    for name in names:
        if name.lower() not in _FUNCTIONS:
            known = ", ".join(ONNX)
            raise node.refuse(
                "activations", names, f"'{name}' is not an activation of ONNX, which are {known}"
            )
    given = {
        "alpha": iter(_values(node, names, "alpha")),
        "beta": iter(_values(node, names, "beta")),
    }
    functions = []
    for name in names:
        function, takes = _FUNCTIONS[name.lower()]
        values = {each: next(given[each], default) for each, default in takes.items()}
        for each, value in values.items():
            if value is None:
                raise node.refuse(
                    "activations",
                    names,
                    f"{name} needs activation_{each}, which the node does not have",
                )
        functions.append(partial(function, **values) if values else function)
    return functions


def _values(node: _Node, names: Sequence[str], argument: str) -> Sequence[float]:
    """activation_alpha or activation_beta: one value for each function that takes it, or None for no values."""
    attribute = f"activation_{argument}"
    values: Sequence[float] = node.settings.get(attribute, ())
    takers = [name for name in names if argument in _FUNCTIONS[name.lower()][1]]
    if values and len(values) != len(takers):
        raise node.refuse(
            attribute,
            list(values),
            f"{len(takers)} of the activations {list(names)} take it, so there must be as many values",
        )
    if not np.isfinite(values).all():
        raise node.refuse(attribute, list(values), "expected finite numbers")
    return values


def _initial_states(node: _Node, directions: int, H: int) -> dict[str, Tensor]:
    """The initial states that the file stores, each D×H: all states, or none."""
    states = ("initial_h", "initial_c") if node.operator == "LSTM" else ("initial_h",)
    found = {}
    for name in states:
        if (value := node.constant(name)) is None:
            continue
        tensor = as_tensor(node.called(name), value)
        if node.flag("layout") and tensor.dim() == 3:
            tensor = tensor.transpose(0, 1)
        batch = tensor.shape[1] if tensor.dim() == 3 else 1
        check_shape(node.called(name), tensor.shape, (directions, batch, H))
        if not (tensor == tensor[:, :1]).all():
            raise ModelFileError(
                f"{node.called(name)} is stored for a batch of {batch}, with different values; a "
                f"layer starts all sequences from one state, or from the states given in a call"
            )
        if batch and tensor.any():
            found[name] = tensor[:, 0].contiguous()
    return {n: found.get(n, torch.zeros_like(next(iter(found.values())))) for n in states if found}


def _check_lengths(node: _Node) -> None:
    """Refuses lengths that are stored in the file, unless all are the full number of steps."""
    value = node.constant("sequence_lens")
    if value is None:
        return
    shape = node.shapes.get(node.inputs["X"], ())
    steps = shape[1 if node.flag("layout") else 0] if len(shape) == 3 else None
    if not (np.asarray(value) == steps).all():
        raise node.refuse(
            "sequence_lens",
            np.asarray(value).ravel()[:_SHOWN].tolist(),
            f"stored in the file for one batch, of {'any number of' if steps is None else steps} steps; "
            f"a layer is given lengths= with each call",
        )
