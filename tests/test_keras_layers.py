"""gatewise.keras beside Keras's own layers with the same weights: values and gradients."""

import json
import os
import subprocess
import sys
import zipfile
from functools import partial

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import gatewise.keras as gk  # noqa: E402
from gatewise.backends import registry  # noqa: E402
from gatewise.cells.activations import KERAS  # noqa: E402
from gatewise.errors import BackendError, OptionError  # noqa: E402
from gatewise.keras.engine import require_torch  # noqa: E402

NAMES = ("LSTM", "GRU", "SimpleRNN")
B, T, F, H = 4, 7, 3, 5
# Keras's, on NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(3)


def tensors(value):
    return (
        [value] if isinstance(value, torch.Tensor) else [t for each in value for t in tensors(each)]
    )


def pair(name, scale=0.8, **options):
    """Keras's layer and ours, of the same weights, none of them zero."""
    theirs, ours = (getattr(of, name)(H, **options) for of in (keras.layers, gk))
    for layer in theirs, ours:
        layer.build((options.get("batch_size", B), T, F))
    weights = [
        np.random.uniform(-scale, scale, w.shape) for w in theirs.weights if "seed" not in w.path
    ]
    set_all(theirs, weights)
    set_all(ours, weights)
    return theirs, ours


def set_all(layer, values):
    for variable, value in zip(trained(layer), values, strict=True):
        variable.assign(value)


def trained(layer):
    return [w for w in layer.weights if "seed" not in w.path]


def check_same(theirs, ours, x, close=CLOSE, **call):
    """Every output and the gradients of the input and the weights."""
    found = []
    for layer in theirs, ours:
        given = torch.tensor(x, requires_grad=True)
        outputs = tensors(layer(given, **call))
        loss = sum(
            (o.double() * torch.linspace(-1, 2, o.numel()).view_as(o)).sum() for o in outputs
        )
        leaves = [given, *(w.value for w in layer.trainable_variables)]
        found.append((outputs, torch.autograd.grad(loss, leaves)))
    (expected, gradients), (values, our_gradients) = found
    assert [v.shape for v in values] == [e.shape for e in expected]
    torch.testing.assert_close(values, expected, **close)
    scale = max(1.0, *(float(g.abs().max()) for g in gradients))
    for mine, keras_has in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine / scale, keras_has / scale, **close)
    assert gradients[0].abs().max() > 1e-3


def x_of(*shape):
    return np.random.normal(size=shape or (B, T, F)).astype("float32")


MASKS = {
    "none": None,
    "all": np.ones((B, T), bool),
    "right": np.arange(T) < np.array([[7], [4], [1], [0]]),
    "left": np.arange(T) >= np.array([[0], [3], [6], [7]]),
    "holes": np.array(
        [
            [1, 0, 1, 1, 0, 0, 1],
            [0, 1, 1, 0, 1, 1, 0],
            [1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 1, 0, 0, 0],
        ],
        bool,
    ),
}
RETURNS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "state": {"return_state": True},
    "both": {"return_sequences": True, "return_state": True},
}


def no_loop_of_kerass(monkeypatch):
    """Makes Keras's own loop over time an error, so that what passes is ours."""

    def fail(*args, **kwargs):
        raise AssertionError("Keras's own loop ran")

    monkeypatch.setattr(keras.layers.RNN, "inner_loop", fail)
    for name in NAMES:
        if "inner_loop" in vars(getattr(keras.layers, name)):
            monkeypatch.setattr(getattr(keras.layers, name), "inner_loop", fail)


@pytest.mark.pairwise
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("returns", RETURNS)
@pytest.mark.parametrize("name", NAMES)
def test_masks_directions_and_returns(name, returns, backwards, mask):
    theirs, ours = pair(name, go_backwards=backwards, **RETURNS[returns])
    given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    check_same(theirs, ours, x_of(), mask=given)


