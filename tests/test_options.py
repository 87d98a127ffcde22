"""What a layer adds to torch's: dropped weights, connections between layers, learned initial states."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import gatewise as gw
from gatewise.errors import OptionError, ShapeError

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = ("cpu", "aten", "reference")
DOUBLE = dict(dtype=torch.float64)


def parts(layer, kind=nn.LSTM):
    """Torch's layers, one for each of ours, with its weights."""
    made = []
    for k in range(layer.num_layers):
        options = dict(bidirectional=layer.bidirectional, dtype=torch.float64)
        if layer.proj_size:
            options["proj_size"] = layer.proj_size
        each = kind(layer.config.layer_input_size(k), layer.hidden_size, **options)
        own = {
            name: layer.get_parameter(name.replace("_l0", f"_l{k}"))
            for name, _ in each.named_parameters()
        }
        each.load_state_dict(own, strict=True)
        made.append(each)
    return made


# Dropped weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropped_weights_are_torchs_layer_with_these_weights(backend):
    """Outputs and gradients; the draws are torch's dropout of each recurrent weight, in order."""
    layer = gw.LSTM(3, 6, 2, bidirectional=True, weight_drop=0.4, backend=backend, **DOUBLE)
    theirs = nn.LSTM(3, 6, 2, bidirectional=True, **DOUBLE)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    output, state = layer(x)
    torch.manual_seed(1)
    weights = dict(theirs.named_parameters())
    dropped = {n: F.dropout(w, 0.4) if "weight_hh" in n else w for n, w in weights.items()}
    expected, true_state = torch.func.functional_call(theirs, dropped, x)
    torch.testing.assert_close((output, state), (expected, true_state), rtol=1e-10, atol=1e-10)
    output.sin().sum().backward()
    expected.sin().sum().backward()
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(weight.grad, weights[name].grad, rtol=1e-10, atol=1e-10)


def identity(p, **options):
    """A layer that only adds up what its recurrent weights let through."""
    layer = gw.RNN(1, 40, nonlinearity="relu", bias=False, weight_drop=p, **options)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.eye(40))
        layer.weight_ih_l0.zero_()
    return layer


def test_weight_drop_is_one_draw_a_call():
    torch.manual_seed(0)
    layer, ones = identity(0.3), torch.ones(1, 8, 40)
    output, _ = layer(torch.zeros(3, 8, 1), ones)
    first = output[0, 0]
    for t in range(3):
        torch.testing.assert_close(output[t], (first ** (t + 1)).expand(8, -1))
    kept = first != 0
    torch.testing.assert_close(first[kept], torch.full_like(first[kept], 1 / 0.7))
    counted = torch.stack([layer(torch.zeros(1, 1, 1), ones[:, :1])[0][0, 0] for _ in range(100)])
    assert abs((counted != 0).double().mean() - 0.7) < 0.03  # five standard deviations
    assert len(counted.unique(dim=0)) > 90
    assert (layer.eval()(torch.zeros(3, 8, 1), ones)[0] == 1).all()
    assert not identity(1.0)(torch.zeros(3, 8, 1), ones)[0].any()


def test_weight_drop_leaves_what_is_shared_shared():
    """A block's cells have one row of a shared gate, dropped once for all of them."""
    layer = gw.Recurrent("lstm_1997", 3, 8, block_size=4, weight_drop=0.5, **DOUBLE)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    trace = layer(x, trace=True)[2]
    for gate in (trace.i[0][0], trace.o[0][0]):
        blocks = gate.unflatten(-1, (2, 4))
        assert (blocks == blocks[..., :1]).all()
        assert (blocks[..., 0, 0] != blocks[..., 1, 0]).all()
    assert trace.g[0][0].unique().numel() == 6 * 2 * 8


def test_weight_drop_without_a_gradient_and_in_a_stream():
    layer = gw.LSTM(3, 6, weight_drop=0.5)
    x = torch.randn(4, 1, 3)
    with torch.no_grad():
        assert not torch.equal(layer(x)[0], layer(x)[0])
    before = torch.get_rng_state()
    layer.explain_backend(x)
    stream = layer.stream()
    found = np.stack([stream.step(row.numpy()) for row in x])
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_allclose(found, layer.eval()(x)[0].detach(), rtol=0, atol=1e-6)


