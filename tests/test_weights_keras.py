"""Layers from Keras files, beside Keras's own layers; files that are damaged or not what they seem."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gatewise as gw
from gatewise.cells.activations import KERAS
from gatewise.errors import DataError, GatewiseError, ModelFileError, OptionError, ShapeError
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.weights.budget import EACH
from gatewise.weights.keras import from_keras

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")
from gatewise.weights import hdf5_reader  # noqa: E402  (it needs h5py)

L = keras.layers

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Keras's, on NumPy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

T, B, N, H = 6, 3, 2, 4
CLOSE = dict(rtol=1e-5, atol=1e-5)
FORMATS = ("keras", "h5")


def with_random_weights(model, seed=0, scale=0.7):
    rng = np.random.default_rng(seed)
    model.set_weights(
        [scale * rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return model


def sequential(*layers, width=N, name="outer"):
    return with_random_weights(keras.Sequential([keras.Input((None, width)), *layers], name=name))


def saved(model, folder, kind):
    path = folder / f"model.{kind}"
    model.save(path)
    return path


def inputs(seed=1):
    return np.random.default_rng(seed).normal(size=(B, T, N)).astype(np.float32)


def run(layer, x, **given):
    for each in layer.modules():
        if isinstance(each, gw.Recurrent) and each.cell.name not in gw.CELLS:
            each.backend = "reference"  # cells for a test are not worth compiling
    with torch.no_grad():
        output, state = layer(torch.from_numpy(x), **given)
    states = [state] if isinstance(state, torch.Tensor) else list(state)
    return [output.numpy(), *(each.numpy() for each in states)]


def check(layer, folder, kind, x=None):
    """Outputs and final states of a Keras layer, return_state=True, against what its file gives."""
    model = sequential_with_states(layer)
    (found,) = from_keras(saved(model, folder, kind)).values()
    x = inputs() if x is None else x
    expected = [keras.ops.convert_to_numpy(each) for each in model(x)]
    output, *states = run(found, x)
    np.testing.assert_allclose(output, expected[0], **CLOSE)
    ours = [each[d] for d in range(states[0].shape[0]) for each in states]
    assert len(ours) == len(expected) - 1
    for one, other in zip(ours, expected[1:], strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    assert np.abs(output).max() > 0.01
    return found


def sequential_with_states(layer):
    x = keras.Input((None, N))
    return with_random_weights(keras.Model(x, layer(x)))


OPTIONS = {
    "LSTM": (L.LSTM, {}),
    "LSTM, no bias": (L.LSTM, dict(use_bias=False)),
    "GRU": (L.GRU, {}),
    "GRU, reset before": (L.GRU, dict(reset_after=False)),
    "GRU, no bias": (L.GRU, dict(use_bias=False)),
    "GRU, reset before, no bias": (L.GRU, dict(reset_after=False, use_bias=False)),
    "SimpleRNN": (L.SimpleRNN, {}),
    "SimpleRNN, relu": (L.SimpleRNN, dict(activation="relu", use_bias=False)),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
@pytest.mark.parametrize(("layer", "options"), OPTIONS.values(), ids=OPTIONS)
def test_equals_keras(layer, options, backwards, kind, tmp_path):
    theirs = layer(H, return_sequences=True, return_state=True, go_backwards=backwards, **options)
    found = check(theirs, tmp_path, kind)
    assert isinstance(found, Reversed) == backwards
    assert not found.training


@pytest.mark.pairwise
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("layer", [L.LSTM, L.GRU, L.SimpleRNN])
def test_both_ways(layer, merge, kind, tmp_path):
    inner = layer(H, return_sequences=True, return_state=True)
    found = check(L.Bidirectional(inner, merge_mode=merge), tmp_path, kind)
    assert isinstance(found, Bidirectional if merge != "concat" else gw.Recurrent)


@pytest.mark.parametrize("kind", FORMATS)
def test_both_ways_with_a_backward_layer_of_its_own(kind, tmp_path):
    common = dict(return_sequences=True, return_state=True)
    theirs = L.Bidirectional(
        L.LSTM(H, name="one", **common),
        backward_layer=L.LSTM(H, activation="relu", go_backwards=True, name="two", **common),
    )
    assert isinstance(check(theirs, tmp_path, kind), Bidirectional)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("cell", [L.LSTMCell, L.GRUCell, L.SimpleRNNCell])
def test_an_rnn_of_a_cell(cell, kind, tmp_path):
    check(L.RNN(cell(H), return_sequences=True, return_state=True), tmp_path, kind)


@pytest.mark.parametrize("name", KERAS)
def test_every_activation(name, tmp_path):
    """Of inputs that reach every piece of the function; exp of exp soon has no number left."""
    theirs = L.LSTM(
        H,
        activation=name,
        recurrent_activation="hard_sigmoid",
        return_sequences=True,
        return_state=True,
    )
    x = 3 * inputs()
    x[:, 3:] *= 0.1
    check(theirs, tmp_path, "keras", 0.1 * x[:, :2] if name == "exponential" else x)


@pytest.mark.parametrize("reset_after", [False, True])
def test_unusual_gates(reset_after, tmp_path):
    options = dict(return_sequences=True, return_state=True, reset_after=reset_after)
    check(L.GRU(H, "softsign", "hard_sigmoid", **options), tmp_path, "keras")


def test_gradients_are_keras_own(tmp_path):
    theirs = L.GRU(H, return_sequences=True)
    model = sequential(theirs)
    layer = from_keras(saved(model, tmp_path, "keras"))[theirs.name]
    results = []
    for call in (model, lambda x: layer(x)[0]):
        x = torch.from_numpy(inputs()).requires_grad_()
        results.append(torch.autograd.grad(call(x).square().sum(), x)[0])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_lengths_stand_for_a_mask(tmp_path):
    theirs = L.LSTM(H, return_sequences=True, return_state=True)
    model = sequential_with_states(theirs)
    layer = from_keras(saved(model, tmp_path, "keras"))[theirs.name]
    lengths = [6, 2, 4]
    mask = np.arange(T) < np.array(lengths)[:, None]
    expected = [
        keras.ops.convert_to_numpy(e) for e in theirs(inputs(), mask=torch.from_numpy(mask))
    ]
    output, h, c = run(layer, inputs(), lengths=lengths)
    np.testing.assert_allclose(output[mask], expected[0][mask], **CLOSE)
    np.testing.assert_allclose(h[0], expected[1], **CLOSE)
    np.testing.assert_allclose(c[0], expected[2], **CLOSE)


# models ----------------------------------------------------------------------------------------------


def nested():
    """Layers of one class in models inside models, beside others."""
    deepest = sequential(L.LSTM(H, return_sequences=True, name="a"), L.Dense(N), name="deepest")
    inner = sequential(
        L.LSTM(H, return_sequences=True, name="a"),
        L.LSTM(N, return_sequences=True, name="b"),
        deepest,
        L.GRU(N, return_sequences=True, name="c"),
        name="inner",
    )
    x = keras.Input((None, N), name="x")
    y = L.LSTM(N, return_sequences=True, name="first")(x)
    z = inner(L.Dense(N)(y))
    z = L.Bidirectional(L.LSTM(H, return_sequences=True), name="both")(L.Add()([y, z]))
    z = L.LSTM(3, return_sequences=True, name="last")(z)
    return with_random_weights(keras.Model(x, z))


@pytest.mark.parametrize("kind", FORMATS)
def test_nested_models(kind, tmp_path):
    model = nested()
    layers = from_keras(saved(model, tmp_path, kind))
    assert list(layers) == [
        "first",
        "inner/a",
        "inner/b",
        "inner/deepest/a",
        "inner/c",
        "both",
        "last",
    ]
    for name, layer in layers.items():
        theirs = model
        for part in name.split("/"):
            theirs = theirs.get_layer(part)
        x = np.random.default_rng(0).normal(size=(B, T, layer.input_size)).astype(np.float32)
        expected = keras.ops.convert_to_numpy(theirs(x))
        np.testing.assert_allclose(run(layer, x)[0], expected, **CLOSE)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layer_for_each_step_of_another_axis(kind, tmp_path):
    x = keras.Input((2, 5, N))
    y = L.TimeDistributed(L.LSTM(H, return_sequences=True), name="each")(x)
    model = with_random_weights(keras.Model(x, L.TimeDistributed(L.Dense(2))(y)))
    given = np.random.default_rng(0).normal(size=(B, 2, 5, N)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(keras.Model(x, y)(given))
    layers = from_keras(saved(model, tmp_path, kind))
    assert list(layers) == ["each"]
    found = run(layers["each"], given.reshape(-1, 5, N))[0].reshape(expected.shape)
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_only_the_wanted_layers(tmp_path):
    x = keras.Input((None, N))
    y = L.LSTM(H, return_sequences=True, name="good")(x)
    y = L.RNN([L.LSTMCell(3), L.LSTMCell(3)], return_sequences=True, name="stacked")(y)
    path = saved(keras.Model(x, y), tmp_path, "keras")
    with pytest.raises(ModelFileError, match="'stacked' is a RNN of StackedRNNCells"):
        from_keras(path)
    assert list(from_keras(path, only=["good"])) == ["good"]
    with pytest.raises(OptionError, match=r"no layer 'godo'.*did you mean 'good'"):
        from_keras(path, only=["godo"])


def test_keras_is_not_imported(tmp_path):
    path = saved(sequential(L.LSTM(H)), tmp_path, "keras")
    code = (
        "import sys; from gatewise.weights.keras import from_keras; "
        f"print(len(from_keras({str(path)!r})), 'keras' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["1", "False"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_keep_their_type(dtype, tmp_path):
    model = sequential(L.LSTM(H, dtype=dtype, recurrent_initializer="zeros", name="lstm"))
    layer = from_keras(saved(model, tmp_path, "keras"))["lstm"]
    assert {each.dtype for each in layer.parameters()} == {getattr(torch, dtype)}
    kernel = keras.ops.convert_to_numpy(model.layers[0].cell.kernel)
    np.testing.assert_array_equal(layer.weight_ih_l0.detach().numpy(), kernel.T)


def test_bfloat16_is_refused(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, N)), L.LSTM(H, dtype="bfloat16", recurrent_initializer="zeros")]
    )
    with pytest.raises(ModelFileError, match="is bfloat16"):
        from_keras(saved(model, tmp_path, "keras"))


# older files, made of new ones -----------------------------------------------------------------------


def rewritten(path, change=lambda config: None, version=None, weights=None):
    """A .keras file with another configuration, version or weights."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config, metadata = json.loads(members["config.json"]), json.loads(members["metadata.json"])
    change(config)
    metadata["keras_version"] = version or metadata["keras_version"]
    members |= {"config.json": json.dumps(config), "metadata.json": json.dumps(metadata)}
    if weights is not None:
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            weights(file)
        members["model.weights.h5"] = content.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_keras_2_has_another_hard_sigmoid(tmp_path):
    theirs = L.LSTM(H, recurrent_activation="hard_sigmoid", return_sequences=True, name="lstm")
    model = sequential(theirs)
    path = rewritten(saved(model, tmp_path, "keras"), version="2.13.1")
    before = from_keras(saved(model, tmp_path, "keras"))["lstm"]
    layer = from_keras(rewritten(path, version="2.13.1"))["lstm"]
    # 0.2 x + 0.5 in place of x / 6 + 0.5: the same function of gates 1.2 times as steep
    with torch.no_grad():
        for name, parameter in before.named_parameters():
            parameter.unflatten(0, (4, H))[[0, 1, 3]] *= 1.2
            assert name
    np.testing.assert_allclose(run(layer, inputs())[0], run(before, inputs())[0], **CLOSE)


