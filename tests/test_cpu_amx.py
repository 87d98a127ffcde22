"""Matrix tiles on the CPU (level v4amx), and torch's settings for the factors of float32 products.

The products run on a stand-in for the instructions (tests/native/amx_stand_in.h), so that they are tested on
processors without them. ``tests/test_native.py`` runs the C++ self-test on it too.
"""

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gatewise as gw
from cases import ALL, assert_within, case, uses_every_part
from cells import OWN_CELLS, PROJECTABLE
from gatewise import CELLS
from gatewise.backends import cpu, reference
from gatewise.backends.native import factors, library
from gatewise.emit import core
from native import COMPILER, HERE, compile_shared

CSRC = Path(__file__).parents[1] / "csrc"
EVERY = {**CELLS, **OWN_CELLS}
KINKED = ("rnn_relu", "truncated", "lstm_1997_truncated", "every_operation", "stabilised")
LENGTHS = (3, 0, 6, 6, 1)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux asks for tiles")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, `c++`")
x86 = pytest.mark.skipif("neon" in library.loaded_level(), reason="needs an x86-64 machine")
wide = pytest.mark.skipif(
    library.core().vector_bytes() != 64, reason="needs the cells of a level with AVX-512"
)
ALLOWED = {"highest": 0, "medium": 1, "high": 2}


@pytest.fixture(autouse=True)
def torchs_settings(precisions_can_be_set):
    """As they were before the test."""
    matmul, whole = torch.get_float32_matmul_precision(), torch.backends.mkldnn.fp32_precision
    yield
    torch.backends.mkldnn.rnn.fp32_precision = "none"
    torch.backends.mkldnn.fp32_precision = whole
    torch.set_float32_matmul_precision(matmul)


# The instructions ------------------------------------------------------------------------------------


def bf16(numbers):
    """The numbers in bfloat16: their bits."""
    return torch.tensor(numbers, dtype=torch.float32).bfloat16().view(torch.uint16).numpy()


def by_the_manual(sums, a, b):
    """The 16×16 sums after TDPBF16PS: a is 16×32, b 32×16. One rounding each, subnormals as zeros."""

    def flushed(x):
        x = np.asarray(x, np.float32)
        return np.where(np.abs(x) < np.float32(2**-126), np.copysign(np.float32(0), x), x)

    def both(x):
        return flushed(x).astype(np.float64)

    a, b, halves = both(a), both(b), np.zeros((2, 16, 16), np.float32)
    for k in range(32):  # the product of two bfloat16 numbers is exact, and float64 holds its sum
        halves[k % 2] = flushed(halves[k % 2] + a[:, k : k + 1] * b[k])
    return flushed(flushed(sums) + flushed(halves[0] + halves[1]))


@needs_compiler
@x86
@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "processor"])
def test_the_product_of_two_tiles(tmp_path, real):
    if real and not library.core().supports("v4amx"):
        pytest.skip("this machine has no matrix tiles")
    level = core.LEVELS["v4amx"].flags if real else ()
    stand_in = (
        () if real else ("-DGW_AMX_STAND_IN", "-DGW_VECTOR_BYTES=64", "-Wno-psabi", "-I", HERE)
    )
    flags = (*level, *stand_in, "-std=gnu++20", "-O1")
    driver = compile_shared("amx_driver.cpp", [str(f) for f in flags], tmp_path / "amx.so")
    rng = np.random.default_rng(0)
    a, b, sums = (
        rng.integers(-8, 8, (16, 32)),
        rng.integers(-8, 8, (32, 16)),
        rng.integers(-9, 9, (16, 16)),
    )
    a, b, sums = (each.astype(np.float32) for each in (a, b, sums))
    a[3] *= 2.0**-60  # the order of rounding shows
    a[4, ::2] *= 2.0**20
    # their product is subnormal
    a[5], b[:, 5], sums[5] = a[5] * 2.0**-70, b[:, 5] * 2.0**-63, 0
    a[6], sums[6] = 2.0**-130, 2.0**-128  # subnormal, and so zeros
    a[7, 1], a[8, 2] = np.inf, np.nan
    found = sums.copy()
    pairs = np.ascontiguousarray(bf16(b).reshape(16, 2, 16).transpose(0, 2, 1))
    rows = np.ascontiguousarray(bf16(a))
    driver.multiply_add(*(ctypes.c_void_p(t.ctypes.data) for t in (found, rows, pairs)))
    with np.errstate(invalid="ignore"):  # infinity times zero
        expected = by_the_manual(sums, a, b)
    assert np.isnan(expected).sum() > 16 > (expected[5] == 0).sum() > 0 == expected[6].any()
    np.testing.assert_array_equal(found, expected)


