"""gatewise.keras in Keras's models and among torch's tools, docs/keras.md, and the figures it shows."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pages

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import gatewise.keras as gk  # noqa: E402
from gatewise.backends import registry  # noqa: E402
from gatewise.cells.activations import KERAS  # noqa: E402
from gatewise.keras.activations import name_of  # noqa: E402
from gatewise.keras.steps import steps_of  # noqa: E402

ROOT = Path(__file__).parents[1]
PAGE = pages.text("keras.md")
NAMES = ("LSTM", "GRU", "SimpleRNN")
B, T, F, H = 4, 7, 3, 5
CLOSE = dict(rtol=1e-5, atol=1e-6)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Keras's, on NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _defaults():
    keras.utils.set_random_seed(3)
    yield
    keras.config.set_dtype_policy("float32")


def x_of(*shape):
    return np.random.normal(size=shape or (B, T, F)).astype("float32")


def trained(of, make, x, y, policy="float32", **options):
    """The loss of each epoch, and the trained weights, of a model with layers of ``of``."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(5)
    model = make(of)
    model.compile("adam", "mse", **options)
    history = model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
    return history.history["loss"], model.get_weights()


def stacked(of):
    return keras.Sequential(
        [
            keras.Input((T, F)),
            of.LSTM(H, return_sequences=True),
            keras.layers.Bidirectional(of.GRU(H, return_sequences=True)),
            of.SimpleRNN(H),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


class Subclassed(keras.Model):
    """Keras builds it by a call on tensors without content."""

    def __init__(self, of):
        super().__init__()
        self.first, self.second = of.LSTM(H, return_sequences=True), of.GRU(H)
        self.dense = keras.layers.Dense(1, dtype="float32")

    def call(self, x, training=False):
        return self.dense(self.second(self.first(x, training=training), training=training))


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "close"),
    [("float32", 1e-5), ("float64", 1e-6), ("mixed_bfloat16", 0.02), ("mixed_float16", 0.005)],
)
@pytest.mark.parametrize("make", [stacked, Subclassed])
def test_a_fit_is_kerass_under_every_policy(make, policy, close):
    x, y = x_of(16, T, F), x_of(16, 1)
    expected, weights = trained(keras.layers, make, x, y, policy)
    found, ours = trained(gk, make, x, y, policy)
    np.testing.assert_allclose(found, expected, rtol=close)
    assert [w.dtype for w in ours] == [w.dtype for w in weights]
    for a, b in zip(ours, weights, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 if policy.startswith("mixed") else 1e-4)
    assert found[1] < found[0]


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("activation", ["tanh", "relu"])
# torch's own, the second of which it hides where warnings are no errors
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_fit_compiled(activation, monkeypatch):
    """As jit_compile=True does it, less the compiler behind it, which takes a minute."""
    torch._dynamo.reset()
    x, y = x_of(8, T, F), x_of(8, 1)
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile(f, backend="eager"))

    def make(of):
        return keras.Sequential(
            [keras.Input((T, F)), of.LSTM(H, activation=activation), keras.layers.Dense(1)]
        )

    expected = trained(gk, make, x, y)
    found = trained(gk, make, x, y, jit_compile=True)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_a_stateful_fit_carries_the_state_and_trains():
    """Keras's own fails here, so it is held beside a loop over batches with the states given."""
    x, y = x_of(12, T, F), x_of(12, 1)
    options = dict(optimizer="sgd", loss="mse")
    kept = keras.Sequential(
        [keras.Input((T, F), batch_size=4), gk.LSTM(H, stateful=True), keras.layers.Dense(1)]
    )
    layer, dense = keras.layers.LSTM(H, return_state=True), keras.layers.Dense(1)
    layer.build((4, T, F))
    dense.build((4, H))
    for variable, value in zip(
        [*layer.weights, *dense.weights], kept.get_weights()[:5], strict=True
    ):
        variable.assign(value)
    kept.compile(**options)
    kept.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    variables = [*layer.trainable_variables, *dense.trainable_variables]
    state = None
    for k in range(0, 12, 4):
        out, *state = layer(torch.tensor(x[k : k + 4]), initial_state=state)
        state = [s.detach() for s in state]
        loss = (dense(out) - torch.tensor(y[k : k + 4])).square().mean()
        for v, g in zip(
            variables, torch.autograd.grad(loss, [v.value for v in variables]), strict=True
        ):
            v.assign(v.value.detach() - 0.01 * g)
    for mine, theirs in zip(kept.trainable_variables, variables, strict=True):
        torch.testing.assert_close(mine.value, theirs.value, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_no_further_from_float32_than_kerass(name):
    x = torch.tensor(x_of(8, 40, F))
    exact = getattr(gk, name)(16, return_sequences=True)
    errors = {}
    expected = exact(x)
    for of in keras.layers, gk:
        layer = getattr(of, name)(16, return_sequences=True, dtype="mixed_bfloat16")
        layer.build(x.shape)
        for variable, value in zip(
            layer.trainable_variables, exact.trainable_variables, strict=True
        ):
            variable.assign(value)
        found = layer(x)
        assert found.dtype == torch.bfloat16
        errors[of] = (found.float() - expected).abs().mean()
    assert errors[gk] < errors[keras.layers]


# Dropout ------------------------------------------------------------------------------------------


def ones_layer(name, **options):
    """One whose output is the sum of what it reads: h' = x + h, gates that are open."""
    layer = gk.SimpleRNN(H, activation="linear", return_sequences=True, **options)
    layer.build((None, T, H))
    kernel, recurrent, bias = (v for v in layer.trainable_variables)
    kernel.assign(np.eye(H))
    recurrent.assign(np.eye(H) if name == "both" else np.zeros((H, H)))
    bias.assign(np.zeros(H))
    return layer


def test_dropout_keeps_one_mask_a_call_and_its_rate():
    layer = ones_layer("input", dropout=0.3, seed=1)
    x = torch.ones(2000, T, H)
    first, second = layer(x, training=True), layer(x, training=True)
    dropped = first == 0
    assert abs(dropped[:, 0].float().mean() - 0.3) < 0.02
    torch.testing.assert_close(first[~dropped], torch.full_like(first[~dropped], 1 / 0.7))
    assert (dropped == dropped[:, :1]).all()
    assert (first != second).any()
    torch.testing.assert_close(ones_layer("input", dropout=0.3, seed=1)(x, training=True), first)


def test_recurrent_dropout_keeps_one_mask_a_call_and_its_rate():
    h = ones_layer("both", recurrent_dropout=0.25, seed=1)(torch.ones(2000, T, H), training=True)
    kept = h[:, 1] > 1
    assert abs(kept.float().mean() - 0.75) < 0.02
    assert (h[~kept.unsqueeze(1).expand_as(h)] == 1).all()  # nothing of the state before, ever
    grown = torch.stack([sum((4 / 3) ** torch.arange(t + 1.0)) for t in range(T)])
    torch.testing.assert_close(h.transpose(1, 2)[kept], grown.expand(int(kept.sum()), T))


# Steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_right_padded_or_whole_is_run_as_it_lies(backwards):
    right = torch.arange(T) < torch.tensor([7, 3, 0])[:, None]
    steps = steps_of(right, backwards)
    assert steps.front is None
    assert steps.lengths.tolist() == [7, 3, 0]
    whole = steps_of(torch.ones(3, T), backwards)
    assert (whole.mask, whole.lengths, whole.front) == (None, None, None)
    moved = steps_of(right.flip(1), backwards)
    assert moved.front is not None
    rows = moved.taken(torch.randn(3, T, 2, requires_grad=True)).grad_fn.next_functions[0][0]
    assert rows.name() == "_ReorderedBackward"  # not torch's gradient of indexing, which is slow


@pytest.mark.parametrize("mask", ["right", "left"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_masked_is_never_looked_at(name, mask):
    counts = torch.arange(T) < torch.tensor([7, 3, 1, 5])[:, None]
    counts = counts if mask == "right" else counts.flip(1)
    x = torch.tensor(x_of())
    layer = getattr(gk, name)(H, return_sequences=True)
    expected = layer(torch.where(counts[..., None], x, 0), mask=counts)
    spoiled = torch.where(counts[..., None], x, torch.nan).requires_grad_()
    found = layer(spoiled, mask=counts)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), spoiled)
    assert (gradient[~counts] == 0).all()
    assert gradient[counts].abs().max() > 0


@pytest.mark.pairwise
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_output_of_a_mask_from_states_given(name, backwards, zero):
    """Zero where a sequence has no step, though its state is not, and where ``zero`` asks for it."""
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0, 1], [0] * 7, [1] * 7]).bool()
    options = dict(go_backwards=backwards, zero_output_for_mask=zero, return_state=True)
    theirs, ours = (getattr(of, name)(H, **options) for of in (keras.layers, gk))
    x = torch.tensor(x_of())
    states = [torch.tensor(x_of(B, H)) for _ in range(2 if name == "LSTM" else 1)]
    expected = theirs(x, mask=mask, initial_state=states)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    found = ours(x, mask=mask, initial_state=states)
    torch.testing.assert_close(list(found), list(expected), **CLOSE)
    assert (found[0][2] == 0).all()
    assert (found[0] == 0).all(1).tolist() == [
        zero and not backwards,
        zero and backwards,
        True,
        False,
    ]


