"""Layers in torch.jit.trace, in both of ONNX's exporters, in torch.export and AOTInductor: the kinds of
PyTorch's own tests of traced and exported recurrent layers, at other numbers of steps and sequences than
the example's."""

import copy
import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.backends.operations import TORCH
from gatewise.errors import BackendError, ShapeError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch's own words of what it traces and exports, of its own layers too
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:You are using the legacy TorchScript-based:DeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning"),
    pytest.mark.filterwarnings("ignore:Exporting aten..index operator of advanced:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:. The axis name. . will not be used:UserWarning"),
]

I, H = 3, 4  # noqa: E741
SHAPES = ((9, 3), (3, 1), (1, 4))  # T and B, of which the example has none
KINDS = {
    "lstm": (gw.LSTM, nn.LSTM, {}),
    "gru": (gw.GRU, nn.GRU, {}),
    "tanh": (gw.RNN, nn.RNN, {}),
    "relu": (gw.RNN, nn.RNN, {"nonlinearity": "relu"}),
}


class Padded(nn.Module):
    """A layer's output and states, flat, of the padded input and, if there are any, initial states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, *hx):
        y, state = self.layer(x, *([tuple(hx) if len(hx) > 1 else hx[0]] if hx else []))
        return (y, *(state if isinstance(state, tuple) else (state,)))


class Packed(nn.Module):
    """The same of what is packed and padded again around it."""

    def __init__(self, layer, enforce_sorted):
        super().__init__()
        self.layer, self.enforce_sorted = Padded(layer), enforce_sorted

    def forward(self, x, lengths, *hx):
        first = self.layer.layer.batch_first
        packed = pack_padded_sequence(
            x, lengths, batch_first=first, enforce_sorted=self.enforce_sorted
        )
        y, *state = self.layer(packed, *hx)
        return (*pad_packed_sequence(y, batch_first=first), *state)


class WithLengths(nn.Module):
    """A module's output, flat, with ``lengths=``."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths):
        found = self.layer(x, lengths=lengths)
        return found[0] if isinstance(found, tuple) else found


class Output(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *given):
        found = self.layer(*given)
        return found[0] if isinstance(found, tuple) else found


def scripted(module, example):
    """What torch.jit.trace makes, saved and loaded."""
    held = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, example, check_trace=False), held)
    held.seek(0)
    return torch.jit.load(held)


def session(content):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    made = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    names = [each.name for each in made.get_inputs()]

    def run(*given):
        each = zip(names, (t.numpy() for t in given), strict=True)
        found = [torch.from_numpy(y) for y in made.run(None, dict(each))]
        return tuple(found) if len(found) > 1 else found[0]

    return run


def by_older(module, example, axes):
    """ONNX by torch.onnx.export(dynamo=False), in ONNX Runtime."""
    held, names = io.BytesIO(), [f"input{k}" for k in range(len(example))]
    dynamic = dict(zip(names, axes, strict=True))
    torch.onnx.export(
        module,
        example,
        held,
        dynamo=False,
        input_names=names,
        dynamic_axes=dynamic,
        opset_version=17,
    )
    return session(held.getvalue())


def by_newer(module, example, axes):
    """ONNX by torch.onnx.export(dynamo=True), torch's default, in ONNX Runtime."""
    dims = {name: Dim(name) for name in ("T", "B")}
    shapes = tuple({k: dims[name] for k, name in each.items()} for each in axes)
    program = torch.onnx.export(
        module, example, dynamo=True, dynamic_shapes={"given": shapes} if _variadic(module) else shapes,
        verbose=False,
    )  # fmt: skip
    held = io.BytesIO()
    program.save(held)
    return session(held.getvalue())


def _variadic(module):
    return isinstance(module, Output)


def close(found, expected):
    # ONNX has the lengths that torch's padding gives as int32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


# Beside torch's own layers -------------------------------------------------------------------------

MODES = ("plain", "states", "sorted", "sorted, states", "unsorted", "unsorted, states")