@needs_compiler
@linux
@x86
def test_a_kernel_that_denies_tiles(tmp_path):
    driver = compile_shared("amx_driver.cpp", ["-std=gnu++20"], tmp_path / "permission.so")
    for function in (driver.permitted, driver.permitted_here, driver.granted_here):
        function.restype = ctypes.c_bool
    assert driver.permitted(True, True)
    assert not driver.permitted(True, False)
    assert not driver.permitted(False, True)
    assert driver.times_asked() == 0  # of a processor without them nothing is asked
    flags = Path("/proc/cpuinfo").read_text().split()
    assert driver.permitted_here() <= ("amx_bf16" in flags)
    assert driver.granted_here() <= ("amx_tile" in flags)  # this kernel's own answer


# torch's settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALLOWED)
def test_the_precision_of_matrix_products_is_that_of_factors(name):
    torch.set_float32_matmul_precision(name)
    assert factors.allowed() == ALLOWED[name]


def test_the_nearest_setting_counts():
    settings = torch.backends.mkldnn
    settings.rnn.fp32_precision = "bf16"
    assert factors.allowed() == 1
    torch.set_float32_matmul_precision("medium")
    settings.rnn.fp32_precision = "ieee"
    assert factors.allowed() == 0
    settings.rnn.fp32_precision = "none"
    assert factors.allowed() == 1
    torch.set_float32_matmul_precision("highest")
    settings.fp32_precision = "bf16"
    assert factors.allowed() == 1


def test_the_setting_of_all_backends_is_inherited():
    torch.backends.fp32_precision = "tf32"  # for a GPU, say
    assert factors.allowed() == ALLOWED["high"]
    torch.backends.mkldnn.rnn.fp32_precision = "ieee"
    assert factors.allowed() == ALLOWED["highest"]


def layer_results(batch=20):
    torch.manual_seed(0)
    layer = gw.LSTM(9, 33)
    x = torch.randn(7, batch, 9, requires_grad=True)
    y, (h, c) = layer(x)
    y.square().sum().backward()
    with torch.no_grad():
        alone = layer(x)[0]
    return [
        y.detach(),
        h.detach(),
        c.detach(),
        alone,
        x.grad,
        *(p.grad for p in layer.parameters()),
    ]


@pytest.mark.skipif(library.core().tiles(), reason="this machine rounds")
@pytest.mark.parametrize("name", ["medium", "high"])
def test_without_tiles_no_setting_changes_a_bit(name):
    before, x = layer_results(), torch.zeros(4, 1, 9)
    layer = gw.LSTM(9, 33)
    assert "torch's settings" not in layer.explain_backend(x)
    torch.set_float32_matmul_precision(name)
    assert all(map(torch.equal, before, layer_results()))
    assert "; this is done at level v4amx alone" in layer.explain_backend(x)
    assert "torch's settings" not in layer.bfloat16().explain_backend(x.bfloat16())


# The level on the stand-in -------------------------------------------------------------------------

# Loads the stand-in $STAND_IN in the place of the kernels. The cells are those of the loaded level.
LOAD = """
import ctypes, os
from gatewise.backends.native import library
library.core().load(os.environ["STAND_IN"], False)
assert library.core().tiles()
tiles = ctypes.CDLL(os.environ["STAND_IN"]).gw_tile_products
"""


