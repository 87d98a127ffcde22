"""Layers from ONNX: the standard's own node tests, ONNX Runtime, torch's exporter, and what is refused."""

import importlib
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gatewise as gw
from gatewise.errors import DataError, GatewiseError, ModelFileError, OptionError, ShapeError
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.weights import onnx_constants
from gatewise.weights.onnx import from_onnx, run_node

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = dict(rtol=1e-5, atol=1e-5)
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, N, H = 5, 3, 2, 4
LENGTHS = (5, 0, 2)


def arrays_of(op, direction="forward", seed=0, bias=True, peepholes=False, dtype=np.float32):
    rng = np.random.default_rng(seed)
    D, rows = 2 if direction == "bidirectional" else 1, GATES[op] * H
    shapes = dict(W=(D, rows, N), R=(D, rows, H))
    if bias:
        shapes["B"] = (D, 2 * rows)
    if peepholes:
        shapes["P"] = (D, 3 * H)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def model_of(op, arrays, given=("X",), name="layer", opset=14, **attributes):
    """A model of one node, its weights initializers, and what is ``given`` inputs of the graph."""
    present = {*arrays, *given}
    attributes = {k: v for k, v in attributes.items() if v is not None}
    node = helper.make_node(
        op,
        [each if each in present else "" for each in INPUTS[: 8 if op == "LSTM" else 6]],
        ["Y", "Y_h", *(["Y_c"] if op == "LSTM" else [])],
        name=name,
        hidden_size=H,
        **attributes,
    )
    kinds = dict.fromkeys(given, TensorProto.FLOAT) | {"sequence_lens": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(each, kinds[each], None) for each in given],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in node.output],
        [numpy_helper.from_array(array, each) for each, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds_of(op, direction, given, seed=1):
    rng = np.random.default_rng(seed)
    D = 2 if direction == "bidirectional" else 1
    all_ = {
        "X": rng.normal(size=(T, B, N)).astype(np.float32),
        "sequence_lens": np.array(LENGTHS, np.int32),
        "initial_h": rng.normal(size=(D, B, H)).astype(np.float32),
        "initial_c": rng.normal(size=(D, B, H)).astype(np.float32),
    }
    return {name: all_[name] for name in given}


def runtime(model, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def by_reference(layer):
    """Cells made for a test are not worth compiling."""
    for each in layer.modules():
        if isinstance(each, gw.Recurrent) and each.cell.name not in gw.CELLS:
            each.backend = "reference"
    return layer


def ours(model, feeds, **more):
    (layer,) = from_onnx(model, **more).values()
    with torch.no_grad():
        found = run_node(by_reference(layer), **{k: torch.from_numpy(v) for k, v in feeds.items()})
    return [each.numpy() for each in found]


def check_against_runtime(op, direction, given, arrays, **attributes):
    model = model_of(op, arrays, given, direction=direction, **attributes)
    feeds = feeds_of(op, direction, given)
    expected, found = runtime(model, feeds), ours(model, feeds)
    if "sequence_lens" in feeds:
        # of an empty sequence the standard says nothing of the final state: ONNX Runtime has zero
        # where ours is the state it started from
        for k in range(1, len(expected)):
            for each in (expected[k], found[k]):
                each[:, [n == 0 for n in LENGTHS]] = 0
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    assert np.abs(expected[0]).max() > 0.02


# the standard's own tests ----------------------------------------------------------------------------


def node_tests():
    package = importlib.import_module("onnx.backend.test.case.node")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in ("lstm", "gru", "rnn"):
            importlib.import_module(f"onnx.backend.test.case.node.{op}")
    return [case for case in package._NodeTestCases if case.model.graph.node[0].op_type in GATES]


NODE_TESTS = node_tests()


def test_there_are_node_tests_of_every_operator():
    ops = [case.model.graph.node[0].op_type for case in NODE_TESTS]
    assert min(ops.count(op) for op in GATES) >= 5


@pytest.mark.parametrize("case", NODE_TESTS, ids=lambda case: case.name)
def test_the_standards_node_tests(case):
    graph = case.model.graph
    (node,) = graph.node
    ((inputs, outputs),) = case.data_sets
    arrays = dict(zip([each.name for each in graph.input], inputs, strict=True))
    of = {k: arrays[v] for k, v in zip(INPUTS, node.input, strict=False) if v}
    feeds = {k: v for k, v in of.items() if k not in ("W", "R", "B", "P")}
    weights = {k: v for k, v in of.items() if k in ("W", "R", "B", "P")}
    found = ours(case.model, feeds, tensors=weights)
    wanted = [k for k, name in enumerate(node.output) if name]
    assert len(wanted) == len(outputs)
    for k, expected in zip(wanted, outputs, strict=True):
        np.testing.assert_allclose(found[k], expected, **CLOSE)


# ONNX Runtime ----------------------------------------------------------------------------------------

DIRECTIONS = ("forward", "reverse", "bidirectional")
STATES = {"LSTM": ("initial_h", "initial_c"), "GRU": ("initial_h",), "RNN": ("initial_h",)}
OPTIONS = {
    "LSTM": [
        dict(peepholes=p, input_forget=c, bias=b)
        for p, c, b in itertools.product((False, True), (0, 1), (False, True))
    ],
    "GRU": [dict(linear_before_reset=r, bias=b) for r in (0, 1) for b in (False, True)],
    "RNN": [dict(activations=a, bias=b) for a in ("Tanh", "Relu") for b in (False, True)],
}
CASES = [(op, d, o) for op in GATES for d in DIRECTIONS for o in OPTIONS[op]]


@pytest.mark.pairwise
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("states", [False, True], ids=["zero", "states"])
@pytest.mark.parametrize(("op", "direction", "options"), CASES, ids=str)
def test_equals_onnx_runtime(op, direction, options, states, lengths):
    options = dict(options)
    arrays = arrays_of(
        op, direction, bias=options.pop("bias"), peepholes=options.pop("peepholes", False)
    )
    if "activations" in options:
        options["activations"] = [options["activations"]] * (2 if direction == DIRECTIONS[2] else 1)
    inputs = ("X", *(["sequence_lens"] if lengths else []), *(STATES[op] if states else []))
    check_against_runtime(op, direction, inputs, arrays, **options)


ACTIVATIONS = {
    "Affine": dict(activation_alpha=[0.7], activation_beta=[0.1]),
    "LeakyRelu": dict(activation_alpha=[0.3]),
    "LeakyRelu as usual": {},
    "ThresholdedRelu": dict(activation_alpha=[0.4]),
    "ScaledTanh": dict(activation_alpha=[0.8], activation_beta=[1.3]),
    "HardSigmoid": dict(activation_alpha=[0.3], activation_beta=[0.4]),
    "HardSigmoid as usual": {},
    "Elu": dict(activation_alpha=[0.6]),
    "Elu as usual": {},
    "Softsign": {},
    "Softplus": {},
    "Sigmoid": {},
    "Relu": {},
}


@pytest.mark.parametrize("clip", [None, 0.6])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_alone(name, clip):
    """Of small weights: what has no bound must not grow."""
    arrays = {k: 0.3 * v for k, v in arrays_of("RNN").items()}
    function = name.split()[0]
    check_against_runtime(
        "RNN", "forward", ("X",), arrays, activations=[function], clip=clip, **ACTIVATIONS[name]
    )


UNUSUAL = {
    "LSTM": dict(
        activations=["HardSigmoid", "Softsign", "LeakyRelu"],
        activation_alpha=[0.3, 0.2],
        activation_beta=[0.4],
    ),
    "GRU": dict(
        activations=["HardSigmoid", "ScaledTanh"],
        activation_alpha=[0.3, 0.9],
        activation_beta=[0.4, 1.2],
    ),
}
COUPLED = [dict(input_forget=c) for c in (0, 1)]
RESETS = [dict(linear_before_reset=r) for r in (0, 1)]


@pytest.mark.pairwise
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("op", "options", "peepholes"),
    [("LSTM", c, p) for c in COUPLED for p in (False, True)] + [("GRU", r, False) for r in RESETS],
    ids=str,
)
def test_unusual_activations_and_clips(op, options, peepholes, direction, clip):
    """alpha and beta are used up in the order of the functions that take them, over both directions."""
    times = 2 if direction == "bidirectional" else 1
    options = {
        k: v * times if isinstance(v, list) else v for k, v in (UNUSUAL[op] | options).items()
    }
    arrays = arrays_of(op, direction, peepholes=peepholes)
    inputs = ("X", "sequence_lens", *STATES[op])
    check_against_runtime(op, direction, inputs, arrays, clip=clip, **options)


@pytest.mark.parametrize("op", GATES)
def test_clip_with_the_usual_activations(op):
    check_against_runtime(op, "bidirectional", ("X",), arrays_of(op, "bidirectional"), clip=0.4)


@pytest.mark.parametrize("lengths", [False, True])
def test_directions_of_unlike_activations(lengths):
    arrays = arrays_of("LSTM", "bidirectional")
    activations = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Softsign"]
    inputs = ("X", *(["sequence_lens"] if lengths else []), *STATES["LSTM"])
    check_against_runtime("LSTM", "bidirectional", inputs, arrays, activations=activations)
    model = model_of("LSTM", arrays, direction="bidirectional", activations=activations)
    assert isinstance(from_onnx(model)["layer"], Bidirectional)


def test_a_cell_of_its_own_is_compiled_and_differentiates():
    model = model_of("GRU", arrays_of("GRU"), activations=["HardSigmoid", "Softsign"])
    fast, slow = (from_onnx(model)["layer"] for _ in range(2))
    slow.backend = "reference"
    results = []
    for layer in (fast, slow):
        x = torch.from_numpy(feeds_of("GRU", "forward", ("X",))["X"]).requires_grad_()
        loss = layer(x)[0].square().sum()
        results.append([loss.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert fast.cell.name == "gru_hard_sigmoid_softsign"
    assert fast.explain_backend(torch.zeros(T, B, N)).startswith("cpu:")


def test_layout_1_is_batch_first():
    """ONNX Runtime has no layout 1: the same weights with layout 0 are the reference."""
    arrays = arrays_of("LSTM", "bidirectional")
    feeds = feeds_of("LSTM", "bidirectional", ("X", "initial_h", "initial_c"))
    Y, *finals = runtime(model_of("LSTM", arrays, tuple(feeds), direction="bidirectional"), feeds)
    model = model_of("LSTM", arrays, tuple(feeds), direction="bidirectional", layout=1)
    found = ours(model, {k: v.swapaxes(0, 1).copy() for k, v in feeds.items()})
    np.testing.assert_allclose(found[0], Y.transpose(2, 0, 1, 3), **CLOSE)
    for one, other in zip(found[1:], finals, strict=True):
        np.testing.assert_allclose(one, other.swapaxes(0, 1), **CLOSE)


# what comes out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes", "kind", "cell"),
    [
        ("LSTM", {}, gw.LSTM, "lstm"),
        ("LSTM", dict(input_forget=1), gw.Recurrent, "coupled"),
        ("GRU", dict(linear_before_reset=1), gw.GRU, "gru"),
        ("GRU", {}, gw.Recurrent, "gru_2014"),
        ("RNN", {}, gw.RNN, "rnn_tanh"),
        ("RNN", dict(activations=["relu"]), gw.RNN, "rnn_relu"),
        ("RNN", dict(direction="reverse"), Reversed, "rnn_tanh"),
    ],
)
def test_a_layer_is_what_its_node_is(op, attributes, kind, cell):
    layer = from_onnx(model_of(op, arrays_of(op), **attributes))["layer"]
    assert type(layer) is kind
    assert layer.cell is gw.CELLS[cell]
    assert not any(each.training for each in layer.modules())


def test_importing_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    from_onnx(model_of("LSTM", arrays_of("LSTM")))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_layer_saves_and_loads_as_torchs():
    layer = from_onnx(model_of("LSTM", arrays_of("LSTM")))["layer"]
    theirs = nn.LSTM(N, H)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, N)
    torch.testing.assert_close(layer(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float16, torch.float16), (np.float64, torch.float64), ("bfloat16", torch.bfloat16)],
)
def test_weights_keep_their_type(dtype, expected):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    arrays = arrays_of("LSTM", dtype=dtype)
    layer = from_onnx(model_of("LSTM", arrays))["layer"]
    assert {each.dtype for each in layer.parameters()} == {expected}
    rows = arrays["W"][0].astype(np.float64)
    i, o, f, g = np.split(rows, 4)
    np.testing.assert_array_equal(
        layer.weight_ih_l0.detach().double().numpy(), np.concatenate([i, f, g, o])
    )
    output = layer(torch.ones(T, B, N, dtype=expected))[0]
    exact = layer.double()(torch.ones(T, B, N, dtype=torch.float64))[0]
    torch.testing.assert_close(output.double(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("stored", [("initial_h",), ("initial_h", "initial_c")])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_initial_states_that_are_stored(direction, stored):
    arrays = arrays_of("LSTM", direction)
    D = len(arrays["W"])
    rows = np.random.default_rng(3).normal(size=(2, D, 1, H)).astype(np.float32)
    arrays |= {n: np.repeat(rows[k], B, 1) for k, n in enumerate(stored)}
    model, feeds = (
        model_of("LSTM", arrays, direction=direction),
        feeds_of("LSTM", direction, ("X",)),
    )
    for one, other in zip(ours(model, feeds), runtime(model, feeds), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    arrays["initial_h"][0, 1] += 1
    with pytest.raises(
        ModelFileError, match=r"initial_h .*'layer'.*batch of 3, with different values"
    ):
        from_onnx(model_of("LSTM", arrays, direction=direction))


def test_initial_states_of_zero_are_none():
    arrays = arrays_of("GRU") | {"initial_h": np.zeros((1, B, H), np.float32)}
    layer = from_onnx(model_of("GRU", arrays))["layer"]
    assert not layer.learn_initial


def test_stored_lengths_are_refused_unless_they_are_whole():
    arrays = arrays_of("RNN") | {"sequence_lens": np.array([5, 5, 5], np.int32)}
    model = model_of("RNN", arrays)
    with pytest.raises(
        ModelFileError, match=r"'layer' has sequence_lens=\[5, 5, 5\].*any number of"
    ):
        from_onnx(model)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("X", TensorProto.FLOAT, [5, B, N]))
    feeds = feeds_of("RNN", "forward", ("X",))
    np.testing.assert_allclose(ours(model, feeds)[0], runtime(model, feeds)[0], **CLOSE)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("X", TensorProto.FLOAT, [6, B, N]))
    with pytest.raises(ModelFileError, match="of 6 steps"):
        from_onnx(model)


# models of exporters ---------------------------------------------------------------------------------


class Exported(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.recurrent = layer

    def forward(self, x):
        return self.recurrent(x)[0]


def exported(layer, path, folding=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exported(layer).eval(),
            (torch.randn(T, B, N),),
            path,
            dynamo=False,
            do_constant_folding=folding,
            input_names=["x"],
            dynamic_axes={"x": {0: "time", 1: "batch"}},
        )


@pytest.mark.parametrize("folding", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_torch_exports(kind, folding, tmp_path):
    torch.manual_seed(0)
    theirs = kind(N, H, num_layers=2, bidirectional=True)
    exported(theirs, tmp_path / "model.onnx", folding)
    layers = from_onnx(tmp_path / "model.onnx")
    assert len(layers) == 2
    x = torch.randn(7, 2, N)
    output, _ = gw.Stack(*layers.values())(x)
    torch.testing.assert_close(output, theirs(x)[0], rtol=1e-5, atol=1e-6)


def chained(count):
    """Weights behind many operations, none of which changes them."""
    model = model_of("RNN", arrays_of("RNN"))
    for tensor in model.graph.initializer:
        if tensor.name == "W":
            tensor.name = "W0"
    for k in reversed(range(count)):
        node = helper.make_node("Identity", [f"W{k}"], [f"W{k + 1}" if k < count - 1 else "W"])
        model.graph.node.insert(0, node)
    return model


def test_weights_behind_other_nodes():
    arrays = arrays_of("RNN")
    model = model_of("RNN", arrays)
    kept = [each for each in model.graph.initializer if each.name != "W"]
    del model.graph.initializer[:]
    parts = arrays["W"][0].T
    model.graph.initializer.extend(
        [*kept, *(numpy_helper.from_array(p, n) for n, p in (("a", parts[:1]), ("b", parts[1:])))]
    )
    before = [
        helper.make_node("Concat", ["a", "b"], ["ab"], axis=0),
        helper.make_node("Transpose", ["ab"], ["turned"], perm=[1, 0]),
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["turned", "axes"], ["W"]),
    ]
    for node in reversed(before):
        model.graph.node.insert(0, node)
    feeds = feeds_of("RNN", "forward", ("X",))
    np.testing.assert_allclose(ours(model, feeds)[0], runtime(model, feeds)[0], **CLOSE)


def test_weights_too_far_away_and_in_a_circle():
    assert from_onnx(chained(20))
    for model in (chained(3000), chained(1)):
        if len(model.graph.node) == 2:
            model.graph.node[0].input[0] = "W"
        with pytest.raises(ModelFileError, match="more than 64 operations away"):
            from_onnx(model)


def test_what_grows_within_bounds_is_read():
    """A decoder of 300 steps that an exporter wrote out, whose steps share weights that are half as wide
    as what they are converted to, and cut from one tensor."""
    arrays = arrays_of("RNN")
    flat = np.concatenate([arrays[k].ravel() for k in ("W", "R")]).astype(np.float16)
    model = model_of("RNN", {"B": arrays["B"]})
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(flat, "flat"),
            numpy_helper.from_array(np.array([H * N, H * H]), "sizes"),
            numpy_helper.from_array(np.array([1, H, -1]), "shape"),
        ]
    )
    before = [
        helper.make_node("Cast", ["flat"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Split", ["wide", "sizes"], ["w", "r"]),
        helper.make_node("Reshape", ["w", "shape"], ["W"]),
        helper.make_node("Reshape", ["r", "shape"], ["R"]),
    ]
    steps = []
    for k in range(300):
        step = type(model.graph.node[0])()
        step.CopyFrom(model.graph.node[0])
        step.name, step.output[:] = f"step{k}", [f"Y{k}", f"Y_h{k}"]
        step.input[1], step.input[2] = "W", "R"
        steps.append(step)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend([*before, *steps])
    layers = from_onnx(model)
    assert len(layers) == 300
    rounded = {k: v if k == "B" else v.astype("f2").astype("f4") for k, v in arrays.items()}
    expected = from_onnx(model_of("RNN", rounded))["layer"].state_dict()
    for name in ("step0", "step299"):
        torch.testing.assert_close(layers[name].state_dict(), expected, rtol=0, atol=0)


def test_what_is_not_needed_any_more_is_dropped():
    constants = []
    init = onnx_constants.Constants.__init__

    def remembered(self, *args, **kwargs):
        constants.append(self)
        init(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_constants.Constants, "__init__", remembered)
        assert from_onnx(chained(20))
    assert constants[0]._found == {}


def test_weights_of_the_caller_may_be_larger_than_the_file():
    arrays = {
        "W": np.ones((1, 2**12, 2**12), np.float32),
        "R": np.ones((1, 2**12, 2**12), np.float32),
    }
    model = model_of("RNN", {}, ("X", "W", "R"))
    model.graph.node[0].attribute[0].i = 2**12
    layer = from_onnx(model, tensors=arrays)["layer"]
    assert layer.weight_ih_l0.shape == (2**12, 2**12)


def test_nodes_of_another_domain_are_named_with_it():
    model = model_of("LSTM", arrays_of("LSTM"))
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ModelFileError, match=r"it has: LSTM \(of the domain 'com.microsoft'\)"):
        from_onnx(model)
    branch = helper.make_node(
        "If", ["yes"], ["Z"], then_branch=model.graph, else_branch=model.graph
    )
    outer = helper.make_model(helper.make_graph([branch], "g", [], []))
    with pytest.raises(ModelFileError, match=r"it has: If, LSTM \(of the domain"):
        from_onnx(outer)


def test_nodes_inside_a_node_see_the_weights_outside():
    arrays = arrays_of("RNN")
    inner = model_of("RNN", {}, ("X",), name="").graph
    inner.node[0].input[:] = ["X", "W", "R", "B"]
    del inner.input[:]
    branch = helper.make_node("If", ["yes"], ["Z"], name="if", then_branch=inner, else_branch=inner)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("X", "yes")]
    graph = helper.make_graph(
        [branch], "g", inputs, [], [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    )
    model = helper.make_model(graph)
    with pytest.raises(ModelFileError, match="two recurrent nodes with the name 'if/Y'"):
        from_onnx(model)
    branch.attribute[0].g.node[0].name = "inner"
    del model.graph.node[:]
    model.graph.node.append(branch)
    layers = from_onnx(model)
    assert set(layers) == {"if/inner", "if/Y"}
    x = torch.randn(T, B, N)
    plain = from_onnx(model_of("RNN", arrays))["layer"]
    torch.testing.assert_close(layers["if/inner"](x)[0], plain(x)[0], rtol=0, atol=0)


def test_weights_in_a_file_beside_the_model(tmp_path):
    model = model_of("LSTM", arrays_of("LSTM"))
    expected = from_onnx(model)["layer"].state_dict()
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="beside.bin", size_threshold=0
    )
    torch.testing.assert_close(from_onnx(path)["layer"].state_dict(), expected, rtol=0, atol=0)
    without = onnx.load(path, load_external_data=False)
    with pytest.raises(ModelFileError, match="in an external file, which was not read"):
        from_onnx(without)
    for tensor in without.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../beside.bin"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "model.onnx").write_bytes(without.SerializeToString())
    with pytest.raises(ModelFileError, match="cannot be read"):
        from_onnx(tmp_path / "inner" / "model.onnx")


