"""gw.trace of Keras models on the torch backend: Keras's own layers and gatewise's."""

import os
import warnings

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import gatewise as gw  # noqa: E402
import gatewise.keras as gk  # noqa: E402
from gatewise.errors import GatewiseWarning, OptionError, ShapeError  # noqa: E402
from gatewise.gates import (  # noqa: E402
    KerasMonitorCallback,
    Monitor,
    ablate,
    clamp,
    contextual_contributions,
    contextual_decomposition,
    gradient_time_scale,
    gradient_times_input,
    integrated_gradients,
    layerwise_relevance,
    memory_horizon,
    occlusion,
    patch,
)

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


def by_hand(layer, x, mask=None, change=lambda name, t, value: value):
    """Keras's LSTM, whose gates are in the order i f g o; a masked step keeps the state."""
    w, u, b = map(np.asarray, layer.get_weights())
    h = c = np.zeros((len(x), layer.units))
    found = {name: np.zeros((len(x), x.shape[1], layer.units)) for name in "ifgoch"}
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ w + h @ u + b, 4, 1)
        i, f, g, o = sigmoid(i), change("f", t, sigmoid(f)), np.tanh(g), sigmoid(o)
        on = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        c = np.where(on, change("c", t, f * c + i * g), c)
        h = np.where(on, change("h", t, o * np.tanh(c)), h)
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


METHODS = (
    layerwise_relevance,
    contextual_contributions,
    gradient_times_input,
    integrated_gradients,
    occlusion,
)


def with_cue(count):
    """Noise with a cue in the first feature of one step: inputs, cues, and the cues' steps."""
    random = np.random.default_rng(count)
    x = random.normal(0, 0.5, (count, 8, 3)).astype("float32")
    x[..., 0] = 0
    cue = random.uniform(0.5, 1.5, count) * random.choice([-1, 1], count)
    at = random.integers(0, 8, count)
    x[np.arange(count), at, 0] = cue
    return x, cue.astype("float32"), at


def test_attributions_of_a_fitted_keras_model_find_a_planted_cue():
    model = keras.Sequential([keras.Input((8, 3)), L.LSTM(8, name="rnn"), L.Dense(1, name="head")])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, cue, _ = with_cue(1024)
    model.fit(x, cue, batch_size=32, epochs=6, verbose=0)
    x, cue, at = with_cue(100)
    plain = array(model(x))
    assert np.mean((plain[:, 0] - cue) ** 2) < 0.05, "the cue was not learned"
    for method in METHODS:
        found = method(model, x)
        assert np.mean(array(found.top()[:, 0]) == at) >= 0.95, method.__name__
        np.testing.assert_allclose(array(found.output), plain[:, 0], rtol=0, atol=1e-6)
        if method in (layerwise_relevance, integrated_gradients):
            assert found.gap.abs().max() < (1e-5 if method is layerwise_relevance else 1e-3)
    assert contextual_decomposition(model, x, phrase=[2, 3]).gap.abs().max() < 1e-5
    assert set(layerwise_relevance(model, x).apart) == {"rnn: initial state", "rnn", "head"}
    of_cue = layerwise_relevance(model, x).values.abs()[range(100), at]
    assert (of_cue.argmax(1) == 0).all()
    assert not {"inner_loop", "runner"} & vars(model.layers[0]).keys()


def as_torch(layer):
    """gatewise's layer with the weights of a Keras layer."""
    columns = {L.LSTM: [0, 1, 2, 3], L.GRU: [1, 0, 2], L.SimpleRNN: [0]}[type(layer)]
    cell = {L.LSTM: "lstm", L.GRU: "gru", L.SimpleRNN: "rnn_tanh"}[type(layer)]
    kernel, recurrent, *biases = map(np.asarray, layer.get_weights())
    biases = biases[0] if biases[0].ndim == 2 else [biases[0], 0 * biases[0]]
    made = gw.Recurrent(cell, len(kernel), layer.units, batch_first=True)
    with torch.no_grad():
        for weight, given in zip(made.parameters(), [kernel.T, recurrent.T, *biases], strict=True):
            rows = np.split(given, len(columns))
            weight.copy_(torch.as_tensor(np.concatenate([rows[k] for k in columns])))
    return made


