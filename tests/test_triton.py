"""The GPU's time loops without a GPU: through Triton's interpreter against the reference, and compiled
for chips that are not there.

Held against the reference in double precision like the CPU's kernels (test_cpu.py). The interpreter
works each operation out with NumPy, so that sizes are small; what a chip does is in test_gpu.py.
"""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import gatewise as gw
from cases import ALL, assert_alone_and_chunked_as_whole, assert_within, case, uses_every_part
from cells import OWN_CELLS, PROJECTABLE
from gatewise import CELLS
from gatewise.backends import engine, reference, triton
from gatewise.backends.contract import Spec
from gatewise.backends.engine import unfit
from gatewise.emit.triton import source
from gatewise.errors import BackendError

if torch.cuda.is_available():
    pytest.skip("there is a GPU: test_gpu.py runs on it", allow_module_level=True)
pytest.importorskip("triton", reason="Triton has no build for this machine")

import pages
import triton_interpreter
from gatewise.backends.gpu import call, calls, plan
from gatewise.backends.gpu.plan import Chip, Plan, Work

ROOT = Path(__file__).parents[1]


@gw.cell(gates="f g o", state="h c")
def nothing_fed(a, s):
    f = gw.sigmoid(a.f.x)
    c = f * s.c + (1 - f) * gw.tanh(a.g.x)
    return dict(c=c, h=gw.sigmoid(a.o.x) * gw.tanh(c))


EVERY = {**CELLS, **OWN_CELLS, "nothing_fed": nothing_fed}
LENGTHS = (3, 0, 2, 3, 1)
SIZES = dict(T=3, B=5, inputs=3, H=17, dtype=torch.float32)
CHIPS = {80: Chip(108, 166912), 90: Chip(132, 232448)}
TOLERANCE = {torch.float32: 5e-5, torch.float16: 4e-3}

# Ways to divide a call of up to 64 units: each alone, sums from one product, sums of which slices have
# a share each, products the other way round, weights read again at every step, and more tiles than one
# launch has room for.
PLANS = {
    "one slice": lambda work: alone(max(plan.power_of_two(work.width), 16)),
    "slices": lambda work: sliced(work, 8, 1, 1, 32, True),
    "side by side": lambda work: sliced(work, 8, 4, 1, 16, True),
    "parts": lambda work: sliced(work, 8, 1, 2, 16, True, tiles=2),
    "four parts": lambda work: sliced(work, 8, 4, 4, 32, True, turned=True),
    "turned": lambda work: sliced(work, 16, 1, 2, 16, True, turned=True),
    "read again": lambda work: sliced(work, 16, 1, 1, 16, False),
    "parts read again": lambda work: sliced(work, 8, 1, 4, 16, False, turned=True),
}  # fmt: skip


def alone(units):
    blocks = dict(
        BT=16, US=units, SLICES=1, INTERLEAVED=1, PARTS=1, KC=units, CHUNKS=1, RESIDENT=True
    )
    return Plan(**blocks, TRANSPOSED=False, warps=4, tiles=2)


