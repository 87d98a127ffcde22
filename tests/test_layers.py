"""The layers: torch.nn's interface and numbers, lengths, traces and what they refuse."""

import copy
import io
import itertools
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import gatewise as gw
from gatewise import sigmoid, tanh
from gatewise.backends.native.library import loaded_level
from gatewise.errors import BackendError, CellError, OptionError, ShapeError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@gw.cell(gates="z n")
def minimal(a, s):
    z = sigmoid(a.z)
    return dict(z=z, h=z * s.h + (1 - z) * tanh(a.n))


@gw.cell(gates="z", params="norm_ih")
def misnamed(a, s, p):
    return dict(h=tanh(a.z + p.norm_ih))


KINDS = {
    "lstm": (gw.LSTM, nn.LSTM, {}),
    "lstm proj": (gw.LSTM, nn.LSTM, dict(proj_size=4)),
    "gru": (gw.GRU, nn.GRU, {}),
    "rnn": (gw.RNN, nn.RNN, {}),
    "rnn relu": (gw.RNN, nn.RNN, dict(nonlinearity="relu")),
}
OPTIONS = {
    "plain": {},
    "stacked": dict(num_layers=3),
    "both ways": dict(num_layers=2, bidirectional=True),
    "no bias": dict(bias=False, bidirectional=True),
    "batch first": dict(batch_first=True, num_layers=2),
}
BACKENDS = ("cpu", "aten", "reference")
CLOSE = dict(rtol=1e-5, atol=2e-6)
sigmoid_ = torch.sigmoid  # gatewise's own is for symbols


def pair(kind, dtype=torch.float32, backend="auto", **options):
    """Ours and torch's layer, from the same seed."""
    ours, torchs, more = KINDS[kind]
    options |= more
    torch.manual_seed(5)
    theirs = torchs(3, 6, dtype=dtype, **options)
    torch.manual_seed(5)
    return ours(3, 6, dtype=dtype, backend=backend, **options), theirs


def states(layer, batch=4, seed=0):
    """Initial states for ``layer``, as torch takes them."""
    generator = torch.Generator().manual_seed(seed)
    stack = layer.num_layers * (1 + layer.bidirectional)
    sizes = layer.config.state_sizes
    drawn = tuple(
        torch.randn(stack, *([batch] if batch else []), s, generator=generator).to(
            layer.weight_ih_l0.dtype
        )
        for s in sizes
    )
    return drawn if len(drawn) > 1 else drawn[0]


