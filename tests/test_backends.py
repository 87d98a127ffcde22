"""The backends: the derived gradient, the reference against others' code, aten against it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import gatewise as gw
from cases import ALL, alone_and_chunked, case
from cells import OWN_CELLS, TORCHS, both_fed_back, stabilised, truncated
from derived_backward import backward
from gatewise import CELLS, exp, sigmoid, tanh
from gatewise.backends import aten, reference
from gatewise.backends.contract import NORM_EPSILON, Masks

# torch tells so once, from C++; the layer's explain_backend says it too
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


SMOOTH = {
    c.name: c
    for c in (*CELLS.values(), both_fed_back, stabilised)
    if c.name != "lstm_1997_truncated"
}
PROJECTED = ("rnn_tanh", "lstm", "peephole", "both_fed_back", "stabilised")
WIDTHS = [
    pytest.param(cell, P, id=f"{name}-P{P}")
    for name, cell in SMOOTH.items()
    for P in ((0, 2) if name in PROJECTED else (0,))
]
LENGTHS = (3, 0, 4)


class Derived(torch.autograd.Function):
    """The reference with the derived gradient, bound as a kernel's would be."""

    @staticmethod
    def forward(ctx, given, *values):
        ctx.given = given
        ctx.save_for_backward(*values)
        return given.forward(reference, *values)

    @staticmethod
    def backward(ctx, grad_output, *grad_state):
        arguments = ctx.given.arguments(*ctx.saved_tensors)
        g = backward(ctx.given.spec, *arguments, grad_output, grad_state)
        flat = [g.x, *g.state, *(w for w in g.weights[:-1] if w is not None)]
        return None, *flat, *(g.weights.per_unit[name] for name in ctx.given.spec.cell.params)


class ByHand:
    """Derived, in the place of a backend."""

    @staticmethod
    def gradients(given):
        leaves = given.leaves()
        out = Derived.apply(given, *leaves)
        grads = torch.autograd.grad(out, leaves, given.seeds(out))
        return [o.detach() for o in out], dict(zip(given.tensors, grads, strict=True))


def variants(cell):
    """A cell plain, then with each thing that a backend has to heed."""
    yield {}
    for option in ALL:
        yield {option: True}
    yield dict(ALL, lengths=LENGTHS)
    yield dict(ALL, reverse=True, lengths=LENGTHS, bias=False, zoneout=(1, 1))
    yield dict(lengths=LENGTHS)
    yield dict(reverse=True)
    yield dict(reverse=True, lengths=LENGTHS, bias=False)
    if cell.name in PROJECTED or cell is truncated:
        yield dict(P=2, lengths=LENGTHS)
        yield dict(P=2, reverse=True, bias=False)
        yield dict(ALL, P=2, reverse=True, lengths=LENGTHS)
        yield dict(ALL, P=2, layer_norm=False, zoneout=(1, 3))


CASES = [
    pytest.param(cell, options, id=f"{cell.name}-{'-'.join(options) or 'plain'}")
    for cell in (*CELLS.values(), *OWN_CELLS.values())
    for options in variants(cell)
]


@pytest.mark.quick("lstm-plain")
@pytest.mark.pairwise
@pytest.mark.parametrize(("cell", "options"), [c for c in CASES if c.values[0] in SMOOTH.values()])
def test_the_derived_gradient_passes_gradcheck(cell, options):
    given = case(cell, **options)
    leaves = [v.requires_grad_() for v in given.tensors.values()]
    assert gradcheck(lambda *v: Derived.apply(given, *v), leaves, fast_mode=True)
    if "lengths" in options and "reverse" not in options:
        assert gradcheck(lambda *v: Derived.apply(given, *v), leaves)


@pytest.mark.quick("lstm-plain")
@pytest.mark.pairwise
@pytest.mark.parametrize(("cell", "options"), CASES)
def test_the_derived_gradient_is_autograds(cell, options):
    given = case(cell, **options)
    expected, found = given.gradients(reference), ByHand.gradients(given)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_detach_cuts_the_gradient():
    """Else the comparison with autograd above could hold of a gradient that ignores it."""
    given = case(truncated)
    whole = gw.cell(gates="i f g o", state="h c")(
        lambda a, s: (
            lambda c: dict(c=c, h=sigmoid(a.o) * tanh(c) + 0.1 * c)
        )(sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g))
    )  # fmt: skip
    uncut = replace(given, spec=replace(given.spec, cell=whole))
    (out, cut), (same, full) = given.gradients(reference), uncut.gradients(reference)
    torch.testing.assert_close(out, same)
    assert (cut["recurrent"] - full["recurrent"]).abs().max() > 1e-3


