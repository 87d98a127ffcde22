"""The scan: against the paper's loop by hand and against the reference, with every option."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import gatewise as gw
from cases import ALL, alone_and_chunked, case
from cells import delayed, halves, stabilised, truncated
from gatewise import CELLS, detach, exp, maximum, sigmoid, tanh
from gatewise.backends import reference, scan
from gatewise.backends.contract import Masks
from gatewise.backends.registry import choose
from gatewise.cells.language import constant
from gatewise.errors import BackendError

pytestmark = pytest.mark.usefixtures("one_thread")


@gw.cell(gates="f g o", state="h c")
def of_its_cell(a, s):
    """The output rests on another state alone, as in SRU (Lei et al. 2018) without its peephole."""
    f, o = sigmoid(a.f.x), sigmoid(a.o.x)
    c = f * s.c + (1 - f) * a.g.x
    return dict(f=f, o=o, c=c, h=o * tanh(c) + (1 - o) * a.g.x)


@gw.cell(gates="f g u", state="h w u", params="decay p")
def cascade(a, s, p):
    """A coefficient of another state's old value, one of a parameter, and every affine operation."""
    u = p.decay * s.u + tanh(a.u.x)
    w = (s.w - a.g.x * (2 * s.w - s.u)) / (2 + s.u * s.u)
    h = -(sigmoid(a.f.x + p.p * s.w) * (a.g.x - s.h)) + (s.h + s.h) / 4 - exp(-u * u)
    return dict(u=u, w=w, h=h, decay=p.decay, one=constant(1))


@gw.cell(gates="g", state="h last")
def handed_on(a, s):
    """States that use no old value of their own, one of them an old value of the other's."""
    last = tanh(a.g.x)
    return dict(last=last, h=last - 0.5 * s.last)


@gw.cell(gates="g")
def leaky(a, s):
    """A coefficient that is a number."""
    return dict(h=0.9 * s.h + a.g.x)


SCANNED = {
    c.name: c for c in (CELLS["mingru"], CELLS["minlstm"], of_its_cell, cascade, handed_on, leaky)
}
PROJECTED = ("of_its_cell", "handed_on")
LENGTHS = (3, 0, 4)
VARIANTS = {
    "plain": {},
    **{option: {option: True} for option in ALL},
    "every reset": dict(reset="all"),
    "lengths": dict(lengths=LENGTHS),
    "reverse": dict(reverse=True),
    "reverse, lengths": dict(reverse=True, lengths=LENGTHS, bias=False),
    "zoneout, lengths": dict(zoneout=(1, 3), reverse=True, lengths=LENGTHS),
    "all": ALL,
    "all, lengths": dict(ALL, lengths=LENGTHS),
    "all, reverse, lengths": dict(ALL, reverse=True, lengths=LENGTHS, bias=False, zoneout=(4, 1)),
    "one step": dict(T=1),
    "two steps": dict(T=2),
    "one sequence": dict(B=1),
    "no sequences": dict(B=0),
    "odd": dict(T=7, B=5, inputs=3, H=17),
    "one of each": dict(T=1, B=1, inputs=1, H=1, reverse=True, lengths=(1,)),
    "no step": dict(T=0, lengths=(0, 0, 0)),
    "long": dict(ALL, T=101, B=2, lengths=(101, 64)),
    "all of length zero": dict(lengths=(0, 0, 0), reverse=True),
}
CASES = [
    pytest.param(cell, dict(options, P=P), id=f"{name}{'-projected' * bool(P)}-{what}")
    for name, cell in SCANNED.items()
    for what, options in VARIANTS.items()
    for P in ((0, 2) if name in PROJECTED and options.get("H", 3) > 2 else (0,))
]
CLOSE = dict(rtol=1e-10, atol=1e-10)


@pytest.mark.quick("mingru-plain")
@pytest.mark.pairwise
@pytest.mark.parametrize(("cell", "options"), CASES)
def test_the_scan_is_the_reference(cell, options):
    given = case(cell, **options)
    assert scan.supports(given.spec) is None
    torch.testing.assert_close(given.gradients(scan), given.gradients(reference), **CLOSE)