@pytest.fixture(scope="module")
def stand_in_library(tmp_path_factory):
    out = tmp_path_factory.mktemp("amx") / "kernels.so"
    level = library.loaded_level()
    flags = [*core.cell_flags(level, gnu=True), "-O1", f"-DGW_LEVEL={level}", "-DGW_AMX_STAND_IN"]
    flags += ["-DGW_BF16_PAIRS=1"] if "bf16" not in level and "amx" not in level else []
    command = [COMPILER, *flags, "-I", HERE, CSRC / "kernels.cpp", "-o", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture
def tiles(stand_in_library):
    """The number of products on tiles since the test began, as a function."""
    native = library.core()
    native.load(str(stand_in_library), False)
    count = ctypes.CDLL(str(stand_in_library)).gw_tile_products
    count.restype = ctypes.c_longlong
    before = count()
    yield lambda: count() - before
    native.load(str(library.library_path()), False)


def standing_in(test):
    for mark in (pytest.mark.slow, needs_compiler, wide):
        test = mark(test)
    return test


def variants(cell):
    normal = uses_every_part(cell)
    yield dict(H=17)
    yield dict(B=1, T=3, H=5, inputs=40)
    yield dict(lengths=LENGTHS, reverse=True, bias=False, H=33)
    yield dict(ALL, layer_norm=normal, lengths=LENGTHS, H=17, inputs=9)
    if cell.name in PROJECTABLE:
        yield dict(P=5, lengths=LENGTHS, zoneout=True, H=17)


# of the largest number of each tensor; wider where the equations have corners that rounding goes round
WITHIN = {"high": 1e-3, "medium": 3e-2, "bfloat16": 2e-2}


@standing_in
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", WITHIN)
@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_every_cell_on_tiles(cell, kind, tiles):
    for options in variants(cell):
        sizes = dict(T=6, B=5, inputs=3) | options
        if kind == "high":
            torch.set_float32_matmul_precision(kind)
            sizes |= {} if "lengths" in sizes else dict(B=9)  # parts are for some more rows
        elif kind == "medium":
            torch.set_float32_matmul_precision(kind)
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        given = case(cell, **sizes, dtype=dtype)
        assert cpu.supports(given.spec) is None
        rounded = replace_dtype(given, torch.bfloat16)
        expected = given.in_double().gradients(reference)
        found = given.gradients(cpu)
        # what rounding makes of an ill-conditioned case, torch's own operations show
        beside = [] if kind == "high" else [rounded.gradients(reference)]
        if cell.name in KINKED and kind != "high":
            found, expected = (found[0], {}), (expected[0], {})
            beside = [(b[0], {}) for b in beside]
        assert_within(found, expected, WITHIN[kind], beside)
    assert tiles() > 0


def replace_dtype(given, dtype):
    masks = given.masks
    tensors = {name: value.to(dtype) for name, value in given.tensors.items()}
    masks = masks._replace(
        recurrent=None if masks.recurrent is None else masks.recurrent.to(dtype),
        zoneout=masks.zoneout and tuple(share.to(dtype) for share in masks.zoneout),
    )
    return replace(given, spec=replace(given.spec, dtype=dtype), tensors=tensors, masks=masks)


@standing_in
@pytest.mark.parametrize("kind", WITHIN)
@pytest.mark.parametrize(
    "sizes",
    [
        dict(T=3, B=40, inputs=70, H=50),
        dict(T=9, B=13, inputs=20, H=65),
        dict(T=20, B=3, inputs=40, H=130, lengths=(12, 0, 20)),
        dict(T=2, B=100, inputs=600, H=20),
        dict(T=300, B=2, inputs=5, H=9),
    ],
    ids=lambda sizes: ",".join(str(sizes[k]) for k in ("T", "B", "inputs", "H")),
)
def test_sizes_on_tiles(sizes, kind, tiles):
    if kind != "bfloat16":
        torch.set_float32_matmul_precision(kind)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    given = case(CELLS["lstm"], **sizes, dtype=dtype)
    expected = given.in_double().gradients(reference)
    beside = [] if kind == "high" else [replace_dtype(given, torch.bfloat16).gradients(reference)]
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            runs = [given.gradients(cpu) for _ in range(2)]
        finally:
            torch.set_num_threads(before)
        assert_within(runs[0], expected, WITHIN[kind], beside)
        first, again = ([*out, *grads.values()] for out, grads in runs)
        assert all(map(torch.equal, first, again))  # the same bits every time
    assert tiles() > 0 or (kind == "high" and sizes["B"] < 8)


@standing_in
@pytest.mark.usefixtures("one_thread")
def test_a_layer_rounds_if_torch_allows_it(tiles):
    x = torch.zeros(4, 1, 9)
    plain = layer_results()
    assert tiles() == 0
    assert "torch's settings" not in gw.LSTM(9, 33).explain_backend(x)
    for name, off in (("medium", 2e-2), ("high", 1e-4)):
        torch.set_float32_matmul_precision(name)
        before = tiles()
        found = layer_results()
        assert tiles() > before
        for value, true in zip(found, plain, strict=True):
            assert value.dtype == torch.float32
            assert 0 < (value - true).norm() / true.norm() < off, name
        said = gw.LSTM(9, 33).explain_backend(x)
        assert ("bfloat16 parts, where a thread has 8" in said, "round their factors" in said) == (
            name == "high",
            name == "medium",
        )
    torch.backends.mkldnn.rnn.fp32_precision = "ieee"
    assert all(map(torch.equal, plain, layer_results()))


@standing_in
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("batch", "in_parts"), [(1, False), (7, False), (8, True)])
def test_parts_are_multiplied_from_8_sequences_on(batch, in_parts, tiles):
    plain = layer_results(batch)
    torch.set_float32_matmul_precision("high")
    same = all(map(torch.equal, plain, layer_results(batch)))
    assert (same, tiles() > 0) == (not in_parts, in_parts)


