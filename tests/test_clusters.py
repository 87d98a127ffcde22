"""The loops in CUDA C++ without a GPU: on a CPU against the reference, and compiled by NVRTC for a chip
that is not there. What a chip does is in test_gpu.py."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gatewise as gw
from cases import assert_alone_and_chunked_as_whole, assert_within, case
from cells import OWN_CELLS
from gatewise import CELLS
from gatewise.backends import cuda, reference
from gatewise.backends.contract import Spec
from gatewise.errors import BackendError

if torch.cuda.is_available():
    pytest.skip("there is a GPU: test_gpu.py runs on it", allow_module_level=True)
if not sys.platform.startswith("linux"):
    pytest.skip("what stands for a chip here is Linux's", allow_module_level=True)
if not all(map(shutil.which, ("c++", "cc"))):
    pytest.skip("needs a C and a C++ compiler, `cc` and `c++`", allow_module_level=True)
pytest.importorskip("cuda.core", reason="NVIDIA's cuda-core has no build for this machine")

import cluster_emulator
import pages
from gatewise.backends.gpu.clusters import call, plan
from gatewise.backends.gpu.clusters.plan import Chip, Plan, Work
from gatewise.backends.gpu.clusters.program import compiled

H100 = Chip(232448, ((4, 128), (8, 128), (2, 132)))
EVERY = {**CELLS, **OWN_CELLS}
SIZES = dict(T=3, B=5, inputs=3, H=24, dtype=torch.float32)
LENGTHS = (3, 0, 2, 3, 1)
BUT_NORM = dict(reset=True, recurrent_dropout=True, zoneout=True)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def spec(**changed):
    given = dict(cell=CELLS["lstm"], input_size=3, hidden_size=64, proj_size=0, reverse=False)
    given |= dict(dtype=torch.float32, device=torch.device("cuda"))
    return Spec(**given | changed)


SUITED = {name: cell for name, cell in EVERY.items() if not cuda.unsuited(spec(cell=cell))}


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setattr(call, "Kernel", cluster_emulator.Kernel)
    monkeypatch.setattr(call, "chip_of", lambda device: Chip(64 * 1024, ((2, 4),)))
    torch.use_deterministic_algorithms(True)  # so that what torch.empty gives holds NaN
    yield
    torch.use_deterministic_algorithms(False)


def check(given, backend=cuda):
    assert cuda.unsuited(given.spec) is None
    found, expected = given.gradients(backend), given.in_double().gradients(reference)
    for value in (*found[0], *found[1].values()):
        assert value.dtype == given.dtype
    ops = [given.gradients(reference)] if given.dtype != torch.float32 else []
    assert_within(found, expected, TOLERANCE[given.dtype], ops)


def arranged(tile, units, parts, groups, chunk, stages, tiles=1):
    """Divides any call like this."""

    def divide(work, chip):
        rows, block = work.rows * units * parts, 64 // work.itemsize
        row_tiles, blocks = -(-rows // 16), -(-work.fed // (block * parts))
        copied = min(stages, -(-blocks // chunk)) * chunk * tile // 8 * 512
        working = max(copied, tile * (row_tiles * 16 + 4) * 4 * max(groups // 2, 1))
        slices = -(-work.units // (units * parts)) * parts
        shared = blocks * row_tiles * 1024 + working + tile * plan.OF_SEQUENCE
        sizes = (tile, units, slices, parts, rows, work.fed, groups, chunk, stages, shared)
        return Plan(*sizes, tiles=tiles, cost=0)

    return divide


# Clusters of each size; one warp for all rows and one for each; chunks of which the last is not whole, of
# which more are copied ahead than there are, or the least; tiles of each size, some of which run later.
ARRANGED = {
    "alone": arranged(8, 5, 1, 8, 8, 2),
    "pairs": arranged(8, 7, 2, 4, 4, 2),
    "four": arranged(16, 3, 4, 2, 2, 3),
    "eight": arranged(32, 2, 8, 1, 1, 5),
    "wide": arranged(64, 9, 2, 2, 2, 4),
    "tiles": arranged(8, 16, 2, 8, 8, 3, tiles=2),
}


def _some(cell):
    """The equations are printed as the CPU's are, which are tried with every cell."""
    return () if cell.name in ("lstm", "gru", "peephole", "rnn_tanh") else pytest.mark.slow


@pytest.mark.parametrize(
    ("cell", "given"),
    [
        pytest.param(cell, given, marks=marks, id=f"{cell.name}-{'-'.join(given) or 'plain'}")
        for cell in SUITED.values()
        for given, marks in (
            (dict(BUT_NORM, zoneout=(1, 5), lengths=LENGTHS, reverse=True), _some(cell)),
            ({}, () if cell.name == "lstm" else pytest.mark.slow),
        )
    ],
)
def test_every_cell(cell, given):
    check(case(cell, **SIZES | given))


