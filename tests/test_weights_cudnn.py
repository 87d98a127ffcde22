"""Layers from cuDNN's order of weights: torch's layers packed by hand, and Keras's own packing."""

import ast
import os
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise.errors import DataError, OptionError, ShapeError
from gatewise.weights.cudnn import from_cudnn

os.environ.setdefault("KERAS_BACKEND", "torch")

pytestmark = [
    # Keras's, on NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

N, H = 3, 4
MODES = {
    "LSTM": (nn.LSTM, gw.LSTM, {}, 4),
    "GRU": (nn.GRU, gw.GRU, {}, 3),
    "RNN_TANH": (nn.RNN, gw.RNN, {}, 1),
    "RNN_RELU": (nn.RNN, gw.RNN, dict(nonlinearity="relu"), 1),
}
OPTIONS = {
    "plain": {},
    "both ways": dict(bidirectional=True),
    "stacked": dict(num_layers=3, bidirectional=True),
    "no bias": dict(num_layers=2, bias=False),
    "batch first": dict(batch_first=True),
}


def pieces_of(layer, gates):
    """In the order of NVIDIA's manual: linLayerID 0 to G-1 the input matrices, from G on the recurrent
    ones, then the projection; pseudo-layers one after the other; then all biases."""
    directions = ["", "_reverse"] if layer.bidirectional else [""]
    suffixes = [f"_l{k}{d}" for k in range(layer.num_layers) for d in directions]
    matrices, biases = [], []
    for suffix in suffixes:
        for name in ("weight_ih", "weight_hh"):
            matrices += getattr(layer, name + suffix).detach().chunk(gates)
        if layer.proj_size:
            matrices.append(getattr(layer, "weight_hr" + suffix).detach())
        for name in ("bias_ih", "bias_hh") if layer.bias else ():
            biases += getattr(layer, name + suffix).detach().chunk(gates)
    return [*matrices, *biases]


def results(layer, x):
    x = x.clone().requires_grad_()
    output, state = layer(x)
    finals = [state] if isinstance(state, torch.Tensor) else list(state)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    return [output.detach(), *(each.detach() for each in finals), gradient]


@pytest.mark.pairwise
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "list"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_torch(mode, options, flat):
    torchs, kind, more, gates = MODES[mode]
    torch.manual_seed(0)
    theirs = torchs(N, H, **options, **more)
    pieces = pieces_of(theirs, gates)
    given = torch.cat([each.flatten() for each in pieces]).numpy() if flat else pieces
    layer = from_cudnn(given, mode, N, H, **options)
    assert type(layer) is kind
    assert not layer.training
    x = torch.randn(5, 2, N)
    torch.testing.assert_close(results(layer, x), results(theirs, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "list"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_projected(bidirectional, flat):
    theirs = nn.LSTM(N, H, 2, proj_size=2, bidirectional=bidirectional)
    pieces = pieces_of(theirs, 4)
    given = torch.cat([each.flatten() for each in pieces]) if flat else pieces
    layer = from_cudnn(given, "lstm", N, H, 2, proj_size=2, bidirectional=bidirectional)
    x = torch.randn(5, 2, N)
    torch.testing.assert_close(results(layer, x), results(theirs, x), rtol=1e-5, atol=1e-6)


def keras_packing(name):
    """A function out of Keras's backend for TensorFlow, without TensorFlow: numpy does its few steps."""
    keras = find_spec("keras")
    if keras is None:
        pytest.skip("keras is not installed")
    source = Path(keras.origin).parent / "src/backend/tensorflow/rnn.py"
    (function,) = (
        each
        for each in ast.parse(source.read_text()).body
        if isinstance(each, ast.FunctionDef) and each.name == name
    )
    tf = types.SimpleNamespace(
        transpose=np.transpose, reshape=np.reshape, concat=lambda a, axis: np.concatenate(a, axis)
    )
    names = {"tf": tf}
    exec(compile(ast.Module([function], []), str(source), "exec"), names)
    return names[name]


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_equals_keras_with_its_own_packing(mode, monkeypatch):
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    G = MODES[mode][3]
    x = rng.normal(size=(2, 5, N)).astype(np.float32)
    theirs = getattr(keras.layers, mode)(H, return_sequences=True)
    theirs.build(x.shape)
    kernel, recurrent, bias = (
        rng.normal(size=each.shape).astype(np.float32) for each in theirs.weights
    )
    theirs.set_weights([kernel, recurrent, bias])
    expected = keras.ops.convert_to_numpy(theirs(x))
    weights = [*np.split(kernel, G, 1), *np.split(recurrent, G, 1)]
    if mode == "GRU":  # Keras has z, r; its _cudnn_gru swaps them, and so the biases
        biases = list(bias.reshape(2 * G, H))
        for each in (weights, biases):
            each[0], each[1] = each[1], each[0]
            each[3], each[4] = each[4], each[3]
    else:  # its _cudnn_lstm has zeros for the biases that it has not
        biases = [*np.zeros((G, H), np.float32), *bias.reshape(G, H)]
    pack = keras_packing("_standardize_cudnn_weights")
    flat = pack(weights, biases, shape=[-1], transpose_weights=True)
    layer = from_cudnn(flat, mode, N, H, batch_first=True)
    with torch.no_grad():
        found = layer(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_type_is_kept_and_nothing_is_shared():
    flat = np.random.default_rng(0).normal(size=N * H + H * H + 2 * H)
    layer = from_cudnn(flat, "RNN_TANH", N, H)
    assert {each.dtype for each in layer.parameters()} == {torch.float64}
    before = layer.weight_ih_l0.detach().clone()
    flat[:] = 0
    torch.testing.assert_close(layer.weight_ih_l0.detach(), before, rtol=0, atol=0)
    assert before.any()


RIGHT = np.ones(4 * (N * H + H * H + 2 * H), np.float32)


@pytest.mark.parametrize(
    ("weights", "mode", "options", "error", "message"),
    [
        (RIGHT[:-1], "LSTM", {}, ShapeError, r"have the shape \(143,\), expected \(144,\)"),
        (RIGHT[None], "LSTM", {}, ShapeError, r"the shape \(1, 144\)"),
        ([RIGHT[:12]] * 15, "LSTM", {}, ShapeError, "there are 15 matrices and biases, expected 16"),
        ([RIGHT[:12]] * 16, "LSTM", {}, ShapeError, r"number 4 .*\(weight_hh of layer 0.*\(12,\), .*\(4, 4\)"),
        (RIGHT * np.nan, "LSTM", {}, DataError, "has 144 NaN and 0 infinite of 144"),
        (RIGHT.astype(int), "LSTM", {}, DataError, "of type int64"),
        (torch.ones(144, dtype=torch.int8), "LSTM", {}, DataError, "of type torch.int8"),
        (RIGHT, "LSTN", {}, OptionError, r"no mode of cuDNN 'LSTN' \(did you mean 'LSTM'\?\)"),
        (RIGHT, "GRU", dict(proj_size=2), OptionError, "proj_size=2 is not valid for GRU"),
        (RIGHT, "LSTM", dict(proj_size=4), OptionError, "proj_size=4 is not valid for LSTM with hidden_size=4"),
        (RIGHT, "LSTM", dict(num_layers=0), OptionError, "num_layers must be a positive integer"),
        (RIGHT, "LSTM", dict(bias=2), OptionError, "bias must be True or False"),
    ],
)  # fmt: skip
def test_what_is_refused(weights, mode, options, error, message):
    with pytest.raises(error, match=message):
        from_cudnn(weights, mode, N, H, **options)