@standing_in
@pytest.mark.parametrize(("batch", "in_parts"), [(8, False), (15, False), (16, True)])
def test_parts_are_multiplied_from_8_sequences_of_each_thread_on(batch, in_parts, tiles):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        layer, x = gw.LSTM(64, 31).eval(), torch.randn(30, batch, 64)  # rows are shared, not units
        torch.set_float32_matmul_precision("high")
        with torch.no_grad():
            layer(x)
        assert (tiles() > 0) == in_parts
    finally:
        torch.set_num_threads(before)


@standing_in
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["medium", "high"])
@pytest.mark.parametrize(
    ("steps", "batch", "rounds"), [(1, 1, False), (4, 1, False), (1, 2, False), (5, 1, True)]
)
def test_short_calls_round_nothing(steps, batch, rounds, name, tiles):
    """As explain_backend says: without a gradient, with one, and in the backward pass."""
    torch.manual_seed(0)
    layer, x = gw.LSTM(9, 33), torch.randn(steps, batch, 9, requires_grad=True)

    def results():
        with torch.no_grad():
            plain = layer(x)[0]
        output = layer(x)[0]
        return plain, output, *torch.autograd.grad(output.sum(), [x, *layer.parameters()])

    exact = results()
    torch.set_float32_matmul_precision(name)
    assert all(map(torch.equal, exact, results())) == (not rounds or name == "high")
    assert (tiles() > 0) == (rounds and name == "medium")
    said = layer.explain_backend(x)
    assert ("one sequence and up to 4 steps, or of two sequences and one step" in said) == (
        name == "medium"
    )