def given_to(layer, mode, T, B, seed):
    """Input, lengths if it is packed, and states if it has any."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((B, T, I) if layer.batch_first else (T, B, I), generator=generator)
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    lengths = lengths if "unsorted" in mode else lengths.sort(descending=True).values
    stack = layer.num_layers * (1 + layer.bidirectional)
    states = [torch.randn(stack, B, H, generator=generator) for _ in layer.cell.state]
    packed = [lengths] if "sorted" in mode else []
    return (x, *packed, *(states if "states" in mode else []))


def axes_of(layer, mode):
    """Which dimensions of these are T and B."""
    x = {0: "B", 1: "T"} if layer.batch_first else {0: "T", 1: "B"}
    states = [{1: "B"} for _ in layer.cell.state] if "states" in mode else []
    return [x, *([{0: "B"}] if "sorted" in mode else []), *states]


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "both ways"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_as_torchs_layer(kind, num_layers, bidirectional, batch_first, mode):
    """In TorchScript and in ONNX Runtime, after the example's T and B were others."""
    make, theirs, own = KINDS[kind]
    bias = (num_layers == 2) == (bidirectional == batch_first)  # beside each value of the others
    torch.manual_seed(0)
    options = dict(bias=bias, batch_first=batch_first, bidirectional=bidirectional, **own)
    options |= dict(dropout=0.3) if num_layers > 1 else {}
    layer, like = (
        make(I, H, num_layers, **options).eval(),
        theirs(I, H, num_layers, **options).eval(),
    )
    like.load_state_dict(layer.state_dict())
    wrapped = [
        Packed(each, not mode.startswith("unsorted")) if "sorted" in mode else Padded(each)
        for each in (layer, like)
    ]
    example = given_to(layer, mode, 5, 2, seed=0)
    script = scripted(wrapped[0], example)
    runtime = by_older(wrapped[0], example, axes_of(layer, mode))
    for seed, (T, B) in enumerate(SHAPES, start=1):
        given = given_to(layer, mode, T, B, seed)
        expected = wrapped[1](*given)
        close(script(*given), expected)
        close(runtime(*given), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_one_node_a_layer_in_the_older_exporter(kind):
    """As of torch's own layer: nothing is unrolled."""
    import onnx

    make, _, own = KINDS[kind]
    held = io.BytesIO()
    layer = make(I, H, 2, bidirectional=True, **own).eval()
    torch.onnx.export(layer, torch.randn(5, 2, I), held, dynamo=False)
    ops = [node.op_type for node in onnx.load_from_string(held.getvalue()).graph.node]
    assert ops.count({"lstm": "LSTM", "gru": "GRU"}.get(kind, "RNN")) == 2


def test_a_single_sequence_and_a_projection():
    for layer, like in (
        (gw.LSTM(I, H, 2, bidirectional=True), nn.LSTM(I, H, 2, bidirectional=True)),
        (gw.GRU(I, H, batch_first=True), nn.GRU(I, H, batch_first=True)),
        (gw.LSTM(I, H, proj_size=2), nn.LSTM(I, H, proj_size=2)),
    ):
        like.load_state_dict(layer.state_dict())
        script, x = scripted(layer, (torch.randn(5, I),)), torch.randn(9, I)
        close(script(x), like(x))


def test_dropout_that_is_recorded_is_drawn_at_each_call():
    layer, like = gw.LSTM(I, H, 2, dropout=0.5), nn.LSTM(I, H, 2, dropout=0.5)
    like.load_state_dict(layer.state_dict())
    x, drawn = torch.randn(9, 3, I), []
    for each in (layer, like):
        script = scripted(each, (torch.randn(5, 2, I),))
        torch.manual_seed(3)
        drawn.append(script(x)[0])
    close(drawn[0], drawn[1])
    assert not torch.equal(script(x)[0], script(x)[0])


def test_autocast_that_is_recorded():
    class Cast(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths):
            with torch.autocast("cpu"):
                packed = pack_padded_sequence(x, lengths)
                return self.layer(x)[0], self.layer(packed)[0].data

    layer, like = gw.LSTM(I, H).eval(), nn.LSTM(I, H).eval()
    like.load_state_dict(layer.state_dict())
    script = scripted(Cast(layer), (torch.randn(5, 2, I), torch.tensor([5, 2])))
    x, lengths = torch.randn(9, 3, I), torch.tensor([9, 4, 1])
    found, expected = script(x, lengths), Cast(layer)(x, lengths)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.01)
    torch.testing.assert_close(found[0], Cast(like)(x, lengths)[0], rtol=0.02, atol=0.01)