@pytest.mark.parametrize(
    ("divide", "dtype"),
    [
        pytest.param(divide, dtype, marks=() if here else pytest.mark.slow, id=f"{divide}-{dtype}")
        for n, divide in enumerate(ARRANGED)
        for k, dtype in enumerate(TOLERANCE)
        for here in [n % 3 == k]
    ],
)
def test_however_it_is_divided(divide, dtype, monkeypatch):
    monkeypatch.setattr(call, "divide", ARRANGED[divide])
    name, H = {
        torch.float32: ("gru", 44),
        torch.bfloat16: ("lstm", 136),
        torch.float16: ("gru", 72),
    }[dtype]
    check(case(CELLS[name], **SIZES | dict(T=2, B=19, H=H, dtype=dtype)))


@pytest.mark.parametrize(("tiles", "reverse"), [(1, True), (2, False)])
def test_tiles_after_each_other(tiles, reverse, monkeypatch):
    """The longest sequences first; of five tiles the last is all empty."""
    monkeypatch.setattr(call, "divide", arranged(8, 12, 2, 8, 8, 2, tiles=tiles))
    lengths = (*(b % 4 for b in range(32)), *[0] * 8)
    check(case(CELLS["peephole"], **SIZES | dict(BUT_NORM, B=40, lengths=lengths, reverse=reverse)))


@pytest.mark.parametrize("sizes", [(1, 1, 4), (0, 2, 8), (2, 1, 100), (9, 8, 8)])
def test_sizes(sizes):
    T, B, H = sizes
    check(case(CELLS["lstm"], **SIZES | dict(T=T, B=B, H=H)))


def test_no_sequences():
    given = case(CELLS["lstm"], **SIZES | dict(B=0))
    output, h, c = given.forward(cuda)
    assert output.shape == (3, 0, 24)
    assert h.shape == c.shape == (0, 24)


def test_a_sequence_alone_and_in_chunks():
    given = case(CELLS["lstm"], **SIZES | dict(T=5, lengths=(5, 0, 4, 2, 1)))
    assert_alone_and_chunked_as_whole(cuda, given, 2, 4, (1, 3))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_traced(name):
    given = case(CELLS[name], **SIZES | dict(lengths=LENGTHS, zoneout=True))
    given.spec = replace(given.spec, trace=True)
    found, expected = (b.forward(given.spec, *given.arguments()) for b in (cuda, reference))
    assert found.trace.keys() == expected.trace.keys()
    for what, value in expected.trace.items():
        torch.testing.assert_close(found.trace[what], value, rtol=1e-4, atol=1e-5, msg=what)


@pytest.mark.parametrize("exact", [False, True])
def test_tf32_where_torch_may(exact, monkeypatch):
    monkeypatch.setattr(call, "full_precision", lambda: exact)
    given = case(CELLS["lstm"], **SIZES | dict(H=64))
    found, expected = given.forward(cuda)[0], given.in_double().forward(reference)[0]
    off = (found - expected).abs().max() / expected.abs().max()
    assert bool(off < 1e-6) is exact
    assert off < 1e-3


def test_a_planted_fault_is_seen(monkeypatch):
    """i and f change places in what is emitted."""
    text = call.source

    def swapped(*given):
        return text(*given).replace("a[0]", "a[?]").replace("a[1]", "a[0]").replace("a[?]", "a[1]")

    monkeypatch.setattr(call, "source", swapped)
    call._kernel.cache_clear()
    try:
        with pytest.raises(AssertionError, match="result 0"):
            check(case(CELLS["lstm"], **SIZES))
    finally:
        call._kernel.cache_clear()


FAULTS = {
    "copies are not waited for": ("        copied<STAGES - 2>();\n", "", "result 0"),
    "nobody waits for the copies of others": (
        "        sync();  // all threads' copies are complete, and no thread reads the last chunk any more\n",
        "",
        "result 0",
    ),
    "the cluster does not meet": (
        "sums(), keep);\n    meet();",
        "sums(), keep);\n    sync();",
        "result 0",
    ),
    "some threads alone meet": (
        "sums(), keep);\n    meet();",
        "sums(), keep);\n    if (thread() < 32) meet();",
        "wait for different things",
    ),
    "nobody waits for the other programs in the forward pass": (
        "look_ahead(t, j + 1 < steps);\n        met += SLICES;\n        wait(counter, met);\n    }",
        "look_ahead(t, j + 1 < steps);\n        sync();\n    }",
        "result 0",
    ),
    "nobody waits for the other programs in the backward pass": (
        "wait(counter, met);\n        multiply_all",
        "sync();\n        multiply_all",
        "gradient of",
    ),
    "programs end while others read from them": (
        "    meet();  // no program reads from this one any more\n",
        "",
        "gradient of",
    ),
    "a group's sums are left out": ("accumulator += place;", "", "result 0"),
}


