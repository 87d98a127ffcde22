"""gw.trace of Keras models on the torch backend: Keras's own layers and gatewise's."""

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import gatewise as gw  # noqa: E402
import gatewise.keras as gk  # noqa: E402
from gatewise.errors import OptionError  # noqa: E402

L = keras.layers
# Keras's, on NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(3)


def array(tensor):
    return torch.as_tensor(tensor).detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(layer, x, mask=None):
    """Keras's LSTM, whose gates are in the order i f g o; a masked step keeps the state."""
    w, u, b = map(np.asarray, layer.get_weights())
    h = c = np.zeros((len(x), layer.units))
    found = {name: np.zeros((len(x), x.shape[1], layer.units)) for name in "ifgoch"}
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ w + h @ u + b, 4, 1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        on = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        c = np.where(on, f * c + i * g, c)
        h = np.where(on, o * np.tanh(c), h)
        for name, value in zip("ifgoch", (i, f, g, o, c, h), strict=True):
            found[name][:, t] = np.where(on, value, 0)
    return found


@pytest.mark.parametrize("make", [L.LSTM, gk.LSTM], ids=["keras", "gatewise"])
def test_an_lstm_in_a_keras_model(make):
    model = keras.Sequential(
        [keras.Input((6, 3)), make(5, return_sequences=True, name="first"), make(4), L.Dense(2)]
    )
    x = np.random.uniform(-1, 1, (2, 6, 3)).astype("float32")
    with torch.no_grad():
        plain = array(model(x))
    traces = gw.trace(model, x)
    first, second = traces
    assert first == "first"
    assert np.array_equal(array(traces.output), plain)
    expected = by_hand(model.layers[0], x)
    for name, value in expected.items():
        np.testing.assert_allclose(array(traces["first"][name][0][0]), value, rtol=0, atol=1e-6)
    expected = by_hand(model.layers[1], expected["h"])
    np.testing.assert_allclose(array(traces[second].c[0][0]), expected["c"], rtol=0, atol=1e-6)
    assert "inner_loop" not in vars(model.layers[0])


@pytest.mark.parametrize("backwards", [False, True])
def test_masked_steps_are_zero_and_the_others_keep_their_places(backwards):
    model = keras.Sequential(
        [keras.Input((None,)), L.Embedding(9, 3, mask_zero=True), L.LSTM(4, go_backwards=backwards)]
    )
    words = np.array([[3, 0, 5, 1, 0], [2, 4, 0, 0, 7]])
    trace = gw.trace(model, words)[model.layers[1].path.rpartition("/")[2]]
    x, mask = array(model.layers[0](words)), words > 0
    turn = slice(None, None, -1 if backwards else 1)
    expected = by_hand(model.layers[1], x[:, turn], mask[:, turn])
    for name in "ifgoc":
        found = array(trace[name][0][0])
        np.testing.assert_allclose(found, expected[name][:, turn], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.GRU(4, return_sequences=True),
        lambda: L.GRU(4, return_sequences=True, reset_after=False),
        lambda: L.SimpleRNN(4, return_sequences=True),
        lambda: L.LSTM(4, return_sequences=True, dropout=0.4, recurrent_dropout=0.3),
        lambda: L.Bidirectional(L.GRU(4, return_sequences=True)),
    ],
)
def test_the_output_is_the_traced_state(layer):
    x = np.random.uniform(-1, 1, (2, 6, 3)).astype("float32")
    made = layer()
    model = keras.Sequential([keras.Input((6, 3)), made])
    traces = gw.trace(model, x, training=True)
    h = np.concatenate([array(trace.h[0][0]) for trace in traces.values()], -1)
    np.testing.assert_allclose(h, array(traces.output), rtol=0, atol=1e-6)


def test_a_loss_on_the_gates_of_a_keras_model():
    model = keras.Sequential([keras.Input((6, 3)), L.LSTM(5, name="rnn")])
    x = torch.randn(2, 6, 3)
    gw.trace(model, x, differentiable=True)["rnn"].f[0][0].mean().backward()
    kernel = model.layers[0].cell.kernel.value
    assert kernel.grad[:, 5:10].abs().max() > 0


def test_lengths_are_those_of_the_trace():
    model = keras.Sequential([keras.Input((6, 3)), L.LSTM(5, name="rnn")])
    x = np.random.uniform(-1, 1, (2, 6, 3)).astype("float32")
    trace = gw.trace(model, x, lengths=[2, 6])["rnn"]
    assert trace.lengths.tolist() == [2, 6]
    assert not trace.f[0][0][0, 2:].any()
    with pytest.raises(OptionError, match=r"'rnn' gets 2 sequences"):
        gw.trace(model, x, lengths=[2, 6, 1])


def test_what_cannot_be_traced_in_keras():
    x = np.zeros((2, 6, 3), "float32")
    with pytest.raises(OptionError, match="has no LSTM, GRU or SimpleRNN"):
        gw.trace(keras.Sequential([keras.Input((6, 3)), L.Dense(2)]), x)
    model = keras.Sequential(
        [keras.Input((6, 3)), L.LSTM(2, name="rnn", activation=lambda y: y * 0.5)]
    )
    with pytest.raises(OptionError, match=r"'rnn' has the activation .* no equation"):
        gw.trace(model, x)
    with pytest.raises(OptionError, match=r"no recurrent module 'rmn'.*did you mean 'rnn'"):
        gw.trace(model, x, modules="rmn")