# Dropout between layers ---------------------------------------------------------------------------


def through(**options):
    """Two layers of which the upper hands on what it reads."""
    layer = gw.RNN(40, 40, 2, nonlinearity="relu", bias=False, **options)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.copy_(torch.eye(40) if "ih" in name else torch.zeros(40, 40))
    return layer


def test_locked_dropout_is_one_draw_for_a_sequence():
    torch.manual_seed(0)
    ones = torch.ones(7, 30, 40)
    locked = through(dropout=0.3, locked_dropout=True)(ones)[0]
    assert (locked == locked[0]).all()
    values = locked.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7]))
    assert abs((locked[0] != 0).double().mean() - 0.7) < 0.07
    assert not (locked[0] == locked[0, 0]).all()
    free = through(dropout=0.3)(ones)[0]
    assert not (free == free[0]).all()
    assert (through(dropout=0.3, locked_dropout=True).eval()(ones)[0] == 1).all()
    assert not through(dropout=1.0, locked_dropout=True)(ones)[0].any()


# Connections --------------------------------------------------------------------------------------


def joined(layer, x, mixed):
    """The layers one after another by torch's own; ``mixed`` joins an output with an input."""
    finals = []
    for k, each in enumerate(parts(layer)):
        y, state = each(x)
        x = mixed(k, y, x) if k else y
        finals.append(state)
    return x, [torch.cat(each) for each in zip(*finals, strict=True)]


def highway(layer):
    def mixed(k, y, x):
        w, b = (
            layer.get_parameter(f"highway_weight_l{k}"),
            layer.get_parameter(f"highway_bias_l{k}"),
        )
        t = 1 / (1 + torch.exp(-(x @ w.T + b)))
        return y * t + x * (1 - t)

    return mixed


SHAPES = {
    "one way": dict(num_layers=3),
    "both ways": dict(num_layers=3, bidirectional=True),
    "projected": dict(num_layers=2, proj_size=4, bidirectional=True),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("steps", "batch"), [(5, 3), (1, 1), (0, 2)])
@pytest.mark.parametrize("connect", ["residual", "highway"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_connected_layers(shape, connect, steps, batch, backend):
    torch.manual_seed(0)
    layer = gw.LSTM(5, 6, connect=connect, backend=backend, **shape, **DOUBLE)
    mixed = highway(layer) if connect == "highway" else lambda k, y, x: y + x
    x = torch.randn(batch, steps, 5, dtype=torch.float64).transpose(0, 1).requires_grad_()
    output, state = layer(x)
    if steps:
        expected, true_state = joined(layer, x, mixed)
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(list(state), true_state, rtol=1e-10, atol=1e-10)
        own = [p for name, p in layer.named_parameters() if "highway" in name]
        grads = torch.autograd.grad(output.sin().sum(), [x, *own])
        true = torch.autograd.grad(expected.sin().sum(), [x, *own])
        torch.testing.assert_close(grads, true, rtol=1e-10, atol=1e-10)
        assert all(g.any() for g in grads)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], output, rtol=1e-10, atol=1e-10)


def test_every_weight_under_a_highway_gets_its_gradient():
    torch.manual_seed(0)
    layer = gw.Recurrent("gru", 2, 3, 2, connect="highway", **DOUBLE)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), x)[0]

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_a_highways_parameters():
    torch.manual_seed(5)
    layer = gw.LSTM(3, 6, 3, bidirectional=True, proj_size=4, bias=False, connect="highway")
    extra = {n: tuple(p.shape) for n, p in layer.named_parameters() if "highway" in n}
    assert extra == {
        "highway_weight_l1": (8, 8), "highway_bias_l1": (8,),
        "highway_weight_l2": (8, 8), "highway_bias_l2": (8,),
    }  # fmt: skip
    assert (layer.highway_bias_l2 == -1).all()
    assert 0 < layer.highway_weight_l1.abs().max() <= 6**-0.5
    torch.manual_seed(5)
    plain = gw.LSTM(3, 6, 3, bidirectional=True, proj_size=4, bias=False).state_dict()
    ours = {n: p for n, p in layer.state_dict().items() if n in plain}
    torch.testing.assert_close(ours, dict(plain), rtol=0, atol=0)


