"""Interventions: what is clamped, ablated or patched is so, what follows is computed from it, all else stays."""

import contextlib
import re

import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.gates import ablate, clamp, patch

LENGTHS = torch.tensor([6, 3, 5])
OPTIONS = {
    "plain": dict(),
    "stacked": dict(num_layers=2, bidirectional=True),
    "projected": dict(proj_size=2),
    "normalised": dict(layer_norm=True, bidirectional=True, zoneout=0.2),
}


class Tagger(nn.Module):
    def __init__(self, rnn, width):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def layer(cell, options):
    return gw.Recurrent(cell, 3, 4, batch_first=True, **OPTIONS[options]).eval()


def possible(cell, options):
    """Whether there is such a layer: some cells have no projection, and some no zoneout."""
    with contextlib.suppress(OptionError):
        return bool(layer(cell, options))
    return False


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def flat(result):
    output, state = result[:2]
    return [output, *(state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (cell, options)
        for cell in gw.CELLS
        for options in (OPTIONS if cell in ("lstm", "fgr", "gru_2014", "slstm") else ("plain",))
        if possible(cell, options)
    ],
)
def test_a_patch_with_own_values_changes_no_bit_and_a_clamp_sets_what_it_says(cell, options):
    of = layer(cell, options)
    x = torch.randn(3, 6, 3)
    with torch.no_grad():
        *_, trace = of(x, lengths=LENGTHS, trace=True)
    own = flat(of(x, lengths=LENGTHS))
    inside = torch.arange(6) < LENGTHS[:, None]
    for name in trace.names:
        with patch(of, "model", name, trace):
            assert all(map(torch.equal, flat(of(x, lengths=LENGTHS)), own)), name
        with torch.no_grad(), clamp(of, "model", name, to=0.3, units=1, steps=[1, 2, 4]):
            *found, changed = of(x, lengths=LENGTHS, trace=True)
        for k, of_layer in enumerate(changed[name]):
            for d, values in enumerate(of_layer):
                there = (inside & torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.bool))[..., None]
                there = there & (torch.arange(values.shape[2]) == 1)
                assert (values[there] == 0.3).all()
                if d == k == 0:  # before the first of these steps nothing is different
                    torch.testing.assert_close(values[:, 0], trace[name][0][0][:, 0])
        assert (found[0][~inside] == 0).all()
    assert all(map(torch.equal, flat(of(x, lengths=LENGTHS)), own))


@pytest.mark.parametrize("options", OPTIONS)
def test_what_follows_from_a_value_is_the_cells_own_equations(options):
    """A clamped forget gate, against the gate whose pre-activation is so by its weights."""
    of = layer("lstm", options)
    x = torch.randn(3, 6, 3)
    with clamp(of, "model", "f", to=1.0), clamp(of, "model", "i", to=0.0):
        found = flat(of(x, lengths=LENGTHS))
    with torch.no_grad():
        for name, weight in of.named_parameters():
            if weight.shape[0] == 16:
                weight[:8] = 0
            if name.startswith("bias_ih"):
                weight[:8] = torch.tensor([-200.0] * 4 + [200.0] * 4)
    for one, other in zip(found, flat(of(x, lengths=LENGTHS)), strict=True):
        torch.testing.assert_close(one, other)


def test_an_open_forget_gate_and_a_shut_input_gate_make_an_exact_memory():
    of = gw.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 300, 3)
    late = range(10, 300)
    with clamp(of, "model", "f", steps=late, to=1.0), clamp(of, "model", "i", steps=late, to=0):
        _, (_, c), trace = of(x, trace=True)
    kept = trace.c[0][0]
    assert not torch.equal(kept[:, 8], kept[:, 9])
    assert torch.equal(kept[:, 9:], kept[:, 9:10].expand(-1, 291, -1))
    assert torch.equal(c[0], kept[:, 9])


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_masks_and_resets_stay_where_they_are(bidirectional):
    """A reset before the clamped step, so that nothing of the step goes on but its output."""
    options = dict(zoneout=0.4, recurrent_dropout=0.3, weight_drop=0.3)
    of = gw.LSTM(3, 4, batch_first=True, bidirectional=bidirectional, **options)
    x, reset = torch.randn(3, 6, 3), torch.rand(3, 6) < 0.3
    reset[:, 3:5] = True
    arguments = dict(lengths=LENGTHS, reset=reset)
    torch.manual_seed(5)
    own = of(x, **arguments)[0]
    torch.manual_seed(5)
    with clamp(of, "model", "o", to=0.0, steps=3):
        found = of(x, **arguments)[0]
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(found[:, others], own[:, others])
    assert not torch.allclose(found[:, 3], own[:, 3])