def test_no_steps_give_back_the_state():
    for backend in (aten, reference):
        for lengths in (None, (0, 0, 0)):
            given = case(CELLS["lstm"], T=0, P=2, lengths=lengths)
            (output, h, c), grads = given.gradients(backend)
            assert output.shape == (0, 3, 2)
            assert torch.equal(h, given.tensors["0h"])
            assert torch.equal(c, given.tensors["0c"])
            assert grads["0c"].abs().min() > 0
            assert not grads["recurrent"].any()
    given = case(CELLS["lstm"], T=0, P=2)
    torch.testing.assert_close(ByHand.gradients(given), given.gradients(reference))


@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all options"])
@pytest.mark.parametrize("lengths", [None, (2, 0)])
def test_second_derivatives(lengths, options):
    given = case(CELLS["lstm"], T=2, B=2, inputs=1, H=2, lengths=lengths, **options)
    leaves = [v.requires_grad_() for v in given.tensors.values()]
    assert gradgradcheck(lambda *v: given.forward(reference, *v), leaves, fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # in torch's own jvp
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param(dict(lengths=LENGTHS), id="lengths", marks=pytest.mark.slow),
        pytest.param(dict(ALL, lengths=LENGTHS), id="all options"),
    ],
)
@pytest.mark.parametrize("cell", [*SMOOTH.values(), truncated], ids=lambda c: c.name)
def test_vmap_and_jvp_over_the_reference(cell, options):
    given = case(cell, **options)
    values = tuple(given.tensors.values())

    def run(*tensors):
        return given.forward(reference, *tensors)

    many = tuple(torch.stack([v, 0.5 * v, -v]) for v in values)
    together = torch.func.vmap(run)(*many)
    for k in range(3):
        torch.testing.assert_close([t[k] for t in together], [*run(*(v[k] for v in many))])
    along = tuple(torch.randn_like(v) for v in values)
    out, tangent = torch.func.jvp(run, values, along)
    across = tuple(torch.randn_like(o) for o in out)
    grads = torch.func.vjp(run, *values)[1](across)
    forwards = sum((t * a).sum() for t, a in zip(tangent, across, strict=True))
    backwards = sum((g * a).sum() for g, a in zip(grads, along, strict=True))
    torch.testing.assert_close(forwards, backwards)


def numpy_lstm(pre, state):
    (x, u), c = pre(state[0]), state[1]
    i, f, g, o = np.split(x + u, 4, -1)
    c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(c) / (1 + np.exp(-o)), c


def numpy_gru(pre, state):
    (h,), (x, u) = state, pre(state[0])
    (xr, xz, xn), (ur, uz, un) = np.split(x, 3, -1), np.split(u, 3, -1)
    z = 1 / (1 + np.exp(-xz - uz))
    return ((1 - z) * np.tanh(xn + un / (1 + np.exp(-xr - ur))) + z * h,)


NUMPY = {
    "lstm": numpy_lstm,
    "gru": numpy_gru,
    "rnn_tanh": lambda pre, state: (np.tanh(sum(pre(state[0]))),),
    "rnn_relu": lambda pre, state: (np.maximum(sum(pre(state[0])), 0),),
}


def normalised(product, gain):
    centred = product - product.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON)


@pytest.mark.parametrize("options", [{}, *({k: True} for k in ALL), ALL], ids="-".join)
@pytest.mark.parametrize("name", NUMPY)
def test_the_reference_against_steps_by_hand(name, options):
    given = case(CELLS[name], T=5, **options)
    n = {k: v.numpy() for k, v in given.tensors.items()}
    masks = given.masks
    state, outputs = tuple(n["0" + s] for s in CELLS[name].state), []

    def pre(x, h):
        if masks.recurrent is not None:
            h = h * masks.recurrent.numpy()
        wx, uh = x @ n["input"].T, h @ n["recurrent"].T
        if options.get("layer_norm"):
            wx, uh = normalised(wx, n["norm_input"]), normalised(uh, n["norm_recurrent"])
        return wx + n["input_bias"], uh + n["recurrent_bias"]

    for t, x in enumerate(n["x"]):
        if masks.reset is not None:
            state = tuple(np.where(masks.reset[t].numpy()[:, None], 0, s) for s in state)
        new = NUMPY[name](lambda h, x=x: pre(x, h), state)
        if masks.zoneout is not None:
            shares = [share[t].numpy() for share in masks.zoneout]
            new = tuple(k * s + (1 - k) * v for k, s, v in zip(shares, state, new, strict=True))
        state = new
        outputs.append(state[0])
    output, *final = given.forward(reference)
    np.testing.assert_allclose(output.numpy(), np.stack(outputs), rtol=1e-12)
    np.testing.assert_allclose(np.stack(final), np.stack(state), rtol=1e-12)