@pytest.mark.parametrize(
    "fault",
    [
        # it is the tests that are tested here: one shows that they see anything; some are seen only
        # where programs overtake each other
        pytest.param(name, marks=() if "group's sums" in name else pytest.mark.slow)
        for name in FAULTS
    ],
)
def test_a_planted_fault_of_the_loops_is_seen(fault, monkeypatch):
    was, planted, message = FAULTS[fault]
    text = (cluster_emulator.LOOPS / "loops.h").read_text()
    assert was in text
    monkeypatch.setitem(cluster_emulator.CHANGED, "loops.h", text.replace(was, planted))
    monkeypatch.setattr(call, "divide", arranged(16, 6, 2, 2, 2, 3))
    call._kernel.cache_clear()
    try:
        with pytest.raises(AssertionError, match=message):
            check(case(CELLS["lstm"], **SIZES | dict(H=136, dtype=torch.bfloat16)))
    finally:
        call._kernel.cache_clear()


# Compiled for a chip that is not there -----------------------------------------------------------------


class Compiled:
    """In the place of a kernel: compiles it, and runs nothing."""

    def __init__(self, source, name, shared, device):
        assert compiled(source, (9, 0)).code[:4] == b"\x7fELF"

    def launch(self, *given):
        pass


def compile_both_ways(cell, monkeypatch, **given):
    monkeypatch.setattr(call, "Kernel", Compiled)
    monkeypatch.setattr(call, "chip_of", lambda device: H100)
    call._kernel.cache_clear()
    case(cell, **dict(T=2, inputs=4) | given).gradients(cuda)
    call._kernel.cache_clear()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lstm", dict(T=1, H=1536, B=64, dtype=torch.bfloat16)),
        ("gru", dict(T=1, H=1792, B=16, dtype=torch.float16, reverse=True)),
        ("peephole", dict(H=1280, B=16, dtype=torch.float32, zoneout=True, lengths=[2] * 16)),
    ],
)
def test_some_cells_compile(name, given, monkeypatch):
    compile_both_ways(CELLS[name], monkeypatch, **given)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SUITED)
def test_every_cell_compiles(name, dtype, monkeypatch):
    compile_both_ways(EVERY[name], monkeypatch, H=512, B=64, dtype=dtype)


def test_what_the_driver_is_asked(tmp_path):
    """By cuda-core, of a driver that writes it down."""
    tests = Path(__file__).parent
    driver, code = tmp_path / "libcuda.so.1", tmp_path / "kernel.cubin"
    build = ["cc", "-shared", "-fPIC", "-o", driver, tests / "clusters" / "driver.c"]
    subprocess.run(build, check=True)
    kernel = 'extern "C" __global__ void forward(long long a, long long b, long long c) {}'
    code.write_bytes(compiled(kernel, (9, 0)).code)
    run = subprocess.run(
        [sys.executable, tests / "cluster_driver.py", code],
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    # attribute 8 of a kernel: most shared memory; 4 and 2 of a launch: width of a cluster, cooperative
    lines = run.stdout.splitlines()
    assert "Chip(shared=232448, programs=((4, 128), (8, 256), (2, 64)))" in lines
    assert (
        lines.count("kernel attribute 8: 232448") == lines.count("kernel attribute 8: 200000") == 1
    )
    (launch,) = (line for line in lines if line.startswith("launch"))
    assert "grid 128 2 1 block 256 shared 200000 stream 0x4d" in launch
    assert "attribute 4: 4" in launch
    assert "attribute 2: 1" in launch
    assert launch.endswith(f"words {1 << 40} 22 33")


# How a call is divided -----------------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("units", [8, 64, 512, 832, 1024, 1280, 1536, 1792])
@pytest.mark.parametrize("batch", [0, 1, 16, 64, 200, 1000])
def test_there_is_room_for_what_is_planned(itemsize, units, batch):
    for sums in (1, 3, 4):
        for work in (
            Work(units, batch, itemsize, sums, units),
            Work(units, batch, itemsize, 1, sums * units),
        ):
            found = plan.divide(work, H100)
            if itemsize == 2 or units <= 1280:
                assert found is not None
            if found is None:
                continue
            assert units <= found.US * found.SLICES
            assert found.SLICES % found.PARTS == 0
            assert found.SLICES * found.tiles <= dict(H100.programs)[found.PARTS]
            assert H100.shared >= found.SHARED
            assert work.rows * found.US * found.PARTS == found.ROWS
            assert found.CHUNK % found.GROUPS == 0


@pytest.mark.parametrize(
    ("units", "batch", "expected"),
    [(512, 1000, 2), (768, 600, 3), (1024, 256, 2), (1536, 64, 1), (1536, 65, 2)],
)
def test_as_few_launches_as_there_can_be(units, batch, expected):
    assert plan.divide(Work(units, batch, 2, 4, units), H100).launches(batch) == expected


def test_plans_are_timed_beside_each_other(monkeypatch):
    """By the benchmark that does it, on a call of three steps."""
    benchmark = pages.benchmark("gpu_plans")
    monkeypatch.setattr(benchmark, "STEPS", 3)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "AT_ONCE", 2)
    monkeypatch.setattr(benchmark, "milliseconds", lambda call: call() or 1.5)
    loops = benchmark.Loops("cuda", benchmark.given("peephole", torch.float32, 24, 10, "cpu"))
    for back in (False, True):
        now = time.monotonic()
        taken, *others = (
            row for k, row in zip(range(3), benchmark.measured(loops, back, now + 60), strict=False)
        )
        assert taken["taken"]
        assert len(others) == 2
        for row in (taken, *others):
            assert row["us"] == 500
            assert row["off"] < 1e-6
            assert f"US {row['US']}" in benchmark.shown(row)
        assert not any(row["taken"] for row in others)


