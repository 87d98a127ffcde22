"""The kernels on the CPU against the reference: every cell, option and awkward size.

All is held against the reference in double precision on the same numbers, so that a tolerance is
the kernels' own error and nothing else: by how much a number may be off, relative to the largest of
its tensor. Half of all are off by 1e-7 in float32 and 3e-16 in float64, what one rounding makes; the
worst, normalised ones among them, by 7e-6 and 4e-14. In bfloat16 the output is rounded to 8 bits at
every step before it is fed back, and so it is in the truth; what is left is the result's own
rounding, 4e-3, and room for a number that was rounded the other way.
"""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import gatewise as gw
from cases import ALL, alone_and_chunked, assert_within, case, uses_every_part
from cells import OWN_CELLS, PROJECTABLE, every_operation
from gatewise import CELLS
from gatewise.backends import cpu, reference
from gatewise.backends.contract import Masks
from gatewise.backends.native.library import loaded_level
from gatewise.cells.language import OPERATIONS, topological

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}
LENGTHS = (3, 0, 6, 6, 1)
EVERY = {**CELLS, **OWN_CELLS}
KINKED = (
    "rnn_relu",
    "truncated",
    "lstm_1997_truncated",
    "every_operation",
)  # or cut: the gradient is not the slope
UNFORGETTING = ("lstm_1997", "lstm_1997_truncated", "nfg")
SIZES = dict(T=6, B=5, inputs=3, H=17)