# What is more than torch's layers --------------------------------------------------------------------

MORE = {
    "highway": lambda: gw.LSTM(4, 4, 2, connect="highway", learn_initial=True),
    "residual": lambda: gw.GRU(4, 4, 2, connect="residual", batch_first=True),
    "stack": lambda: gw.Stack(gw.LSTM(4, 4), gw.GRU(4, 4), highway=True),
    "stack, residual": lambda: gw.Stack(
        gw.LSTM(4, 4), gw.RNN(4, 4, batch_first=False), residual=True
    ),
    "reversed": lambda: gw.Reversed(gw.GRU(4, 4, batch_first=True)),
    "as read": lambda: gw.Reversed(gw.LSTM(4, 4), as_read=True),
    "bidirectional": lambda: gw.Bidirectional(gw.LSTM(4, 4), gw.LSTM(4, 4), merge="sum"),
    "unlike ways": lambda: gw.Bidirectional(gw.Stack(gw.LSTM(4, 4)), gw.Stack(gw.GRU(4, 4))),
    "hybrid": lambda: gw.HybridBlock(4, 2, causal=True, batch_first=True),
    "attention first": lambda: gw.HybridBlock(4, 2, recurrent="gru", order="attention-first"),
    "attention": lambda: gw.SelfAttention(4, 2, causal=True),
    "pooling": lambda: gw.AttentionPooling(4, batch_first=True),
    "a cell by name": lambda: gw.Recurrent("lstm", 4, 4, bidirectional=True),
    "converted": lambda: gw.convert(nn.LSTM(4, 4, 2, batch_first=True)),
}


def more(name, T, B, lengths, seed, make=MORE):
    """A module of these, and what it is given: an input, and lengths from 0 on if they are asked for."""
    torch.manual_seed(1)
    layer = make[name]().eval()
    generator = torch.Generator().manual_seed(seed)
    first = getattr(layer, "batch_first", False)
    dtype = next(layer.parameters()).dtype
    x = torch.randn((B, T, 4) if first else (T, B, 4), generator=generator, dtype=dtype)
    axes = [{0: "B", 1: "T"} if first else {0: "T", 1: "B"}]
    if not lengths:
        return Output(layer).eval(), (x,), axes
    given = torch.randint(0, T + 1, (B,), generator=generator)
    return WithLengths(layer).eval(), (x, given), [*axes, {0: "B"}]


def compare_at_other_shapes(export, name, lengths, make=MORE):
    run = export(*more(name, 5, 2, lengths, seed=0, make=make))
    for seed, (T, B) in enumerate(SHAPES, start=1):
        module, given, _ = more(name, T, B, lengths, seed, make)
        close(run(*given), module(*given))


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("name", MORE)
def test_whatever_rests_on_these(name, lengths):
    compare_at_other_shapes(lambda module, example, _: scripted(module, example), name, lengths)
    compare_at_other_shapes(by_older, name, lengths)


NEWER = MORE | {
    "lstm": lambda: gw.LSTM(4, 4, 2, bidirectional=True, bias=False),
    "gru": lambda: gw.GRU(4, 4, batch_first=True),
    "tanh": lambda: gw.RNN(4, 4),
    "relu": lambda: gw.RNN(4, 4, nonlinearity="relu", bidirectional=True),
    "gru_2014": lambda: gw.Recurrent("gru_2014", 4, 4),
    "peephole": lambda: gw.Recurrent("peephole", 4, 4, bidirectional=True),
}
BY_NEWER = [("lstm", True), ("peephole", False)]
BY_NEWER += [
    pytest.param(name, lengths, marks=pytest.mark.slow)
    for name, lengths in (
        *(("gru", False), ("relu", True), ("gru_2014", True), ("highway", False)),
        *(("stack", True), ("unlike ways", True), ("hybrid", True), ("attention", True)),
    )
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "lengths"), BY_NEWER)
def test_by_the_newer_exporter(name, lengths):
    compare_at_other_shapes(by_newer, name, lengths, NEWER)


