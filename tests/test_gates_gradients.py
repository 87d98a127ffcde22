"""The gradient of a trace: the kernels' against the reference's, for every cell and option."""

from dataclasses import replace

import pytest
import torch

import gatewise as gw
from cases import case, uses_every_part
from cells import both_fed_back, whole_and_parts
from gatewise.backends import cpu, reference
from gatewise.backends.contract import valid_steps

OPTIONS = {
    "more units than a vector": dict(H=19, T=3, B=2),
    "reverse, lengths, reset": dict(reverse=True, lengths=[2, 4, 0], reset=True),
    "reset, zoneout, dropout": dict(
        reset=True, zoneout=True, recurrent_dropout=True, lengths=[4, 1, 3]
    ),
}


def traced(given):
    """The case as a traced call, with NaN in the padding of the input."""
    tensors, lengths = dict(given.tensors), given.masks.lengths
    if lengths is not None:
        valid = valid_steps(len(tensors["x"]), lengths)[..., None]
        tensors["x"] = torch.where(valid, tensors["x"], torch.nan)
    return replace(
        given, spec=replace(given.spec, trace=True, differentiated=True), tensors=tensors
    )


def seeds_for(values):
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]


def run(backend, given, create_graph=False):
    """All results of a traced call, and the gradients for one fixed gradient of each."""
    leaves = given.leaves()
    outcome = backend.forward(given.spec, *given.arguments(*leaves))
    names = [*given.spec.cell.values]
    results = [outcome.output, *outcome.state, *[outcome.trace[n] for n in names]]
    pairs = [(r, s) for r, s in zip(results, seeds_for(results), strict=True) if r.requires_grad]
    ends, seeds = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        ends,
        leaves,
        seeds,
        allow_unused=True,
        materialize_grads=True,
        create_graph=create_graph,
    )
    return outcome, leaves, results, dict(zip(given.tensors, found, strict=True))


def same(found, expected, what):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda m: f"{what}: {m}")


def check(given):
    given = traced(given)
    assert cpu.supports(given.spec) is None
    ours, _, results, gradients = run(cpu, given)
    _, _, expected, others = run(reference, given)
    assert "RunHistory" in type(ours.output.grad_fn).__name__
    for k, (one, other) in enumerate(zip(results, expected, strict=True)):
        same(one, other, f"result {k}")
    for name, gradient in gradients.items():
        same(gradient, others[name], f"gradient of {name}")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", gw.CELLS.values(), ids=gw.CELLS)
def test_the_gradient_of_a_trace_is_the_references(cell, options):
    check(case(cell, **options))


@pytest.mark.parametrize("own", [whole_and_parts, both_fed_back], ids=lambda c: c.name)
def test_of_a_cell_of_ones_own(own):
    check(case(own, reverse=True, lengths=[2, 4, 0], recurrent_dropout=True))


@pytest.mark.parametrize("cell", [c for c in gw.CELLS.values() if uses_every_part(c)][:4])
@pytest.mark.parametrize("lengths", [None, [1, 4, 0]])
def test_with_layer_normalisation(cell, lengths):
    if not cell.second_stage:
        check(case(cell, layer_norm=True, lengths=lengths, H=5, reset=lengths is not None))


@pytest.mark.parametrize("options", [{}, dict(zoneout=True, lengths=[4, 2, 3], reverse=True)])
def test_with_a_projection(options):
    check(case(gw.CELLS["lstm"], P=2, **options))


@pytest.mark.parametrize("threads", [1, 2])
def test_divided_among_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(case(gw.CELLS["lstm"], T=6, B=1, H=130, inputs=3))
        check(case(gw.CELLS["lstm"], T=6, B=9, H=40, inputs=3, lengths=[6, 5, 0, 3, 6, 1, 2, 4, 6]))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["lstm", "gru_2014", "peephole"])