@pytest.mark.pairwise
@pytest.mark.parametrize("mask", ["right", "left", "holes"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_zero_output_for_mask(name, backwards, mask):
    options = dict(
        go_backwards=backwards, zero_output_for_mask=True, return_sequences=True, return_state=True
    )
    theirs, ours = pair(name, **options)
    check_same(theirs, ours, x_of(), mask=torch.tensor(MASKS[mask]))


@pytest.mark.parametrize("name", NAMES)
def test_what_passes_is_ours(name, monkeypatch):
    theirs, ours = pair(name, return_sequences=True)
    x = torch.tensor(x_of())
    expected = theirs(x)
    no_loop_of_kerass(monkeypatch)
    torch.testing.assert_close(ours(x), expected, **CLOSE)
    with pytest.raises(AssertionError, match="Keras's own loop ran"):
        theirs(x)


@pytest.mark.parametrize(
    "options",
    [{"use_bias": False}, {"reset_after": False}, {"reset_after": False, "use_bias": False}],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_biases_and_the_reset_gates_place(name, options):
    if "reset_after" in options and name != "GRU":
        pytest.skip("an option of the GRU")
    check_same(*pair(name, return_sequences=True, **options), x_of())


@pytest.mark.parametrize("activation", sorted({*KERAS} - {"swish", "hard_swish"}))
def test_activations(activation, monkeypatch):
    """On the reference: that its equations are compiled right is tested elsewhere."""
    monkeypatch.setattr("gatewise.keras.layers.choose", partial(registry.choose, "reference"))
    x, smooth = x_of(), dict(rtol=1e-4, atol=1e-5)
    check_same(*pair("SimpleRNN", 0.2, activation=activation, return_sequences=True), x, smooth)
    check_same(
        *pair("GRU", 0.1, recurrent_activation=activation, reset_after=False), x[:, :3], smooth
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTM", dict(activation="relu", recurrent_activation="hard_sigmoid")),
        ("LSTM", dict(activation=None)),
        ("GRU", dict(activation="softsign")),
        ("SimpleRNN", dict(activation="relu")),
        ("SimpleRNN", dict(activation="linear")),
    ],
)
def test_activations_with_kernels_of_their_own(name, options):
    check_same(
        *pair(name, return_sequences=True, return_state=True, **options),
        0.5 * x_of(),
        mask=torch.tensor(MASKS["holes"]),
    )


def test_an_activation_that_is_anybodys_runs_kerass_loop_and_says_so():
    theirs, ours = pair("LSTM", activation=lambda x: x * 0.5)
    with pytest.warns(
        UserWarning,
        match=r"gatewise\.keras\.LSTM runs Keras's own time loop .* because it has the activation <lambda>",
    ):
        check_same(theirs, ours, x_of())


@pytest.mark.parametrize("returns", ["last", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_an_initial_state(name, returns):
    theirs, ours = pair(name, **RETURNS[returns])
    states = [torch.tensor(x_of(B, H)) for _ in range(2 if name == "LSTM" else 1)]
    check_same(theirs, ours, x_of(), initial_state=states)
    check_same(theirs, ours, x_of(), initial_state=states, mask=torch.tensor(MASKS["right"]))


@pytest.mark.parametrize("name", NAMES)
def test_stateful_over_batches(name):
    """Keras's own gradient fails where the LSTM's and the GRU's state is kept; ours must be that of a
    layer that is given this state."""
    theirs, ours = pair(name, stateful=True, return_sequences=True)
    batches, first = [torch.tensor(x_of()) for _ in range(3)], None
    plain = getattr(gk, name)(H, return_sequences=True)
    plain.build((B, T, F))
    set_all(plain, [w.numpy() for w in trained(ours)])
    for x in batches:
        state = [s.value.clone() for s in ours.states]
        expected, found = theirs(x), ours(x)
        first = found if first is None else first
        torch.testing.assert_close(found, expected, **CLOSE)
        gradients = [
            torch.autograd.grad(y.square().sum(), [w.value for w in layer.trainable_variables])
            for layer, y in ((ours, found), (plain, plain(x, initial_state=state)))
        ]
        torch.testing.assert_close(*gradients, **CLOSE)
    assert not torch.allclose(ours(batches[0]), first)
    ours.reset_state()
    torch.testing.assert_close(ours(batches[0]), first)


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_unrolled(name):
    check_same(
        *pair(name, unroll=True, return_sequences=True), x_of(), mask=torch.tensor(MASKS["left"])
    )


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("name", NAMES)
def test_bidirectional(name, merge):
    layers = [
        keras.layers.Bidirectional(getattr(of, name)(H, return_sequences=True), merge_mode=merge)
        for of in (keras.layers, gk)
    ]
    for layer in layers:
        layer.build((B, T, F))
    layers[1].set_weights(layers[0].get_weights())
    assert isinstance(layers[1].backward_layer, getattr(gk, name))
    for mask in "none", "right", "left":
        given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
        check_same(*layers, x_of(), mask=given)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_and_half(name):
    # Keras's own SimpleRNN is 1e-7 off a computation in NumPy, ours 4e-16
    precise = 1e-6 if name == "SimpleRNN" else 1e-9
    for dtype, close in (
        ("float64", dict(rtol=10 * precise, atol=precise)),
        ("mixed_bfloat16", dict(rtol=0.05, atol=0.05)),
    ):
        theirs, ours = pair(name, dtype=dtype, return_sequences=True)
        x = torch.tensor(x_of().astype("float64" if dtype == "float64" else "float32"))
        expected, found = theirs(x), ours(x)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, **close)


@pytest.mark.parametrize("name", NAMES)
def test_regularizers_constraints_and_initializers(name):
    options = dict(
        kernel_regularizer="l2",
        recurrent_regularizer="l1",
        bias_regularizer="l2",
        activity_regularizer="l2",
        kernel_constraint="max_norm",
        recurrent_constraint="unit_norm",
        bias_constraint="non_neg",
        kernel_initializer="he_normal",
        recurrent_initializer="orthogonal",
        bias_initializer="ones",
    )
    theirs, ours = pair(name, **options)
    x = torch.tensor(x_of())
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    torch.testing.assert_close(sum(ours.losses), sum(theirs.losses), **CLOSE)
    assert {k: v for k, v in ours.get_config().items() if k != "name"} == {
        k: v for k, v in theirs.get_config().items() if k != "name"
    }
    results = []
    for of in keras.layers, gk:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((T, F)), getattr(of, name)(H, **options), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        model.fit(x, np.ones((B, 1)), epochs=2, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# Dropout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [dict(dropout=0.4), dict(recurrent_dropout=0.4), dict(dropout=0.3, recurrent_dropout=0.3)],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_kerass_draw_for_draw(name, options):
    theirs, ours = pair(name, seed=11, return_sequences=True, **options)
    x = x_of()
    check_same(theirs, ours, x)  # not in training: nothing is dropped
    plain = [layer(torch.tensor(x)) for layer in (theirs, ours)][1]  # Keras draws here too
    check_same(theirs, ours, x, training=True)
    check_same(theirs, ours, x, training=True, mask=torch.tensor(MASKS["holes"]))
    assert not torch.allclose(ours(torch.tensor(x), training=True), plain)


@pytest.mark.filterwarnings("ignore:gatewise.keras.GRU runs Keras's own time loop")
def test_the_one_dropout_that_is_left_to_keras():
    theirs, ours = pair("GRU", seed=11, recurrent_dropout=0.4, reset_after=False)
    check_same(theirs, ours, x_of(), training=True)


# Models -------------------------------------------------------------------------------------------


def sequential(*layers):
    return keras.Sequential([*layers, keras.layers.Dense(1)])


def known(of):
    """The well-known snippet: two layers, a dense one, Adam, the mean squared error."""
    keras.utils.set_random_seed(5)
    model = sequential(keras.Input((T, F)), of.LSTM(8, return_sequences=True), of.LSTM(8))
    model.compile(optimizer="adam", loss="mse")
    return model


def test_the_well_known_snippet():
    x, y = x_of(32, T, F), x_of(32, 1)
    histories, weights = [], []
    for of in keras.layers, gk:
        model = known(of)
        fitted = model.fit(
            x,
            y,
            epochs=3,
            batch_size=8,
            shuffle=False,
            verbose=0,
            sample_weight=np.linspace(0, 2, 32),
        )
        histories.append(fitted.history["loss"])
        weights.append(model.get_weights())
    np.testing.assert_allclose(*histories, rtol=1e-4)
    assert histories[1][-1] < histories[1][0]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_masks_from_an_embedding_and_a_masking_layer():
    words = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0], [0, 0, 2, 2, 1]])
    for first, x in (
        (keras.layers.Embedding(6, F, mask_zero=True), words),
        (keras.layers.Masking(0.0), None),
    ):
        x = x if x is not None else x_of(3, 5, F) * (words > 0)[..., None]
        outputs = []
        for of in keras.layers, gk:
            keras.utils.set_random_seed(5)
            model = sequential(first, of.GRU(H, return_sequences=True), of.LSTM(H))
            outputs.append(model.predict(x, verbose=0))
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    layer = getattr(gk, name)(H, return_sequences=True, recurrent_dropout=0.2)
    model = sequential(keras.Input((T, F)), keras.layers.Bidirectional(layer))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0].forward_layer) is getattr(gk, name)
    x = x_of()
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))
    assert f"gatewise>{name}" in json.dumps(config)