def test_keras_2_13_calls_the_layers_group_otherwise(tmp_path):
    path = saved(sequential(L.LSTM(H, name="lstm")), tmp_path, "keras")
    expected = from_keras(path)["lstm"].state_dict()
    rewritten(path, weights=lambda file: file.move("layers", "_layer_checkpoint_dependencies"))
    torch.testing.assert_close(from_keras(path)["lstm"].state_dict(), expected, rtol=0, atol=0)


def test_names_of_weights_as_keras_2_has_them(tmp_path):
    """With :0 at the end, without the models' names, and in pieces where there are many."""
    inner = sequential(
        L.Bidirectional(L.LSTM(H, return_sequences=True, name="lstm"), name="both"),
        L.GRU(N, name="gru"),
        name="inner",
    )
    path = saved(sequential(inner), tmp_path, "h5")
    expected = {k: v.state_dict() for k, v in from_keras(path).items()}
    with h5py.File(path, "r+") as file:
        group = file["model_weights/inner"]
        names = list(group.attrs["weight_names"])
        shorter = [f"{'/'.join(each.split('/')[1:])}:0" for each in names]
        for old, new in zip(names, shorter, strict=True):
            group.move(old, new)
        del group.attrs["weight_names"]
        group.attrs["weight_names0"], group.attrs["weight_names1"] = shorter[:4], shorter[4:]
        config = json.loads(file.attrs["model_config"])
        both = config["config"]["layers"][1]["config"]["layers"][1]["config"]
        assert both.pop("backward_layer")
        both["layer"]["config"]["name"] = "lstm"
        file.attrs["model_config"] = json.dumps(config).encode()
    found = {k: v.state_dict() for k, v in from_keras(path).items()}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# what is refused -------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("mine")