def test_a_mask_with_a_last_dimension_or_of_numbers():
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 0]] * B)
    layer, x = gk.GRU(H, return_sequences=True), torch.tensor(x_of())
    expected = layer(x, mask=mask.bool())
    torch.testing.assert_close(layer(x, mask=mask[..., None].bool()), expected)
    torch.testing.assert_close(layer(x, mask=mask), expected)


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_empty_batches_and_one_state_for_all(name):
    theirs, ours = getattr(keras.layers, name)(H), getattr(gk, name)(H)
    x = np.random.randint(0, 3, (B, T, F))
    theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    assert ours(np.zeros((0, T, F), "float32")).shape == (0, H)
    one = [torch.tensor(x_of(1, H)) for _ in range(2 if name == "LSTM" else 1)]
    torch.testing.assert_close(ours(x, initial_state=one), theirs(x, initial_state=one), **CLOSE)


# Activations --------------------------------------------------------------------------------------


def test_an_activation_is_known_by_what_it_is_not_by_its_name():
    def tanh(x):
        return x

    known = (keras.activations.tanh, keras.ops.tanh, torch.tanh)
    assert [name_of(f) for f in known] == ["tanh"] * 3
    assert name_of(keras.activations.get(None)) == "linear"
    unknown = (tanh, keras.activations.gelu, keras.activations.softmax, keras.layers.ReLU())
    assert [name_of(f) for f in unknown] == [None] * 4