def sliced(work, units, side, parts, chunk, kept, tiles=1, turned=False):
    blocks = dict(BT=16, US=units, SLICES=parts * -(-work.width // (units * parts)), PARTS=parts)
    blocks |= dict(
        INTERLEAVED=side if 1 < work.accumulators <= side else 1,
        KC=chunk,
        RESIDENT=kept,
        TRANSPOSED=turned,
    )
    return Plan(**blocks, CHUNKS=-(-work.width // chunk), warps=4, tiles=tiles)


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    triton_interpreter.install()
    torch.use_deterministic_algorithms(True)  # so that what torch.empty gives holds NaN
    patch = pytest.MonkeyPatch()
    patch.setattr(call, "chip_of", lambda device: CHIPS[90])
    yield
    patch.undo()
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def divided(monkeypatch, request):
    """Both ways are divided as the parameter says."""
    divide = PLANS[request.param]
    monkeypatch.setattr(plan, "forward", lambda work, chip: replace(divide(work), PARTS=1))
    monkeypatch.setattr(plan, "backward", lambda work, chip: replace(divide(work), INTERLEAVED=1))
    return request.param


def check(given):
    assert unfit(given.spec) is None
    found, expected = given.gradients(triton), given.in_double().gradients(reference)
    for value in (*found[0], *found[1].values()):
        assert value.dtype == given.dtype
    assert_within(found, expected, TOLERANCE[given.dtype])


# Each has something for the loops that the others have not; those left out are like one of these.
EACH_ITS_OWN = (
    *(
        "rnn_tanh",
        "lstm",
        "peephole",
        "gru",
        "gru_2014",
        "mingru",
        "slstm",
        "lstm_1997_truncated",
        "fgr",
    ),
    *("both_fed_back", "whole_and_parts", "halves", "every_operation", "delayed", "two_fed_late"),
)


def options(cell):
    """A cell with all at once that the loops have to heed; then, slow, with less."""
    norm = uses_every_part(cell) and not cell.second_stage
    every = dict(ALL, layer_norm=norm, lengths=LENGTHS)
    like_another = () if cell.name in EACH_ITS_OWN else pytest.mark.slow
    yield dict(every, reverse=True, zoneout=(1, 5)), like_another
    yield {}, () if cell.name in ("lstm", "gru", "peephole") else pytest.mark.slow
    yield dict(lengths=LENGTHS, bias=False), pytest.mark.slow
    if cell.name in PROJECTABLE:
        yield dict(every, P=11), () if cell.name in ("lstm", "rnn_tanh") else pytest.mark.slow


@pytest.mark.quick("lstm-plain")
@pytest.mark.parametrize(
    ("cell", "given"),
    [
        pytest.param(cell, given, marks=marks, id=f"{cell.name}-{'-'.join(given) or 'plain'}")
        for cell in EVERY.values()
        for given, marks in options(cell)
    ],
)
def test_every_cell(cell, given):
    check(case(cell, **SIZES | given))


MANY = (*(b % 3 for b in range(36)), 0)  # three tiles, of which the last is all empty
EXCHANGES = [
    ("peephole", dict(reset=True, zoneout=True, layer_norm=True, lengths=MANY, B=37, T=2)),
    ("lstm", dict(ALL, P=11, lengths=LENGTHS)),
    ("gru", dict(layer_norm=True, lengths=LENGTHS, reverse=True)),
    ("gru_2014", dict(reset=True, recurrent_dropout=True, lengths=LENGTHS, reverse=True)),
    ("both_fed_back", dict(recurrent_dropout=True, P=7)),
    ("nothing_fed", dict(P=11)),
]
MORE = [
    ("lstm", {}),
    ("gru", dict(reset=True, recurrent_dropout=True, zoneout=True, reverse=True)),
    ("two_fed_late", dict(zoneout=True)),
    ("fgr", dict(lengths=LENGTHS)),
    ("rnn_tanh", dict(lengths=LENGTHS, reverse=True)),
]


WAITING = [how for how in PLANS if how != "one slice"]
QUICK = {"side by side", "four parts"}
ALSO_QUICK = {
    *(("lstm", how) for how in ("slices", "turned", "read again", "parts read again")),
    *(("gru_2014", "slices"), ("peephole", "parts"), ("nothing_fed", "parts")),
}


def exchanges():
    for name, given in EXCHANGES + MORE:
        for how in WAITING:
            quick = how in QUICK and name != "peephole"  # which has most sequences
            quick = (name, given) in EXCHANGES and (quick or (name, how) in ALSO_QUICK)
            yield pytest.param(how, name, given, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("divided", "name", "given"), [*exchanges()], indirect=["divided"])
def test_slices_that_wait_for_each_other(divided, name, given):
    check(case(EVERY[name], **SIZES | given))


@pytest.mark.pairwise
@pytest.mark.parametrize("divided", ["one slice", "side by side"], indirect=True)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 17, 2, 16), (3, 17, 5, 33)])
@pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_awkward_sizes(divided, name, sizes):
    if divided == "side by side" and sizes[-1] <= 8:
        pytest.skip("one slice has all the units")
    T, B, inputs, H = sizes
    check(case(CELLS[name], T=T, B=B, inputs=inputs, H=H, dtype=torch.float32))


@pytest.mark.parametrize("empty", [dict(T=0), dict(B=0), dict(T=0, B=0)])
def test_nothing_to_run(empty):
    given = case(CELLS["lstm"], **SIZES | empty)
    found, expected = given.gradients(triton), given.in_double().gradients(reference)
    assert_within(found, expected, 1e-6)


@pytest.mark.parametrize("divided", ["one slice", "side by side", "four parts"], indirect=True)
@pytest.mark.parametrize("name", ["lstm", "gru", "slstm"])
def test_halves(divided, name):
    """The interpreter does not compute in bfloat16; test_gpu.py does."""
    check(case(CELLS[name], **SIZES | dict(dtype=torch.float16, lengths=LENGTHS)))


@pytest.mark.parametrize("divided", ["one slice", "slices"], indirect=True)
@pytest.mark.parametrize("reverse", [False, True])
def test_sequences_without_a_step(divided, reverse):
    """In one tile and beside others; what is read where there is no step would be out of bounds."""
    empty = tuple(3 if b < 2 else 0 for b in range(20))
    for lengths in ((0,) * 5, empty):
        given = dict(lengths=lengths, B=len(lengths), reverse=reverse, reset=True)
        check(case(CELLS["lstm"], **SIZES | given))


@pytest.mark.parametrize(("of", "T"), [(0, 3), (2, 3), (2, 0)])
def test_a_loss_of_one_result_alone(of, T):
    given = case(CELLS["lstm"], **SIZES | dict(T=T, lengths=tuple(min(T, n) for n in LENGTHS)))
    grads = []
    for each, backend in ((given, triton), (given.in_double(), reference)):
        leaves = each.leaves()
        loss = each.forward(backend, *leaves)[of].square().sum()
        grads.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_tape_may_be_a_part_of_another_tensor():
    given = case(CELLS["lstm"], **SIZES)
    asked = given.asked()
    *outcome, tape = calls.forward_saving(asked)
    grads, wanted = (
        [torch.ones_like(o) for o in outcome],
        [t is not None for t in asked.tensors()],
    )
    expected = calls.backward(asked, tape, grads, wanted)
    found = calls.backward(asked, torch.cat([tape, tape])[len(tape) :], grads, wanted)
    for a, b in zip(found, expected, strict=True):
        assert a is b is None or torch.equal(a, b)


def test_the_output_is_ones_own():
    given = case(CELLS["lstm"], **SIZES)
    output = given.forward(triton, *given.leaves())[0]
    assert output.untyped_storage().nbytes() == output.nbytes
    output.detach().relu_()
    output.mul_(2).sum().backward()


def test_each_gradient_has_memory_of_its_own():
    given = case(CELLS["lstm"], **SIZES)
    leaves = given.leaves()
    grads = torch.autograd.grad(given.forward(triton, *leaves)[0].sum(), leaves)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == len(grads)


def test_an_operator_traces_what_is_projected():
    given = case(CELLS["lstm"], **SIZES | dict(P=5))
    _, trace = calls.traced(given.asked())
    assert {value.shape for value in trace.values()} == {(3, 5, 17)}


@pytest.mark.parametrize("divided", ["one slice", "side by side"], indirect=True)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_alone_and_in_chunks(divided, reverse):
    given = case(CELLS["lstm"], **SIZES | dict(T=5, lengths=(5, 0, 4, 2, 1), reverse=reverse))
    assert_alone_and_chunked_as_whole(triton, given, 2, 4, (1, 3))


@pytest.mark.parametrize("divided", ["one slice", "slices"], indirect=True)
@pytest.mark.parametrize("name", ["lstm", "gru_2014", "fgr"])
def test_a_trace(divided, name):
    given = case(CELLS[name], **SIZES | dict(lengths=LENGTHS, reverse=True, zoneout=True))
    traced = replace(given, spec=replace(given.spec, trace=True))
    with torch.no_grad():
        found = triton.forward(traced.spec, *traced.arguments())
        expected = reference.forward(traced.in_double().spec, *traced.in_double().arguments())
    assert found.trace.keys() == expected.trace.keys()
    for value, true in expected.trace.items():
        torch.testing.assert_close(found.trace[value].double(), true, rtol=1e-4, atol=1e-5)


def test_inputs_of_any_layout():
    given = case(CELLS["peephole"], **SIZES)
    strided = {name: v.repeat_interleave(2, -1)[..., ::2] for name, v in given.tensors.items()}
    assert not strided["x"].is_contiguous()
    check(replace(given, tensors=strided))


def test_the_input_in_the_padding_is_never_looked_at():
    given = case(CELLS["lstm"], **SIZES | dict(lengths=LENGTHS))
    expected = given.gradients(triton)
    for b, length in enumerate(LENGTHS):
        given.tensors["x"][length:, b] = float("nan")
    found = given.gradients(triton)
    assert_within(found, expected, 1e-12)


def test_a_second_derivative():
    given = case(CELLS["lstm"], T=2, B=2, inputs=2, H=3, dtype=torch.float32)
    leaves = given.leaves()
    out = given.forward(triton, *leaves)[0]
    (first,) = torch.autograd.grad(out.square().sum(), leaves[0], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaves[0])
    again = given.leaves()
    out = given.forward(reference, *again)[0]
    (first,) = torch.autograd.grad(out.square().sum(), again[0], create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), again[0])
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)