@pytest.mark.pairwise
@pytest.mark.parametrize(("cell", "options"), CASES)
def test_the_trace_is_the_references(cell, options):
    given = case(cell, **options)
    spec, arguments = replace(given.spec, trace=True), given.arguments()
    found, expected = (b.forward(spec, *arguments) for b in (scan, reference))
    assert list(found.trace) == list(expected.trace)
    torch.testing.assert_close(dict(found.trace), dict(expected.trace), **CLOSE)
    torch.testing.assert_close(found.output, expected.output, **CLOSE)


def mingru_by_hand(x, h, w, valid, reset, order):
    """Feng et al. 2024, section 3.1, with a plain loop; and its gradient for a loss of sum(h_t * d_t),
    by the chain rule."""
    z, n = np.zeros_like(x[..., : h.shape[-1]]), np.zeros_like(x[..., : h.shape[-1]])
    output, before = np.zeros_like(z), np.zeros_like(z)
    for t in order:
        pre = x[t] @ w["input"].T + w["input_bias"]
        z[t], n[t] = 1 / (1 + np.exp(-pre[:, : z.shape[-1]])), pre[:, z.shape[-1] :]
        before[t] = np.where(reset[t][:, None], 0, h)
        output[t] = (1 - z[t]) * before[t] + z[t] * n[t]
        h = np.where(valid[t][:, None], output[t], h)
    return output * valid[..., None], h, before, z, n