def test_a_patch_from_another_run_carries_its_outcome_over():
    of = gw.GRU(3, 4, 2, batch_first=True)
    x, other = torch.randn(2, 2, 6, 3)
    with torch.no_grad():
        there, _, trace = of(other, trace=True)
        mixed = torch.cat([x[:, :4], other[:, 4:]], 1)
        with patch(of, "model", "h", {"model": trace}, steps=3):
            found = of(mixed)[0]
    torch.testing.assert_close(found[:, 4:], there[:, 4:])
    assert not torch.allclose(found[:, :3], there[:, :3])


def test_ablation_leaves_a_unit_nothing_but_its_mean():
    of = gw.LSTM(3, 4, batch_first=True)
    x = torch.randn(3, 6, 3)
    own = of(x, lengths=LENGTHS, trace=True)[2].h[0][0][..., 2]
    with ablate(of, "model", "h", units=2, to="mean"):
        h = of(x, lengths=LENGTHS)[0][..., 2]
    inside = torch.arange(6) < LENGTHS[:, None]
    torch.testing.assert_close(h[inside], (own.sum() / 14).expand(14))
    with ablate(of, "model", "h", units=2):
        assert (of(x)[0][..., 2] == 0).all()


def test_blocks_combine_and_the_inner_one_counts():
    of = gw.LSTM(3, 4, batch_first=True)
    x = torch.randn(1, 5, 3)
    with clamp(of, "model", "o", to=0.5):
        with clamp(of, "model", "o", to=1.0, units=[1]), clamp(of, "model", "c", to=9.0, steps=2):
            trace = of(x, trace=True)[2]
        assert (of(x, trace=True)[2].o[0][0] == 0.5).all()
    assert (trace.o[0][0][..., [0, 2, 3]] == 0.5).all()
    assert (trace.o[0][0][..., 1] == 1).all()
    assert (trace.c[0][0][0, 2] == 9).all()
    torch.testing.assert_close(trace.h[0][0], trace.o[0][0] * trace.c[0][0].tanh())
    assert of.runner is None


def test_one_layer_and_one_direction():
    of = gw.GRU(3, 4, 2, batch_first=True, bidirectional=True)
    x = torch.randn(2, 5, 3)
    with clamp(of, "model", "z", to=0.25, layer=1, direction=1, steps=2):
        z = of(x, trace=True)[2].z
    assert (z[1][1][:, 2] == 0.25).all()
    before = of(x, trace=True)[2].z
    assert torch.equal(z[0][0], before[0][0])
    assert torch.equal(z[1][0], before[1][0])
    assert not (z[1][1][:, 1] == before[1][1][:, 1]).any()  # it comes later in this direction
    torch.testing.assert_close(z[1][1][:, 3:], before[1][1][:, 3:])


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU], ids=lambda c: c.__name__)
def test_torchs_layers_within_a_model(make):
    model = Tagger(make(3, 4, 2, batch_first=True, bidirectional=True), 8)
    x = torch.randn(2, 5, 3)
    own, ours = model(x), gw.convert(model)
    trace = ours.rnn(x, trace=True)[2]
    name = trace.names[1]
    with patch(model, "rnn", name, trace):
        assert torch.equal(model(x), own)
    with clamp(model, "rnn", name, to=1.0, layer=0), clamp(ours, "rnn", name, to=1.0, layer=0):
        found = model(x)
        torch.testing.assert_close(found, ours(x))
    assert not torch.allclose(found, own)
    assert torch.equal(model(x), own)
    assert type(model.rnn) is make