@pytest.mark.parametrize("connect", ["residual", "highway"])
def test_what_is_carried_is_not_dropped(connect):
    torch.manual_seed(0)
    layer = gw.LSTM(3, 6, 2, dropout=1.0, connect=connect, **DOUBLE)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    below, above = parts(layer)
    carried, _ = below(x)
    y, _ = above(torch.zeros_like(carried))
    mixed = highway(layer)(1, y, carried) if connect == "highway" else y + carried
    torch.testing.assert_close(layer(x)[0], mixed, rtol=1e-10, atol=1e-10)


# Learned initial states ---------------------------------------------------------------------------


def with_start(options, **more):
    torch.manual_seed(0)
    layer = gw.LSTM(3, 6, learn_initial=True, **options, **DOUBLE, **more)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("initial"):
                assert not p.any()
                p.normal_()
    return layer


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("shape", [dict(), *SHAPES.values()], ids=["one layer", *SHAPES])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_learned_initial_states_are_torchs_given_ones(shape, batch, backend):
    """Outputs; and a vector's gradient is the sum of those of all sequences that started from it."""
    layer = with_start(shape, backend=backend)
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    suffixes = [f"_l{k}{way}" for k in range(layer.num_layers) for way in ways]
    assert [n for n, _ in layer.named_parameters() if "initial" in n] == [
        f"initial_{state}{suffix}" for suffix in suffixes for state in "hc"
    ]
    theirs = nn.LSTM(3, 6, **shape, **DOUBLE)
    rest = {n: p for n, p in layer.state_dict().items() if "initial" not in n}
    theirs.load_state_dict(rest, strict=True)
    one = [torch.stack([layer.get_parameter(f"initial_{s}{k}") for k in suffixes]) for s in "hc"]
    x = torch.randn(*((5, batch) if batch else (5,)), 3, dtype=torch.float64)
    leaves = [s.detach().requires_grad_() for s in one]
    start = [s[:, None].repeat(1, batch, 1) if batch else s for s in leaves]
    results = layer(x), theirs(x, tuple(start))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    for output, state in results:
        (output.sin().sum() + state[1].cos().sum()).backward()
    for name, leaf in zip("hc", leaves, strict=True):
        found = torch.stack([layer.get_parameter(f"initial_{name}{k}").grad for k in suffixes])
        torch.testing.assert_close(found, leaf.grad, rtol=1e-10, atol=1e-10)
        assert leaf.grad.any()
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], results[0][0], rtol=1e-10, atol=1e-10)


