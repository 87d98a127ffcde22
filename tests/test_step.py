"""One step at a call: against the layer's steps, and torch's cells."""

import copy
import pickle

import pytest
import torch

import gatewise as gw
from gatewise.errors import BackendError, OptionError, ShapeError

CLOSE = dict(rtol=1e-5, atol=1e-6)


def listed(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


def with_its_weights(cell, inputs, units, **options):
    """A step, and a layer of the same cell with the same weights."""
    step = gw.RecurrentCell(cell, inputs, units, **options)
    layer = gw.Recurrent(cell, inputs, units, **options)
    layer.load_state_dict({f"{name}_l0": value for name, value in step.state_dict().items()})
    return step, layer


@pytest.mark.pairwise
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"layer_norm": True}, {"backend": "reference"}], ids=str
)
@pytest.mark.parametrize("name", gw.CELLS)
def test_a_loop_of_steps_is_the_layer(name, options, graph):
    step, layer = with_its_weights(name, 3, 5, dtype=torch.float64, **options)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    results = []
    with torch.set_grad_enabled(graph):
        state, outputs = None, []
        for each in x:
            state = step(each, state)
            outputs.append(listed(state)[0])
        for module, output, final in (step, torch.stack(outputs), state), (layer, *layer(x)):
            final = [s.reshape(2, 5) for s in listed(final)]
            result = [output, *final]
            if graph:
                loss = sum((r * torch.linspace(-1, 2, r.numel()).view_as(r)).sum() for r in result)
                result += torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
            results.append([r for r in result if r is not None])
    assert len(results[0]) == len(results[1]) > 1
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


@pytest.mark.pairwise
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (7,)], ids=str)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_torchs_cells(name, batch, graph):
    theirs, ours = getattr(torch.nn, name)(4, 9), getattr(gw, name)(4, 9)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(*batch, 4)
    with torch.set_grad_enabled(graph):
        first, ours_first = theirs(x), ours(x)
        torch.testing.assert_close(ours_first, first, **CLOSE)
        torch.testing.assert_close(ours(x, first), theirs(x, first), **CLOSE)
    theirs.load_state_dict(ours.state_dict())


def test_without_a_gradient_it_is_one_call_of_the_core():
    step = gw.LSTMCell(3, 4)
    assert step._one_call.network is None
    with torch.no_grad():
        step(torch.randn(2, 3))
        assert step.explain_backend(torch.randn(2, 3)).startswith("cpu: ")
    assert step._one_call.network is not None
    assert step.explain_backend(torch.randn(2, 3)).startswith("aten: torch's own step of lstm")
    peephole = gw.RecurrentCell("peephole", 3, 4)
    assert peephole.explain_backend(torch.randn(2, 3)).startswith("cpu: ")


def test_it_follows_its_weights():
    step, x = gw.GRUCell(3, 4), torch.randn(2, 3)
    with torch.no_grad():
        before = step(x)
        step.weight_ih.mul_(2)
        assert not torch.allclose(step(x), before)
        step.weight_ih = torch.nn.Parameter(step.weight_ih / 2)
        torch.testing.assert_close(step(x), before)


def test_copied_and_pickled():
    step, x = gw.LSTMCell(3, 4), torch.randn(2, 3)
    with torch.no_grad():
        expected = step(x)
        for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
            torch.testing.assert_close(other(x), expected, rtol=0, atol=0)


def test_autocast():
    step, x = gw.LSTMCell(3, 4), torch.randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, c = step(x)
        h, c = step(x, (h, c))
    assert h.dtype == c.dtype == torch.bfloat16
    expected = step(x, step(x))
    torch.testing.assert_close((h.float(), c.float()), expected, rtol=0.05, atol=0.02)


def test_compiled_and_under_vmap():
    step, x = gw.LSTMCell(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0]), step(x[0]))
    found = torch.vmap(lambda x: step(x)[0])(x)
    torch.testing.assert_close(found, torch.stack([step(each)[0] for each in x]))