def test_the_gradient_of_a_gradient(name):
    given = traced(case(gw.CELLS[name], lengths=[4, 2, 0], reset=True))
    second = []
    for backend in (cpu, reference):
        _, leaves, _, first = run(backend, given, create_graph=True)
        total = sum((g * g).sum() for g in first.values())
        second.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    for name, one, other in zip(given.tensors, *second, strict=True):
        same(one, other, f"second gradient of {name}")


@pytest.mark.parametrize(
    "options", [{}, dict(reverse=True, lengths=[2, 4, 0], reset=True, zoneout=True)]
)
@pytest.mark.parametrize("cell", gw.CELLS.values(), ids=gw.CELLS)
def test_the_whole_gradient_of_a_traced_value_is_the_references(cell, options):
    """In the reference each step's value is a node of its own in the graph."""
    given = traced(case(cell, **options))
    found = []
    for backend in (cpu, reference):
        outcome = backend.forward(given.spec, *given.arguments(*given.leaves()))
        end = sum(
            (r * s).sum() for r, s in zip(outcome.state, seeds_for(outcome.state), strict=True)
        )
        end = end + (outcome.output * seeds_for([outcome.output])[0]).sum()
        inputs = outcome.adjoints.inputs()
        each = torch.autograd.grad(end, inputs, retain_graph=True, allow_unused=True)
        found.append(outcome.adjoints.gradients(each))
    for name, of_states in found[1].items():
        if name in cell.state or found[0][name].abs().max() or of_states.abs().max():
            same(found[0][name], of_states, f"gradient of the value {name}")


def test_where_the_kernels_leave_it_to_the_reference():
    given = traced(case(gw.CELLS["lstm"])).spec
    assert "in a graph of torch.export" in cpu.supports(replace(given, in_graph=True))
    layer, x = gw.LSTM(3, 4, dtype=torch.float16), torch.randn(5, 2, 3, dtype=torch.float16)
    output, _, trace = layer(x, trace=True)
    assert trace.gradients(output.float().sum()).c[0][0].abs().max() > 0


def in_dtype(given, dtype):
    """The case with its numbers rounded to bfloat16, in ``dtype``."""

    def rounded(value):
        return value.to(torch.bfloat16).to(dtype) if value.is_floating_point() else value

    masks = given.masks._replace(
        recurrent=None if given.masks.recurrent is None else rounded(given.masks.recurrent),
        zoneout=given.masks.zoneout and tuple(map(rounded, given.masks.zoneout)),
    )
    tensors = {name: rounded(value) for name, value in given.tensors.items()}
    return replace(
        given, spec=replace(given.spec, dtype=dtype), tensors=tensors, masks=masks, dtype=dtype
    )


@pytest.mark.parametrize(
    "options",
    [dict(H=19, T=5), dict(reverse=True, lengths=[2, 4, 0], reset=True, recurrent_dropout=True)],
    ids=["plain", "options"],
)
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_2014", "peephole", "slstm"])
def test_in_bfloat16_it_is_that_of_double_precision_up_to_rounding(cell, options):
    given = traced(case(gw.CELLS[cell], **options))
    half = in_dtype(given, torch.bfloat16)
    assert cpu.supports(half.spec) is None
    ours, _, results, gradients = run(cpu, half)
    double = in_dtype(given, torch.float64)
    _, _, expected, others = run(reference, double)
    assert "RunHistory" in type(ours.output.grad_fn).__name__
    assert all(result.dtype == torch.bfloat16 for result in results)
    near(dict(enumerate(results)), dict(enumerate(expected)))
    near(gradients, others)
    near(whole(cpu, half), whole(reference, double))


def whole(backend, given):
    """The whole gradient of each traced value, of the sum of the squared outputs."""
    outcome = backend.forward(given.spec, *given.arguments(*given.leaves()))
    of, inputs = (outcome.output.double() ** 2).sum(), outcome.adjoints.inputs()
    found = torch.autograd.grad(of, inputs, retain_graph=True, allow_unused=True)
    return outcome.adjoints.gradients(found)


def near(found, expected):
    for name, value in found.items():
        off = (value.double() - expected[name]).abs().max()
        assert off <= 0.03 * expected[name].abs().max().clamp(min=0.1), name