def test_what_does_not_fit_has_no_plan():
    assert plan.divide(Work(2048, 16, 2, 4, 2048), H100) is None
    assert plan.divide(Work(1536, 16, 4, 4, 1536), H100) is None


# What refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(device=torch.device("cpu")), "runs on NVIDIA GPUs, not on 'cpu'"),
        (dict(dtype=torch.float64), "not in torch.float64"),
        (dict(transformed=True), "no rule for vmap"),
        (dict(hidden_size=70), "takes units in multiples of 4 in torch.float32, not 70"),
        (dict(hidden_size=68, dtype=torch.bfloat16), "multiples of 8 in torch.bfloat16, not 68"),
        (dict(proj_size=8), "cannot project the output"),
        (dict(layer_norm=True), "cannot normalise the pre-activations"),
        (dict(cell=CELLS["gru_2014"]), "has no second stage of gates; 'gru_2014' has n"),
        (dict(cell=EVERY["both_fed_back"]), "takes the output as the only recurrent input; 'both_fed_back' has h, c"),
        (dict(cell=CELLS["mingru"]), "takes the output as the only recurrent input; 'mingru' has none"),
        (dict(hidden_size=4096), "has no room on this chip for the weights of 4096 units in torch.float32"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_it_says(changed, reason):
    assert reason in cuda.supports(spec(**changed))


def test_it_can_do_the_rest():
    assert cuda.supports(spec(masks=("reset", "recurrent", "zoneout"), reverse=True)) is None


@pytest.fixture
def looked_for_anew():
    cuda._missing.cache_clear()
    yield
    cuda._missing.cache_clear()


@pytest.mark.parametrize("module", ["cuda.core", "cuda.bindings", "cuda.pathfinder"])
def test_without_its_package_it_names_the_command(module, looked_for_anew, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'gatewise[cuda]'" in cuda.supports(spec())


def test_with_the_bindings_of_another_cuda_it_names_the_command(looked_for_anew, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "for torch's CUDA 12.8, not 13." in cuda.supports(spec())
    assert cuda.supports(spec()).endswith("pip install 'cuda-bindings==12.*'")


def test_without_a_compiler_it_says_what_brings_one(looked_for_anew, monkeypatch):
    def nothing(name):
        raise RuntimeError(f"no {name} here\nlooked in many places")

    monkeypatch.setattr("cuda.pathfinder.load_nvidia_dynamic_lib", nothing)
    assert cuda.supports(spec()).endswith("torch's CUDA builds bring along: no nvrtc here")


def test_asked_for_by_name_on_a_processor():
    layer = gw.LSTM(2, 4, backend="cuda")
    with pytest.raises(BackendError, match="'cuda' was asked for, but it runs on NVIDIA GPUs"):
        layer(torch.zeros(1, 1, 2))


def test_compiled_it_refuses(monkeypatch):
    monkeypatch.setattr(cuda, "supports", lambda spec: None)
    layer = torch.compile(gw.LSTM(2, 4, backend="cuda"), backend="aot_eager")
    with pytest.raises(Exception, match="no operator that torch can compile, export or trace; use"):
        layer(torch.zeros(1, 1, 2))