def torchs_own(name, P=0, bias=True):
    if name.startswith("rnn"):
        return nn.RNN(2, 3, nonlinearity=name[4:], bias=bias).double()
    kind = nn.LSTM if name == "lstm" else nn.GRU
    return kind(2, 3, bias=bias, **({"proj_size": P} if P else {})).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "P"), [(n, 0) for n in NUMPY] + [("lstm", 2)])
def test_the_reference_against_torch_in_double(name, P, bias):
    given, module = case(CELLS[name], P=P, bias=bias), torchs_own(name, P, bias)
    order = [k for k in given.tensors if k not in ("x", "0h", "0c")]
    assert len(order) == len(module._flat_weights)

    class Torch:
        @staticmethod
        def forward(spec, x, state, weights, masks):
            flat = dict(zip(module._flat_weights_names, [w for w in weights[:5] if w is not None],
                            strict=True))  # fmt: skip
            initial = tuple(s[None] for s in state)
            hx = initial if name == "lstm" else initial[0]
            output, new = torch.func.functional_call(module, flat, (x, hx))
            new = new if name == "lstm" else (new,)
            return reference.Outcome(output, tuple(s[0] for s in new))

    torch.testing.assert_close(
        given.gradients(reference), given.gradients(Torch), rtol=1e-10, atol=1e-10
    )


AWKWARD = {
    "one step": dict(T=1),
    "one sequence": dict(B=1),
    "no sequences": dict(B=0),
    "odd": dict(T=7, B=5, inputs=3, H=17),
    "one unit": dict(H=1, inputs=5),
    "one of each": dict(T=1, B=1, inputs=1, H=1),
    "wide input": dict(inputs=33, H=4),
    "lengths": dict(T=6, B=5, H=7, lengths=(6, 1, 0, 3, 5)),
    "lengths, none full": dict(T=6, B=3, H=7, lengths=(2, 4, 1)),
    "all of length zero": dict(lengths=(0, 0, 0)),
    "no bias": dict(bias=False),
    "no bias, lengths": dict(bias=False, lengths=LENGTHS),
}
TOLERANCE = {torch.float64: dict(rtol=1e-10, atol=1e-10), torch.float32: dict(rtol=1e-4, atol=2e-5)}


@pytest.mark.quick("lstm-odd-forward-torch.float64")
@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("sizes", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("name", [*TORCHS, "lstm projected"])
def test_aten_is_the_reference(name, sizes, reverse, dtype):
    projected = name == "lstm projected"
    if projected and sizes.get("H", 3) == 1:
        pytest.skip("a projection is narrower than the hidden state")
    cell = CELLS[name.split()[0]]
    given = case(cell, **sizes, reverse=reverse, dtype=dtype, P=2 * projected)
    assert aten.supports(given.spec) is None
    torch.testing.assert_close(
        given.gradients(aten), given.gradients(reference), **TOLERANCE[dtype]
    )


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("lengths", [None, (2, 0, 5)])
def test_a_strided_input_is_as_good(name, lengths):
    given = case(CELLS[name], T=5, inputs=4, lengths=lengths)
    wide = torch.randn(3, 10, 8, dtype=torch.float64)
    x = wide[:, ::2, 1::2].transpose(0, 1)
    state = {"0" + s: torch.randn(3, 6, dtype=x.dtype)[:, ::2] for s in CELLS[name].state}
    strided = replace(given, tensors=given.tensors | {"x": x} | state)
    dense = {k: v.contiguous() for k, v in strided.tensors.items()}
    assert not x.is_contiguous()
    for backend in (aten, reference):
        torch.testing.assert_close(
            strided.gradients(backend), replace(given, tensors=dense).gradients(reference)
        )


@pytest.mark.pairwise
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [(4, 0, 6), (1, 2, 3)])
@pytest.mark.parametrize("name", TORCHS)
def test_nan_in_the_padding_reaches_nothing(name, lengths, reverse):
    given = case(CELLS[name], T=6, lengths=lengths, reverse=reverse)
    x = given.tensors["x"].clone()
    for b, length in enumerate(lengths):
        x[length:, b] = torch.nan
    spoilt = replace(given, tensors=given.tensors | {"x": x})
    for backend in (aten, reference):
        torch.testing.assert_close(spoilt.gradients(backend), given.gradients(reference))
    torch.testing.assert_close(ByHand.gradients(spoilt), given.gradients(reference))
    grad_x = given.gradients(aten)[1]["x"]
    assert all(not grad_x[length:, b].any() for b, length in enumerate(lengths))