@pytest.fixture(autouse=True, scope="module")
def unset_memory_is_nan():
    """What torch.empty gives holds NaN: what is read before it is written, or never written, shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Rounding:
    """The reference, with the output rounded to bfloat16 at every step, before it is fed back."""

    @staticmethod
    def forward(spec, x, state, weights, masks):
        outputs = [x.new_zeros(0, x.shape[1], spec.output_size)] * (len(x) or 1)
        for t in reversed(range(len(x))) if spec.reverse else range(len(x)):
            at = slice(t, t + 1)
            here = masks._replace(
                lengths=None if masks.lengths is None else (masks.lengths > t).long(),
                reset=None if masks.reset is None else masks.reset[at],
                zoneout=masks.zoneout and tuple(z[at] if len(z) > 1 else z for z in masks.zoneout),
            )
            step = reference.forward(spec, x[at], state, weights, here)
            rounded = [v + (v.bfloat16() - v).detach() for v in (step.output, step.state[0])]
            outputs[t], state = rounded[0], (rounded[1], *step.state[1:])
        return reference.Outcome(torch.cat(outputs), state)


def runnable(cell, **options):
    """A case, its cell compiled if it never was."""
    given = case(cell, **options)
    assert cpu.supports(given.spec) is None
    return given


def check(given, threads=(1,)):
    """The kernels on each number of threads against the reference."""
    assert cpu.supports(given.spec) is None
    truth = Rounding if given.dtype is torch.bfloat16 else reference
    expected = given.in_double().gradients(truth)
    # where numbers are multiplied in pairs, gradients too are rounded on their way into a product, as
    # in torch's own operations, and what an ill-conditioned case makes of that is allowed
    pairs = given.dtype is torch.bfloat16 and loaded_level() in ("v4amx", "v4bf16")
    beside = [run.gradients(reference) for run in (given, given.nearby(0))] if pairs else []
    before = torch.get_num_threads()
    for count in threads:
        torch.set_num_threads(count)
        try:
            found = given.gradients(cpu)
        finally:
            torch.set_num_threads(before)
        for value in (*found[0], *found[1].values()):
            assert value.dtype == given.dtype
        assert_within(found, expected, TOLERANCE[given.dtype], beside)


def variants(cell):
    """A cell plain, then with each thing that the kernels have to heed, then with all at once."""
    every = dict(ALL, layer_norm=uses_every_part(cell))
    yield {}
    yield dict(reverse=True)
    yield dict(bias=False)
    yield dict(lengths=LENGTHS)
    yield dict(lengths=LENGTHS, reverse=True)
    yield dict(reset=True, lengths=LENGTHS)
    yield dict(reset="all", reverse=True)
    yield dict(recurrent_dropout=True)
    yield dict(zoneout=True, lengths=LENGTHS)
    yield dict(zoneout=(1, 1), reverse=True)
    yield dict(every, lengths=LENGTHS)
    yield dict(every, lengths=LENGTHS, reverse=True, bias=False, zoneout=(1, 5))
    if uses_every_part(cell):
        yield dict(layer_norm=True)
        yield dict(layer_norm=True, bias=False, lengths=LENGTHS)
    if cell.name in PROJECTABLE:
        yield dict(P=5)
        yield dict(P=9, lengths=LENGTHS, reverse=True, bias=False)
        yield dict(every, P=16, lengths=LENGTHS)
        yield dict(every, P=1, reverse=True, zoneout=(6, 1))


@pytest.mark.quick("lstm-plain-0-torch.float64", "lstm-lengths-reverse-4-torch.float32")
@pytest.mark.pairwise
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(cell, options, id=f"{cell.name}-{'-'.join(options) or 'plain'}-{k}")
        for cell in EVERY.values()
        for k, options in enumerate(variants(cell))
    ],
)
def test_every_cell_with_every_option(cell, options, dtype):
    check(case(cell, **SIZES, **options, dtype=dtype))


@st.composite
def anything(draw):
    """Any cell with any options at any small size."""
    cell = EVERY[name := draw(st.sampled_from([*EVERY]))]
    T, B, inputs = draw(st.integers(0, 12)), draw(st.integers(0, 9)), draw(st.integers(1, 20))
    H = draw(st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 130])))
    options = dict(T=T, B=B, inputs=inputs, H=H, seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        options["lengths"] = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    if name in PROJECTABLE:
        options["P"] = draw(st.integers(0, H - 1))
    for option in ("reverse", "bias", "recurrent_dropout"):
        options[option] = draw(st.booleans())
    options["reset"] = draw(st.sampled_from([False, True, "all"]))
    options["zoneout"] = draw(st.sampled_from([False, True, (1, 1), (1, B), (T, 1)]))
    # a few numbers, normalised, are the same whatever they were: nothing but rounding is left
    if H > 7 and inputs > 7 and uses_every_part(cell):
        options["layer_norm"] = draw(st.booleans())
    dtypes = [torch.float64, torch.float32]
    if name not in (*KINKED, "stabilised"):  # where rounding may turn one slope into another
        dtypes.append(torch.bfloat16)
    return name, options | dict(dtype=draw(st.sampled_from(dtypes)))


def check_anything(chosen):
    name, options = chosen
    check(case(EVERY[name], **options), threads=(1, 2))


QUIET = dict(derandomize=True, database=None, deadline=None)


@pytest.mark.usefixtures("one_thread")
@settings(max_examples=80, **QUIET)
@drawn(anything())
def test_anything(chosen):
    check_anything(chosen)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@settings(max_examples=5000, **QUIET)
@drawn(anything())
def test_anything_at_length(chosen):
    check_anything(chosen)


AWKWARD = {
    "one of each": dict(T=1, B=1, inputs=1, H=1),
    "one step": dict(T=1, B=4, inputs=5, H=16),
    "one sequence": dict(T=9, B=1, inputs=2, H=33),
    "one unit": dict(T=5, B=4, inputs=3, H=1),
    "one input": dict(T=5, B=3, inputs=1, H=15),
    "of a vector's size": dict(T=3, B=6, inputs=8, H=16),
    "wide": dict(T=4, B=7, inputs=65, H=100),
    "no steps": dict(T=0),
    "no steps, lengths": dict(T=0, lengths=(0, 0, 0)),
    "no sequences": dict(B=0),
    "no sequences, lengths": dict(B=0, lengths=()),
    "all of length zero": dict(T=6, lengths=(0, 0, 0)),
    "none full": dict(T=9, lengths=(2, 0, 4)),
}


@pytest.mark.pairwise
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("every", [False, True], ids=["plain", "all options"])
@pytest.mark.parametrize("sizes", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_awkward_sizes(cell, sizes, every):
    H, inputs = sizes.get("H", 3), sizes.get("inputs", 2)
    # normalised, one input's product is the same whatever the input: nothing but rounding is left
    normal = uses_every_part(cell) and H > 1 and inputs > 1
    options = dict(ALL, layer_norm=normal) if every else {}
    P = H // 2 if every and cell.name in PROJECTABLE else 0
    for dtype in (torch.float64, torch.float32):
        check(case(cell, **sizes, **options, P=P, dtype=dtype))


# Sizes at which two threads share the work. By rows: every thread has some sequences. By units, for
# few rows: every thread has some units of all of them, and all meet at each step (csrc/plan.h).
# Inside, steps go by in chunks of 48 rows, and products in stretches of 256 numbers (csrc/product.h).
LARGE = {
    "by rows": dict(T=11, B=13, inputs=20, H=65),
    "by rows, lengths": dict(T=20, B=9, inputs=20, H=65, lengths=(20, 0, 7, 1, 19, 20, 12, 3, 18)),
    "by units": dict(T=30, B=1, inputs=33, H=130),
    "by units, lengths": dict(T=30, B=3, inputs=40, H=130, lengths=(12, 0, 30)),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("every", [False, True], ids=["plain", "all options"])
@pytest.mark.parametrize("sizes", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "both_fed_back"])
def test_shared_work(name, sizes, every):
    # layer normalisation and projection are of whole rows: they would keep the units together
    options = dict(ALL, layer_norm=False, reverse=True) if every else {}
    check(case(EVERY[name], **sizes, **options, dtype=torch.float32), threads=(1, 2))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru", "both_fed_back"])
def test_products_of_several_blocks(name, dtype):
    check(case(EVERY[name], T=20, B=14, inputs=270, H=260, dtype=dtype), threads=(1, 2))


@pytest.mark.parametrize(("name", "layer_norm"), [("lstm", True), ("stabilised", False)])
def test_projection_and_normalisation_of_shared_rows(name, layer_norm):
    options = dict(ALL, layer_norm=layer_norm, P=40, dtype=torch.float32)
    check(case(EVERY[name], **LARGE["by rows, lengths"], **options), threads=(1, 2))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_bfloat16(cell):
    every = dict(ALL, layer_norm=uses_every_part(cell), lengths=LENGTHS)
    P = 5 if cell.name in PROJECTABLE else 0
    for options in ({}, dict(lengths=LENGTHS, reverse=True), dict(every, P=P)):
        check(case(cell, **SIZES, **options, dtype=torch.bfloat16))
    one = runnable(cell, T=1, B=4, inputs=9, H=33, dtype=torch.bfloat16)
    for value, true in zip(one.forward(cpu), one.in_double().forward(reference), strict=True):
        # nothing has been fed back yet: the true number, rounded once; what a late gate is fed with
        # may have been rounded before
        rtol, atol = (2**-6, 2**-8) if cell.second_stage else (2**-8, 1e-6)
        torch.testing.assert_close(value.double(), true, rtol=rtol, atol=atol)


def test_one_cell_has_every_operation():
    found = {value.op for value in topological(every_operation.values.values())}
    assert set(OPERATIONS) - found == set()


def strided(given):
    """The same case, each tensor and mask of it laid out in another way than the kernels have it."""
    t = given.tensors
    apart = {  # every other number of a row
        name: torch.stack([t[name], t[name]], -1)[..., 0] for name in t if name[0] == "0"
    }
    weights = {
        "input": t["input"].T.contiguous().T,
        "recurrent": torch.cat([t["recurrent"]] * 2, 1),
    }
    weights["recurrent"] = weights["recurrent"][:, : t["recurrent"].shape[1]]
    m = given.masks
    masks = Masks(
        m.lengths.repeat_interleave(2)[::2],
        m.reset.T.contiguous().T,
        m.recurrent.T.contiguous().T,
        tuple(z.transpose(0, 1).contiguous().transpose(0, 1) for z in m.zoneout),
    )
    return replace(given, tensors=t | apart | weights, masks=masks)


INPUTS = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other feature": lambda x: torch.cat([x, x], -1).repeat_interleave(2, -1)[..., 1:11:2],
    "features first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "part of a wider one": lambda x: torch.cat([x, x], -1)[..., :5],
    "one step for all": lambda x: x[:1].expand(len(x), -1, -1),
    "one sequence for all": lambda x: x[:, :1].expand(-1, x.shape[1], -1),
    "one number for all": lambda x: x[:1, :1, :1].expand(x.shape),
    "steps backwards in a batch-first one": lambda x: x.transpose(0, 1).flip(1).transpose(0, 1),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("layout", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_strides(layout, dtype):
    plain = runnable(
        EVERY["peephole"], T=6, B=5, inputs=5, H=9, lengths=LENGTHS, dtype=dtype, **ALL
    )
    given = strided(plain)
    x = layout(given.tensors["x"])
    given = replace(given, tensors=given.tensors | {"x": x})
    dense = replace(plain, tensors=plain.tensors | {"x": x.contiguous()})
    found, expected = given.gradients(cpu), dense.gradients(cpu)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    check(dense)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [{}, dict(lengths=LENGTHS, P=4)], ids=["plain", "lengths, P"])
def test_gradients_of_any_layout_from_outside(options):
    """A sum's gradient is one number seen from everywhere; a state may have none at all."""
    given = runnable(EVERY["lstm"], T=6, B=5, H=9, **options)
    losses = {
        "sum": lambda y, h, c: y.sum(),
        "mean over units": lambda y, h, c: y.mean(-1).square().sum(),
        "transposed": lambda y, h, c: (y.permute(2, 1, 0) * torch.arange(6.0)).sum(),
        "the last step": lambda y, h, c: y[-1].square().sum(),
        "a state alone": lambda y, h, c: c.sum(),
        "the other state": lambda y, h, c: (h * torch.arange(5.0)[:, None]).sum(),
    }
    for name, loss in losses.items():
        grads = []
        for backend in (cpu, reference):
            leaves = given.leaves()
            end = loss(*given.forward(backend, *leaves))
            grads.append(
                torch.autograd.grad(end, leaves, materialize_grads=True, allow_unused=True)
            )
        torch.testing.assert_close(
            *grads, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.usefixtures("one_thread")
def test_each_gradient_alone():
    """What is asked for doesn't change what comes: one gradient is the same as among all."""
    given = runnable(EVERY["peephole"], T=6, B=5, H=9, P=4, lengths=LENGTHS, **ALL)
    _, together = given.gradients(cpu)
    for name in given.tensors:
        values = [v.clone().requires_grad_(n == name) for n, v in given.tensors.items()]
        out = given.forward(cpu, *values)
        leaf = next(v for v in values if v.requires_grad)
        seeds = given.seeds(out)
        (alone,) = torch.autograd.grad(out, leaf, seeds)
        assert torch.equal(alone, together[name]), name
    with torch.no_grad():
        quiet = given.forward(cpu)
    for a, b in zip(quiet, out, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad


@pytest.mark.usefixtures("one_thread")
def test_the_tape_is_read_only():
    given = runnable(EVERY["lstm"], T=6, B=5, H=9, lengths=LENGTHS, zoneout=True)
    leaves = given.leaves()
    out = given.forward(cpu, *leaves)
    first, second = (
        torch.autograd.grad(out, leaves, given.seeds(out), retain_graph=True) for _ in "12"
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    out[0].detach().zero_()  # the caller's own: what is fed back was kept apart
    third = torch.autograd.grad(out, leaves, given.seeds(out))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


BOTH_WAYS = {**LARGE, "alone": dict(T=7, B=3, inputs=4, H=5)}


@pytest.mark.parametrize("sizes", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole"])
def test_the_same_bits_every_time(name, sizes, threads):
    given = runnable(EVERY[name], **sizes, dtype=torch.float32, zoneout=True)
    first, grads = given.gradients(cpu)
    for _ in range(5):
        again, others = given.gradients(cpu)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        for k in grads:
            assert torch.equal(grads[k], others[k]), k


@pytest.mark.pairwise
@pytest.mark.parametrize("every", [False, True], ids=["plain", "all options"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_one_batch_one_truth(cell, reverse, every, threads):
    """Alone, in a padded batch, in chunks with the state carried: the same in single precision."""
    options = dict(ALL, layer_norm=uses_every_part(cell)) if every else {}
    lengths = (29, 4, 0, 17)
    sizes = dict(T=29, B=4, inputs=3, H=65, lengths=lengths, dtype=torch.float32)
    given = runnable(cell, **sizes, reverse=reverse, **options)
    output, *final = given.forward(cpu)
    # what nothing forgets grows, and with it a difference in the last digit
    within = 1e-5 if cell.name in UNFORGETTING else 1e-6
    for b, length in enumerate(lengths):
        batched = (output[:length, b : b + 1], *(s[b : b + 1] for s in final))
        for other in alone_and_chunked(cpu, given, b, length, ends=(1, 2, 20)):
            for value, true in zip(batched, other, strict=True):
                torch.testing.assert_close(value, true, rtol=within, atol=within)
        assert not output[length:, b].any()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_nan_in_the_padding_reaches_nothing(cell, reverse, threads):
    lengths = (29, 4, 0, 17)
    options = dict(ALL, layer_norm=uses_every_part(cell), lengths=lengths, reverse=reverse)
    given = runnable(cell, T=29, B=4, inputs=3, H=33, **options)
    beyond = torch.arange(29)[:, None] >= torch.tensor(lengths)
    x = given.tensors["x"].masked_fill(beyond[..., None], torch.nan)
    masks = given.masks._replace(
        reset=given.masks.reset | beyond,
        zoneout=tuple(z.masked_fill(beyond[..., None], torch.nan) for z in given.masks.zoneout),
    )
    spoilt = replace(given, tensors=given.tensors | {"x": x}, masks=masks)
    (out, grads), (spoilt_out, spoilt_grads) = given.gradients(cpu), spoilt.gradients(cpu)
    assert all(torch.equal(a, b) for a, b in zip(out, spoilt_out, strict=True))
    assert all(torch.equal(grads[k], spoilt_grads[k]) for k in grads)
    assert not grads["x"][beyond].any()
    assert not out[0][beyond].any()


@pytest.mark.pairwise
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(cell, options, id=f"{cell.name}-{'-'.join(options) or 'plain'}-{k}")
        for cell in EVERY.values()
        for k, options in enumerate(variants(cell))
    ],
)
def test_a_trace_is_the_references(cell, options, dtype):
    given = runnable(cell, **SIZES, **options, dtype=dtype)
    true = given.in_double()
    found, expected = (
        backend.forward(replace(g.spec, trace=True), *g.arguments())
        for backend, g in ((cpu, given), (reference, true))
    )
    assert found.trace.keys() == expected.trace.keys() == cell.values.keys()
    for outcome in (found, expected):
        assert torch.equal(outcome.trace[cell.state[0]], outcome.output)
    results = [found.output, *found.state], [expected.output, *expected.state]
    assert_within(*zip(results, (found.trace, expected.trace), strict=True), TOLERANCE[dtype])


@pytest.mark.parametrize("sizes", LARGE.values(), ids=LARGE)
def test_a_trace_of_shared_work(sizes, threads):
    given = runnable(EVERY["lstm"], **sizes, zoneout=True, reset=True)
    spec = replace(given.spec, trace=True)
    found, expected = (b.forward(spec, *given.arguments()) for b in (cpu, reference))
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-10, atol=1e-10)


def layers(cell, P, **options):
    """The same layer on the kernels and on the reference."""
    made = []
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        options |= dict(bidirectional=True, proj_size=P, dtype=torch.float64, backend=backend)
        made.append(gw.Recurrent(cell, 2, 3, **options))
    return made


def function_of_all(layer, **arguments):
    """A layer as a function of its input, states and parameters, and those; results in a row."""
    torch.manual_seed(1)
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    hx = [torch.rand(2, 3, s, dtype=x.dtype).requires_grad_() for s in layer.config.state_sizes]
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        states, weights = values[: len(hx)], values[len(hx) :]
        given = (x, states if len(states) > 1 else states[0])
        parameters = dict(zip(names, weights, strict=True))
        output, final = torch.func.functional_call(layer, parameters, given, arguments)
        return output, *([final] if isinstance(final, torch.Tensor) else final)

    return run, (x, *hx, *layer.parameters())


SMOOTH = {name: cell for name, cell in EVERY.items() if name not in KINKED}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("every", [False, True], ids=["plain", "all options"])
@pytest.mark.parametrize("cell", SMOOTH.values(), ids=SMOOTH)
def test_gradcheck_through_a_layer(cell, every):
    """Of parameters, input and states, by finite differences."""
    P = 2 if every and cell.name in PROJECTABLE else 0
    normal = every and uses_every_part(cell)
    zoneout = [0.3 if every and state not in cell.coupled_states else 0 for state in cell.state]
    layer, _ = layers(cell, P, layer_norm=normal, zoneout=zoneout)
    reset = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 0, 1]]) > 0 if every else None
    run, inputs = function_of_all(layer.eval(), lengths=(3, 0, 2) if every else None, reset=reset)
    assert gradcheck(run, inputs, fast_mode=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["gru", "peephole"])