def test_given_states_take_the_place_of_learned_ones():
    layer = with_start(dict(num_layers=2))
    theirs = nn.LSTM(3, 6, 2, **DOUBLE)
    theirs.load_state_dict({n: p for n, p in layer.state_dict().items() if "initial" not in n})
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    zero = torch.zeros(2, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x, (zero, zero)), theirs(x), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(layer(x)[0], theirs(x)[0])
    first, state = layer(x[:2])
    chunks = torch.cat([first, layer(x[2:], state)[0]])
    torch.testing.assert_close(chunks, layer(x)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_reset_goes_to_zero_states(backend):
    layer = with_start(dict(bidirectional=True), backend=backend)
    x = torch.randn(6, 1, 3, dtype=torch.float64)
    reset = torch.tensor([[0], [0], [1], [0], [1], [0]]).bool()
    output, _ = layer(x, reset=reset)
    learned = layer._initial_states(None, x, True)
    for begin, end in ((0, 2), (2, 4), (4, 6)):
        start = tuple(torch.zeros_like(s) for s in learned)
        for mine, its in zip(start, learned, strict=True):
            mine[0] += its[0] * (begin == 0)
            mine[1] += its[1] * (end == 6)
        torch.testing.assert_close(output[begin:end], layer(x[begin:end], start)[0])
    lengths = [0]
    empty, final = layer(x, lengths=lengths)
    assert not empty.any()
    torch.testing.assert_close(final, learned)


def test_a_stream_starts_from_learned_states():
    layer = with_start(dict(num_layers=2, proj_size=4)).eval()
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    stream = layer.stream(3)
    found = np.stack([stream.step(row.numpy()) for row in x])
    np.testing.assert_allclose(found, layer(x)[0].detach(), rtol=0, atol=1e-12)
    stream.reset()
    zero = tuple(torch.zeros(2, 3, n, dtype=torch.float64) for n in (4, 6))
    np.testing.assert_allclose(stream.step(x[0].numpy()), layer(x[:1], zero)[0][0].detach())


# All of them --------------------------------------------------------------------------------------

ALL = dict(
    num_layers=3,
    bidirectional=True,
    connect="highway",
    learn_initial=True,
    layer_norm=True,
    zoneout=0.2,
    recurrent_blocks=2,
    dropout=0.3,
    locked_dropout=True,
    weight_drop=0.3,
    recurrent_dropout=0.1,
)


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_2014", "lstm_1997_truncated", "fgr"])
def test_each_sequence_alone_with_every_option(cell):
    """In evaluation: alone, in a batch, packed and without a gradient, the same."""
    block = dict(block_size=3) if gw.CELLS[cell].shared_gates else {}
    torch.manual_seed(0)
    layer = gw.Recurrent(cell, 3, 6, batch_first=True, **ALL, **block).eval()
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("initial"):
                p.normal_()
    x, lengths = torch.randn(4, 7, 3), (7, 0, 1, 4)
    spoilt = x.clone()
    for b, n in enumerate(lengths):
        spoilt[b, n:] = torch.nan
    output, state = layer(spoilt, lengths=lengths)
    with torch.no_grad():
        torch.testing.assert_close(layer(spoilt, lengths=lengths)[0], output, rtol=1e-6, atol=1e-6)
    for b, n in enumerate(lengths):
        alone, end = layer(x[b, :n])
        torch.testing.assert_close(output[b, :n], alone, rtol=1e-6, atol=1e-6)
        assert not output[b, n:].any()
        pairs = zip(state, end, strict=True) if isinstance(end, tuple) else [(state, end)]
        for mine, its in pairs:
            torch.testing.assert_close(mine[:, b], its, rtol=1e-6, atol=1e-6)
    packed = layer(pack_sequence([x[0], x[3, :4]]))[0].data
    steps = [row for t in range(7) for b in (0, 3) if t < lengths[b] for row in [output[b, t]]]
    torch.testing.assert_close(packed, torch.stack(steps), rtol=1e-6, atol=1e-6)


EACH = {
    "none": {},
    "stacked dropout": dict(num_layers=2, dropout=0.4),
    "locked dropout": dict(num_layers=2, dropout=0.4, locked_dropout=True),
    "weight drop": dict(weight_drop=0.4),
    "recurrent dropout": dict(recurrent_dropout=0.4),
    "zoneout": dict(zoneout=(0.3, 0.1)),
    "normalised": dict(layer_norm=True),
    "projected": dict(proj_size=2),
    "residual": dict(num_layers=2, connect="residual"),
    "highway": dict(num_layers=2, connect="highway"),
    "learned start": dict(learn_initial=True),
    "blocks": dict(recurrent_blocks=2),
}


DRAWN = ("stacked dropout", "locked dropout", "weight drop", "recurrent dropout")
NEVER_AT_ONCE = ("zoneout", "residual", "highway", "learned start", "blocks")


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("name", "options"), EACH.items(), ids=EACH)
def test_without_a_gradient_an_option_acts_the_same(name, options, training):
    """One call of the core is for what it can do alone, and is taken there; what it cannot is never
    left out."""
    torch.manual_seed(0)
    layer = gw.LSTM(4, 8, bidirectional=True, **options).train(training)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.7)
    x, results = torch.randn(5, 2, 4), []
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        torch.manual_seed(1)
        with mode():
            results.append(layer(x))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)
    at_once = name not in NEVER_AT_ONCE and not (training and name in DRAWN)
    assert (layer._one_call is not None and layer._one_call.network is not None) == at_once