@pytest.mark.parametrize("name", TORCHS)
def test_a_state_that_would_grow_without_bound_in_the_padding_does_not(name):
    given = case(CELLS[name], T=120, B=2, lengths=(3, 2), dtype=torch.float32)
    tensors = given.tensors | {"recurrent": given.tensors["recurrent"].abs() * 3}
    growing = replace(given, tensors=tensors)
    torch.testing.assert_close(
        growing.gradients(aten), growing.gradients(reference), rtol=1e-3, atol=1e-3
    )


@pytest.mark.pairwise
@pytest.mark.parametrize(
    ("backend", "options"),
    [(aten, {}), (reference, {}), (reference, ALL)],
    ids=["aten", "reference", "reference, all options"],
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", TORCHS)
def test_one_batch_one_truth(name, reverse, backend, options):
    """Alone, in a padded batch, in chunks with the state carried: the same in single precision."""
    lengths = (9, 4, 0, 7)
    sizes = dict(T=9, B=4, inputs=3, H=8, lengths=lengths, dtype=torch.float32)
    given = case(CELLS[name], **sizes, reverse=reverse, **options)
    output, *final = given.forward(backend)
    for b, length in enumerate(lengths):
        batched = (output[:length, b : b + 1], *(s[b : b + 1] for s in final))
        for other in alone_and_chunked(backend, given, b, length, ends=(2, 5)):
            torch.testing.assert_close(batched, other, rtol=0, atol=1e-6)
        assert not output[length:, b].any()


@pytest.mark.pairwise
@pytest.mark.parametrize("lengths", [None, (9, 4, 0, 7)])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("cell", "P"), WIDTHS)
def test_a_reset_is_a_new_sequence(cell, reverse, lengths, P):
    """Each sequence cut before every reset, and the pieces run from zero states."""
    given = case(cell, T=9, B=4, P=P, reverse=reverse, lengths=lengths, reset=True)
    x, initial, weights, masks = given.arguments()
    assert 0 < masks.reset.sum() < masks.reset.numel()
    output, *final = given.forward(reference)
    plain = replace(given.spec, masks=())
    for b, length in enumerate(lengths or [9] * 4):
        state, rows = tuple(s[b : b + 1] for s in initial), {}
        for t in reversed(range(length)) if reverse else range(length):
            if masks.reset[t, b]:
                state = tuple(torch.zeros_like(s) for s in state)
            step = reference.forward(plain, x[t : t + 1, b : b + 1], state, weights, Masks())
            rows[t], state = step.output[0, 0], step.state
        for t, row in rows.items():
            torch.testing.assert_close(output[t, b], row)
        torch.testing.assert_close([s[b] for s in final], [s[0] for s in state])


@pytest.mark.parametrize("cell", SMOOTH.values(), ids=SMOOTH)
def test_what_is_not_a_number_before_a_reset_ends_there(cell):
    given = case(cell, reset=True)
    reset = torch.zeros_like(given.masks.reset)
    reset[2] = True
    masks = given.masks._replace(reset=reset)
    x = given.tensors["x"].clone()
    x[:2] = torch.nan
    spoilt = replace(given, tensors=given.tensors | {"x": x}, masks=masks)
    output, *final = spoilt.forward(reference)
    assert output[0].isnan().any()
    fresh, *end = replace(given, masks=masks).forward(reference)
    torch.testing.assert_close([output[2:], *final], [fresh[2:], *end], rtol=0, atol=0)
    reset[0] = True
    state = {name: torch.full_like(given.tensors[name], torch.nan)
             for name in ("0" + s for s in cell.state)}  # fmt: skip
    started = replace(given, tensors=given.tensors | state, masks=masks)
    for found in (started.gradients(reference), ByHand.gradients(started)):
        torch.testing.assert_close(found, replace(given, masks=masks).gradients(reference))
        assert not any(found[1][name].any() for name in state)