def test_weights_go_both_ways_between_keras_and_us(tmp_path):
    x = x_of()
    for of, other in (keras.layers, gk), (gk, keras.layers):
        model = known(of)
        model.save_weights(tmp_path / "w.weights.h5")
        new = known(other)
        new.set_weights([w + 1 for w in new.get_weights()])
        new.load_weights(tmp_path / "w.weights.h5")
        np.testing.assert_allclose(
            new.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6
        )


def test_a_functional_model_with_states_between_layers():
    outputs = []
    for of in keras.layers, gk:
        keras.utils.set_random_seed(5)
        source, target = keras.Input((T, F)), keras.Input((4, F))
        _, h, c = of.LSTM(H, return_state=True)(source)
        decoded = of.LSTM(H, return_sequences=True)(target, initial_state=[h, c])
        model = keras.Model([source, target], decoded)
        keras.utils.set_random_seed(6)
        outputs.append(model.predict([x_of(), x_of(B, 4, F)], verbose=0))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


# Which Keras --------------------------------------------------------------------------------------


def in_a_process(code, *arguments):
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    line = [sys.executable, "-c", code, *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=env)


def test_torch_is_chosen_where_nothing_is():
    run = in_a_process("import gatewise.keras, keras; print(keras.backend.backend())")
    assert run.stdout.strip() == "torch", run.stderr


