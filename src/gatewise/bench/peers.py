"""The peers that are timed beside gatewise: each has one line in PEERS and one builder.

A builder runs in the process that is timed. It brings the layer's weights into the peer's order and compiles
the layer. It imports the peer's package, which no other process does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from gatewise.bench.loops import Loop
from gatewise.bench.problem import (
    TORCH_LAYERS,
    Builder,
    Prepared,
    Problem,
    prepared,
    torch_layer,
)
from gatewise.cells.catalogue import gru, lstm, rnn_relu, rnn_tanh
from gatewise.cells.language import Cell
from gatewise.errors import BackendError, unknown


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        build: the builder, called with a problem and the number of threads.
        modules: the packages that must be installed, by their names on PyPI.
        apart: whether it runs in a separate process, with its own threads.
        usual: whether "all" includes it.
        trains: whether it has gradients.
        dtypes: the dtypes that it computes in.
        any_cell: whether it runs any cell, not only those of torch.
    """

    build: Callable[[Problem, int], Prepared]
    modules: tuple[str, ...] = ()
    apart: bool = True
    usual: bool = True
    trains: bool = True
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    any_cell: bool = False

    @property
    def missing(self) -> list[str]:
        return [module for module in self.modules if find_spec(module) is None]

    def unsupported(self, cell: Cell, mode: str, dtype: str) -> str | None:
        """Why the peer cannot run the cell, as the end of "it ..."; None if it can."""
        if not self.any_cell and cell not in TORCH_LAYERS:
            return f"has no cell '{cell.name}'"
        if mode == "training" and not self.trains:
            return "does not train"
        return None if dtype in self.dtypes else f"does not compute in {dtype}"


def _torch(problem: Problem, threads: int) -> Prepared:
    return prepared(torch_layer(problem), problem)


def _loop(problem: Problem, threads: int) -> Prepared:
    return prepared(Loop(problem), problem)


def _compile(problem: Problem, threads: int) -> Prepared:
    import torch

    return prepared(torch.compile(Loop(problem), dynamic=False), problem)  # type: ignore[arg-type]


def _onnxruntime(problem: Problem, threads: int) -> Prepared:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )

    def call() -> np.ndarray:
        return session.run(["y"], {"x": problem.x})[0]

    return Prepared(call, lambda: {"output": call()[:, 0]})


def _openvino(problem: Problem, threads: int) -> Prepared:
    import openvino

    # its default is bf16 where the processor has it
    precision = {"float32": "f32", "bfloat16": "bf16"}[problem.dtype]
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(onnx_model(problem)), "CPU", config)
    used = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != precision:
        raise BackendError(
            f"computes in {used} on this processor, not in the dtype that was asked for"
        )
    infer = model.create_infer_request()
    infer.set_input_tensor(openvino.Tensor(problem.x))

    def call() -> np.ndarray:
        infer.infer()
        return infer.get_output_tensor().data

    return Prepared(call, lambda: {"output": call()[:, 0].copy()})


# The gates of ONNX and Keras, as indices in torch's order: i f g o; r z n.
_ONNX_GATES = {lstm: (0, 3, 1, 2), gru: (1, 0, 2)}
_KERAS_GATES = {lstm: (0, 1, 2, 3), gru: (1, 0, 2)}
_ONNX_NODES: Mapping[Cell, tuple[str, dict[str, Any]]] = {
    lstm: ("LSTM", {}),
    gru: ("GRU", {"linear_before_reset": 1}),
    rnn_tanh: ("RNN", {"activations": ["Tanh"]}),
    rnn_relu: ("RNN", {"activations": ["Relu"]}),
}