# what is refused -------------------------------------------------------------------------------------

REFUSED = {
    "unknown activation": (dict(activations=["Swish", "Tanh", "Tanh"]), r"'layer' has activations=.*'Swish' is not an"),
    "too few activations": (dict(activations=["Tanh"]), r"activations=\['Tanh'\]: expected 3"),
    "alpha for nobody": (dict(activation_alpha=[0.5]), r"activation_alpha=\[0.5\].* 0 of the activations"),
    "no alpha": (dict(activations=["Affine", "Tanh", "Tanh"]), "Affine needs activation_alpha"),
    "alpha of NaN": (
        dict(activations=["Elu", "Tanh", "Tanh"], activation_alpha=[math.nan]), "finite"),
    "clip": (dict(clip=-1.0), r"'layer' has clip=-1.0"),
    "infinite clip": (dict(clip=math.inf), r"clip=inf"),
    "direction": (dict(direction="sideways"), "direction='sideways': expected one of forward"),
    "layout": (dict(layout=2), "layout=2: expected 0 or 1"),
    "input_forget": (dict(input_forget=3), "input_forget=3"),
    "attribute": (dict(zoneout=0.5), "'zoneout', which LSTM does not have"),
    "attribute of another": (dict(linear_before_reset=1), "'linear_before_reset', which LSTM does not have"),
    "type": (dict(clip=[1.0]), r"clip=\[1.0\], which has the wrong type"),
}  # fmt: skip