# the second size of None is compiled for any
@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled(monkeypatch, dynamic):
    """With the loops in the place of the CPU's kernels; torch.compile is the first to see the cell."""

    @gw.cell(gates="i n")
    def seen_first(a, s):
        i = gw.sigmoid(a.i)
        return dict(i=i, h=i * s.h + (1 - i) * gw.tanh(a.n))

    monkeypatch.setattr(triton, "supports", lambda spec: None)
    monkeypatch.setitem(engine._ENGINES, "cpu", engine._ENGINES["cuda"])
    layer = gw.Recurrent(seen_first, 3, 17, num_layers=2, backend="triton")
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for T in (3, 4):
        x = torch.randn(T, 5, 3, requires_grad=True)
        results = []
        for run in (compiled, layer):
            output, _ = run(x)
            results.append([output, *torch.autograd.grad(output.sum(), [x, *layer.parameters()])])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)


# The emitted text, and what refuses ------------------------------------------------------------------


def test_a_planted_fault_is_seen(monkeypatch):
    """i and f change places in what is emitted: the comparison must notice."""
    from gatewise.backends.gpu import cells

    swapped = source(CELLS["lstm"]).replace("a[0]", "a[?]").replace("a[1]", "a[0]")
    monkeypatch.setattr(cells, "source", lambda cell: swapped.replace("a[?]", "a[1]"))
    cells.functions.cache_clear()
    try:
        with pytest.raises(AssertionError, match="result 0"):
            check(case(CELLS["lstm"], **SIZES))
    finally:
        cells.functions.cache_clear()


