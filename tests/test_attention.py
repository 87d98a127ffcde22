"""Attention and pooling, against the papers' formulas one query and one key at a time."""

import re

import pytest
import torch
import torch.nn.functional as F

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.attention import AdditiveAttention, AttentionPooling, MultiplicativeAttention

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = dict(rtol=1e-10, atol=1e-12)
DOUBLE = dict(dtype=torch.float64)


def additive_score(layer, q, k):
    return layer.score_weight @ torch.tanh(layer.query_weight @ q + layer.key_weight @ k)


def general_score(layer, q, k):
    return q @ layer.weight @ k


def dot_score(layer, q, k):
    return (q * k).sum()


MADE = {
    "additive": (lambda: AdditiveAttention(3, 4, 5, **DOUBLE), additive_score, 3),
    "general": (lambda: MultiplicativeAttention(3, 4, **DOUBLE), general_score, 3),
    "dot": (lambda: MultiplicativeAttention(4, 4, "dot", **DOUBLE), dot_score, 4),
}


def by_hand(score, query, keys, values, allowed):
    """Context and weights, each query alone, with what is not allowed left out of all sums."""
    batch, queries, steps = allowed.shape
    weights = torch.zeros(allowed.shape, dtype=query.dtype)
    context = torch.zeros(batch, queries, values.shape[2], dtype=query.dtype)
    for b in range(batch):
        for s in range(queries):
            places = [t for t in range(steps) if allowed[b, s, t]]
            if not places:
                continue
            powers = torch.stack([score(query[b, s], keys[b, t]) for t in places]).exp()
            row = powers / powers.sum()
            weights[b, s, places] = row
            context[b, s] = sum(row[n] * values[b, t] for n, t in enumerate(places))
    return context, weights


def drawn(batch, queries, steps, query_size, seed=0):
    torch.manual_seed(seed)
    shapes = ((batch, queries, query_size), (batch, steps, 4), (batch, steps, 2))
    return [torch.randn(shape, **DOUBLE, requires_grad=True) for shape in shapes]