WITHOUT_KERAS = """
import os, sys
import gatewise
assert "keras" not in sys.modules
def refused():
    try:
        import gatewise.keras
    except Exception as error:
        print(type(error).__name__, error)
for backend in sys.argv[1:]:
    os.environ["KERAS_BACKEND"] = backend
    refused()
del os.environ["KERAS_BACKEND"]
assert "keras" not in sys.modules
sys.modules["keras"] = None
refused()
"""


def test_an_import_without_keras_or_with_another_backend():
    backends = ("numpy", "jax", "tensorflow")
    run = in_a_process(WITHOUT_KERAS, *backends)
    assert run.returncode == 0, run.stderr
    *refused, absent = run.stdout.splitlines()
    for backend, said in zip(backends, refused, strict=True):
        assert (
            "OptionError gatewise.keras needs Keras's torch backend, and KERAS_BACKEND is" in said
        )
        assert backend in said
        assert "set KERAS_BACKEND=torch" in said
    assert "pip install 'gatewise[keras]'" in absent


def test_a_keras_that_runs_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(OptionError, match="keras was imported with its backend 'jax'; set KERAS"):
        require_torch()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("LSTM", {}), ("GRU", {"go_backwards": True}), ("SimpleRNN", {"return_sequences": False})],
)
def test_traced_for_any_steps_sequences_and_masks(kind, options, masked):
    x = keras.Input((None, 3))
    y = keras.layers.Masking()(x) if masked else x
    layer = getattr(gk, kind)(4, **{"return_sequences": True, **options})
    model, rng = keras.Model(x, layer(y)), np.random.default_rng(0)

    def given(B, T, holes):
        values = rng.normal(size=(B, T, 3)).astype("float32")
        values[rng.random((B, T)) < holes] = 0
        return torch.from_numpy(values)

    traced = torch.jit.trace(model, (given(2, 5, 0),), check_trace=False)
    for B, T in ((3, 9), (1, 3), (4, 1)):
        values = given(B, T, 0.3)
        torch.testing.assert_close(traced(values), model(values), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "has no such equations"),
        ({"recurrent_activation": "hard_sigmoid"}, "fixed cells"),
        ({"stateful": True}, "leaves no state behind"),
    ],
)
def test_what_a_trace_would_fix_is_refused(options, message):
    x = keras.Input(batch_shape=(2, 5, 3))
    model = keras.Model(x, gk.LSTM(4, **options)(x))
    with pytest.raises(BackendError, match=message):
        torch.jit.trace(model, (torch.randn(2, 5, 3),))