def spec(**changed):
    given = dict(cell=CELLS["lstm"], input_size=3, hidden_size=4, proj_size=0, reverse=False)
    given |= dict(dtype=torch.float32, device=torch.device("cuda"))
    return Spec(**given | changed)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(device=torch.device("cpu")), "runs on NVIDIA GPUs, not on 'cpu'"),
        (dict(dtype=torch.float64), "not in torch.float64"),
        (dict(transformed=True), "no rule for vmap"),
        (dict(trace=True, differentiated=True), "cannot trace a call that needs a gradient"),
        (
            dict(cell=CELLS["gru_2014"], layer_norm=True),
            "computes that of n later, from a value of the same step",
        ),
        (dict(cell=CELLS["mingru"], layer_norm=True), "does not use them all"),
    ],
)
def test_what_it_cannot_do_it_says(changed, reason):
    assert reason in triton.supports(spec(**changed))


def test_asked_for_by_name_on_a_processor():
    layer = gw.LSTM(2, 3, backend="triton")
    with pytest.raises(BackendError, match="'triton' was asked for, but it runs on NVIDIA GPUs"):
        layer(torch.zeros(1, 1, 2))


# Which is faster -------------------------------------------------------------------------------------

MEASURED = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())["times"]
BESIDE_CUDNN = {name: row for name, row in MEASURED.items() if "cudnn" in row}


@pytest.mark.parametrize("name", BESIDE_CUDNN)
def test_auto_is_never_far_behind_cudnn_where_it_was_measured(name):
    cell, dtype, _, steps, _, batch, _, units, mode = name.split()
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    asked = dict(cell=CELLS[cell.lower()], hidden_size=int(units))
    asked |= dict(steps=int(steps), batch=int(batch), differentiated=mode == "training")
    leaves = triton.outrun(spec(**asked, dtype=types[dtype]))
    times_as_fast = BESIDE_CUDNN[name]["cudnn"] / BESIDE_CUDNN[name]["gatewise"]
    assert leaves or times_as_fast >= 0.95
    assert not leaves or leaves[0] == "aten"
    assert not leaves or times_as_fast < 1.2


