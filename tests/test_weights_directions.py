"""Layers that read from the end, and unlike directions: beside a bidirectional layer's own halves."""

import pytest
import torch

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.weights.directions import BothWays, Reversed

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
    for layer in (whole, BothWays(ahead, back)):
        seen = x.clone().requires_grad_()
        output, state = layer(seen, hx, **given)
        loss = output.square().sum() + sum(each.sum() for each in listed(state))
        results.append([output, *listed(state), *torch.autograd.grad(loss, seen)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    one, other = (
        whole(x, hx, trace=True, **given)[2],
        BothWays(ahead, back)(x, hx, trace=True, **given)[2],
    )
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-6)


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
    output, state = Reversed(back, as_read=True)(x)
    expected, final = back(x.flip(0))
    torch.testing.assert_close([output, *state], [expected, *final], rtol=0, atol=0)


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
    both = BothWays(ahead, back, merge)
    output = both(x)[0]
    expected = MERGES[merge](*whole(x)[0].chunk(2, -1))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    assert both.output_size == output.shape[-1]


def test_in_a_stack():
    _, ahead, back = halves()
    x = torch.randn(T, B, N)
    stack = gw.Stack(BothWays(ahead, back), Reversed(gw.GRU(2 * H, 3)))
    output, _, traces = stack(x, lengths=[6, 2, 0], trace=True)
    assert output.shape == (T, B, 3)
    assert not output[2:, 1].any()
    assert output[:2, 1].all()
    assert len(traces) == 2


def test_what_is_refused():
    plain = gw.LSTM(N, H)
    with pytest.raises(OptionError, match="has num_layers=2 and bidirectional=False"):
        Reversed(gw.LSTM(N, H, 2))
    with pytest.raises(OptionError, match="output_size=4 and 5"):
        BothWays(plain, gw.LSTM(N, 5))
    with pytest.raises(OptionError, match=r"states \('h', 'c'\) and \('h',\)"):
        BothWays(plain, gw.GRU(N, H))
    with pytest.raises(OptionError, match="merge must be one of 'concat', 'sum', 'mul', 'ave'"):
        BothWays(plain, plain, "max")
    with pytest.raises(ShapeError, match=r"\(1, 3, 4\), expected 2 at the front"):
        BothWays(plain, plain)(torch.zeros(T, B, N), (torch.zeros(1, B, H),) * 2)
    with pytest.raises(ShapeError, match="input_size=2"):
        Reversed(plain)(torch.zeros(T, B, 5))
