"""Layers that read from the end, and unlike directions: beside a bidirectional layer's own halves."""

import pytest
import torch

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.directions import Bidirectional, Reversed

pytestmark = pytest.mark.usefixtures("one_thread")

T, B, N, H = 6, 3, 2, 4


def halves(kind=gw.LSTM, **options):
    """A bidirectional layer and its two directions as layers of their own."""
    torch.manual_seed(0)
    whole = kind(N, H, bidirectional=True, **options)
    ahead, back = kind(N, H, **options), kind(N, H, **options)
    state = whole.state_dict()
    ahead.load_state_dict({k: v for k, v in state.items() if not k.endswith("_reverse")})
    back.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in state.items() if k.endswith("_reverse")}
    )
    return whole, ahead, back


def listed(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


GIVEN = {
    "plain": {},
    "lengths": dict(lengths=[6, 0, 3]),
    "reset": dict(reset=torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.4),
}
GIVEN["both"] = GIVEN["lengths"] | GIVEN["reset"]


@pytest.mark.pairwise
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [gw.LSTM, gw.GRU])
def test_two_directions_are_a_bidirectional_layer(kind, batch_first, given):
    whole, ahead, back = halves(kind, batch_first=batch_first)
    x = torch.randn(T, B, N)
    if batch_first:
        x = x.transpose(0, 1)
        given = {k: v.T if k == "reset" else v for k, v in given.items()}
    hx = tuple(torch.randn(2, B, H) for _ in whole.cell.state)
    hx = hx if len(hx) > 1 else hx[0]
    results = []
    for layer in (whole, Bidirectional(ahead, back)):
        seen = x.clone().requires_grad_()
        output, state = layer(seen, hx, **given)
        loss = output.square().sum() + sum(each.sum() for each in listed(state))
        results.append([output, *listed(state), *torch.autograd.grad(loss, seen)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    one, other = (
        whole(x, hx, trace=True, **given)[2],
        Bidirectional(ahead, back)(x, hx, trace=True, **given)[2],
    )
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-6)
    assert (other.lengths is None) == ("lengths" not in given)
    assert other.lengths is None or other.lengths.tolist() == given["lengths"]


@pytest.mark.parametrize("reset", [None, GIVEN["reset"]["reset"][:, 0]])
def test_a_single_sequence(reset):
    whole, _, back = halves()
    x = torch.randn(T, N)
    output, (h, c) = Reversed(back)(x, reset=reset)
    expected, (hs, cs) = whole(x, reset=reset)
    torch.testing.assert_close([output, h[0], c[0]], [expected[:, H:], hs[1], cs[1]])


def test_as_read():
    _, _, back = halves()
    x = torch.randn(T, B, N)
    output, state, trace = Reversed(back, as_read=True)(x, trace=True)
    expected, final = back(x.flip(0))
    torch.testing.assert_close([output, *state], [expected, *final])
    torch.testing.assert_close(trace.h[0][0].transpose(0, 1), expected)
    _, _, turned = Reversed(back)(x, lengths=[6, 2, 6], trace=True)
    assert turned.lengths.tolist() == [6, 2, 6]
    torch.testing.assert_close(turned.h[0][0][0], expected[:, 0].flip(0))


MERGES = {
    "concat": lambda a, b: torch.cat([a, b], -1),
    "sum": torch.add,
    "mul": torch.mul,
    "ave": lambda a, b: (a + b) / 2,
}


@pytest.mark.parametrize("merge", MERGES)
def test_merges(merge):
    whole, ahead, back = halves()
    x = torch.randn(T, B, N)
    both = Bidirectional(ahead, back, merge)
    output = both(x)[0]
    expected = MERGES[merge](*whole(x)[0].chunk(2, -1))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    assert both.output_size == output.shape[-1]


def test_in_a_stack():
    _, ahead, back = halves()
    x = torch.randn(T, B, N)
    stack = gw.Stack(Bidirectional(ahead, back), Reversed(gw.GRU(2 * H, 3)))
    output, _, traces = stack(x, lengths=[6, 2, 0], trace=True)
    assert output.shape == (T, B, 3)
    assert not output[2:, 1].any()
    assert output[:2, 1].all()
    assert len(traces) == 2


def by_hand(layer, x, lengths, reset):
    """Each piece of each sequence by itself, read from its end; the states where the reading ends."""
    outputs, ends = torch.zeros(*x.shape[:2], layer.output_size), []
    for b, steps in enumerate(lengths):
        cuts = [t for t in range(1, steps) if reset[t, b]]
        begin, state = steps, None
        for cut in [*reversed(cuts), 0]:
            piece = x[cut:begin, b].flip(0)
            read, state = (
                layer(piece) if len(piece) else (piece.new_zeros(0, layer.output_size), None)
            )
            outputs[cut:begin, b], begin = read.flip(0), cut
        ends.append(state)
    return outputs, ends


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_mlstm_both_ways(batch_first):
    torch.manual_seed(1)
    ahead, back = (gw.MLSTM(N, H, heads=2, batch_first=batch_first) for _ in range(2))
    both = gw.Bidirectional(ahead, back)
    assert (both.input_size, both.output_size, both.batch_first) == (N, 2 * H, batch_first)
    x, given = torch.randn(T, B, N), GIVEN["both"]
    asked = {k: v.T if batch_first and k == "reset" else v for k, v in given.items()}
    output, (first, last), trace = both(
        x.transpose(0, 1) if batch_first else x, trace=True, **asked
    )
    output = output.transpose(0, 1) if batch_first else output
    expected, ends = by_hand(back, x, given["lengths"], given["reset"])
    torch.testing.assert_close(output[..., H:], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trace.h[0][1].transpose(0, 1), expected, rtol=1e-5, atol=1e-6)
    for b, end in enumerate(ends):
        for found, wanted in zip(last, end or (), strict=bool(end)):
            torch.testing.assert_close(found[b], wanted, rtol=1e-5, atol=1e-6)
    alone = ahead(x.transpose(0, 1) if batch_first else x, **asked)
    assert all(map(torch.equal, first, alone[1]))


@pytest.mark.parametrize("make", [lambda: gw.MLSTM(N, H, heads=2), lambda: gw.Stack(gw.GRU(N, H))])
def test_a_pair_of_states_goes_on(make):
    torch.manual_seed(2)
    ahead, back = make(), make()
    both, x, y = gw.Bidirectional(ahead, back), torch.randn(T, B, N), torch.randn(T, B, N)
    _, state = both(x)
    output, ends = both(y, state)
    expected = [ahead(y, state[0]), back(y.flip(0), state[1])]
    torch.testing.assert_close(output[..., :H], expected[0][0])
    torch.testing.assert_close(output[..., H:], expected[1][0].flip(0))
    torch.testing.assert_close(ends, (expected[0][1], expected[1][1]))


def test_unlike_directions():
    torch.manual_seed(3)
    x = torch.randn(T, B, N)
    lstm, peephole, mlstm = gw.LSTM(N, H), gw.Recurrent("peephole", N, H), gw.MLSTM(N, H)
    _, _, trace = gw.Bidirectional(peephole, lstm)(x, trace=True)
    torch.testing.assert_close(trace.f[0][0], peephole(x, trace=True)[2].f[0][0])
    torch.testing.assert_close(trace.f[0][1], lstm(x.flip(0), trace=True)[2].f[0][0].flip(1))
    for pair in ((mlstm, lstm), (lstm, mlstm)):
        output, state, trace = gw.Bidirectional(*pair)(x, trace=True)
        torch.testing.assert_close(output[..., :H], pair[0](x)[0])
        torch.testing.assert_close(output[..., H:], pair[1](x.flip(0))[0].flip(0))
        assert set(trace.names) == {"o", "f", "h"}
        torch.testing.assert_close(state, (pair[0](x)[1], pair[1](x.flip(0))[1]))


def test_the_second_direction_is_a_copy_with_weights_of_its_own():
    torch.manual_seed(0)
    both = gw.Bidirectional(gw.Recurrent("peephole", N, H), merge="sum")
    assert both(torch.randn(T, B, N))[0].shape == (T, B, H)
    ahead, back = both.forward_layer, both.backward_layer.layer
    assert (back.cell, back.hidden_size) == (ahead.cell, H)
    assert not torch.equal(ahead.weight_hh_l0, back.weight_hh_l0)


def test_a_stack_both_ways():
    """And a stack of what goes both ways; each layer's trace has both directions."""
    torch.manual_seed(0)
    stacks = [gw.Stack(gw.MLSTM(N, H), gw.Recurrent("slstm", H, H)) for _ in range(2)]
    both, x = gw.Bidirectional(*stacks), torch.randn(T, B, N)
    output, states, traces = both(x, lengths=[6, 2, 0], trace=True)
    assert [len(s) for s in states] == [2, 2]
    assert [len(trace.h[0]) for trace in traces] == [2, 2]
    torch.testing.assert_close(traces[1].h[0][1].transpose(0, 1), output[..., H:])
    single = stacks[1](x[:2, 1].flip(0))[0].flip(0)
    torch.testing.assert_close(output[:2, 1, H:], single, rtol=1e-5, atol=1e-6)
    xlstm = gw.Stack(
        gw.Bidirectional(gw.MLSTM(N, H)), gw.Bidirectional(gw.Recurrent("slstm", 2 * H, H))
    )
    assert xlstm(x)[0].shape == (T, B, 2 * H)


def test_what_is_refused():
    plain = gw.LSTM(N, H)
    with pytest.raises(OptionError, match="has num_layers=2 and bidirectional=False"):
        Reversed(gw.LSTM(N, H, 2))
    with pytest.raises(OptionError, match="output_size=4 and output_size=5; they must be equal"):
        Bidirectional(plain, gw.LSTM(N, 5))
    with pytest.raises(OptionError, match=r"states=\('h', 'c'\) and states=\('h',\)"):
        Bidirectional(plain, gw.GRU(N, H))
    with pytest.raises(OptionError, match="merge must be one of 'concat', 'sum', 'mul', 'ave'"):
        Bidirectional(plain, plain, "max")
    with pytest.raises(ShapeError, match=r"\(1, 3, 4\); its first dimension must be 2"):
        Bidirectional(plain, plain)(torch.zeros(T, B, N), (torch.zeros(1, B, H),) * 2)
    with pytest.raises(ShapeError, match="input_size=2"):
        Reversed(plain)(torch.zeros(T, B, 5))
    with pytest.raises(OptionError, match="batch_first=False and batch_first=True"):
        Bidirectional(gw.MLSTM(N, H), gw.MLSTM(N, H, batch_first=True))
    with pytest.raises(
        OptionError, match=r"Stack has no reset_parameters\(\), so it cannot be copied; give"
    ):
        Bidirectional(gw.Stack(plain))
    with pytest.raises(OptionError, match="Linear has input_size=None"):
        Reversed(torch.nn.Linear(2, 3))
    with pytest.raises(OptionError, match="layers=1 and layers=2"):
        Bidirectional(gw.MLSTM(N, H), gw.Stack(gw.GRU(N, H), gw.GRU(H, H)))
    with pytest.raises(
        OptionError, match="a Reversed, which reads backward already; give the layer inside"
    ):
        Bidirectional(plain, Reversed(gw.LSTM(N, H)))
    shared = torch.nn.utils.parametrizations.weight_norm(gw.MLSTM(N, H), "weight")
    with pytest.raises(
        OptionError, match="is parametrized, so it cannot be copied; give backward_layer"
    ):
        Bidirectional(shared)
    pair, x = gw.Bidirectional(gw.MLSTM(N, H)), torch.zeros(T, B, N)
    for hx, what in ((5, "int"), (torch.zeros(2), "Tensor"), ((), "tuple of 0"), ("ab", "str")):
        with pytest.raises(
            ShapeError, match=f"hx is a {what}, expected a pair of states, one for each"
        ):
            pair(x, hx)
    both = gw.Bidirectional(plain)
    for hx in (5, (None, None), (1, 2, 3), "ab", torch.tensor(1.0), (torch.tensor(1.0),) * 2):
        with pytest.raises(ShapeError):
            both(x, hx)