@pytest.mark.parametrize("make", [L.LSTM, L.GRU, L.SimpleRNN], ids=lambda of: of.__name__)
def test_rules_of_keras_layers_are_those_of_gatewises(make):
    layer = make(4, bias_initializer="random_normal", return_sequences=True)
    model = keras.Sequential([keras.Input((6, 3)), layer, L.GlobalAveragePooling1D()])
    x = torch.randn(2, 6, 3)
    ours = as_torch(layer)

    def mean(found):
        return found[0].mean(1)[:, 2]

    for method, options in (
        (layerwise_relevance, {}),
        (contextual_contributions, {}),
        (contextual_contributions, dict(features=True)),
    ):
        found = method(model, x, target=2, **options)
        expected = method(ours, x, target=mean, **options)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-7)
        assert found.values.abs().max() > 1e-3


def reader(*layers):
    return keras.Sequential([keras.Input((6, 3)), *layers, L.Dense(2, name="head")])


def joined():
    x = keras.Input((6, 3))
    h = L.BatchNormalization(name="norm")(L.Conv1D(4, 3, padding="same", name="conv")(x))
    both = [L.LSTM(3, name="rnn")(h), L.GlobalAveragePooling1D()(x)]
    return keras.Model(x, L.Dense(2, name="head")(L.Concatenate()(both)))