class Doubled(L.LSTM):
    pass


@keras.saving.register_keras_serializable("mine")
def wavy(x):
    return keras.ops.sin(x)


@keras.saving.register_keras_serializable("mine")
class Whole(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.lstm = L.LSTM(H)

    def call(self, x):
        return self.lstm(x)


@pytest.mark.parametrize("kind", FORMATS)
def test_custom_objects_are_refused_by_name(kind, tmp_path):
    with pytest.raises(
        ModelFileError, match=r"layer 'own' is of the custom class mine>Doubled, .*never run"
    ):
        from_keras(saved(sequential(Doubled(H, name="own")), tmp_path, kind))
    model = sequential(L.LSTM(H, activation=wavy, name="lstm"))
    with pytest.raises(ModelFileError, match=r"LSTM layer 'lstm' has activation=.*wavy"):
        from_keras(saved(model, tmp_path, kind))
    model = sequential(L.LSTM(H, return_sequences=True, name="lstm"), Doubled(H, name="own"))
    assert list(from_keras(saved(model, tmp_path, kind), only=["lstm"])) == ["lstm"]


def test_a_model_of_a_custom_class(tmp_path):
    model = Whole()
    model(inputs())
    with pytest.raises(
        ModelFileError, match="class mine>Whole, whose layers are made by custom code"
    ):
        from_keras(saved(model, tmp_path, "keras"))


REFUSED = {
    "gelu": (dict(activation="gelu"), "LSTM layer 'lstm' has activation='gelu': not among"),
    "misspelt": (dict(activation="tanhh"), "activation='tanhh'.*did you mean 'tanh'"),
    "gate": (dict(recurrent_activation="softmax"), "recurrent_activation='softmax'"),
    "layer as a function": (
        dict(activation={"class_name": "LeakyReLU", "config": {}}), "activation=.*LeakyReLU"),
    "units": (dict(units="many"), "units='many': expected a positive integer"),
    "more units": (dict(units=5), r"kernel of the layer 'lstm' has the shape \(2, 16\), expected \(2, 20\)"),
    "bias": (dict(use_bias=False), "has the weights kernel, recurrent_kernel, bias, expected kernel, recurrent_kernel"),
    "a flag": (dict(go_backwards="yes"), "go_backwards='yes': expected true or false"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taken_over_is_refused_by_name(options, message, tmp_path):
    path = saved(sequential(L.LSTM(H, name="lstm")), tmp_path, "keras")
    rewritten(path, lambda config: config["config"]["layers"][1]["config"].update(options))
    with pytest.raises((ModelFileError, ShapeError), match=message):
        from_keras(path)


def test_layers_that_are_not_read(tmp_path):
    x = keras.Input((None, 5, 5, 1))
    path = saved(keras.Model(x, L.ConvLSTM2D(2, 3, name="conv")(x)), tmp_path, "keras")
    with pytest.raises(ModelFileError, match="'conv' is a ConvLSTM2D"):
        from_keras(path)
    path = saved(sequential(L.Dense(3)), tmp_path, "keras")
    with pytest.raises(ModelFileError, match="has no LSTM, GRU or SimpleRNN layer; it has: Dense"):
        from_keras(path)
    both = L.Bidirectional(L.LSTM(H, return_sequences=True), merge_mode=None, name="both")
    with pytest.raises(ModelFileError, match="'both' has merge_mode=None"):
        from_keras(saved(sequential(both), tmp_path, "keras"))


def cell_group(file):
    return file["layers/lstm/cell/vars"]


def replaced(name, value):
    def change(file):
        del cell_group(file)[name]
        cell_group(file)[name] = value

    return change


def huge(file):
    del cell_group(file)["0"]
    cell_group(file).create_dataset("0", (2**31, 16), "f4", chunks=(1024, 16), compression="gzip")


def outside(file):
    del cell_group(file)["0"]
    cell_group(file).create_dataset("0", (2, 16), "f4", external=[("secret.bin", 0, 128)])


DAMAGED = {
    "missing": (lambda f: f.__delitem__("layers/lstm"), ModelFileError, "have no '/layers/lstm'"),
    "NaN": (replaced("1", np.full((4, 16), np.nan, "f")), DataError, "recurrent_kernel of the layer 'lstm' has 64 NaN"),
    "infinite": (replaced("0", np.full((2, 16), np.inf, "f")), DataError, "kernel .* 32 infinite of 32"),
    "wrong shape": (replaced("2", np.zeros(15, "f")), ShapeError, r"bias .* \(15,\), expected \(16,\)"),
    "one dimension": (replaced("0", np.zeros(32, "f")), ShapeError, r"kernel .* \(32,\), expected \(1, 16\)"),
    "whole numbers": (replaced("0", np.zeros((2, 16), int)), DataError, "kernel .* is of type int64"),
    "a group": (replaced("0", h5py.SoftLink("/layers")), ModelFileError, "links are not followed"),
    "another file": (replaced("0", h5py.ExternalLink("x.h5", "/w")), ModelFileError, "links are not followed"),
    "bytes outside": (outside, ModelFileError, "not an array in the file itself"),
    "a bomb": (huge, ModelFileError, r"has the shape \(2147483648, 16\)"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_weights(change, error, message, tmp_path):
    path = saved(sequential(L.LSTM(H, name="lstm")), tmp_path, "keras")
    rewritten(path, weights=change)
    with pytest.raises(error, match=message):
        from_keras(path)


def test_an_archive_that_says_it_is_huge(tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * 20_000_000)
    with pytest.raises(ModelFileError, match=r"'config.json' says that it has 20000000 bytes"):
        from_keras(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", '{"class_name": "Sequential"}')
        archive.writestr("metadata.json", '{"keras_version": "3.0"}')
        archive.writestr("model.weights.h5", bytes(100_000_000))
    with pytest.raises(
        ModelFileError, match=r"'model.weights.h5' needs 100000000 bytes, which makes"
    ):
        from_keras(path)


def test_what_is_no_keras_model(tmp_path):
    with pytest.raises(ModelFileError, match="is not there; expected a Keras model"):
        from_keras(tmp_path / "none.keras")
    path = tmp_path / "text.keras"
    path.write_text("not a model")
    with pytest.raises(
        ModelFileError, match="it does not start with the signature of an HDF5 file"
    ):
        from_keras(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(ModelFileError, match=r"has no 'config.json'; it has: word/document.xml"):
        from_keras(path)
    path = tmp_path / "model.weights.h5"
    sequential(L.LSTM(H)).save_weights(path)
    with pytest.raises(ModelFileError, match="has only weights"):
        from_keras(path)


def test_a_file_that_the_library_cannot_survive(tmp_path):
    """A heap of texts of which the rest has no size: HDF5 1.14 reads it for ever. The reader is ended by
    its time on the processor, long before the twenty seconds that a slow disk may take."""
    path = saved(sequential(L.LSTM(H)), tmp_path, "h5")
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL") + 16
    content[heap : heap + 16] = bytes(16)
    path.write_bytes(content)
    began = time.monotonic()
    ended = rf"damaged: the process that tried ended with -{signal.SIGXCPU.value}"
    with pytest.raises(ModelFileError, match=ended):
        from_keras(path)
    assert time.monotonic() - began < 15


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_the_reader_keeps_to_the_limits_that_the_system_sets(tmp_path):
    """As batch systems set them: below what the reader would set itself, which raises a ValueError."""
    path = saved(sequential(L.LSTM(H)), tmp_path, "h5")
    wanted = [str(2**40), str(EACH), "1000"]
    limits = "ulimit -t 100; ulimit -v 4000000; exec"
    shell = ["sh", "-c", f'{limits} "$0" "$@"', sys.executable, hdf5_reader.__file__, str(path)]
    run = subprocess.run([*shell, *wanted], input=b'["names", []]\n', capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    assert json.loads(run.stdout) == {"value": ["model_weights"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model = sequential(L.Bidirectional(L.LSTM(H)))
    return {kind: saved(model, folder, kind).read_bytes() for kind in FORMATS}


def outcome(folder, content, kind):
    path = folder / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        layers = from_keras(path)
    except GatewiseError:
        return
    assert layers


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1))
def test_a_truncated_file_is_an_error_of_ours_or_a_result(whole, tmp_path_factory, kind, share):
    content = whole[kind]
    outcome(tmp_path_factory.getbasetemp(), content[: int(share * len(content))], kind)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=15, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_an_error_of_ours_or_a_result(whole, tmp_path_factory, kind, changes):
    content = bytearray(whole[kind])
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    outcome(tmp_path_factory.getbasetemp(), bytes(content), kind)