def test_cells_of_one_step_and_layers_of_images():
    step = nn.LSTMCell(3, 4)
    x = torch.randn(2, 3)
    h, c = step(x)
    with clamp(step, "model", "o", to=0.0, units=1):
        found, cell = step(x)
    torch.testing.assert_close(found, h * torch.tensor([1, 0, 1, 1]))
    torch.testing.assert_close(cell, c)

    images = gw.ConvLSTM(2, 3, 3, batch_first=True)
    y, _ = images(x := torch.randn(2, 4, 2, 5, 5))
    with clamp(images, "model", "o", to=0.0, units=1, steps=3):
        found, _ = images(x)
    assert (found[:, 3, 1] == 0).all()
    torch.testing.assert_close(found[:, 3, [0, 2]], y[:, 3, [0, 2]])


def test_gradients_flow_to_the_given_value_and_past_it():
    of = gw.Recurrent("gru", 2, 3, batch_first=True).double()
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    to = torch.rand(2, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(x, to):
        with clamp(of, "model", "z", to=to, steps=[1, 2]):
            return of(x)[0]

    assert torch.autograd.gradcheck(run, (x, to))


def test_a_users_own_cell():
    @gw.cell(gates="u k", state="h m")
    def mine(a, s):
        keep = gw.sigmoid(a.k)
        m = keep * s.m + (1 - keep) * gw.tanh(a.u)
        return dict(keep=keep, m=m, h=m)

    of = gw.Recurrent(mine, 3, 4, batch_first=True, backend="reference")
    with clamp(of, "model", "keep", to=1.0, steps=range(2, 6)):
        h, _ = of(torch.randn(2, 6, 3))
    assert torch.equal(h[:, 1:], h[:, 1:2].expand(-1, 5, -1))


BAD = {
    "no recurrent module 'modle'": dict(module="modle"),
    "no value of the cell lstm 'ff'": dict(name="ff"),
    "no unit 4: f of 'model' has 4": dict(units=[0, 4]),
    "a unit is given twice": dict(units=[1, 1]),
    "no layer 1": dict(layer=1),
    "no direction 1": dict(direction=1),
    "a step must be an integer from 0, not -1": dict(steps=-1),
    "no step is chosen": dict(steps=range(0)),
    "must be a finite number": dict(to=float("nan")),
    "finite floating-point": dict(to=torch.tensor([float("inf")])),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_not_there(message):
    given = {**dict(module="model", name="f", to=1.0), **BAD[message]}
    with pytest.raises(OptionError, match=re.escape(message)):
        clamp(gw.LSTM(3, 4), **given)


def test_what_does_not_fit_a_call():
    of = gw.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    trace = of(x, trace=True)[2]
    for change, message in [
        (clamp(of, "model", "f", to=1.0, steps=5), "no step 5 to change in 'model'"),
        (clamp(of, "model", "f", to=torch.ones(3, 5, 4)), "broadcasts to (2, 5, 4)"),
        (patch(of, "model", "f", trace, steps=7), "step 7"),
    ]:
        x = torch.randn(2, 9 if message == "step 7" else 5, 3)
        with change, pytest.raises(ShapeError, match=re.escape(message)):
            of(x)
        assert of.runner is None
    with pytest.raises(OptionError, match="no trace of the module 'model'"):
        patch(of, "model", "f", {"lstm": trace})
    with pytest.raises(OptionError, match="no recurrent layer"):
        clamp(nn.Linear(2, 2), "model", "f", to=1.0)
    with clamp(of, "model", "f", to=1.0), pytest.raises(OptionError, match="stream"):
        of.stream()
    with pytest.raises(OptionError, match="one step a call"):
        clamp(gw.LSTMCell(2, 3), "model", "f", to=1.0, steps=1)