def test_gradgradcheck_through_a_layer(name):
    layer, _ = layers(EVERY[name], 0)
    run, inputs = function_of_all(layer, lengths=(3, 0, 2))
    assert gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("lengths", [None, (4, 0, 1)])
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_second_derivatives_are_the_references(cell, lengths):
    P = 2 if cell.name in PROJECTABLE else 0
    second = []
    for layer in layers(cell, P, layer_norm=uses_every_part(cell)):
        torch.manual_seed(1)
        x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
        output, final = layer(x, lengths=lengths)
        loss = output.square().sum() + sum(f.exp().sum() for f in final)
        leaves = (x, *layer.parameters())
        first = torch.autograd.grad(
            loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
        norm = sum(g.square().sum() for g in first)
        second.append(
            [*first, *torch.autograd.grad(norm, leaves, allow_unused=True, materialize_grads=True)]
        )
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_tensor_given_twice(create_graph):
    """Each place has its own gradient; torch adds them up."""
    given = runnable(EVERY["lstm"], H=3, inputs=3)
    shared = given.tensors["input"]
    grads = []
    for backend in (cpu, reference):
        x = given.tensors["x"].clone().requires_grad_()
        w, s = shared.clone().requires_grad_(), given.tensors["0h"].clone().requires_grad_()
        bias = given.tensors["input_bias"].clone().requires_grad_()
        out = given.forward(backend, x, s, s, w, w, bias, bias)
        loss = sum(o.square().sum() for o in out)
        grads.append(torch.autograd.grad(loss, (x, s, w, bias), create_graph=create_graph))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("one_thread")
def test_what_is_kept_goes_when_the_result_goes():
    """No cycle holds a tape, nor what it was made from."""
    given = runnable(EVERY["lstm"], T=6, B=5, H=9, lengths=LENGTHS, zoneout=True)
    leaves = given.leaves()
    held = [weakref.ref(leaf) for leaf in leaves]
    gc.disable()
    try:
        out = given.forward(cpu, *leaves)
        del leaves
        assert all(ref() is not None for ref in held)
        del out
        assert all(ref() is None for ref in held)
    finally:
        gc.enable()