def _reordered(problem: Problem, gates: Mapping[Cell, tuple[int, ...]]) -> list[np.ndarray]:
    """weight_ih, weight_hh, bias_ih and bias_hh, with the gates in another order."""
    order = gates.get(problem.cell, (0,))
    return [
        np.concatenate([np.split(problem.weights[f"{name}_l0"], len(order))[k] for k in order])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


def onnx_model(problem: Problem) -> bytes:
    """The layer as an ONNX model with one node, from x, T×B×I, to y, T×1×B×H."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape, cell = problem.shape, problem.cell
    W, R, *biases = _reordered(problem, _ONNX_GATES)
    weights = {"W": W[None], "R": R[None], "b": np.concatenate(biases)[None]}
    kind, attributes = _ONNX_NODES[cell]
    node = helper.make_node(kind, ["x", *weights], ["y"], hidden_size=shape.H, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.T, shape.B, shape.I])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape.T, 1, shape.B, shape.H])
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "layer", [x], [y], held)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _keras_jax(problem: Problem, threads: int) -> Prepared:
    os.environ |= jax_environment(threads)
    if hasattr(os, "sched_setaffinity"):  # XLA starts one thread for each core that it may use
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])
    import jax
    import jax.numpy as jnp

    layer = _keras_layer(problem)
    dtype = jnp.dtype(problem.dtype)
    x, dy = (jnp.asarray(a.swapaxes(0, 1), dtype) for a in (problem.x, problem.dy))
    weights = [jnp.asarray(v.value) for v in layer.trainable_variables]
    other = [jnp.asarray(v.value) for v in layer.non_trainable_variables]

    def forward(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        return layer.stateless_call(weights, other, x)[0]

    def loss(weights: list[jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = forward(weights, x)
        return (y * dy).sum(), y

    training = problem.mode == "training"
    function = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True) if training else forward
    compiled = jax.jit(function).lower(weights, x).compile()

    def call() -> object:
        return jax.block_until_ready(compiled(weights, x))

    def results() -> dict[str, np.ndarray]:
        found = compiled(weights, x)
        named = {"output": found}
        if training:
            (_, y), (_, dx) = found
            named = {"output": y, "input gradient": dx}
        return {name: np.asarray(a, np.float32).swapaxes(0, 1) for name, a in named.items()}

    return Prepared(call, results)


def _keras_layer(problem: Problem) -> Any:
    import keras

    units = problem.shape.H
    W, R, b, c = _reordered(problem, _KERAS_GATES)
    options = {"return_sequences": True, "dtype": problem.dtype, "recurrent_initializer": "zeros"}
    if problem.cell == lstm:
        layer, bias = keras.layers.LSTM(units, **options), b + c
    elif problem.cell == gru:
        layer, bias = keras.layers.GRU(units, reset_after=True, **options), np.stack([b, c])
    else:
        activation = "tanh" if problem.cell == rnn_tanh else "relu"
        layer = keras.layers.SimpleRNN(units, activation=activation, **options)
        bias = b + c
    layer.build((problem.shape.B, problem.shape.T, problem.shape.I))
    layer.set_weights([W.T, R.T, bias])
    return layer


def jax_environment(threads: int) -> dict[str, str]:
    """The environment variables that must be set before JAX is imported."""
    flags = "--xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
    return {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(threads),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }


PEERS: Mapping[str, Peer] = {
    "torch": Peer(_torch, apart=False),
    "onnxruntime": Peer(_onnxruntime, ("onnx", "onnxruntime"), trains=False, dtypes=("float32",)),
    "openvino": Peer(_openvino, ("onnx", "openvino"), trains=False),
    "keras-jax": Peer(_keras_jax, ("keras", "jax")),
    "loop": Peer(_loop, apart=False, usual=False, any_cell=True),
    "compile": Peer(_compile, apart=False, usual=False, any_cell=True),
}


def parse(text: str) -> tuple[str, ...]:
    """Names from "torch,keras-jax", "all" or "none", in the order of PEERS.

    Raises:
        OptionError: a name is unknown.
    """
    if text == "none":
        return ()
    names = set(text.split(","))
    if "all" in names:
        names = names - {"all"} | {name for name, peer in PEERS.items() if peer.usual}
    for name in sorted(names - set(PEERS)):
        raise unknown("peer", name, [*PEERS, "all", "none"])
    return tuple(name for name in PEERS if name in names)


def builder(name: str, threads: int) -> Builder:
    return lambda problem: PEERS[name].build(problem, threads)