def test_auto_leaves_few_steps_to_cudnn():
    asked = dict(hidden_size=256, dtype=torch.bfloat16, batch=16)
    left = {1: (True, True), 15: (True, True), 16: (False, True), 32: (False, False)}
    left[0] = False, False  # any number
    for steps, (inference, training) in left.items():
        for differentiated, expected in ((False, inference), (True, training)):
            given = spec(**asked, steps=steps, differentiated=differentiated)
            assert (triton.outrun(given) is not None) is expected


# How a call is divided -------------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("chip", [*CHIPS.values(), Chip(24, 101376)], ids=[*CHIPS, "small"])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("width", [1, 16, 64, 65, 300, 768, 1024, 1536, 2000, 4096])
@pytest.mark.parametrize("batch", [0, 1, 64, 200, 1000])
def test_programs_that_wait_for_each_other_have_room_to_run_at_once(chip, itemsize, width, batch):
    for fed, sums, beside in ((1, 1, 0), (1, 3, 0), (1, 4, 1), (2, 9, 2), (0, 4, 0)):
        work = Work(width, batch, itemsize, fed, sums, beside)
        for divide in (plan.forward, plan.backward):
            found = divide(work, chip)
            assert width <= found.US * found.SLICES
            assert width <= found.KC * found.CHUNKS
            assert found.tiles * found.BT >= 1
            if found.SLICES > 1:
                assert found.SLICES * found.tiles <= chip.processors
                assert found.SLICES % found.PARTS == 0
                assert not found.RESIDENT or plan.shared(work, found) <= chip.shared
            if found.TRANSPOSED:
                assert found.RESIDENT
                assert itemsize == 2
                assert found.US * found.INTERLEAVED * found.PARTS >= 64


def test_plans_are_timed_beside_each_other(monkeypatch):
    """By the benchmark that does it, on a call of three steps."""
    benchmark = pages.benchmark("gpu_plans")
    monkeypatch.setattr(benchmark, "STEPS", 3)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "AT_ONCE", 2)
    monkeypatch.setattr(benchmark, "milliseconds", lambda call: call() or 1.5)
    launch, launched = call.Call._launch, []

    def noted(self, *given, **constants):
        launched.append(self.plan)
        launch(self, *given, **constants)

    monkeypatch.setattr(call.Call, "_launch", noted)
    loops = benchmark.Loops(benchmark.given("peephole", torch.float32, 24, 10, "cpu"))
    for back in (False, True):
        found = benchmark.measured(loops, back, time.monotonic() + 60)
        taken, *others = itertools.islice(found, 3)
        assert taken["taken"]
        assert len(others) == 2
        for row in (taken, *others):
            assert Plan(**{field.name: row[field.name] for field in fields(Plan)}) in launched
            assert row["us"] == 500
            assert row["off"] < 1e-6
            assert f"US {row['US']}" in benchmark.shown(row)
        assert not any(row["taken"] for row in others)


# Compiled for chips that are not there ---------------------------------------------------------------

AHEAD = Path(__file__).parent / "triton_ahead.py"


def ahead(chip, *wanted):
    """What triton_ahead.py says of kernels compiled for a chip: without the interpreter, so elsewhere."""
    run = subprocess.run(
        [sys.executable, str(AHEAD), str(chip), json.dumps(wanted)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_every_cell_compiles(chip):
    plain = [(name, 150, "bfloat16", {}) for name in CELLS]
    every = [(name, 20, "float16", dict(reset=True, zoneout=True)) for name in CELLS]
    large = [("lstm", 1024, "bfloat16", {}), ("gru", 300, "float32", {})]
    compiled = ahead(chip, *plain, *every, *large)
    assert len(compiled) == 2 * len(plain + every + large)  # forward and backward
    for kernel in compiled:
        assert kernel["shared"] <= CHIPS[chip].shared, kernel


@pytest.mark.parametrize("chip", CHIPS)
def test_some_cells_compile(chip):
    wanted = {80: ("lstm", 64, "bfloat16", {}), 90: ("lstm", 768, "bfloat16", dict(B=512))}
    for kernel in ahead(chip, wanted[chip]):
        assert kernel["shared"] <= kernel["planned"] <= CHIPS[chip].shared, kernel
        assert kernel["instructions"] > 100