MODELS = {
    "gatewise's": lambda: reader(
        gk.LSTM(5, return_sequences=True), gk.SimpleRNN(4, go_backwards=True)
    ),
    "both directions": lambda: reader(L.Bidirectional(L.GRU(4, reset_after=False), name="both")),
    "normalised": lambda: reader(L.LayerNormalization(), L.LSTM(4), L.Dense(3, "relu")),
    "pooled": lambda: reader(
        L.GRU(4, return_sequences=True), L.Dropout(0.5), L.GlobalMaxPooling1D()
    ),
    "functional": joined,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_keras_models_that_have_rules(make):
    model = make()
    for layer in model.layers:
        if layer.name == "norm":
            layer.set_weights([np.random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    x = np.random.normal(0, 1, (2, 6, 3)).astype("float32")
    found = layerwise_relevance(model, x)
    assert found.gap.abs().max() < 1e-5
    assert found.values.abs().max() > 1e-3
    parts = contextual_decomposition(model, x, phrase=[1, 2])
    assert parts.gap.abs().max() < 1e-5
    assert parts.beta.abs().max() > 1e-4
    if "both" in [layer.name for layer in model.layers]:
        names = list(gw.trace(model, x))
        assert [f"{name}: initial state" in found.apart for name in names] == [True, True]


@pytest.mark.parametrize("turned", [False, True])
def test_words_of_keras_models_count_the_same_behind_padding(turned):
    """Keras pads at the front by default."""
    words = L.Embedding(9, 3, mask_zero=True, embeddings_initializer="random_normal")
    rnn = L.LSTM(4, go_backwards=turned, bias_initializer="random_normal")
    model = keras.Sequential([keras.Input((None,)), words, rnn, L.Dense(1)])
    alone, padded = np.array([[3, 2, 5, 7]]), np.array([[0, 0, 0, 3, 2, 5, 7]])
    for method in METHODS:
        expected, found = method(model, alone), method(model, padded)
        assert method is contextual_contributions or expected.values.shape[:2] == (1, 4)
        torch.testing.assert_close(found.steps[:, 3:], expected.steps, rtol=1e-4, atol=1e-7)
        assert not found.steps[:, :3].any()
    for phrase in ([0], [1, 3]):
        one = contextual_decomposition(model, alone, phrase=phrase)
        other = contextual_decomposition(model, padded, phrase=[t + 3 for t in phrase])
        torch.testing.assert_close(one.beta, other.beta, rtol=1e-5, atol=1e-9)


def test_masked_steps_of_numbers_have_no_part():
    x = np.random.normal(0, 1, (2, 6, 3)).astype("float32")
    x[:, [0, 3]] = 0
    found = layerwise_relevance(reader(L.Masking(), L.GRU(4)), x)
    assert found.gap.abs().max() < 1e-5
    assert [bool(found.values[:, t].any()) for t in range(6)] == [t not in (0, 3) for t in range(6)]


def measured(model, x, **options):
    """The norms of a horizon and the time scales of all states, of each layer."""
    horizons = memory_horizon(model, x, **options)
    scales = gradient_time_scale(model, x, **options)
    return {place: [of.norm, *scales[place].values()] for place, of in horizons.items()}


def same(found, expected):
    return all(np.allclose(a, b, rtol=1e-4, atol=0) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("make", [L.LSTM, L.GRU, L.SimpleRNN], ids=lambda of: of.__name__)
def test_horizon_and_time_scales_of_keras_layers_are_those_of_gatewises(make):
    options = dict(bias_initializer="random_normal", return_sequences=True)
    ahead = make(4, name="ahead", **options)
    back = make(4, name="back", go_backwards=True, **options)
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, L.Concatenate()([ahead(inputs), back(inputs)]))
    x = np.random.normal(0, 1, (2, 6, 3)).astype("float32")
    for lengths in (None, [6, 3]):
        found = measured(model, x, lengths=lengths)
        assert [place.module for place in found] == list(gw.trace(model, x)) == ["ahead", "back"]
        for layer, of_place in zip((ahead, back), found.values(), strict=True):
            ours = as_torch(layer)
            ours = gw.Reversed(ours) if layer is back else ours
            (expected,) = measured(ours, torch.as_tensor(x), lengths=lengths).values()
            assert same(of_place, expected)
    assert not {"inner_loop", "runner"} & vars(ahead).keys()


def test_masked_steps_of_keras_models_are_no_steps_of_a_horizon():
    model = keras.Sequential([keras.Input((None,)), L.Embedding(9, 3, mask_zero=True), L.GRU(4)])
    (alone,) = measured(model, np.array([[3, 2, 5, 7]])).values()
    for words in ([0, 0, 3, 2, 5, 7], [3, 0, 2, 5, 7, 0]):
        (found,) = measured(model, np.array([words])).values()
        assert same(found, alone)
    with pytest.raises(OptionError, match="no recurrent module 'gruu'"):
        memory_horizon(model, np.array([[3]]), modules="gruu")
    with pytest.raises(OptionError, match="this Sequential has no recurrent module: no LSTM, GRU"):
        memory_horizon(keras.Sequential([keras.Input((2, 3)), L.Dense(2)]), np.zeros((1, 2, 3)))


BLOCKS = {
    "f": lambda model, trace: clamp(model, "rnn", "f", units=[1, 3], steps=[1, 4], to=0.25),
    "c": lambda model, trace: ablate(model, "rnn", "c", steps=[3]),
    "h": lambda model, trace: patch(model, "rnn", "h", trace, units=2, steps=[0, 4, 2]),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("make", [L.LSTM, gk.LSTM], ids=["keras", "gatewise"])
def test_changed_values_of_a_keras_layer(make, name, turned):
    """Steps are those of the input, wherever its masked steps stand."""
    embedding = L.Embedding(9, 3, mask_zero=True, embeddings_initializer="random_normal")
    rnn = make(5, name="rnn", go_backwards=turned, bias_initializer="random_normal")
    model = keras.Sequential([keras.Input((None,)), embedding, rnn])
    words = np.array([[0, 0, 5, 1, 3, 6], [2, 4, 0, 7, 0, 0], [1, 2, 3, 4, 5, 6]])
    plain, others = array(model(words)), np.random.randint(1, 9, (3, 6))
    others = np.where(words > 0, others, 0)
    source = gw.trace(model, others)
    units = {"f": [1, 3], "c": range(5), "h": [2]}[name]
    steps = {"f": [1, 4], "c": [3], "h": [0, 2, 4]}[name]

    def change(of, t, value):
        t = 5 - t if turned else t
        if of == name and t in steps:
            to = {"f": 0.25, "c": 0.0, "h": array(source["rnn"].h[0][0])[:, t][:, units]}[name]
            value = value.copy()
            value[:, units] = to
        return value

    turn = slice(None, None, -1 if turned else 1)
    x, mask = array(model.layers[0](words))[:, turn], (words > 0)[:, turn]
    expected = by_hand(rnn, x, mask, change)
    with BLOCKS[name](model, source):
        found = gw.trace(model, words)
        np.testing.assert_allclose(
            array(found.output), expected["h"][range(3), last(mask)], atol=1e-6
        )
        for of in "ifgoch":
            value = array(found["rnn"][of][0][0])
            np.testing.assert_allclose(value, expected[of][:, turn], atol=1e-6)
        np.testing.assert_allclose(model.predict(words, verbose=0), array(found.output), atol=1e-6)
    assert abs(array(found.output) - plain).max() > 1e-4
    assert np.array_equal(array(model(words)), plain)
    assert not {"inner_loop", "runner"} & vars(rnn).keys()


def last(mask):
    """The index of the last unmasked step."""
    return mask.shape[1] - 1 - mask[:, ::-1].argmax(1)


@pytest.mark.parametrize("make", [L.LSTM, L.GRU, L.SimpleRNN], ids=lambda of: of.__name__)
def test_interventions_of_keras_layers_are_those_of_gatewises(make):
    layer = make(4, name="rnn", bias_initializer="random_normal", return_sequences=True)
    model, x = keras.Sequential([keras.Input((6, 3)), layer]), torch.randn(2, 6, 3)
    ours, trace = as_torch(layer), gw.trace(model, x)
    for name in trace["rnn"].names:
        with (
            ablate(model, "rnn", name, units=[0, 2], to="mean"),
            ablate(ours, "model", name, units=[0, 2], to="mean"),
            clamp(model, "rnn", name, units=[1], steps=range(2, 5), to=0.5),
            clamp(ours, "model", name, units=[1], steps=range(2, 5), to=0.5),
        ):
            torch.testing.assert_close(model(x), ours(x)[0], rtol=1e-5, atol=1e-6)
        with patch(model, "rnn", name, trace):
            torch.testing.assert_close(model(x), trace.output, rtol=1e-5, atol=1e-6)


def test_both_directions_in_keras_and_what_is_refused():
    both = L.Bidirectional(L.LSTM(4), name="both")
    dropping = L.LSTM(3, name="rnn", recurrent_dropout=0.5)
    model = keras.Sequential([keras.Input((6, 3)), both, L.RepeatVector(2), dropping])
    x = torch.randn(2, 6, 3)
    plain = model(x)
    names = [name for name in gw.trace(model, x) if "backward" in name]
    with clamp(model, names[0], "h", steps=0, direction=0, to=0.5):
        found = both(x)
    assert torch.equal(found[:, 4:], torch.full((2, 4), 0.5))
    torch.testing.assert_close(found[:, :4], both(x)[:, :4])
    assert torch.equal(model(x), plain)
    with pytest.raises(OptionError, match=r"recurrent module.*rmn.*did you mean 'rnn'"):
        clamp(model, "rmn", "f", to=1.0)
    with pytest.raises(OptionError, match="'f2'"):
        clamp(model, "rnn", "f2", to=1.0)
    with pytest.raises(OptionError, match="no unit 3: f of 'rnn' has 3"):
        clamp(model, "rnn", "f", units=3, to=1.0)
    with (
        clamp(model, "rnn", "f", steps=[2], to=1.0),
        pytest.raises(ShapeError, match=r"^no step 2"),
    ):
        model(x)
    with clamp(model, "rnn", "f", to=1.0):
        with pytest.raises(OptionError, match=r"^in this call 'rnn' has no 'f', because it drops"):
            model(x, training=True)
        for method in (layerwise_relevance, memory_horizon):
            with pytest.raises(OptionError, match="'rnn' has an intervention; leave its with"):
                method(model, x)
    odd = keras.Sequential([keras.Input((6, 3)), L.LSTM(2, name="rnn", activation=halved)])
    for function in (lambda: clamp(odd, "rnn", "f", to=1.0), lambda: Monitor(odd)):
        with pytest.raises(OptionError, match=r"'rnn' has the activation .* no equation for; "):
            function()


def fitted(*callbacks, **options):
    """The weights of a model that was fitted, and the callbacks."""
    keras.utils.set_random_seed(5)
    rnn = L.LSTM(6, name="rnn", dropout=0.2, return_sequences=True, **options)
    model = keras.Sequential([keras.Input((40, 2)), rnn, L.GRU(4, name="top"), L.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.normal(0, 1, (96, 40, 2)).astype("float32")
    y = x[..., 0].mean(1)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, validation_split=1 / 3, callbacks=callbacks)
    assert not {"inner_loop", "runner"} & vars(rnn).keys()
    return model.get_weights()


def test_the_monitor_watches_a_fit_of_keras_and_changes_no_bit_of_it():
    callback = KerasMonitorCallback(every=2)
    watched = fitted(callback)
    for one, other in zip(watched, fitted(), strict=True):
        assert np.array_equal(one, other)
    table = callback.monitor.table()
    assert table["step"].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert table["module"].tolist() == ["rnn", "top"] * 4
    assert (table["reach"] >= 3).all()
    assert np.isfinite(table["gain"]).all()
    assert callback.warnings == []


def test_the_monitor_warns_of_a_fit_of_keras():
    callback = KerasMonitorCallback(every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GatewiseWarning)
        fitted(callback, bias_initializer=keras.initializers.Constant(-9), unit_forget_bias=False)
    found = [sentence for sentence in callback.warnings if "'o' is saturated" in sentence]
    assert [sentence.partition(",")[0] for sentence in found] == ["rnn"]


@keras.saving.register_keras_serializable(package="tests")
def halved(y):
    return y * 0.5


@keras.saving.register_keras_serializable(package="tests")
class Sums(L.Layer):
    def call(self, y):
        return torch.cumsum(y, 1)


class Own(keras.Model):
    def __init__(self, size):
        super().__init__()
        self.rnn = L.LSTM(size)

    def call(self, x):
        return self.rnn(x)


@pytest.mark.parametrize("method", [layerwise_relevance, contextual_contributions])
def test_what_cannot_be_explained_in_keras(method):
    x = np.random.normal(0, 1, (2, 6, 3)).astype("float32")
    model = reader(L.LSTM(2, name="rnn", activation=halved))
    assert gradient_times_input(model, x).values.shape == (2, 6, 3)
    message = r"'rnn' has the activation .* gatewise has no equation for; "
    with pytest.raises(OptionError, match=f"{message}use gradient_times_input"):
        method(model, x)
    with pytest.raises(OptionError, match=f"{message}leave it out with modules="):
        memory_horizon(model, x)
    model = reader(L.LSTM(2, return_sequences=True), Sums(name="sums"))
    message = r"^(relevance|contextual decomposition) has no rule for 'cumsum'.* 'sums' \(Sums\)"
    with pytest.raises(OptionError, match=message):
        method(model, x, target=(0, 1))
    assert keras.config.is_traceback_filtering_enabled()
    with pytest.raises(OptionError, match="this Own cannot be copied: "):
        method(Own(2), x)


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
    with pytest.raises(OptionError, match="no LSTM, GRU or SimpleRNN"):
        gw.trace(keras.Sequential([keras.Input((6, 3)), L.Dense(2)]), x)
    model = keras.Sequential(
        [keras.Input((6, 3)), L.LSTM(2, name="rnn", activation=lambda y: y * 0.5)]
    )
    with pytest.raises(OptionError, match=r"'rnn' has the activation .* no equation"):
        gw.trace(model, x)
    with pytest.raises(OptionError, match=r"no recurrent module 'rmn'.*did you mean 'rnn'"):
        gw.trace(model, x, modules="rmn")