@standing_in
@pytest.mark.usefixtures("one_thread")
def test_streams_and_steps_round_too(tiles):
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(0)
    layer, x = gw.LSTM(9, 33).eval(), torch.randn(5, 4, 9)
    with torch.inference_mode():
        expected = layer(x)[0]
        before = tiles()
        stream = layer.stream(batch=4)
        steps = torch.stack([torch.as_tensor(stream.step(row.numpy())) for row in x])
        assert tiles() > before
        torch.testing.assert_close(steps, expected, rtol=1e-2, atol=1e-2)
        before = tiles()
        gw.LSTMCell(9, 33)(x[0])
        assert tiles() > before
    before = tiles()
    layer.explain_backend(x)
    assert tiles() == before


@standing_in
@pytest.mark.usefixtures("one_thread")
def test_a_stream_keeps_the_setting_it_was_opened_with(tiles):
    torch.manual_seed(0)
    layer, x = gw.LSTM(9, 33).eval(), torch.randn(5, 4, 9)

    def outputs(opened, run):
        torch.set_float32_matmul_precision(opened)
        stream = layer.stream(batch=4)
        torch.set_float32_matmul_precision(run)
        return np.stack([stream.step(row) for row in x])

    plain, rounded = (outputs(name, name) for name in ("highest", "medium"))
    assert (plain != rounded).any()
    np.testing.assert_array_equal(outputs("highest", "medium"), plain)
    np.testing.assert_array_equal(outputs("medium", "highest"), rounded)


@standing_in
@pytest.mark.usefixtures("one_thread")
def test_compiled_graphs_and_backward_passes_read_the_setting_anew(tiles):
    torch.manual_seed(0)
    layer, x = gw.LSTM(9, 33), torch.randn(5, 8, 9)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)

    def results(call, forward, backward):
        torch.set_float32_matmul_precision(forward)
        before, y = tiles(), call(x)[0]
        after_forward = tiles()
        torch.set_float32_matmul_precision(backward)
        gradients = torch.autograd.grad(y.square().sum(), tuple(layer.parameters()))
        return y.detach(), gradients, (after_forward > before, tiles() > after_forward)

    def same(a, b):
        return torch.equal(a[0], b[0]), all(map(torch.equal, a[1], b[1]))

    exact, rounded = (results(layer, name, name) for name in ("highest", "medium"))
    assert (exact[2], rounded[2]) == ((False, False), (True, True))
    for call in (layer, compiled):
        assert same(results(call, "highest", "highest"), exact) == (True, True)
        assert same(results(call, "medium", "medium"), rounded) == (True, True)
        mixed = results(call, "highest", "medium")
        assert mixed[2] == (False, True)
        assert same(mixed, exact) == (True, False)
        mixed = results(call, "medium", "highest")
        assert mixed[2] == (True, False)
        assert same(mixed, rounded) == (True, False)


@standing_in
@pytest.mark.usefixtures("one_thread", "tiles")
def test_parts_of_an_infinite_factor_can_give_nan():
    layer = gw.RNN(1, 3, bias=False)
    # the second parts are 2⁻⁹, 0 and -2⁻⁹
    weights = torch.tensor([[1 + 2.0**-9], [1], [1 + 2.0**-7 - 2.0**-9]])
    with torch.no_grad():
        layer.weight_ih_l0.copy_(weights)
    x = torch.zeros(1, 8, 1)
    x[0, 0] = torch.inf
    assert layer(x)[0][0, 0].tolist() == [1, 1, 1]
    torch.set_float32_matmul_precision("high")
    found = layer(x)[0][0]
    assert found[0].isnan().tolist() == [False, True, True]
    assert found[0, 0] == 1
    assert (found[1:] == 0).all()


FORK = """
import torch, gatewise as gw
torch.set_num_threads(2)
torch.set_float32_matmul_precision("medium")
torch.manual_seed(0)
layer, x = gw.LSTM(20, 65), torch.randn(9, 40, 20)
expected = layer(x)[0].detach()
child = os.fork()
again = layer(x)[0].detach()
same = torch.equal(again, expected)
if not child:
    os._exit(0 if same and tiles() > 0 else 3)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@standing_in
def test_a_forked_process_has_tiles_too(stand_in_library):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD + FORK],
        env=os.environ | {"STAND_IN": str(stand_in_library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "0"], done.stderr