def masks(batch, queries, steps):
    lengths = torch.tensor([steps, 0, 1, steps // 2][:batch])
    inside = torch.arange(steps)[None] < lengths[:, None]
    one = torch.rand(batch, steps) < 0.6
    each = torch.rand(batch, queries, steps) < 0.5
    each[0, 0] = False
    wide = lambda m: m[:, None].expand(batch, queries, steps)  # noqa: E731
    return {
        "all": ({}, torch.ones(batch, queries, steps, dtype=torch.bool)),
        "lengths": (dict(lengths=lengths), wide(inside)),
        "mask": (dict(mask=one), wide(one)),
        "each its own": (dict(mask=each), each),
        "both": (dict(mask=each, lengths=lengths.tolist()), each & wide(inside)),
    }


SIZES = {"some": (4, 3, 5), "one": (1, 1, 1), "one key": (3, 2, 1)}


@pytest.mark.pairwise
@pytest.mark.parametrize("which", ["all", "lengths", "mask", "each its own", "both"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", MADE)
def test_values_and_gradients_are_the_papers(kind, size, which):
    make, score, query_size = MADE[kind]
    layer = make()
    query, keys, values = drawn(*size, query_size)
    given, allowed = masks(*size)[which]
    expected = by_hand(lambda q, k: score(layer, q, k), query, keys, values, allowed)
    found = layer(query, keys, values, **given)
    torch.testing.assert_close(found, expected, **EXACT)
    leaves = [query, keys, values, *layer.parameters()]
    seeds = [torch.randn_like(e) for e in expected]
    grads = [
        torch.autograd.grad(r, leaves, seeds, materialize_grads=True, retain_graph=True)
        for r in (found, expected)
        if r[0].requires_grad
    ]
    if len(grads) == 2:
        torch.testing.assert_close(*grads, **EXACT)
    else:  # nothing is allowed at all
        assert not allowed.any()
        assert not any(g.any() for g in grads[0])
    assert not found[1][~allowed].any()
    for row in found[1][allowed.any(-1)].sum(-1):
        torch.testing.assert_close(row, torch.ones_like(row), **EXACT)
    if kind != "additive":
        context, none = layer(query, keys, values, **given, need_weights=False)
        assert none is None
        torch.testing.assert_close(context, expected[0], **EXACT)
        alone = torch.autograd.grad(context, leaves, seeds[0], materialize_grads=True)
        with_weights = torch.autograd.grad(found[0], leaves, seeds[0], materialize_grads=True)
        torch.testing.assert_close(alone, with_weights, **EXACT)


@pytest.mark.parametrize("kind", MADE)
def test_one_query_and_keys_as_values(kind):
    make, score, query_size = MADE[kind]
    layer = make()
    query, keys, _ = drawn(3, 1, 5, query_size)
    allowed = torch.ones(3, 1, 5, dtype=torch.bool)
    context, weights = by_hand(lambda q, k: score(layer, q, k), query, keys, keys, allowed)
    strided = keys.detach().repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    found = layer(query[:, 0], strided)
    torch.testing.assert_close(found, (context[:, 0], weights[:, 0]), **EXACT)
    if kind != "additive":
        context_alone, _ = layer(query[:, 0], strided, need_weights=False)
        torch.testing.assert_close(context_alone, context[:, 0], **EXACT)


def contexts(kind, layer):
    yield lambda *a, **k: layer(*a, **k)[0]
    if kind != "additive":
        yield lambda *a, **k: layer(*a, **k, need_weights=False)[0]


@pytest.mark.parametrize("kind", MADE)
def test_what_lies_beyond_is_never_looked_at(kind):
    make, _, query_size = MADE[kind]
    layer = make()
    lengths = [5, 0, 2]
    query, keys, values = (t.detach() for t in drawn(3, 2, 5, query_size))
    spoilt = [keys.clone(), values.clone()]
    for each in spoilt:
        for b, n in enumerate(lengths):
            each[b, n:] = torch.nan
    query.requires_grad_()
    for attend in contexts(kind, layer):
        leaves = [query, *layer.parameters()]
        with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
            context = attend(query, *spoilt, lengths=lengths)
            found = torch.autograd.grad((context**2).sum(), leaves)
        total = 0
        for b, n in enumerate(lengths):
            if n == 0:
                assert not context[b].any()
                assert not found[0][b].any()
                continue
            alone = attend(query[b : b + 1], keys[b : b + 1, :n], values[b : b + 1, :n])
            torch.testing.assert_close(context[b], alone[0], **EXACT)
            total = total + (alone**2).sum()
        torch.testing.assert_close(found, torch.autograd.grad(total, leaves), **EXACT)


@pytest.mark.parametrize("kind", MADE)
def test_no_keys_at_all(kind):
    make, _, query_size = MADE[kind]
    layer = make()
    query, keys, values = drawn(2, 3, 0, query_size)
    for attend in contexts(kind, layer):
        for given in ({}, dict(lengths=[0, 0])):
            context = attend(query, keys, values, **given)
            assert context.shape == (2, 3, 2)
            assert not context.any()
            grad = torch.autograd.grad(context.sum(), query, materialize_grads=True)[0]
            assert not grad.any()


def test_without_weights_torchs_own_kernel_runs(monkeypatch):
    calls, own = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append((a[3], k)) or own(*a, **k)
    )
    layer = MultiplicativeAttention(3, 4)
    query, keys = torch.randn(2, 3), torch.randn(2, 5, 4)
    layer(query, keys, lengths=[5, 3])
    assert not calls
    layer(query, keys, lengths=[5, 0], need_weights=False)
    ((mask, options),) = calls
    assert options == dict(scale=1.0)
    assert mask.shape == (2, 1, 1, 5)
    assert mask.any(-1).all()  # not every kernel gives zero where a row has no key


@pytest.mark.pairwise
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 1]])
@pytest.mark.parametrize("units", [None, 2])
def test_pooling_is_the_papers(units, lengths, batch_first):
    torch.manual_seed(0)
    layer = AttentionPooling(3, units, batch_first=batch_first, **DOUBLE)
    assert layer.project.weight.shape == (units or 3, 3)
    states = torch.randn(3, 4, 3, **DOUBLE)
    spoilt = states.clone()
    total, rows = 0, []
    for b, n in enumerate(lengths or [4] * 3):
        spoilt[b, n:] = torch.nan
        scores = [layer.score_weight @ torch.tanh(layer.project(h)) for h in states[b, :n]]
        powers = torch.stack(scores).exp() if n else torch.zeros(0, **DOUBLE)
        weights = powers / powers.sum()
        pooled = sum((w * h for w, h in zip(weights, states[b], strict=False)), torch.zeros(3))
        rows.append((pooled, weights))
        total = total + (pooled**2).sum()
    given = spoilt if batch_first else spoilt.transpose(0, 1)
    found, alignment = layer(given, lengths=lengths, trace=True)
    assert found.shape == (3, 3)
    assert alignment.shape == (3, 4)
    for b, (pooled, weights) in enumerate(rows):
        torch.testing.assert_close(found[b], pooled.to(found), **EXACT)
        torch.testing.assert_close(alignment[b, : len(weights)], weights, **EXACT)
        assert not alignment[b, len(weights) :].any()
    grads = torch.autograd.grad((found**2).sum(), list(layer.parameters()))
    torch.testing.assert_close(grads, torch.autograd.grad(total, list(layer.parameters())), **EXACT)
    assert torch.equal(layer(given, lengths=lengths), found)
    single, its = layer(states[0], trace=True)
    torch.testing.assert_close((single, its), tuple(r.to(single) for r in rows[0]), **EXACT)


