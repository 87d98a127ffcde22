"""Linear layers by oneDNN, and dropout with masks of its own, beside torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gatewise.backends import torch_private
from gatewise.nn import linear as module
from gatewise.nn.dropout import Dropout, dropout
from gatewise.nn.linear import Linear, few_sizes, linear

SHAPES = [
    (67, 150, 130),
    (7, 11, 150, 130),
    (64, 130, 150),
]  # rows that are padded, with two dimensions, not padded


@pytest.fixture
def products(monkeypatch):
    """The shapes of the products that oneDNN has computed, as on a processor where it is faster."""
    seen = []

    def counted(x, weight, bias=None):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return fast(x, weight, bias)

    fast = module.fast_linear
    monkeypatch.setattr(module, "fast_linear", counted)
    for each in (module, torch_private):
        monkeypatch.setattr(each, "onednn_is_faster", lambda: True)
    return seen


def parameters(*shape, bias=True):
    *rows, inputs, outputs = shape
    torch.manual_seed(1)
    weight = torch.randn(outputs, inputs, requires_grad=True)
    return (
        torch.randn(*rows, inputs, requires_grad=True),
        weight,
        torch.randn(outputs, requires_grad=True) if bias else None,
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_product_is_torchs_with_its_gradients(shape, bias, products):
    given = [each for each in parameters(*shape, bias=bias) if each is not None]
    output, expected = linear(*given), F.linear(*given)
    torch.testing.assert_close(output, expected)
    slope = torch.randn_like(output)
    found = torch.autograd.grad(output, given, slope)
    torch.testing.assert_close(
        found, torch.autograd.grad(expected, given, slope), rtol=1e-4, atol=1e-4
    )
    assert len(products) == 3
    with torch.no_grad():
        torch.testing.assert_close(linear(*given), expected)
    assert len(products) == 4
    assert all(rows[0] == few_sizes(rows[0]) for rows, _ in products[:2])


def test_input_that_is_not_contiguous_and_weights_that_are_frozen(products):
    x, weight, bias = parameters(40, 30, 64, 50)
    turned, frozen = x.transpose(0, 1), weight.detach()
    output = linear(turned, frozen, bias)
    torch.testing.assert_close(output, F.linear(turned, frozen, bias))
    slope = torch.randn_like(output)
    expected = torch.autograd.grad(F.linear(turned, frozen, bias), (x, bias), slope)
    torch.testing.assert_close(
        torch.autograd.grad(output, (x, bias), slope), expected, rtol=1e-4, atol=1e-4
    )
    assert len(products) == 2  # none for the weight's gradient


def test_gradients_of_gradients(products):
    given = parameters(*SHAPES[0])

    def second(function):
        slopes = torch.autograd.grad(function(*given).sin().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), given)

    torch.testing.assert_close(second(linear), second(F.linear), rtol=1e-3, atol=1e-2)


def test_where_torchs_product_is_called(products):
    x, weight, bias = parameters(*SHAPES[0])
    linear(x.double(), weight.double())
    linear(x[:5], weight)  # small
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    shared = torch.vmap(lambda row: linear(row, weight))(x.expand(3, *x.shape))
    torch.testing.assert_close(shared[1], F.linear(x, weight))
    with FakeTensorMode():
        assert linear(torch.empty(67, 150), torch.empty(130, 150)).shape == (67, 130)
    assert products == []


def test_torchs_product_is_called_where_it_is_faster(products, monkeypatch):
    monkeypatch.setattr(module, "onednn_is_faster", lambda: False)
    given = parameters(*SHAPES[0])
    torch.testing.assert_close(linear(*given), F.linear(*given), rtol=0, atol=0)
    assert products == []


def test_the_layer_has_torchs_parameters_and_draws():
    torch.manual_seed(3)
    ours = Linear(150, 130)
    torch.manual_seed(3)
    theirs = nn.Linear(150, 130)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    x = torch.randn(67, 150)
    torch.testing.assert_close(ours(x), theirs(x))


def test_few_sizes():
    sizes = [few_sizes(n) for n in range(5000)]
    assert all(n <= size <= max(n, n * 33 / 32) for n, size in enumerate(sizes))
    assert len({size for size in sizes if 1024 < size <= 2048}) == 32
    assert sizes[:64] == list(range(64))


# ------------------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.77])
def test_dropout_drops_so_many_and_keeps_the_mean(p):
    torch.manual_seed(0)
    found = dropout(torch.ones(1000, 300), p)
    kept = found != 0
    scale = 2**16 / (2**16 - round(p * 2**16))
    torch.testing.assert_close(found[kept], torch.full((int(kept.sum()),), scale))
    deviation = (p * (1 - p) / found.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * deviation
    # neighbours in any of the four that share a word of random bits are independent
    kept = kept.view(-1).double() - kept.double().mean()
    for shift in (1, 2, 3, 4):
        assert (
            abs(float((kept[shift:] * kept[:-shift]).mean())) < 5 * p * (1 - p) / len(kept) ** 0.5
        )


def test_dropout_has_the_seeds_mask_and_its_gradient():
    x = torch.randn(3, 7, 5, requires_grad=True)
    torch.manual_seed(2)
    found = dropout(x, 0.4)
    torch.manual_seed(2)
    assert torch.equal(dropout(x, 0.4), found)
    assert not torch.equal(dropout(x, 0.4), found)
    (slope,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(slope * x, found)
    assert 0 < int((slope == 0).sum()) < x.numel()


def test_dropout_of_another_layout_is_contiguous():
    assert dropout(torch.randn(4, 3, 5).transpose(0, 1), 0.5).is_contiguous()


def test_dropout_is_torchs_elsewhere():
    x = torch.ones(40, 50)
    assert dropout(x, 0.5, training=False) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(dropout(x, 0.0), x)
    assert not dropout(x, 1.0).any()
    assert dropout(x.bfloat16(), 0.5).dtype == torch.bfloat16
    assert dropout(x[:0], 0.5).shape == (0, 50)
    with FakeTensorMode():
        assert dropout(torch.empty(40, 50), 0.5).shape == (40, 50)
    torch.manual_seed(1)
    expected = F.dropout(x, 0.3)
    torch.manual_seed(1)
    mapped = torch.vmap(lambda row: dropout(row, 0.3), randomness="same")(x[None])[0]
    assert torch.equal(mapped, expected)