@pytest.mark.slow
def test_states_by_the_newer_exporter():
    layer = gw.LSTM(I, H, batch_first=True).eval()
    shapes = ({0: Dim("B"), 1: Dim("T")}, ({1: Dim("B")}, {1: Dim("B")}))
    example, _, _ = given_to(layer, "states", 5, 2, 0), 0, 0
    program = torch.onnx.export(
        layer, (example[0], example[1:]), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    held = io.BytesIO()
    program.save(held)
    run = session(held.getvalue())
    for seed, (T, B) in enumerate(SHAPES, start=1):
        x, *hx = given_to(layer, "states", T, B, seed)
        y, state = layer(x, tuple(hx))
        close(run(x, *hx), (y, *state))


# One step ----------------------------------------------------------------------------------------------


@gw.cell(gates="z")
def softplus(a, s):
    return dict(h=gw.softplus(40 * a.z) - s.h)


STEPS = {
    "lstm": lambda: gw.LSTMCell(I, H),
    "gru": lambda: gw.GRUCell(I, H, bias=False),
    "rnn": lambda: gw.RNNCell(I, H, nonlinearity="relu"),
    "reference": lambda: gw.LSTMCell(I, H, backend="reference"),
    "normalised": lambda: gw.LSTMCell(I, H, layer_norm=True),
    **{name: lambda name=name: gw.RecurrentCell(name, I, H) for name in ("peephole", "gru_2014")},
    **{name: lambda name=name: gw.RecurrentCell(name, I, H) for name in ("mingru", "lem", "mgu")},
    **{name: lambda name=name: gw.RecurrentCell(name, I, H) for name in ("slstm", "minlstm")},
    "softplus": lambda: gw.RecurrentCell(softplus, I, H),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_for_any_batch(name):
    """Traced, and in ONNX: of any cell."""
    torch.manual_seed(0)
    cell = STEPS[name]().eval()
    script = scripted(cell, (torch.randn(7, I),))
    runtime = by_older(Padless(cell), (torch.randn(7, I),), [{0: "B"}])
    for B in (1, 2, 9):
        x = torch.randn(B, I)
        close(script(x), cell(x))
        close(runtime(x), Padless(cell)(x))


class Padless(nn.Module):
    """A cell's first state, which with others in it is carried over one step more."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = self.cell(x, self.cell(x))
        return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("name", [name for name in STEPS if name != "reference"])
def test_an_exported_step_for_any_batch(name, strict):
    cell = STEPS[name]()
    program = torch.export.export(
        cell, (torch.randn(2, I),), dynamic_shapes=({0: Dim("B")},), strict=strict
    )
    for B in (1, 5):
        x = torch.randn(B, I)
        close(program.module()(x), cell(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["lstm", "peephole", "normalised"])
def test_a_step_by_the_newer_exporter(name):
    cell = Padless(STEPS[name]()).eval()
    run = by_newer(Output(cell).eval(), (torch.randn(2, I),), [{0: "B"}])
    for B in (1, 5):
        x = torch.randn(B, I)
        close(run(x), cell(x))


@pytest.mark.parametrize("opset", [17, 18])
def test_what_is_recorded_for_softplus_is_exact(opset):
    """Far from 0 too, and in what is trained after it was traced."""

    class Softplus(nn.Module):
        def forward(self, x):
            return TORCH["softplus"](x)

    x = torch.tensor([-200.0, -50.0, -3.0, 0.0, 1e-3, 30.0, 200.0], requires_grad=True)
    script = torch.jit.trace(Softplus(), (torch.randn(7),))
    close(script(x), torch.logaddexp(x, torch.zeros(7)))
    (found,) = torch.autograd.grad(script(x).sum(), x)
    close(found, torch.sigmoid(x.detach()))
    held = io.BytesIO()
    torch.onnx.export(Softplus(), (torch.randn(7),), held, dynamo=False, opset_version=opset)
    close(session(held.getvalue())(x.detach()), Softplus()(x.detach()))


LOOPING = {
    "normalised": lambda: gw.Recurrent("gru_2014", 4, 4, layer_norm=True),
    "reference": lambda: gw.LSTM(4, 4, 2, bidirectional=True, backend="reference"),
    "aten": lambda: gw.GRU(4, 4, backend="aten"),
    "aten's LSTM": lambda: gw.LSTM(4, 4, bidirectional=True, backend="aten"),
    "scan": lambda: gw.Recurrent("minlstm", 4, 4, backend="scan"),
    "mlstm": lambda: gw.MLSTM(4, 4),
}


@pytest.mark.parametrize("name", LOOPING)
def test_a_strict_export_of_what_loops_for_any_batch(name):
    module = WithLengths(LOOPING[name]().eval())
    axes = {1: Dim("B")}, {0: Dim("B")}
    example = torch.randn(2, 2, 4), torch.tensor([2, 1])  # each step is in the graph by itself
    program = torch.export.export(module, example, dynamic_shapes=axes, strict=True)
    given = torch.randn(2, 3, 4), torch.tensor([0, 2, 1])
    close(program.module()(*given), module(*given))


# Refused ------------------------------------------------------------------------------------------------


class Asking(nn.Module):
    def __init__(self, layer, **asked):
        super().__init__()
        self.layer, self.asked = layer, asked

    def forward(self, x):
        asked = {name: of(x) if callable(of) else of for name, of in self.asked.items()}
        return self.layer(x, **asked)[0]


REFUSED = {
    "another cell": (lambda: gw.Recurrent("mingru", I, H), {}, "mingru"),
    "normalised": (lambda: gw.LSTM(I, H, layer_norm=True), {}, "no layer normalisation"),
    "zoneout": (lambda: gw.GRU(I, H, zoneout=0.1), {}, "no zoneout"),
    "blocks": (
        lambda: gw.LSTM(I, H, layer_norm=True, recurrent_blocks=2),
        {},
        "layer normalisation",
    ),
    "reference": (lambda: gw.LSTM(I, H, backend="reference"), {}, "loops over the steps"),
    "cpu": (lambda: gw.LSTM(I, H, backend="cpu"), {}, "no operator"),
    "reset": (lambda: gw.LSTM(I, H), {"reset": lambda x: x[..., 0] > 0}, "cannot reset"),
    "trace": (lambda: gw.LSTM(I, H), {"trace": True}, "does not return its gates"),
    "mlstm": (lambda: gw.MLSTM(I, H), {}, "cannot record an MLSTM"),
    "in a stack": (lambda: gw.Stack(gw.LSTM(I, H), gw.MLSTM(H, H)), {}, "cannot record an MLSTM"),
    "images": (lambda: gw.ConvLSTM(I, H, 3), {}, "cannot record a ConvLSTM"),
    "scanned": (lambda: gw.Recurrent("minlstm", I, H, backend="scan"), {}, "loops over the steps"),
}


@pytest.mark.parametrize(("make", "asked", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_fixed_at_the_examples_steps_is_refused(make, asked, message):
    module = Asking(make(), **asked)
    x = torch.randn(5, 2, I, *([6, 6] if "Conv" in repr(module) else []))
    with pytest.raises(BackendError, match=message):
        torch.jit.trace(module, (x,))
    with pytest.raises(BackendError, match=message):
        torch.onnx.export(module, (x,), io.BytesIO(), dynamo=False)
    module(x)  # and nothing is left behind of it


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_newer_exporter_refuses():
    for make in (lambda: gw.LSTM(I, H, zoneout=0.1), lambda: gw.MLSTM(I, H)):
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match="cannot record") as caught:
            torch.onnx.export(make().eval(), (torch.randn(5, 2, I),), dynamo=True, verbose=False)
        assert isinstance(caught.value.__cause__, BackendError)


def test_what_is_drawn_for_a_sequence_is_refused_in_training_alone():
    layer, x = gw.LSTM(I, H, recurrent_dropout=0.2), torch.randn(9, 3, I)
    with pytest.raises(BackendError, match="no recurrent dropout"):
        torch.jit.trace(layer, (torch.randn(5, 2, I),))
    close(scripted(layer.eval(), (torch.randn(5, 2, I),))(x), layer(x))


def test_lengths_that_would_be_fixed_are_refused():
    for lengths in ([5, 2], (5, 2), np.array([5, 2])):
        with pytest.raises(ShapeError, match="give a tensor that is an input"):
            torch.jit.trace(Asking(gw.LSTM(I, H), lengths=lengths), (torch.randn(5, 2, I),))
        with pytest.raises(ShapeError, match="give a tensor that is an input"):
            torch.jit.trace(
                Asking(gw.SelfAttention(4, 2), lengths=lengths), (torch.randn(5, 2, 4),)
            )


def test_lengths_of_another_batch_are_no_ones():
    script = scripted(WithLengths(gw.LSTM(I, H)), (torch.randn(5, 1, I), torch.tensor([4])))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        script(torch.randn(5, 3, I), torch.tensor([4]))


@pytest.mark.parametrize("connect", ["plain", "residual"])
def test_a_projection_that_onnx_cannot_have(connect):
    layer, x = gw.LSTM(3, 4, 2, proj_size=2, connect=connect).eval(), torch.randn(5, 2, 3)
    longer = torch.randn(9, 3, 3)
    close(scripted(layer, (x,))(longer)[0], layer(longer)[0])
    with pytest.raises(BackendError, match=r"torch\.jit\.trace alone takes proj_size"):
        torch.onnx.export(layer, (x,), io.BytesIO(), dynamo=False)


def test_a_packed_sequence_that_onnx_cannot_have():
    layer, given = (
        gw.LSTM(4, 4, 2, connect="highway").eval(),
        (torch.randn(5, 2, 4), torch.tensor([5, 2])),
    )
    module = Packed(layer, True)
    x, lengths = torch.randn(9, 3, 4), torch.tensor([9, 5, 3])
    close(scripted(module, given)(x, lengths), module(x, lengths))
    with pytest.raises(BackendError, match="give the padded tensor and lengths="):
        torch.onnx.export(module, given, io.BytesIO(), dynamo=False)


def test_a_stream_is_no_part_of_a_record():
    class Streaming(nn.Module):
        def forward(self, x):
            return torch.from_numpy(gw.LSTM(I, H).stream().step(x.numpy()))

    class Stepping(nn.Module):
        def forward(self, x):
            return torch.from_numpy(stream.step(x))

    stream = gw.LSTM(I, H).stream()
    for module in (Streaming(), Stepping()):
        with pytest.raises(BackendError, match="cannot record a stream"):
            torch.jit.trace(module, (torch.randn(I),))
        with pytest.raises(BackendError, match="cannot record a stream"):
            torch.onnx.export(module, (torch.randn(I),), io.BytesIO(), dynamo=False)
    assert stream.step(torch.randn(I)).shape == (H,)


# AOTInductor --------------------------------------------------------------------------------------------

PACKAGED = {
    "lstm": lambda: gw.LSTM(4, 4),
    "gru": lambda: gw.GRU(4, 4, 2, bidirectional=True, bias=False),
    "more": lambda: gw.Stack(gw.LSTM(4, 4, zoneout=0.1, proj_size=2), gw.Recurrent("mingru", 2, 4)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PACKAGED)
def test_a_package_of_aotinductor(name, tmp_path):
    module, example, axes = more(name, 5, 2, name == "gru", seed=0, make=PACKAGED)
    dims = {each: Dim(each) for each in ("T", "B")}
    shapes = tuple({k: dims[of] for k, of in each.items()} for each in axes)
    named = {"given": shapes} if _variadic(module) else shapes
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=named)
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "a.pt2")
        )
        run = torch._inductor.aoti_load_package(path)
        for seed, (T, B) in enumerate(SHAPES, start=1):
            module, given, _ = more(name, T, B, name == "gru", seed, PACKAGED)
            close(run(*given), module(*given))


@pytest.mark.parametrize("operator", ["run", "run_saving", "run_traced"])
def test_none_is_an_empty_list_to_the_operators(operator):
    """As AOTInductor's packages call them."""
    from gatewise.backends import operators

    layer = gw.LSTM(I, H)
    weights = [*(p.detach() for p in layer.parameters()), None, None, None]
    x, state = torch.randn(5, 2, I), [torch.zeros(2, H)] * 2
    kernel = getattr(operators, f"_{operator}")
    given = (x, state, weights, None, None, None)
    found, expected = (kernel(*given, zoneout, "lstm", 0, False) for zoneout in (None, []))
    # less the tape, which has room between what is written on it
    torch.testing.assert_close(list(found[:3]), list(expected[:3]), rtol=0, atol=0)
    close(found[0], copy.deepcopy(layer)(x)[0].detach())


# Lengths under torch.compile ----------------------------------------------------------------------------


class Counting:
    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = gw.GRU(I, H, bidirectional=True)
        self.rest = gw.Stack(gw.LSTM(2 * H, H), gw.MLSTM(H, H))

    def forward(self, batch):
        y, _ = self.first(batch["x"], lengths=batch["lengths"])
        return self.rest(y, lengths=batch["lengths"])[0]


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize(
    "container",
    [
        *(list, tuple, np.array, torch.tensor, lambda n: [np.int64(each) for each in n]),
        *(lambda n: [torch.tensor(each) for each in n], lambda n: tuple(map(torch.tensor, n))),
    ],
    ids=[
        "list",
        "tuple",
        "array",
        "tensor",
        "list of NumPy's",
        "list of tensors",
        "tuple of tensors",
    ],
)
def test_lengths_of_any_kind_are_compiled_once(container):
    model, counting = Model(), Counting()
    run = torch.compile(model, backend=counting, fullgraph=True)
    for k in range(12):
        lengths = [6, 1 + k % 5, k % 3, 4 - k % 4]
        batch = dict(x=torch.randn(6, 4, I), lengths=container(lengths))
        expected = model(dict(x=batch["x"], lengths=torch.tensor(lengths)))
        close(run(batch), expected)
    assert counting.graphs == 1


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("lacks", ["resolve_source_value", "is_modified", "example_strong_ref"])
def test_a_torch_that_lacks_what_makes_a_list_an_input_has_its_numbers_as_constants(
    lacks, monkeypatch
):
    from torch._dynamo.output_graph import OutputGraph
    from torch._dynamo.side_effects import SideEffects

    from gatewise.backends import torch_private
    from gatewise.nn import lists

    monkeypatch.setattr(lists, "_PREPARED", [])
    if lacks == "example_strong_ref":
        more = torch_private._GRAPH_ARG | {"of another torch"}
        monkeypatch.setattr(torch_private, "_GRAPH_ARG", more)
    else:
        of = OutputGraph if lacks == "resolve_source_value" else SideEffects
        monkeypatch.delattr(of, lacks)
    assert torch_private.compiler_parts() is None
    monkeypatch.undo()  # torch itself uses them too
    monkeypatch.setattr(lists, "_PREPARED", [])
    monkeypatch.setattr(lists, "compiler_parts", lambda: None)
    layer, counting = gw.LSTM(I, H), Counting()
    run = torch.compile(layer, backend=counting, fullgraph=True)
    for lengths in ([6, 2], [6, 2], [3, 5]):
        x = torch.randn(6, 2, I)
        close(run(x, lengths=lengths), layer(x, lengths=lengths))
    assert counting.graphs == 2
    assert lists._PREPARED == [False]


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_list_for_each_batch_size_and_as_it_is_when_it_is_used():
    layer, counting = gw.LSTM(I, H), Counting()

    def padded(x, lengths):
        lengths.append(2)
        return layer(x, lengths=lengths)[0]

    run = torch.compile(padded, backend=counting, fullgraph=True)
    for B in (2, 3, 5, 2, 3):
        x, lengths = torch.randn(6, B, I), [1 + b for b in range(B - 1)]
        close(run(x, list(lengths)), layer(x, lengths=[*lengths, 2])[0])
    plain, counting = torch.compile(layer, backend=counting, fullgraph=True), counting
    counting.graphs = 0
    for B in (2, 3, 5, 4, 2, 3, 5):
        x, lengths = torch.randn(6, B, I), [1 + b for b in range(B)]
        close(plain(x, lengths=lengths), layer(x, lengths=lengths))
    assert counting.graphs <= 4
    with pytest.raises(ShapeError, match="length 9 of sequence 1"):
        plain(torch.randn(6, 2, I), lengths=[1, 9])


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_packed_sequence_breaks_the_graph_and_is_right():
    """As docs/torch.md says."""
    layer = gw.LSTM(I, H)
    run = torch.compile(layer, backend="eager")
    for lengths in ([5, 2], [4, 4]):
        packed = pack_padded_sequence(torch.randn(5, 2, I), torch.tensor(lengths))
        close(run(packed)[0].data, layer(packed)[0].data)