@pytest.mark.parametrize(("attributes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(attributes, message):
    with pytest.raises(ModelFileError, match=message):
        from_onnx(model_of("LSTM", arrays_of("LSTM"), **attributes))


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("W", lambda w: w[:, :-1], ShapeError, r"W \('W'\) of the LSTM node 'layer' .*\(1, 15, 2\), .*\(1, 16, 2\)"),
        ("R", lambda w: w[..., :-1], ShapeError, r"R .* has the shape \(1, 16, 3\), expected \(1, 16, 4\)"),
        ("R", lambda w: w[0], ShapeError, "both must have three dimensions"),
        ("B", lambda w: w[:, 1:], ShapeError, r"B .* \(1, 31\), expected \(1, 32\)"),
        ("W", lambda w: np.where(w == w.max(), np.nan, w), DataError, "W .* has 1 NaN and 0 infinite of 32 values"),
        ("B", lambda w: np.where(w > 0, np.inf, w), DataError, r"B .* has 0 NaN and \d+ infinite"),
        ("W", lambda w: w.astype(np.int8), DataError, "W .* is of type int8"),
        ("B", lambda w: w.astype(np.float64), DataError, "different dtypes: torch.float32, torch.float64"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(name, change, error, message):
    arrays = arrays_of("LSTM")
    with pytest.raises(error, match=message):
        from_onnx(model_of("LSTM", arrays | {name: change(arrays[name])}))


def test_weights_that_are_inputs_are_the_callers():
    arrays = arrays_of("LSTM")
    model = model_of("LSTM", {}, ("X", "W", "R", "B"))
    with pytest.raises(ModelFileError, match=r"is not a constant of the file.*tensors=\{'R'"):
        from_onnx(model)
    layer = from_onnx(model, tensors=arrays)["layer"]
    expected = from_onnx(model_of("LSTM", arrays))["layer"]
    torch.testing.assert_close(layer.state_dict(), expected.state_dict(), rtol=0, atol=0)
    with pytest.raises(OptionError, match="no input of the graph 'V'"):
        from_onnx(model, tensors={"V": arrays["W"]})


def test_only_the_wanted_layers():
    good, bad = (model_of("RNN", arrays_of("RNN"), name=name) for name in ("good", "bad"))
    bad.graph.node[0].attribute.append(helper.make_attribute("clip", -1.0))
    bad.graph.node[0].output[:] = ["other", "other_h"]
    good.graph.node.append(bad.graph.node[0])
    with pytest.raises(ModelFileError, match="'bad' has clip"):
        from_onnx(good)
    assert list(from_onnx(good, only=["good"])) == ["good"]
    with pytest.raises(
        OptionError, match=r"no layer 'goods' \(did you mean 'good'\?\); it has: 'good', 'bad'"
    ):
        from_onnx(good, only=["goods"])
    with pytest.raises(OptionError, match="not the text 'good'"):
        from_onnx(good, only="good")


def test_what_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match="is not there; expected an ONNX model"):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        from_onnx(tmp_path)
    path = tmp_path / "text.onnx"
    path.write_text("not a model\n" * 20)
    with pytest.raises(ModelFileError, match="cannot be read as an ONNX model"):
        from_onnx(path)
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(ModelFileError, match="has no LSTM, GRU or RNN node; it has: Relu"):
        from_onnx(helper.make_model(helper.make_graph([node], "g", [], [])))


def test_a_truncated_tensor():
    model = model_of("LSTM", arrays_of("LSTM"))
    tensor = model.graph.initializer[1]
    tensor.raw_data = tensor.raw_data[:-4]
    message = r"'R' is of shape \(1, 16, 4\) and type float32, which is 256 bytes, but has 252"
    with pytest.raises(ModelFileError, match=message):
        from_onnx(model)
    tensor.dims[0] = -1
    with pytest.raises(ModelFileError, match=r"impossible shape \(-1, 16, 4\)"):
        from_onnx(model)


DAMAGED = model_of("LSTM", arrays_of("LSTM", "bidirectional"), direction="bidirectional")
WHOLE = DAMAGED.SerializeToString()
STRUCTURE = [k for k in range(len(WHOLE)) if k < 120 or k > len(WHOLE) - 120]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE)))
def test_a_truncated_file_is_an_error_of_ours_or_a_result(tmp_path_factory, cut):
    outcome(tmp_path_factory, WHOLE[:cut])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STRUCTURE), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_an_error_of_ours_or_a_result(tmp_path_factory, changes):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    outcome(tmp_path_factory, bytes(content))


def outcome(factory, content):
    path = factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        layers = from_onnx(path)
    except GatewiseError:
        return
    assert layers