def test_every_option_trains_copies_compiles_and_follows_the_seed():
    torch.manual_seed(0)
    layer = gw.LSTM(3, 6, **ALL)
    x, reset = torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 0] = True
    for each in (layer, copy.deepcopy(layer)):
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            runs.append(each(x, lengths=[5, 3], reset=reset)[0])
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        runs[0].sum().backward()
        grads = {n: p.grad for n, p in each.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in grads.values())
        assert all(g.any() for g in grads.values())
    layer.eval()
    before = torch.get_rng_state()
    expected = layer(x)[0]
    assert torch.equal(before, torch.get_rng_state())
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], expected)
    other = gw.LSTM(3, 6, **ALL).eval()
    other.load_state_dict(layer.state_dict(), strict=True)
    torch.testing.assert_close(other(x)[0], expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast, state = layer(x)
    assert cast.dtype == state[0].dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05)


def test_they_are_shown():
    assert repr(gw.LSTM(3, 6, 2, connect="highway", weight_drop=0.5, learn_initial=True)) == (
        "LSTM(3, 6, num_layers=2, weight_drop=0.5, connect='highway', learn_initial=True)"
    )
    assert repr(gw.GRU(3, 6, 2, dropout=0.1, locked_dropout=True, recurrent_blocks=3)) == (
        "GRU(3, 6, num_layers=2, dropout=0.1, locked_dropout=True, recurrent_blocks=3)"
    )


@gw.cell(gates="z", params="initial_h")
def named_as_a_start(a, s, p):
    return dict(h=gw.tanh(a.z + p.initial_h))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gw.LSTM(3, 6, weight_drop=1.5), "weight_drop must be a probability from 0 to 1, not 1.5"),
        (lambda: gw.LSTM(3, 6, locked_dropout=2), "locked_dropout must be True or False, not 2"),
        (lambda: gw.LSTM(3, 6, learn_initial="yes"), "learn_initial must be True or False, not 'yes'"),
        (lambda: gw.LSTM(3, 6, 2, connect="residul"), "connect must be one of 'plain', 'residual', "
            "'highway', not 'residul' (did you mean 'residual'?)"),
        (lambda: gw.LSTM(3, 6, 2, connect=None), "'highway', not None"),
        (lambda: gw.Recurrent(named_as_a_start, 3, 6), "has a parameter 'initial_h', which is a name of"),
        (lambda: gw.LSTM(3, 6, 2, connect="residual").stream(), "a stream needs connect='plain' for "
            "several layers, and this layer has connect='residual'; call the layer with one step at"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


def test_a_connection_of_one_layer_says_that_it_does_nothing():
    with pytest.warns(UserWarning, match="connect='residual' has no effect") as seen:
        layer = gw.Recurrent("lstm", 3, 6, connect="residual")
    assert seen[0].filename == __file__
    x = torch.randn(4, 3)
    stream = layer.stream()
    found = np.stack([stream.step(row.numpy()) for row in x])
    np.testing.assert_allclose(found, layer(x)[0].detach(), rtol=0, atol=1e-6)


def test_parameters_that_do_not_fit():
    layer = gw.LSTM(3, 6, 2, connect="highway", learn_initial=True)
    x = torch.zeros(2, 1, 3)
    layer.highway_bias_l1.data = torch.zeros(5)
    with pytest.raises(ShapeError, match=r"highway_bias_l1 has the shape \(5,\), expected \(6,\)"):
        layer(x)
    layer.initial_c_l0.data = torch.zeros(6, dtype=torch.float64)
    with pytest.raises(
        ShapeError, match=r"initial_c_l0 is torch.float64, the input is torch.float32"
    ):
        layer(x)