@pytest.mark.parametrize(("cell", "P"), WIDTHS)
def test_masks_at_their_ends(cell, P):
    """Zoneout of one keeps the state, of none changes nothing; the recurrent mask alike."""
    given = case(cell, P=P, lengths=LENGTHS, recurrent_dropout=True, zoneout=(1, 1))
    plain = case(cell, P=P, lengths=LENGTHS)
    initial = [given.tensors["0" + name] for name in cell.state]

    def filled(share, factor):
        masks = given.masks
        shares = tuple(torch.full_like(s, share) for s in masks.zoneout)
        factors = torch.full_like(masks.recurrent, factor)
        return replace(given, masks=masks._replace(recurrent=factors, zoneout=shares))

    torch.testing.assert_close(filled(0, 1).gradients(reference), plain.gradients(reference))
    unfed = plain.tensors | {"recurrent": torch.zeros_like(plain.tensors["recurrent"])}
    torch.testing.assert_close(
        filled(0, 0).forward(reference), replace(plain, tensors=unfed).forward(reference)
    )
    output, *final = filled(1, 1).forward(reference)
    assert all(torch.equal(s, s0) for s, s0 in zip(final, initial, strict=True))
    for b, length in enumerate(LENGTHS):
        assert torch.equal(output[:length, b], initial[0][b].expand(length, -1))


@pytest.mark.parametrize("leading", [(1, 1), (4, 1), (1, 3)])
def test_shares_of_zoneout_broadcast(leading):
    given = case(CELLS["lstm"], P=2, lengths=LENGTHS, zoneout=leading)
    whole = tuple(share.expand(4, 3, -1).clone() for share in given.masks.zoneout)
    full = replace(given, masks=given.masks._replace(zoneout=whole))
    for way in (lambda c: c.gradients(reference), ByHand.gradients):
        torch.testing.assert_close(way(given), way(full), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all options"])
@pytest.mark.parametrize("P", [0, 2])
def test_a_traced_state_is_what_the_next_step_sees(P, options):
    given = case(CELLS["lstm"], P=P, lengths=LENGTHS, **options)
    outcome = reference.forward(replace(given.spec, trace=True), *given.arguments())
    assert torch.equal(outcome.trace["h"], outcome.output)
    assert torch.equal(outcome.trace["c"][2, 0], outcome.state[1][0])
    assert torch.equal(outcome.trace["c"][3, 2], outcome.state[1][2])


LACKING = {
    "reset": "cannot reset its states within a sequence",
    "layer_norm": "has no layer normalisation",
    "recurrent_dropout": "has no recurrent dropout",
    "zoneout": "has no zoneout",
}


@pytest.mark.parametrize("option", ALL)
def test_aten_says_what_it_has_not(option):
    assert aten.supports(case(CELLS["lstm"], **{option: True}).spec) == LACKING[option]


def test_a_traced_value_has_the_shape_of_the_rest_whatever_it_rests_on():
    """A value made of parameters or numbers alone is traced as T×B×H too."""

    @gw.cell(gates="u", params="w")
    def odd(a, s, p):
        return dict(h=tanh(a.u) * p.w, scale=2 * p.w, one=exp(0 * a.u.x))

    given = case(odd, lengths=LENGTHS)
    spec = replace(given.spec, trace=True)
    trace = reference.forward(spec, *given.arguments()).trace
    assert {name: tuple(v.shape) for name, v in trace.items()} == dict.fromkeys(trace, (4, 3, 3))
    assert not trace["scale"][3:, 0].any()
    torch.testing.assert_close(trace["scale"][0, 0], 2 * given.tensors["w"])


def test_equal_cells_are_the_same_to_the_reference():
    """What is derived from a cell is kept for all its equals: they share it, whoever came first."""

    def make():
        return gw.cell(gates="z n", params="w")(lambda a, s, p: dict(h=tanh(a.n) + s.h * a.z * p.w))

    first, second = (case(make()), case(copy.deepcopy(make())))
    assert first.spec.cell is not second.spec.cell
    expected = first.gradients(reference)
    torch.testing.assert_close(second.gradients(reference), expected, rtol=0, atol=0)
    torch.testing.assert_close(ByHand.gradients(second), expected)