def test_a_users_cell():
    @gw.cell(gates="f g", state="h")
    def leaky(z, s):
        f = gw.sigmoid(z.f)
        return dict(h=f * s.h + (1 - f) * gw.tanh(z.g))

    step, layer = with_its_weights(leaky, 3, 5)
    x = torch.randn(2, 3)
    torch.testing.assert_close(step(x)[None], layer(x[None])[1])


@pytest.mark.parametrize(
    ("input", "state", "message"),
    [
        ((2, 4), None, r"\(2, 4\), expected \(3,\) or B×3, which is input_size"),
        ((2, 2, 3), None, r"\(2, 2, 3\), expected \(3,\) or B×3"),
        ((2, 3), ((2, 5),), r"states \(h, c\); 1 were given"),
        ((2, 3), ((2, 5), (3, 5)), r"state c has the shape \(3, 5\), expected \(2, 5\)"),
        ((3,), ((5,), (1, 5)), r"state c has the shape \(1, 5\), expected \(5,\)"),
    ],
)
@pytest.mark.parametrize("graph", [True, False])
def test_what_does_not_fit(input, state, message, graph):
    step = gw.LSTMCell(3, 5)
    hx = None if state is None else tuple(map(torch.zeros, state))
    with torch.set_grad_enabled(graph), pytest.raises(ShapeError, match=message):
        step(torch.zeros(input), hx)


def test_a_type_that_does_not_fit():
    with pytest.raises(ShapeError, match="float64"):
        gw.LSTMCell(3, 5)(torch.zeros(2, 3, dtype=torch.float64))


def test_options():
    with pytest.raises(OptionError, match="hidden_size must be a non-negative integer, not -1"):
        gw.LSTMCell(3, -1)
    with pytest.raises(OptionError, match="bias must be True or False, not 'no'"):
        gw.GRUCell(3, 4, "no")
    with pytest.raises(OptionError, match="nonlinearity must be one of 'tanh', 'relu', not 'gelu'"):
        gw.RNNCell(3, 4, True, "gelu")
    with pytest.raises(OptionError, match="did you mean 'peephole'"):
        gw.RecurrentCell("pephole", 3, 4)
    with pytest.raises(BackendError, match="'aten' was asked for"):
        gw.RecurrentCell("peephole", 3, 4, backend="aten")(torch.zeros(1, 3))
    assert repr(gw.LSTMCell(3, 4, bias=False)) == "LSTMCell(3, 4, bias=False)"


# What torch's layers list beside their call --------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "proj_size": 3}])
def test_weights_as_torch_lists_them(options):
    theirs, ours = torch.nn.LSTM(2, 5, **options), gw.LSTM(2, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    assert ours.mode == theirs.mode
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert ours._all_weights == theirs._all_weights
    torch.testing.assert_close(ours.all_weights, theirs.all_weights)
    assert all(
        a is getattr(ours, n)
        for a, n in zip(ours._flat_weights, ours._flat_weights_names, strict=True)
    )
    x, state = (
        torch.randn(4, 2, 2),
        [torch.zeros(4 if options else 1, 2, n) for n in (3 if options else 5, 5)],
    )
    flags = (True, ours.num_layers, 0.0, False, ours.bidirectional, False)
    expected = torch._VF.lstm(x, state, ours._flat_weights, *flags)[0]
    torch.testing.assert_close(ours(x)[0], expected, **CLOSE)


def test_modes_of_torch():
    for make in (
        lambda of: of.GRU(2, 3),
        lambda of: of.RNN(2, 3),
        lambda of: of.RNN(2, 3, 1, "relu"),
    ):
        assert make(gw).mode == make(torch.nn).mode


def test_flat_weights_can_be_put_in_place():
    layer, x = gw.LSTM(2, 3), torch.randn(4, 2)
    before = layer(x)[0]
    layer._flat_weights = [torch.nn.Parameter(2 * w.detach()) for w in layer._flat_weights]
    assert not torch.allclose(layer(x)[0], before)
    assert len(list(layer.parameters())) == 4
    kept = list(layer.parameters())
    layer._flat_weights = layer._flat_weights
    assert all(a is b for a, b in zip(kept, layer.parameters(), strict=True))
    layer.flatten_parameters()