@pytest.mark.parametrize("reverse", [False, True])
def test_mingru_by_hand(reverse):
    """Values, and the gradients of input and initial state, from the equations in NumPy."""
    T, B, H = 6, 3, 3
    given = case(
        CELLS["mingru"], T=T, B=B, inputs=H, H=H, reverse=reverse, lengths=(6, 2, 4), reset=True
    )
    w = {name: value.numpy() for name, value in given.tensors.items()}
    valid = np.arange(T)[:, None] < np.array((6, 2, 4))
    reset = given.masks.reset.numpy()
    order = list(range(T))[:: -1 if reverse else 1]
    output, final, before, z, n = mingru_by_hand(w["x"], w["0h"], w, valid, reset, order)
    found, grads = given.gradients(scan)
    np.testing.assert_allclose(found[0].numpy(), output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[1].numpy(), final, rtol=1e-12, atol=1e-12)

    d_output, dh = (seed.numpy() for seed in given.seeds(found))
    dx = np.zeros_like(w["x"])
    for t in order[::-1]:
        real = valid[t][:, None]
        d = np.where(real, dh + d_output[t], 0)
        dz, dn = d * (n[t] - before[t]) * z[t] * (1 - z[t]), d * z[t]
        dx[t] = np.concatenate([dz, dn], -1) @ w["input"]
        dh = np.where(real, np.where(reset[t][:, None], 0, d * (1 - z[t])), dh)
    np.testing.assert_allclose(grads["x"].numpy(), dx, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(grads["0h"].numpy(), dh, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cutting", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 100])
def test_the_recurrence_itself(steps, cutting):
    """s[t + 1] = a[t] s[t] + b[t + 1] by a loop, and its gradient; coefficients above one too."""
    generator = torch.Generator().manual_seed(steps)

    def draw(n):
        return torch.randn(n, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()

    a, b, seed = draw(steps), draw(steps + 1), draw(steps + 1).detach()
    cut = torch.rand(steps, 2, 1, generator=generator) < 0.3 if cutting else None
    states = [b[0]]
    for t in range(steps):
        carried = a[t] * states[-1]
        states.append(b[t + 1] + (carried if cut is None else carried * ~cut[t]))
    by_loop = torch.stack(states)
    expected = torch.autograd.grad(by_loop, (a, b), seed, allow_unused=True, materialize_grads=True)
    for way in (scan._Scan.apply, scan._plain):
        found = way(a, b, cut)
        torch.testing.assert_close(found, by_loop, **CLOSE)
        grads = torch.autograd.grad(found, (a, b), seed, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(grads, expected, **CLOSE)


@pytest.mark.parametrize("options", [{}, dict(ALL, lengths=(3, 0, 4), reverse=True)])
@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_first_and_second_derivatives(cell, options):
    given = case(cell, inputs=1, H=2, **options)
    leaves = [v.requires_grad_() for v in given.tensors.values()]
    assert gradcheck(lambda *v: given.forward(scan, *v), leaves)
    assert gradgradcheck(lambda *v: given.forward(scan, *v), leaves, fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # in torch's own jvp
@pytest.mark.parametrize("options", [{}, dict(ALL, lengths=LENGTHS)], ids=["plain", "all options"])
@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_vmap_and_jvp(cell, options):
    given = case(cell, **options)
    given = replace(given, spec=replace(given.spec, transformed=True))
    values = tuple(given.tensors.values())

    def run(*tensors):
        return given.forward(scan, *tensors)

    many = tuple(torch.stack([v, 0.5 * v, -v]) for v in values)
    together = torch.func.vmap(run)(*many)
    for k in range(3):
        torch.testing.assert_close([t[k] for t in together], [*run(*(v[k] for v in many))])
    of_input = torch.func.vmap(lambda x: run(x, *values[1:]))(many[0])
    torch.testing.assert_close([t[1] for t in of_input], [*run(many[0][1], *values[1:])])
    along = tuple(torch.randn_like(v) for v in values)
    found = torch.func.jvp(run, values, along)
    expected = torch.func.jvp(lambda *v: given.forward(reference, *v), values, along)
    torch.testing.assert_close(found, expected, **CLOSE)


class Counted(TorchDispatchMode):
    """How many operations torch is asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(backend, steps):
    given = case(CELLS["mingru"], T=steps)
    with Counted() as counted:
        given.gradients(backend)
    return counted.count


def test_the_depth_is_logarithmic():
    """Eight times the steps are three more rounds; no loop over the steps hides anywhere."""
    few, some, many = (operations(scan, steps) for steps in (32, 256, 2048))
    assert 0 < some - few == many - some < 200
    assert many < 1000 < operations(reference, 256)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_nothing_in_the_padding_is_looked_at(cell, reverse):
    given = case(cell, T=6, lengths=(4, 0, 6), reverse=reverse, zoneout=True)
    x = given.tensors["x"].clone()
    x[4:, 0] = torch.nan
    x[:, 1] = torch.inf
    spoilt = replace(given, tensors=given.tensors | {"x": x})
    torch.testing.assert_close(spoilt.gradients(scan), given.gradients(reference), **CLOSE)
    output, *_ = spoilt.forward(scan)
    assert not output[4:, 0].any()
    assert not output[:, 1].any()


@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_what_is_not_a_number_before_a_reset_ends_there(cell):
    given = case(cell, T=9, reset=True)
    reset = torch.zeros_like(given.masks.reset)
    reset[4] = True
    masks = given.masks._replace(reset=reset)
    x = given.tensors["x"].clone()
    x[1:4] = torch.nan
    spoilt = replace(given, tensors=given.tensors | {"x": x}, masks=masks)
    (output, *final), (fresh, *end) = (
        spoilt.forward(scan),
        replace(given, masks=masks).forward(scan),
    )
    assert output[1:4].isnan().all()
    torch.testing.assert_close([output[4:], *final], [fresh[4:], *end], rtol=0, atol=0)
    assert not output[0].isnan().any()

    reset[0] = True
    state = {name: torch.full_like(given.tensors[name], torch.nan)
             for name in ("0" + s for s in cell.state)}  # fmt: skip
    started = replace(given, tensors=given.tensors | state, masks=masks)
    found = started.gradients(scan)
    torch.testing.assert_close(found, replace(given, masks=masks).gradients(reference), **CLOSE)
    assert not any(found[1][name].any() for name in state)


@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_what_is_not_a_number_is_not_lost_where_nothing_is_cut(cell):
    given = case(cell, T=9)
    x = given.tensors["x"].clone()
    x[4] = torch.nan
    output, *_ = replace(given, tensors=given.tensors | {"x": x}).forward(scan)
    assert not output[:4].isnan().any()
    last = 6 if cell is handed_on else 9  # which remembers one step
    assert output[4:last].isnan().all()


@pytest.mark.pairwise
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all options"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", SCANNED.values(), ids=SCANNED)
def test_one_batch_one_truth(cell, reverse, options):
    lengths = (9, 4, 0, 7)
    sizes = dict(T=9, B=4, inputs=3, H=8, lengths=lengths, dtype=torch.float32)
    given = case(cell, **sizes, reverse=reverse, **options)
    output, *final = given.forward(scan)
    for b, length in enumerate(lengths):
        batched = (output[:length, b : b + 1], *(s[b : b + 1] for s in final))
        for other in alone_and_chunked(scan, given, b, length, ends=(2, 5)):
            torch.testing.assert_close(batched, other, rtol=0, atol=2e-6)


def test_a_strided_input_is_as_good():
    given = case(CELLS["minlstm"], T=5, inputs=4, lengths=(2, 0, 5))
    x = torch.randn(3, 10, 8, dtype=torch.float64)[:, ::2, 1::2].transpose(0, 1)
    state = {"0h": torch.randn(3, 6, dtype=x.dtype)[:, ::2]}
    strided = replace(given, tensors=given.tensors | {"x": x} | state)
    dense = {k: v.contiguous() for k, v in strided.tensors.items()}
    assert not x.is_contiguous()
    torch.testing.assert_close(
        strided.gradients(scan), replace(given, tensors=dense).gradients(reference), **CLOSE
    )


def test_single_precision_over_many_steps():
    """The rounding of a thousand steps composed in pairs is no worse than a loop's."""
    given = case(CELLS["mingru"], T=1000, H=16, dtype=torch.float32)
    (true, _), _ = given.in_double().gradients(reference)
    errors = [(given.forward(b)[0] - true).abs().max() for b in (scan, reference)]
    assert errors[0] < max(2 * errors[1], 1e-6)


def test_a_product_of_coefficients_that_is_too_small_for_a_number():
    """Gates shut for a thousand steps: 1e-38 and less is zero, as it is to a loop."""
    given = case(CELLS["mingru"], T=1000, dtype=torch.float32)
    bias = given.tensors["input_bias"].clone()
    bias[:3] = 6.0  # z is nearly 1: nothing is kept
    shut = replace(given, tensors=given.tensors | {"input_bias": bias})
    torch.testing.assert_close(
        shut.gradients(scan), shut.gradients(reference), rtol=1e-4, atol=1e-4
    )


@gw.cell(gates="g", state="h c")
def rings(a, s):
    return dict(h=0.5 * s.c + a.g.x, c=0.5 * s.h)


@gw.cell(gates="g")
def squared(a, s):
    return dict(h=s.h * s.h + a.g.x)


@gw.cell(gates="g")
def divided(a, s):
    return dict(h=a.g.x / (1 + s.h))


@gw.cell(gates="f g", state="h c n m")
def stabilised_alone(a, s):
    m = maximum(a.f.x + s.m, a.g.x)
    c = exp(a.f.x + s.m - m) * s.c + exp(a.g.x - m)
    return dict(m=m, n=s.n, c=c, h=c)


@gw.cell(gates="g")
def cut_gradient(a, s):
    return dict(h=0.5 * detach(s.h) + a.g.x)


WEIGHTED = "runs cells without recurrent weights, and {} have some"
AFFINE = "runs states that are affine in their own old value, and {} depends on it through '{}'"
RING = "computes one state after the other, and {} depend on each other's old values"
REFUSED = [
    (CELLS["lstm"], WEIGHTED.format("i, f, g, o")),
    (truncated, WEIGHTED.format("i, f, g, o")),
    (halves, WEIGHTED.format("h, both")),
    (stabilised, WEIGHTED.format("z, i, f, o")),
    (delayed, WEIGHTED.format("u")),
    (rings, RING.format("h, c")),
    (squared, AFFINE.format("h", "mul")),
    (divided, AFFINE.format("h", "div")),
    (stabilised_alone, AFFINE.format("m", "maximum")),
    (cut_gradient, AFFINE.format("h", "detach")),
]


@pytest.mark.parametrize(("cell", "reason"), REFUSED, ids=lambda v: getattr(v, "name", ""))
def test_what_cannot_be_scanned_and_why(cell, reason):
    assert scan.supports(case(cell).spec) == reason
    layer = gw.Recurrent(cell, 2, 3, backend="scan")
    with pytest.raises(BackendError) as raised:
        layer(torch.randn(4, 3, 2))
    assert str(raised.value) == f"the backend 'scan' was asked for, but it {reason}"


def chosen(spec):
    found_out = ("transformed", "recorded")
    return choose(**{k: v for k, v in vars(spec).items() if k not in found_out}).backend


def test_auto_takes_it_where_there_are_no_kernels():
    spec = case(CELLS["mingru"]).spec
    assert chosen(spec) == "cpu"
    elsewhere = replace(spec, device=torch.device("cuda"))
    assert chosen(elsewhere) == "scan"
    assert chosen(replace(elsewhere, cell=CELLS["lstm"])) == "aten"
    assert chosen(replace(elsewhere, cell=stabilised)) == "reference"
    assert chosen(replace(spec, trace=True, differentiated=True)) == "cpu"
    assert chosen(replace(elsewhere, trace=True, differentiated=True)) == "scan"


@pytest.mark.parametrize("options", [{}, dict(layer_norm=True, zoneout=0.3)], ids=["plain", "more"])
@pytest.mark.parametrize("name", SCANNED)
def test_a_layer_of_it(name, options):
    """Stacked and both ways, with lengths, resets, states and a trace: the reference's layer."""
    torch.manual_seed(2)
    sizes = dict(num_layers=2, bidirectional=True, dtype=torch.float64, **options)
    ours = gw.Recurrent(SCANNED[name], 3, 5, backend="scan", **sizes).eval()
    theirs = gw.Recurrent(SCANNED[name], 3, 5, backend="reference", **sizes).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    hx = tuple(torch.randn(4, 4, 5, dtype=torch.float64) for _ in SCANNED[name].state)
    given = dict(lengths=[6, 0, 3, 5], reset=torch.rand(6, 4) < 0.3, trace=True)
    results = []
    for layer in (ours, theirs):
        output, state, trace = layer(x, hx if len(hx) > 1 else hx[0], **given)
        ends = [output, *([state] if isinstance(state, torch.Tensor) else state)]
        used = [p for p in layer.parameters() if p.numel()]
        loss = sum(e.square().sum() for e in ends)
        grads = torch.autograd.grad(loss, used, allow_unused=True, materialize_grads=True)
        results.append([*ends, *grads, *(trace.h[1])])
    torch.testing.assert_close(*results, **CLOSE)
    assert "scan: a scan over all steps" in ours.explain_backend(x, trace=True)


def test_compiled_as_a_whole():
    layer = gw.Recurrent("mingru", 3, 5, backend="scan", dtype=torch.float64)
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for run in (layer, compiled):
        output, _ = run(x)
        results.append([output, *torch.autograd.grad(output.sin().sum(), layer.weight_ih_l0)])
    torch.testing.assert_close(*results, **CLOSE)


def test_no_mask_is_missed():
    """A case with every mask differs from the same without any one of them: none is without effect."""
    given = case(CELLS["mingru"], T=6, lengths=(6, 3, 5), reset=True, zoneout=True)
    whole = given.forward(scan)
    for name in ("lengths", "reset", "zoneout"):
        without = replace(given, masks=given.masks._replace(**{name: None}))
        assert not torch.equal(whole[0], without.forward(scan)[0])
    assert not torch.equal(whole[0], replace(given, masks=Masks()).forward(scan)[0])