@pytest.mark.parametrize("activation", sorted(KERAS))
def test_at_its_corners_an_activation_has_the_gradient_that_torchs_has(activation, monkeypatch):
    """Where biases are zero and the input is padded with zeros, every gate stands at zero."""
    monkeypatch.setattr("gatewise.keras.layers.choose", partial(registry.choose, "reference"))
    x = torch.tensor([-3.5, -3, -1, -0.7, -0.5, -0.2, 0, 0.2, 0.5, 0.7, 1, 3, 3.5, 6, 6.5])
    x = x.reshape(-1, 1, 1)
    found = []
    for of in keras.layers, gk:
        layer = of.SimpleRNN(1, activation=activation, kernel_initializer="ones")
        given = x.clone().requires_grad_()
        out = layer(given)
        found.append((out, *torch.autograd.grad(out.sum(), given)))
    torch.testing.assert_close(found[1], found[0], **CLOSE)


@pytest.mark.parametrize("activation", ["gelu", "softmax"])
def test_what_has_no_equation_is_kerass_and_says_so_once(activation):
    theirs, ours = (of.LSTM(H, recurrent_activation=activation) for of in (keras.layers, gk))
    x = x_of()
    theirs(x)
    with pytest.warns(
        UserWarning, match=f"Keras's own time loop.*recurrent_activation {activation}"
    ):
        ours(x)
    ours.set_weights(theirs.get_weights())
    torch.testing.assert_close(ours(x), theirs(x))  # a second warning would be an error


# Models and files ---------------------------------------------------------------------------------


def test_wrapped_cloned_and_inside_a_model_in_a_model():
    inner = stacked(gk)
    video = keras.Sequential([keras.Input((2, T, F)), keras.layers.TimeDistributed(inner)])
    x = x_of(B, 2, T, F)
    outputs = video.predict(x, verbose=0)
    np.testing.assert_allclose(outputs[:, 1], inner.predict(x[:, 1], verbose=0), rtol=1e-5)
    cloned = keras.models.clone_model(inner)
    assert [type(a) for a in cloned.layers] == [type(a) for a in inner.layers]
    cloned.set_weights(inner.get_weights())
    np.testing.assert_array_equal(
        cloned.predict(x[:, 0], verbose=0), inner.predict(x[:, 0], verbose=0)
    )


def test_exported_by_torch():
    model = keras.Sequential([keras.Input((T, F)), gk.LSTM(H), keras.layers.Dense(1)])
    x = torch.tensor(x_of())
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_the_registered_names_are_ours_and_kerass_stay_its_own():
    for name in NAMES:
        ours, theirs = getattr(gk, name), getattr(keras.layers, name)
        assert keras.saving.get_registered_name(ours) == f"gatewise>{name}"
        assert keras.saving.get_registered_object(f"gatewise>{name}") is ours
        config = keras.saving.serialize_keras_object(theirs(H))
        assert type(keras.saving.deserialize_keras_object(config)) is theirs


# The page -----------------------------------------------------------------------------------------


def test_the_code_of_the_page():
    assert len(pages.blocks("keras.md")) > 1
    names = pages.run("keras.md")
    assert type(names["model"].layers[0]) is gk.LSTM
    assert names["history"].history["loss"][1] < names["history"].history["loss"][0]


def test_the_figures_of_the_page_are_those_measured():
    report = json.loads((ROOT / "benchmarks" / "results" / "keras.json").read_text())
    for name, row in report["rows"].items():
        medians = {who: f"{t['median_ms']:.0f}" for who, t in row["timings"].items()}
        others = {k: v for k, v in medians.items() if k not in ("keras", "gatewise")}
        (other,) = others.values()
        line = f"| {name} | {medians['keras']} | {medians['gatewise']} | {row['times_as_fast']:.1f} | {other} |"
        assert line in PAGE
    assert {"keras", "torch", "gatewise"} <= set(report["machine"]["versions"])