def test_pooling_no_steps():
    pooled, alignment = AttentionPooling(3)(torch.zeros(0, 2, 3), trace=True)
    assert pooled.shape == (2, 3)
    assert alignment.shape == (2, 0)
    assert not pooled.any()


def test_where_the_weights_start():
    torch.manual_seed(0)
    layer = AdditiveAttention(30, 40, 50)
    for weight, fan_in in ((layer.query_weight, 30), (layer.key_weight, 40)):
        assert 0.95 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
    assert layer.score_weight.any()
    assert not list(MultiplicativeAttention(4, 4, "dot").parameters())
    assert repr(layer) == "AdditiveAttention(30, 40, 50)"
    assert repr(MultiplicativeAttention(4, 4, "dot")) == "MultiplicativeAttention(4, 4, kind='dot')"


@pytest.mark.parametrize("input_type", [torch.float32, torch.bfloat16])
def test_autocast(input_type):
    torch.manual_seed(0)
    query, keys = torch.randn(3, 2, 4), torch.randn(3, 5, 4)
    for layer in (
        AdditiveAttention(4, 4, 5),
        MultiplicativeAttention(4, 4),
        MultiplicativeAttention(4, 4, "dot"),
        AttentionPooling(4, batch_first=True),
    ):
        given = (keys,) if isinstance(layer, AttentionPooling) else (query, keys)
        options = [{}]
        if isinstance(layer, MultiplicativeAttention):
            options.append(dict(need_weights=False))
        for each in options:
            expected = layer(*given, lengths=[5, 2, 0], **each)
            with torch.autocast("cpu", torch.bfloat16):
                cast = (t.to(input_type) for t in given)
                found = layer(*cast, lengths=[5, 2, 0], **each)
            if not isinstance(layer, AttentionPooling):
                expected, found = expected[0], found[0]
            torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdditiveAttention(0, 4, 5), "query_size must be a positive integer, not 0"),
        (lambda: AdditiveAttention(3, 4, 5.0), "units must be a positive integer, not 5.0"),
        (lambda: MultiplicativeAttention(3, 4, "concat"), "kind must be one of 'general', 'dot', not 'concat'"),
        (lambda: MultiplicativeAttention(3, 4, "dot"), "not query_size=3 and key_size=4"),
        (lambda: AttentionPooling(3, batch_first=2), "batch_first must be True or False, not 2"),
        (lambda: AttentionPooling(3, 0), "units must be a positive integer, not 0"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


QUERY, KEYS = torch.zeros(2, 3), torch.zeros(2, 5, 4)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((QUERY[0], KEYS), {}, "query must have 2 or 3 dimensions, not the shape (3,)"),
        ((QUERY, KEYS[0]), {}, "keys must have 3 dimensions (B×T×K), not the shape (5, 4)"),
        ((QUERY[:, :2], KEYS), {}, "query has the shape (2, 2), expected (2, 3)"),
        ((QUERY, KEYS[..., :3]), {}, "keys has the shape (2, 5, 3), expected (2, 5, 4)"),
        ((QUERY[:1], KEYS), {}, "query has the shape (1, 3) and keys have the shape (2, 5, 4)"),
        ((QUERY, KEYS, KEYS[:, :4]), {}, "values have the shape (2, 4, 4), expected (2, 5, V)"),
        ((QUERY.double(), KEYS), {}, "query is torch.float64, the layer's weight is torch.float32"),
        ((QUERY, KEYS, KEYS.double()), {}, "values is torch.float64, the layer's weight is"),
        ((QUERY, KEYS), dict(lengths=[5, 6]), "length 6 of sequence 1 is not in 0…5"),
        ((QUERY, KEYS), dict(mask=torch.zeros(2, 5)), "mask must be boolean, true where a query may "
            "attend to a key, not torch.float32"),
        ((QUERY, KEYS), dict(mask=torch.ones(2, 4, dtype=torch.bool)), "mask has the shape (2, 4), expected "
            "(2, 5) or (2, 1, 5)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(given, options, message):
    for layer in (AdditiveAttention(3, 4, 5), MultiplicativeAttention(3, 4)):
        with pytest.raises(ShapeError, match=re.escape(message)):
            layer(*given, **options)


def test_dot_names_the_keys_where_there_is_no_weight():
    with pytest.raises(
        ShapeError, match=re.escape("query is torch.float64, keys is torch.float32")
    ):
        MultiplicativeAttention(4, 4, "dot")(torch.zeros(2, 4).double(), KEYS)


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        (torch.zeros(3), {}, "states must have 2 or 3 dimensions, not the shape (3,)"),
        (torch.zeros(5, 2, 4), {}, "states has the shape (2, 5, 4), expected (2, 5, 3)"),
        (torch.zeros(5, 2, 3), dict(lengths=[6, 1]), "length 6 of sequence 0 is not in 0…5"),
    ],
)
def test_states_that_do_not_fit(states, options, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        AttentionPooling(3)(states, **options)


def test_pooling_of_the_states_that_a_mask_allows():
    pool, x = AttentionPooling(3), torch.randn(5, 2, 3)
    mask = torch.tensor([[True, False, True, True, False], [True] * 5])
    spoilt = x.clone()
    spoilt[1, 0] = torch.nan
    vector, weights = pool(spoilt, mask=mask, lengths=[5, 4], trace=True)
    first, of_first = pool(x[[0, 2, 3], 0], trace=True)
    torch.testing.assert_close(vector, torch.stack([first, pool(x[:4, 1])]))
    torch.testing.assert_close(weights[0, mask[0]], of_first)
    assert not weights[0, ~mask[0]].any()
    torch.testing.assert_close(pool(spoilt[:, 0], mask=mask[0]), first)
    expected = r"mask must be a boolean tensor \(2, 5\), true where a state counts, not "
    for wrong, found in (
        (mask[:, :4], r"\(2, 4\)"),
        (mask.long(), ".*int64"),
        ([True] * 5, "list"),
    ):
        with pytest.raises(ShapeError, match=expected + found):
            pool(x, mask=wrong)
    with pytest.raises(ShapeError, match=r"tensor \(5,\), true where a state counts, not \(1, 5\)"):
        pool(x[:, 0], mask=mask[:1])
