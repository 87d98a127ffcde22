"""How far layer-normalised layers are from double precision, beside torch's own layer_norm in float32."""

import copy

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.backends.contract import in_double
from gatewise.cells.catalogue import CELLS

NORMALISED = ("lstm", "rnn_tanh", "gru", "coupled", "peephole", "slstm")
# by the reference and by the scan
NORMALISED += ("mgu", "gru_2014", "mingru", "minlstm")
# One rounding of the result: where torch's layer is as near as this, it is so by luck.
ROUNDING = 2**-23


def made(cell, units, **options):
    """A layer with weights and gains that a trained one might have, and its twins by the reference, in
    which torch's layer_norm normalises; for float32 and in float64."""
    ours = gw.Recurrent(cell, 3, units, layer_norm=True, **options)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    torchs = copy.deepcopy(ours)
    torchs.backend = "reference"
    return ours, torchs, copy.deepcopy(torchs).double()


def results(layer, x, weights):
    """Output, states, and the gradients of the input and of each parameter."""
    layer.zero_grad()
    x = x.to(layer.weight_ih_l0.dtype).requires_grad_()
    y, state = layer(x)
    states = (state,) if isinstance(state, torch.Tensor) else state
    (y * weights.to(y.dtype)).sum().backward()
    found = [y.detach(), *(s.detach() for s in states), x.grad]
    return [each.double() for each in [*found, *(p.grad for p in layer.parameters() if p.numel())]]


def errors(found, exact):
    """Of each result the greatest error, beside its greatest value."""
    each = zip(found, exact, strict=True)
    return np.array([float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in each])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("cell", NORMALISED)
def test_layers_of_few_units_are_as_near_as_torchs_layer_norm(cell, units, monkeypatch):
    for seed in range(8):
        torch.manual_seed(seed)
        ours, torchs, exact = made(cell, units)
        x, weights = torch.randn(6, 3, 3), torch.randn(6, 3, units)
        right = results(exact, x, weights)
        found = errors(results(ours, x, weights), right)
        with monkeypatch.context() as patch:
            patch.setattr("gatewise.backends.precision.in_double", lambda *_: False)
            of_torch = errors(results(torchs, x, weights), right)
        assert (found <= 2 * of_torch.clip(min=ROUNDING)).all(), (seed, found, of_torch)


@pytest.mark.parametrize(
    "options", [dict(num_layers=2, bidirectional=True), dict(proj_size=1)], ids=str
)
def test_it_holds_with_other_options(options):
    torch.manual_seed(0)
    ours, _, exact = made("lstm", 2, **options)
    x = torch.randn(6, 3, 3)
    lengths = torch.tensor([6, 0, 4])
    found, right = (
        layer(x.to(layer.weight_ih_l0.dtype), lengths=lengths) for layer in (ours, exact)
    )
    for a, b in zip((found[0], *found[1]), (right[0], *right[1]), strict=True):
        assert a.dtype == torch.float32
        # of a second layer too the input is rounded to float32, and what it makes of that is its own
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_every_way_to_run_gives_the_same():
    """With and without a gradient, traced, compiled, a step at a time, in a cell, exported."""
    torch.manual_seed(0)
    ours, _, exact = made("lstm", 1)
    x = torch.randn(6, 1, 3)
    right = exact(x.double())[0].float()
    close = dict(rtol=0, atol=3e-7)
    torch.testing.assert_close(ours(x)[0], right, **close)
    torch.testing.assert_close(torch.compile(ours, backend="eager")(x)[0], right, **close)
    exported = torch.export.export(ours, (x,)).module()
    torch.testing.assert_close(exported(x)[0], right, **close)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], right, **close)
        torch.testing.assert_close(ours(x, trace=True)[2].h[0][0][0], right[:, 0], **close)
        stream = ours.stream()
        found = np.stack([stream.step(row) for row in x[:, 0].numpy()])
        assert found.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(found), right[:, 0], **close)
        assert stream.state[1].dtype == torch.float32
        torch.testing.assert_close(stream.state, tuple(s for s in ours(x)[1]), **close)
        stream.state = tuple(torch.zeros(1, 1, 1) for _ in range(2))
        torch.testing.assert_close(
            torch.from_numpy(stream.step(x[0, 0].numpy())), right[0, 0], **close
        )
        cell = gw.RecurrentCell("lstm", 3, 1, layer_norm=True)
        cell.load_state_dict({name[:-3]: p for name, p in ours.state_dict().items()})
        torch.testing.assert_close(cell(x[0])[0], right[0], **close)


def test_a_stream_in_double_precision_takes_float32_alone():
    stream = gw.RNN(3, 2, layer_norm=True).stream()
    with pytest.raises(gw.GatewiseError, match="step takes a contiguous float32 array of shape"):
        stream.step(np.zeros(3))
    with pytest.raises(gw.GatewiseError, match="not a list"):
        stream.step([0.0, 0.0, 0.0])


BY = [("lstm", "reference"), ("gru_2014", "auto"), ("mgu", "auto"), ("mingru", "scan")]


@pytest.mark.parametrize(("cell", "backend"), BY)
def test_it_holds_of_the_reference_and_the_scan(cell, backend):
    torch.manual_seed(0)
    ours, _, exact = made(cell, 1, backend=backend)
    x, weights = torch.randn(6, 3, 3), torch.randn(6, 3, 1)
    assert "in double precision" in ours.explain_backend(x)
    right = results(exact, x, weights)
    found = errors(results(ours, x, weights), right)
    assert (found <= 2 * ROUNDING).all(), found
    assert ours(x)[0].dtype == torch.float32
    step = gw.RecurrentCell(cell, 3, 1, layer_norm=True)
    step.load_state_dict({name[:-3]: p for name, p in ours.state_dict().items()})
    with torch.no_grad():
        states = step(x[0])
        states = states if isinstance(states, tuple) else (states,)
        torch.testing.assert_close(states[0], ours(x)[0][0], rtol=0, atol=3e-7)


def test_which_layers_run_in_double_precision():
    assert in_double(CELLS["lstm"], 3, torch.float32)
    assert in_double(CELLS["rnn_tanh"], 31, torch.float32)
    assert not in_double(CELLS["lstm"], 8, torch.float32)
    assert not in_double(CELLS["lstm"], 3, torch.bfloat16)
    x = torch.zeros(2, 1, 3)
    assert (
        gw.LSTM(3, 2, layer_norm=True).explain_backend(x).endswith("first in order of preference")
    )
    assert "in double precision" in gw.LSTM(3, 2, layer_norm=True).explain_backend(x)
    assert "in double precision" not in gw.LSTM(3, 2).explain_backend(x)
    assert "in double precision" not in gw.LSTM(3, 8, layer_norm=True).explain_backend(x)