def tensors(hx):
    return [hx] if isinstance(hx, torch.Tensor) else list(hx)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_output_size_is_the_outputs(kind, options):
    ours, _ = pair(kind, **options)
    assert ours.output_size == ours(torch.randn(4, 5, 3))[0].shape[-1]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights_and_strict_state_dicts(kind, options):
    ours, theirs = pair(kind, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    other, _ = pair(kind, **options)
    other.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(other.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.quick("lstm-plain-zero state-cpu", "lstm-both ways-initial state-reference")
@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given_state", [False, True], ids=["zero state", "initial state"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_torchs(kind, options, given_state, backend):
    pairs = pair(kind, torch.float64, backend, **options)
    results = []
    for layer in pairs:
        torch.manual_seed(1)
        x = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
        hx = states(pairs[0], batch=4 if layer.batch_first else 5)
        leaves = [x, *(t.requires_grad_() for t in tensors(hx))] if given_state else [x]
        output, final = layer(x, hx) if given_state else layer(x)
        ends = [output, *tensors(final)]
        loss = sum((e * torch.randn_like(e)).sum() for e in ends)
        results.append([*ends, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_sequence(kind, backend):
    ours, theirs = pair(kind, backend=backend, num_layers=2, bidirectional=True, batch_first=True)
    x, hx = torch.randn(7, 3), states(ours, batch=None)
    for given in ((x,), (x, hx)):
        found, expected = ours(*given), theirs(*given)
        torch.testing.assert_close(found[0], expected[0], **CLOSE)
        torch.testing.assert_close(tensors(found[1]), tensors(expected[1]), **CLOSE)


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given_state", [False, True], ids=["zero state", "initial state"])
@pytest.mark.parametrize("lengths", [(6, 4, 4, 1), (4, 1, 6, 4)], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_are_as_torch_gives_them(kind, lengths, given_state, backend):
    ours, theirs = pair(kind, backend=backend, num_layers=2, bidirectional=True)
    in_order = lengths == tuple(sorted(lengths, reverse=True))
    sequences = [torch.randn(n, 3) for n in lengths]
    for enforced in {False, in_order}:
        packed = pack_sequence(sequences, enforce_sorted=enforced)
        given = (packed, states(ours)) if given_state else (packed,)
        found, expected = ours(*given), theirs(*given)
        assert type(found[0]) is type(expected[0])
        torch.testing.assert_close(found[0].data, expected[0].data, **CLOSE)
        for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(found[0], name), getattr(expected[0], name)
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        torch.testing.assert_close(tensors(found[1]), tensors(expected[1]), **CLOSE)


def test_a_packed_batch_keeps_the_order_of_equal_lengths():
    ours, theirs = pair("gru", batch_first=True)
    x = torch.randn(5, 4, 3)
    packed = pack_padded_sequence(
        x, torch.tensor([2, 4, 2, 4, 2]), batch_first=True, enforce_sorted=False
    )
    torch.testing.assert_close(ours(packed)[0].data, theirs(packed)[0].data, **CLOSE)


@pytest.mark.quick("lstm-False-cpu")
@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_sequence_alone_and_in_a_batch(kind, batch_first, backend):
    layer, _ = pair(
        kind, backend=backend, num_layers=2, bidirectional=True, batch_first=batch_first
    )
    lengths = [5, 0, 8, 1]
    x, hx = torch.randn(4, 8, 3), states(layer)
    spoilt = x.clone()
    for b, n in enumerate(lengths):
        spoilt[b, n:] = torch.nan
    given = spoilt if batch_first else spoilt.transpose(0, 1)
    for form in (lengths, torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32)):
        output, final = layer(given, hx, lengths=form)
        output = output if batch_first else output.transpose(0, 1)
        for b, n in enumerate(lengths):
            start = tuple(s[:, b] for s in tensors(hx))
            alone, end = layer(x[b, :n], start)
            close = dict(rtol=0, atol=1e-6)
            torch.testing.assert_close(output[b, :n], alone, **close)
            torch.testing.assert_close([s[:, b] for s in tensors(final)], tensors(end), **close)
            assert not output[b, n:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_with_the_state_carried(kind, backend):
    layer, _ = pair(kind, backend=backend, num_layers=2)
    x = torch.randn(9, 2, 3)
    whole, final = layer(x)
    state, outputs = None, []
    for chunk in (x[:1], x[1:5], x[5:5], x[5:]):
        output, state = layer(chunk, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(tensors(state), tensors(final), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lengths", [None, (5, 0, 3)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_trace_of_an_lstm_holds_its_equations(lengths, batch_first):
    layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(3, 5, 3) if batch_first else torch.randn(5, 3, 3)
    plain, _ = layer(x, lengths=lengths)
    output, (h_n, c_n), trace = layer(x, lengths=lengths, trace=True)
    torch.testing.assert_close(output, plain, **CLOSE)
    assert set(trace.names) == set(trace) == {"i", "f", "g", "o", "c", "h"}
    valid = torch.arange(5)[None] < torch.tensor(lengths or [5] * 3)[:, None]
    for k, direction in [(k, d) for k in range(2) for d in range(2)]:
        i, f, g, o, c, h = (trace[name][k][direction] for name in "ifgoch")
        assert i.shape == (3, 5, 6)
        before = torch.zeros_like(c)
        if direction:
            before[:, :-1] = c[:, 1:]
        else:
            before[:, 1:] = c[:, :-1]
        torch.testing.assert_close(c, torch.where(valid[..., None], f * before + i * g, 0))
        torch.testing.assert_close(h, o * torch.tanh(c))
        for name in trace:
            assert not trace[name][k][direction][~valid].any()
        assert all(((gate > 0) & (gate < 1))[valid].all() for gate in (i, f, o))
        row, ends = 2 * k + direction, [n - 1 for n in lengths or [5] * 3]
        for b, end in enumerate(ends):
            if end >= 0:
                last = 0 if direction else end
                torch.testing.assert_close((h[b, last], c[b, last]), (h_n[row, b], c_n[row, b]))
    top = torch.cat(trace.h[-1], -1)
    assert torch.equal(top if batch_first else top.transpose(0, 1), output)
    assert len(trace.f) == len(trace["f"]) == len(trace.f[0]) == 2
    assert (trace.lengths is None) == (lengths is None)


def test_a_trace_says_what_it_has_and_can_be_copied():
    trace = gw.LSTM(3, 6)(torch.randn(5, 2, 3), trace=True)[2]
    with pytest.raises(OptionError, match=r"no 'forget' in this trace.*it has: .*\bf\b"):
        trace["forget"]
    with pytest.raises(AttributeError, match=r"no 'forget' in this trace.*it has: .*\bf\b"):
        _ = trace.forget
    assert repr(trace).endswith("layers 1, directions 1, 2×5×6>")
    for again in (copy.copy(trace), pickle.loads(pickle.dumps(trace))):
        assert torch.equal(again.c[0][0], trace.c[0][0])


def test_a_projected_trace_has_the_output_as_h():
    layer = gw.LSTM(3, 6, proj_size=2)
    output, _, trace = layer(torch.randn(5, 2, 3), trace=True)
    assert torch.equal(trace.h[0][0].transpose(0, 1), output)
    assert trace.c[0][0].shape == (2, 5, 6)
    assert layer(torch.randn(0, 2, 3), trace=True)[2].c[0][0].shape == (2, 0, 6)


@pytest.mark.parametrize("options", [dict(num_layers=2), dict(bidirectional=True)])
def test_forget_bias(options):
    layer = gw.LSTM(3, 6, forget_bias=1.5, **options)
    torch.manual_seed(0)
    layer.reset_parameters()
    torch.manual_seed(0)
    plain = gw.LSTM(3, 6, **options).state_dict()
    for name, value in layer.state_dict().items():
        if "bias" in name:
            expected = 1.5 if "bias_ih" in name else 0.0
            assert (value[6:12] == expected).all()
            assert torch.equal(value[:6], plain[name][:6])
            assert torch.equal(value[12:], plain[name][12:])
        else:
            assert torch.equal(value, plain[name])
    for bad in (dict(bias=False), {}):
        args = () if bad else (1, False)
        with pytest.raises(OptionError, match="forget_bias cannot be given"):
            gw.LSTM(3, 6, *args, forget_bias=1.0, **bad)


def test_dropout_acts_between_layers_and_in_training_only():
    layer = gw.LSTM(3, 6, num_layers=2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    first, second = layer(x, trace=True)[2], layer(x, trace=True)[2]
    assert torch.equal(first.h[0][0], second.h[0][0])
    assert not torch.equal(first.h[1][0], second.h[1][0])
    assert first.h[1][0].count_nonzero() == first.h[1][0].numel()
    layer.eval()
    theirs = nn.LSTM(3, 6, num_layers=2)
    theirs.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], theirs(x)[0], **CLOSE)
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)
    with pytest.warns(UserWarning, match=r"dropout=0.5 acts between layers, and there is only one"):
        gw.GRU(3, 6, dropout=0.5)
    all_dropped = gw.RNN(3, 6, num_layers=2, dropout=1.0, bias=False)
    assert not all_dropped(x)[0].any()


def cut(reset, length):
    """The pieces of one sequence: (begin, end) between its resets."""
    starts = [0, *(t for t in range(1, length) if reset[t]), length]
    return list(itertools.pairwise(starts)) if length else []


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, (9, 4, 0, 7)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_reset_equals_pieces(kind, bidirectional, lengths, batch_first, backend):
    """Outputs, final states and every gradient, against torch's layer run over each piece."""
    ours, theirs = pair(
        kind, torch.float64, backend, num_layers=2, bidirectional=bidirectional,
        batch_first=batch_first,
    )  # fmt: skip
    torch.manual_seed(2)
    x = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(9, 4) < 0.3
    reset[0] = torch.tensor([True, False, True, False])
    reset[4:, 1] = torch.tensor([True, True, False, False, True])  # at and beyond its end
    hx = states(ours)
    given, marks = (x.transpose(0, 1), reset.T) if batch_first else (x, reset)
    output, final = ours(given, hx, lengths=lengths, reset=marks)
    output = output.transpose(0, 1) if batch_first else output
    torch.manual_seed(3)
    seed = torch.randn_like(output)
    total, expected = (output * seed).sum(), torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths or [9] * 4):
        pieces = cut(reset[:, b], length)
        for begin, end in pieces:
            start = [torch.zeros_like(s[:, b]) for s in tensors(hx)]
            for mine, first in zip(start, tensors(hx), strict=True):
                if begin == 0 and not reset[0, b]:
                    mine[:: 1 + bidirectional] = first[:: 1 + bidirectional, b]
                if bidirectional and end == length:
                    mine[1::2] = first[1::2, b]
            alone, last = theirs(x[begin:end, b], tuple(start) if len(start) > 1 else start[0])
            torch.testing.assert_close(output[begin:end, b], alone)
            expected = expected + (alone * seed[begin:end, b]).sum()
            for mine, its in zip(tensors(final), tensors(last), strict=True):
                if end == length:
                    here = slice(0, None, 1 + bidirectional)
                    torch.testing.assert_close(mine[here, b], its[here])
                if bidirectional and begin == 0:
                    torch.testing.assert_close(mine[1::2, b], its[1::2])
        assert not output[length:, b].any()
        if not length:
            assert all(
                torch.equal(f[:, b], h[:, b])
                for f, h in zip(tensors(final), tensors(hx), strict=True)
            )
    leaves = [[x, *layer.parameters()] for layer in (ours, theirs)]
    torch.testing.assert_close(
        torch.autograd.grad(total, leaves[0]), torch.autograd.grad(expected, leaves[1])
    )


def test_reset_of_a_single_sequence():
    layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True)
    x, reset = torch.randn(7, 3), torch.tensor([0, 0, 1, 0, 0, 1, 0]).bool()
    output, _ = layer(x, reset=reset)
    pieces = torch.cat([layer(x[begin:end])[0] for begin, end in cut(reset, 7)])
    torch.testing.assert_close(output, pieces, **CLOSE)
    torch.testing.assert_close(layer(x, reset=reset[:] & False)[0], layer(x)[0], **CLOSE)


def extras(cell):
    """Of coupled states none is kept alone."""
    cell = gw.CELLS.get(cell, cell)
    zoneout = [0.0 if name in cell.coupled_states else 0.3 for name in cell.state]
    return dict(layer_norm=True, recurrent_dropout=0.4, zoneout=zoneout)


@pytest.mark.parametrize("cell", [*gw.CELLS, minimal], ids=str)
def test_each_sequence_alone_with_every_option(cell):
    """In evaluation nothing is random: alone, in a batch and in chunks, the same."""
    layer = gw.Recurrent(cell, 3, 6, num_layers=2, bidirectional=True, **extras(cell)).eval()
    x, reset, lengths = torch.randn(8, 3, 3), torch.rand(8, 3) < 0.3, (8, 0, 5)
    output, _ = layer(x, lengths=lengths, reset=reset)
    for b, n in enumerate(lengths):
        alone, _ = layer(x[:n, b], reset=reset[:n, b])
        torch.testing.assert_close(output[:n, b], alone, rtol=0, atol=1e-6)
    one_way = gw.Recurrent(cell, 3, 6, num_layers=2, **extras(cell)).eval()
    whole, final = one_way(x, reset=reset)
    first, state = one_way(x[:3], reset=reset[:3])
    second, end = one_way(x[3:], state, reset=reset[3:])
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(tensors(end), tensors(final), rtol=0, atol=1e-6)


def test_layer_norm_is_torchs():
    """An LSTM's step put together from torch's own linear layer and layer normalisation."""
    layer = gw.LSTM(3, 6, layer_norm=True, dtype=torch.float64)
    x, (h, c) = torch.randn(5, 2, 3, dtype=torch.float64), states(layer, batch=2)
    n_x, n_h = nn.LayerNorm(24, dtype=x.dtype), nn.LayerNorm(24, dtype=x.dtype)
    with torch.no_grad():
        for norm, name in ((n_x, "ih"), (n_h, "hh")):
            getattr(layer, f"norm_{name}_l0").uniform_(0.5, 1.5)
            norm.weight.copy_(getattr(layer, f"norm_{name}_l0"))
            norm.bias.copy_(getattr(layer, f"bias_{name}_l0"))
    output, final = layer(x, (h, c))
    h, c = h[0], c[0]
    for t in range(5):
        z = n_x(x[t] @ layer.weight_ih_l0.T) + n_h(h @ layer.weight_hh_l0.T)
        i, f, g, o = z.chunk(4, -1)
        c = sigmoid_(f) * c + sigmoid_(i) * torch.tanh(g)
        h = sigmoid_(o) * torch.tanh(c)
        torch.testing.assert_close(output[t], h)
    torch.testing.assert_close(final, (h[None], c[None]))


def test_the_gains_come_last_of_torchs_names_and_leave_the_draws_alone():
    options = dict(num_layers=2, bidirectional=True, proj_size=4)
    torch.manual_seed(5)
    plain = gw.LSTM(3, 6, **options).state_dict()
    torch.manual_seed(5)
    normed = gw.LSTM(3, 6, layer_norm=True, **options).state_dict()
    gains = [name for name in normed if name.startswith("norm")]
    assert gains == [
        f"norm_{part}_l{k}{way}"
        for k in (0, 1)
        for way in ("", "_reverse")
        for part in ("ih", "hh")
    ]
    assert all(torch.equal(normed[name], torch.ones(24)) for name in gains)
    assert [name for name in normed if name not in gains] == list(plain)
    torch.testing.assert_close({k: normed[k] for k in plain}, plain, rtol=0, atol=0)
    assert list(normed)[:7] == [
        "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0", "norm_ih_l0",
        "norm_hh_l0",
    ]  # fmt: skip
    again = gw.LSTM(3, 6, layer_norm=True, **options)
    again.load_state_dict(normed, strict=True)
    no_more = gw.LSTM(3, 6, recurrent_dropout=0.3, zoneout=0.2, **options)
    assert list(no_more.state_dict()) == list(plain)


def test_the_options_are_shown():
    assert repr(gw.GRU(3, 6, **extras("gru"))) == (
        "GRU(3, 6, layer_norm=True, recurrent_dropout=0.4, zoneout=(0.3,))"
    )
    assert repr(gw.LSTM(3, 6, zoneout=[0.5, 0.05])) == "LSTM(3, 6, zoneout=(0.5, 0.05))"
    assert gw.LSTM(3, 6, zoneout=0.1).zoneout == (0.1, 0.1)


@pytest.mark.parametrize("proj_size", [0, 4])
def test_zoneout_in_evaluation_is_its_expectation(proj_size):
    layer = gw.LSTM(3, 6, proj_size=proj_size, zoneout=(0.2, 0.7)).eval()
    plain = gw.LSTM(3, 6, proj_size=proj_size)
    plain.load_state_dict(layer.state_dict())
    x, state = torch.randn(5, 2, 3), states(layer, batch=2)
    output, final = layer(x, state)
    for t in range(5):
        _, new = plain(x[t : t + 1], state)
        state = tuple(p * s + (1 - p) * n for p, s, n in zip((0.2, 0.7), state, new, strict=True))
        torch.testing.assert_close(output[t], state[0][0], **CLOSE)
    torch.testing.assert_close(final, state, **CLOSE)
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_zoneout_in_training_keeps_a_unit_or_does_not():
    """Of every unit, step and sequence afresh; about as often as it was asked to."""
    torch.manual_seed(0)
    layer = gw.LSTM(3, 40, zoneout=(0.25, 0.6))
    x, state = torch.randn(50, 8, 3), states(layer, batch=8)
    _, _, trace = layer(x, state, trace=True)
    for name, first, p in zip("hc", state, (0.25, 0.6), strict=True):
        values = torch.cat([first[0][:, None], trace[name][0][0]], 1)
        kept = (values[:, 1:] == values[:, :-1]).double()
        assert abs(kept.mean() - p) < 0.02
        for others in ((1, 2), (0, 2), (0, 1)):  # the same for each sequence, step and unit
            torch.testing.assert_close(
                kept.mean(others), torch.full_like(kept.mean(others), p), rtol=0, atol=0.12
            )
    held = gw.LSTM(3, 6, zoneout=1.0)
    output, final = held(x[:5], states(held, 8))
    torch.testing.assert_close(final, states(held, 8), rtol=0, atol=0)
    assert torch.equal(output, final[0].expand(5, -1, -1))


def dropping(p, **options):
    """A layer whose output shows which of its recurrent inputs were dropped."""
    layer = gw.RNN(1, 40, nonlinearity="relu", bias=False, recurrent_dropout=p, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.zero_()
            if "weight_hh" in name:
                parameter.copy_(torch.eye(40))
    return layer


def test_recurrent_dropout_is_one_draw_for_a_sequence():
    torch.manual_seed(0)
    layer, hx = dropping(0.4, bidirectional=True), torch.ones(2, 8, 40)
    output, _ = layer(torch.zeros(3, 8, 1), hx)
    forward, backward = output[..., :40], output.flip(0)[..., 40:]
    for way in (forward, backward):
        for t in range(3):
            factors = way[t] ** (1 / (t + 1))
            torch.testing.assert_close(factors, way[0])
        kept = way[0] != 0
        torch.testing.assert_close(way[0][kept], torch.full_like(way[0][kept], 1 / 0.6))
        assert abs(kept.double().mean() - 0.6) < 0.1
        assert not (way[0] == way[0][0]).all()
    assert not torch.equal(forward, backward)
    assert (layer.eval()(torch.zeros(3, 8, 1), hx)[0] == 1).all()
    assert not dropping(1.0)(torch.zeros(3, 8, 1), hx[:1])[0].any()


def test_recurrent_dropout_leaves_the_cells_own_state_whole():
    layer = gw.Recurrent(minimal, 3, 6, recurrent_dropout=1.0)
    h = torch.randn(1, 2, 6)
    z, n = (
        torch.zeros(1, 2, 3) @ layer.weight_ih_l0.T + layer.bias_ih_l0 + layer.bias_hh_l0
    ).chunk(2, -1)
    z = sigmoid_(z)
    torch.testing.assert_close(
        layer(torch.zeros(1, 2, 3), h)[0], z * h + (1 - z) * torch.tanh(n), **CLOSE
    )


@pytest.mark.parametrize("options", [dict(recurrent_dropout=0.4), dict(zoneout=0.3)])
def test_what_is_random_follows_torchs_seed(options):
    layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True, **options)
    x = torch.randn(5, 2, 3)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(layer(x)[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[2], layer(x)[0])
    layer.eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(before, torch.get_rng_state())


X = torch.zeros(5, 2, 3)
NO_RESET = torch.zeros(5, 2, dtype=torch.bool)
ZERO = torch.zeros(1, 2, 6)
DROPPED = dict(recurrent_dropout=0.1, zoneout=0.1)


KERNELS = f"cpu: gatewise's kernels, {{}}, level {loaded_level()}; the first in order of preference"
REFERENCE = "reference: the cell's equations in torch operations, step by step; "


@pytest.mark.parametrize(
    ("layer", "options", "sentence"),
    [
        (gw.LSTM(3, 6), {}, KERNELS.format("lstm built in")),
        (gw.LSTM(3, 6, proj_size=2), {}, KERNELS.format("lstm built in")),
        (gw.GRU(3, 6), dict(lengths=[5, 2]), KERNELS.format("gru built in")),
        (
            gw.LSTM(3, 6, layer_norm=True, **DROPPED),
            {},
            KERNELS.replace(";", ", in double precision;").format("lstm built in"),
        ),
        (gw.LSTM(3, 8, layer_norm=True), {}, KERNELS.format("lstm built in")),
        (gw.RNN(3, 6).requires_grad_(False), dict(trace=True), KERNELS.format("rnn_tanh built in")),
        (gw.RNN(3, 6), dict(trace=True), KERNELS.format("rnn_tanh built in")),
        (
            gw.Recurrent(minimal, 3, 6),
            {},
            KERNELS.format("minimal compiled for this machine"),
        ),
        (gw.LSTM(3, 6, backend="reference"), {}, f"{REFERENCE}asked for by name"),
        (gw.LSTM(3, 6, backend="aten"), {}, "aten: torch's own lstm (oneDNN); asked for by name"),
        (gw.LSTM(3, 6, backend="aten", proj_size=2), {}, "aten: torch's own lstm (ATen); asked"),
        (gw.GRU(3, 6, backend="aten"), dict(lengths=[5, 2]), "aten: torch's own gru (ATen); asked"),
        (
            gw.LSTM(3, 6, backend="aten", **DROPPED | dict(zoneout=0)).eval(),
            {},
            "aten: torch's own lstm",
        ),
    ],
)
def test_explain_backend(layer, options, sentence):
    assert layer.explain_backend(X, **options).startswith(sentence)
    packed = layer.explain_backend(pack_sequence([X[:, 0]]), trace="trace" in options)
    assert packed.split(":")[0] == sentence.split(":")[0]
    layer(X, **options)


@pytest.fixture
def no_kernels(monkeypatch):
    """As if gatewise had been installed without its native core."""

    def absent():
        raise BackendError("the native core cannot be loaded: no module named _core")

    monkeypatch.setattr("gatewise.backends.cpu.core", absent)


ABSENT = "'cpu' is not available: the native core cannot be loaded: no module named _core"


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(
    ("layer", "options", "sentence"),
    [
        (gw.LSTM(3, 6), {}, f"aten: torch's own lstm (oneDNN); {ABSENT}"),
        (gw.LSTM(3, 6, zoneout=(0, 0.1)).eval(), {}, f"{ABSENT}; 'aten' has no zoneout"),
        (gw.LSTM(3, 6, layer_norm=True), {}, f"{ABSENT}; 'aten' has no layer normalisation"),
        (gw.LSTM(3, 6, recurrent_dropout=0.1), {}, f"{ABSENT}; 'aten' has no recurrent dropout"),
        (gw.LSTM(3, 6), dict(reset=NO_RESET), f"{ABSENT}; 'aten' cannot reset its states within a"),
        (
            gw.Recurrent(minimal, 3, 6),
            {},
            f"{ABSENT}; 'aten' has fixed cells (lstm, gru, rnn_tanh, rnn_relu), not 'minimal'",
        ),
        (
            gw.Recurrent("rnn_tanh", 3, 6, proj_size=2),
            {},
            f"{ABSENT}; 'aten' projects the LSTM's output only",
        ),
    ],
)
def test_explain_backend_where_there_are_no_kernels(layer, options, sentence):
    assert sentence in layer.explain_backend(X, **options)
    layer(X, **options)


@pytest.mark.parametrize(
    ("layer", "options", "reason"),
    [
        (gw.LSTM(3, 6, backend="aten"), dict(reset=NO_RESET), "but it cannot reset its states"),
        (gw.LSTM(3, 6, backend="aten", layer_norm=True), {}, "but it has no layer normalisation"),
        (gw.LSTM(3, 6, backend="aten"), dict(trace=True), "but it does not return its gates"),
        (gw.Recurrent(minimal, 3, 6, backend="aten"), {}, "but it has fixed cells"),
    ],
)
def test_a_backend_asked_for_by_name_never_gives_way(layer, options, reason):
    for use in (layer, layer.explain_backend):
        with pytest.raises(BackendError) as error:
            use(X, **options)
        assert f"the backend '{layer.backend}' was asked for, {reason}" in str(error.value)


def test_the_kernels_asked_for_by_name_never_give_way():
    half = gw.LSTM(3, 6, backend="cpu", dtype=torch.float16)
    with pytest.raises(
        BackendError, match=r"'cpu' was asked for, but it computes in float32, float64"
    ):
        half(X.half())
    parts = gw.Recurrent("gru", 3, 6, backend="cpu", layer_norm=True)
    assert "gru built in" in parts.explain_backend(X)
    alone = gw.cell(gates="f")(lambda a, s: dict(h=tanh(a.f.x) + s.h))
    with pytest.raises(
        BackendError, match="normalises every part of every gate, and '<lambda>' does"
    ):
        gw.Recurrent(alone, 3, 6, backend="cpu", layer_norm=True)(X)
    later = (
        "normalises the recurrent product of all gates at once, and 'gru_2014' computes that of n "
        "later, from a value of the same step"
    )
    with pytest.raises(BackendError, match=f"but it {later}"):
        gw.Recurrent("gru_2014", 3, 6, backend="cpu", layer_norm=True)(X)
    assert later in gw.Recurrent("gru_2014", 3, 6, layer_norm=True).explain_backend(X)
    assert "gru_2014 built in" in gw.Recurrent("gru_2014", 3, 6).explain_backend(X)
    layer = gw.LSTM(3, 6, backend="cpu")
    with pytest.raises(BackendError, match="it has no rule for vmap, jvp and other transforms"):
        torch.func.vmap(layer)(X[None])


@pytest.mark.usefixtures("no_kernels")
def test_absent_kernels_asked_for_by_name():
    with pytest.raises(
        BackendError, match="'cpu' was asked for, but it is not available: the native"
    ):
        gw.LSTM(3, 6, backend="cpu")(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gw.LSTM(3, 6, backend="refrence"), "'refrence' (did you mean 'reference'?)"),
        (lambda: gw.Recurrent("LSTM", 3, 6), "no cell 'LSTM' (did you mean 'lstm'?)"),
        (lambda: gw.LSTM(0, 6), "input_size must be a positive integer, not 0"),
        (lambda: gw.LSTM(3, 6.0), "hidden_size must be a positive integer, not 6.0"),
        (lambda: gw.LSTM(3, 6, num_layers=True), "num_layers must be a positive integer"),
        (lambda: gw.LSTM(3, 6, dropout=2), "dropout must be a probability from 0 to 1, not 2"),
        (lambda: gw.LSTM(3, 6, num_layers=2, dropout="0"), "dropout must be a probability from 0"),
        (lambda: gw.LSTM(3, 6, layer_norm=2), "layer_norm must be True or False, not 2"),
        (lambda: gw.LSTM(3, 6, recurrent_dropout=-0.1), "recurrent_dropout must be a probability "
            "from 0 to 1, not -0.1"),
        (lambda: gw.LSTM(3, 6, recurrent_dropout=math.nan), "from 0 to 1, not nan"),
        (lambda: gw.GRU(3, 6, zoneout=1.5), "zoneout must be a probability from 0 to 1, not 1.5"),
        (lambda: gw.GRU(3, 6, zoneout="0.1"), "zoneout must be a probability from 0 to 1, not '0.1'"),
        (lambda: gw.LSTM(3, 6, zoneout=True), "zoneout must be a probability from 0 to 1, not True"),
        (lambda: gw.LSTM(3, 6, zoneout=(0.1, 2)), "zoneout of the state c must be a probability "
            "from 0 to 1, not 2"),
        (lambda: gw.LSTM(3, 6, zoneout=[0.1]), "zoneout has 1 probabilities; lstm has 2 states (h, c)"),
        (lambda: gw.RNN(3, 6, zoneout=(0.1, 0.2)), "has 2 probabilities; rnn_tanh has 1 states (h)"),
        (lambda: gw.Recurrent(misnamed, 3, 6), "misnamed has a parameter 'norm_ih', which is a name of"),
        (lambda: gw.LSTM(3, 6, proj_size=6), "an integer from 0 to below hidden_size=6, not 6"),
        (lambda: gw.LSTM(3, 6, proj_size=2.0), "an integer from 0 to below hidden_size=6, not 2.0"),
        (lambda: gw.LSTM(3, 6, proj_size=True), "an integer from 0 to below hidden_size=6, not True"),
        (lambda: gw.LSTM(3, 6, bidirectional=2), "bidirectional must be True or False, not 2"),
        (lambda: gw.LSTM(3, 6, forget_bias=math.nan), "forget_bias must be a finite number, not nan"),
        (lambda: gw.LSTM(3, 6, forget_bias="a"), "forget_bias must be a finite number, not 'a'"),
        (lambda: gw.Recurrent(None, 3, 6), "cell must be a cell made with @gw.cell, or the name of a"),
        (lambda: gw.RecurrentCell(3, 3, 6), "cell must be a cell made with @gw.cell, or the name of a"),
        (lambda: gw.Recurrent("mlstm", 3, 6), "is not a cell, because its memory is a matrix; use the layer gw.MLSTM"),
        (lambda: gw.Recurrent("slstm", 3, 6, zoneout=0.1), "c, n, m are coupled and cannot have "
            "zoneout; give a probability for each state, such as zoneout=(0.1, 0.0, 0.0, 0.0)"),
        (lambda: gw.Recurrent("slstm", 3, 6, zoneout=(0.3, 0.1, 0, 0)), "zoneout=(0.3, 0.0, 0.0, 0.0)"),
        (lambda: gw.ConvRecurrent(None, 3, 6, 3), "cell must be a cell made with @gw.cell, or the name of a"),
        (lambda: gw.GRU(3, 6, proj_size=2), "GRU has no projection"),
        (lambda: gw.RNN(3, 6, proj_size=2), "RNN has no projection"),
        (lambda: gw.RNN(3, 6, nonlinearity="elu"), "must be one of 'tanh', 'relu', not 'elu'"),
        (lambda: gw.Recurrent("gru", 3, 6, proj_size=2), "gru cannot be projected"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((torch.zeros(3),), {}, "input must have 2 or 3 dimensions, not the shape (3,)"),
        ((torch.zeros(5, 2, 4),), {}, "(5, 2, 4): its last dimension must be input_size=3"),
        ((X.double(),), {}, "input is torch.float64, the layer's weights are torch.float32"),
        ((X, ZERO), {}, "lstm has the states (h, c); 1 were given"),
        ((X, [ZERO] * 3), {}, "lstm has the states (h, c); 3 were given"),
        ((X, (ZERO, torch.zeros(1, 3, 6))), {}, "c has the shape (1, 3, 6), expected (1, 2, 6)"),
        ((X[:, 0], (ZERO[0, 0], ZERO[0, :1])), {}, "h has the shape (6,), expected (1, 6)"),
        ((X[:, 0], (ZERO[0, :1, :5], ZERO[0, :1])), {}, "h has the shape (1, 5), expected (1, 6)"),
        ((X,), dict(lengths=[1.0, 2.0]), "lengths must be integers, these are torch.float32"),
        ((X,), dict(lengths=[True, True]), "lengths must be integers, these are torch.bool"),
        ((X,), dict(lengths=[5]), "lengths has the shape (1,), expected (2,)"),
        ((X,), dict(lengths=[5, 6]), "length 6 of sequence 1 is not in 0…5"),
        ((X,), dict(lengths=[-1, 5]), "length -1 of sequence 0 is not in 0…5"),
        ((pack_sequence([X[:, 0]]),), dict(lengths=[5]), "a PackedSequence has its own lengths"),
        ((pack_sequence([X[:, 0]]),), dict(reset=NO_RESET), "reset= cannot be given with a PackedSequence"),
        ((X,), dict(reset=NO_RESET.T), "reset has the shape (2, 5), expected (5, 2)"),
        ((X,), dict(reset=NO_RESET[:, 0]), "reset has the shape (5,), expected (5, 2)"),
        ((X[:, 0],), dict(reset=NO_RESET), "reset has the shape (5, 2), expected (5,)"),
        ((X,), dict(reset=NO_RESET.long()), "reset must be boolean, this is torch.int64"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(given, options, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        gw.LSTM(3, 6)(*given, **options)


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [None, (5, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind, lengths, backend):
    layer, _ = pair(kind, backend=backend, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    expected, state = layer(x, lengths=lengths)
    with torch.autocast("cpu", torch.bfloat16):
        output, final = layer(x, lengths=lengths)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.03)
    for a, b in zip(tensors(final), tensors(state), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.03)
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in layer.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_autocast_with_every_option(training):
    layer = gw.LSTM(3, 6, num_layers=2, bidirectional=True, **extras("lstm")).train(training)
    x, reset = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.3
    torch.manual_seed(0)
    expected, _ = layer(x, lengths=(5, 2), reset=reset)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x, lengths=(5, 2), reset=reset)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in layer.parameters())


@pytest.mark.parametrize("cell", [*gw.CELLS, minimal], ids=str)
def test_copies_and_saved_weights(cell):
    layer = gw.Recurrent(cell, 3, 6, num_layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    again = copy.deepcopy(layer)
    assert again.cell == layer.cell
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = gw.Recurrent(cell, 3, 6, num_layers=2, bidirectional=True)
    assert not torch.equal(loaded(x)[0], layer(x)[0])
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for other in (again, loaded):
        assert torch.equal(other(x)[0], layer(x)[0])
    with torch.no_grad():
        again.weight_ih_l0.zero_()
    assert layer.weight_ih_l0.any()
    assert loaded.explain_backend(x) == layer.explain_backend(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_swapped_gates_are_seen(backend):
    """The comparisons above can fail: i and f changed places, and the output is another."""
    ours, theirs = pair("lstm", backend=backend)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], **CLOSE)
    order = [1, 0, 2, 3]
    swapped = {
        name: torch.cat([value.chunk(4)[k] for k in order])
        for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(swapped)
    assert (ours(x)[0] - theirs(x)[0]).abs().max() > 1e-3


def test_a_users_cell_in_a_layer():
    layer = gw.Recurrent(minimal, 3, 6, num_layers=2, bidirectional=True, batch_first=True)
    output, h = layer(torch.randn(4, 5, 3), lengths=[5, 0, 2, 3])
    assert output.shape == (4, 5, 12)
    assert h.shape == (4, 4, 6)
    assert repr(layer) == "Recurrent(3, 6, num_layers=2, batch_first=True, bidirectional=True)"
    layer.flatten_parameters()


README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_readmes_cell(backend):
    """Its layer, and one of its cell beside its equations in torch: outputs and gradients."""
    (example,) = re.findall(
        r"```python\n(import gatewise as gw\n+@gw\.cell.*?)```", README, re.DOTALL
    )
    names = {"gw": gw}
    exec(compile(example, "README.md", "exec"), names)
    assert names["layer"](torch.randn(3, 2, 32))[0].shape == (3, 2, 128)
    assert names["leaky"].name not in gw.CELLS
    layer = gw.Recurrent(names["leaky"], 3, 5, dtype=torch.float64, backend=backend)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    w, u, b, d, rate = layer.parameters()
    h, outputs = torch.zeros(2, 5, dtype=torch.float64), []
    for step in x:
        (x_f, x_n), (h_f, h_n) = (step @ w.T + b).chunk(2, -1), (h @ u.T + d).chunk(2, -1)
        f = sigmoid_(x_f + h_f)
        h = h + sigmoid_(rate) * f * (torch.tanh(x_n + f * h_n) - h)
        outputs.append(h)
    found, expected = layer(x)[0], torch.stack(outputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(y.sin().sum(), [*layer.parameters()]) for y in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


# Lengths and resets in one call of the core -------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("given", [("lengths",), ("reset",), ("lengths", "reset")], ids="+".join)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_and_resets_at_once(batch_first, options, given, monkeypatch):
    layer = gw.LSTM(3, 5, batch_first=batch_first, **options)
    x = torch.randn(7, 4, 3)
    beside = dict(lengths=torch.tensor([7, 0, 3, 1]), reset=torch.rand(7, 4) < 0.4)
    beside = {name: beside[name] for name in given}
    if batch_first:
        x = x.transpose(0, 1)
        beside = {k: v.T if k == "reset" else v for k, v in beside.items()}
    expected = layer(x, **beside)  # with a tape: a layer at a time
    calls = []
    with torch.no_grad():
        layer(x)
        run = layer._one_call.network.run
        monkeypatch.setattr(
            layer._one_call.network, "run", lambda *a: calls.append(run(*a)) or calls[-1]
        )
        found = layer(x, **beside)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    at_once = calls and calls[-1] is not None
    assert bool(at_once) is not ("reset" in given and "bidirectional" in options)


@pytest.mark.parametrize("lengths", [[3, 8], [-1, 2]], ids=str)
def test_a_length_that_is_out_of_range_is_never_run(lengths):
    layer = gw.GRU(3, 5)
    with torch.no_grad(), pytest.raises(ShapeError, match="is not in 0…7"):
        layer(torch.randn(7, 2, 3), lengths=torch.tensor(lengths))


@torch.no_grad()
def test_lengths_and_resets_of_other_kinds():
    layer, x = gw.GRU(3, 5), torch.randn(7, 2, 3)
    whole, part = torch.tensor([7, 4]), torch.zeros(7, 2, dtype=torch.bool)
    part[3, 1] = True
    expected = layer(x, lengths=whole, reset=part)
    torch.testing.assert_close(layer(x, lengths=[7, 4], reset=part), expected)
    torch.testing.assert_close(layer(x, lengths=whole.int(), reset=part), expected)
    torch.testing.assert_close(layer(x, lengths=torch.tensor([7, 9, 4])[::2], reset=part), expected)
    alone = layer(x[:, 1], reset=part[:, 1])[0]
    torch.testing.assert_close(alone, layer(x, reset=part)[0][:, 1])
    with pytest.raises(ShapeError, match="reset has the shape"):
        layer(x, reset=part.T)
    with pytest.raises(ShapeError, match="reset must be boolean"):
        layer(x, reset=part.int())


def test_inputs_and_states_that_are_no_tensors():
    x = torch.zeros(5, 2, 3)
    for layer, given in ((gw.LSTM(3, 6), x), (gw.LSTMCell(3, 6), x[0]), (gw.MLSTM(3, 6), x)):
        with pytest.raises(
            ShapeError, match="input is a ndarray, expected a tensor; for sequences"
        ):
            layer(given.numpy())
    for enabled in (False, True):
        with (
            torch.autocast("cpu", enabled=enabled),
            pytest.raises(ShapeError, match=r"hx has a NoneType where lstm's states \(h, c\) are"),
        ):
            gw.LSTM(3, 6)(x, (torch.zeros(1, 2, 6), None))
    with pytest.raises(
        ShapeError, match=r"hx is a int, expected lstm's states \(h, c\) as tensors"
    ):
        gw.LSTM(3, 6)(x, 5)


def test_states_that_say_something_only_together():
    """Of the sLSTM's c, n and m none is learned or kept alone; from n = 0 nothing would be."""
    layer = gw.Recurrent("slstm", 3, 6, learn_initial=True, zoneout=(0.3, 0, 0, 0))
    assert [n for n, _ in layer.named_parameters() if "initial" in n] == ["initial_h_l0"]
    nn.init.normal_(layer.initial_h_l0)
    x = torch.randn(5, 2, 3)
    layer(x)[0].square().sum().backward()
    assert layer.initial_h_l0.grad.abs().min() > 0
    layer.eval()
    zero = torch.zeros(1, 2, 6)
    start = layer.initial_h_l0.detach().expand(1, 2, 6)
    torch.testing.assert_close(layer(x)[0], layer(x, (start, zero, zero, zero))[0])
    with pytest.raises(CellError, match="'odd': coupled_states 'k' is not one of its states"):
        gw.cell(gates="i", coupled_states="k", name="odd")(lambda a, s: dict(h=a.i))
