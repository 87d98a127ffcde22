"""csrc/math.h against numpy in float64 and against mpmath, at each level this machine can run."""

import ctypes
import functools
import itertools

import mpmath
import numpy as np
import pytest
import torch

from native import COMPILER, compile_shared, levels

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, `c++`")

FUNCTIONS = ("exp", "log", "tanh", "sigmoid", "softplus")
TYPES = {np.float32: "float", np.float64: "double"}
INF, NAN = float("inf"), float("nan")

# In ulp: what the header promises with FMA and, for x86-64-v2, without.
BOUNDS = {
    np.float32: {
        "exp": (1.0, 1.4),
        "log": (1.0, 1.0),
        "tanh": (2.0, 2.2),
        "sigmoid": (2.0, 2.0),
        "softplus": (2.0, 2.3),
    },
    np.float64: {
        "exp": (1.0, 1.4),
        "log": (1.0, 1.0),
        "tanh": (2.3, 2.5),
        "sigmoid": (2.0, 2.1),
        "softplus": (2.0, 2.2),
    },
}

NUMPY = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
}
MPMATH = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: (
        mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))
    ),
}


class Driver:
    def __init__(self, library):
        self.library = library

    def __call__(self, name, *inputs, out=None, count=None):
        inputs = [np.ascontiguousarray(x) for x in inputs]
        out = np.empty_like(inputs[0]) if out is None else out
        count = inputs[0].size if count is None else count
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*inputs, out)]
        function = getattr(self.library, f"{name}_{TYPES[out.dtype.type]}")
        function.restype = None
        function(*pointers, ctypes.c_int64(count))
        return out


@pytest.fixture(scope="module", params=levels())
def level(request):
    return request.param


@pytest.fixture(scope="module")
def run(level, tmp_path_factory):
    flags, width = levels()[level]
    library = compile_shared("math_driver.cpp", flags, tmp_path_factory.mktemp(level) / "math.so")
    assert library.vector_bytes() == width, "the level asked for is not the level compiled"
    return Driver(library)


@functools.cache
def points(dtype):
    """All the exponents, evenly; then densely where a function changes its ways."""
    if dtype is np.float32:
        patterns = np.arange(0, 2**32, 1009, dtype=np.uint32).view(np.float32)
        most, few = 200_000, 20_000
    else:
        random = np.random.default_rng(0).integers(0, 2**64, 700, dtype=np.uint64)
        patterns = random.view(np.float64)
        most, few = 600, 60
    edges = [-745.2, -709.5, -708.4, -104, -88.5, -87.4, -37, -17, -9, 9, 19, 88.6, 709.7]
    grids = [
        np.linspace(-1.5, 1.5, most),
        np.linspace(-20, 20, most),
        np.linspace(-110, 110, most),
        np.geomspace(1e-7, 1, most),
        -np.geomspace(1e-7, 1, most),
        *(np.linspace(x - 1, x + 1, few) for x in (0, 1, 2, *edges)),
    ]
    return np.concatenate([patterns, *(grid.astype(dtype) for grid in grids)])


@functools.cache
def reference(name, dtype):
    """The true values as a sum of two numpy arrays of float64: the second is beyond its precision."""
    x = points(dtype)
    if dtype is np.float32:
        with np.errstate(all="ignore"):
            return NUMPY[name](x.astype(np.float64)), 0.0
    with np.errstate(all="ignore"):
        high, low = NUMPY[name](x), np.zeros_like(x)
    finite = np.isfinite(x) & ((x > 0) | (name != "log"))
    with mpmath.workprec(150):
        for i in np.flatnonzero(finite):
            true = MPMATH[name](mpmath.mpf(float(x[i])))
            high[i] = float(true)
            low[i] = float(true - high[i]) if np.isfinite(high[i]) else 0
    return high, low


def ulps(got, high, low):
    dtype = got.dtype.type
    with np.errstate(all="ignore"):
        want = high.astype(dtype)
        error = np.abs((got.astype(np.float64) - high) - low) / np.spacing(np.abs(want))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error[same & ~np.isfinite(want)] = 0
    error[~same & ~np.isfinite(error)] = INF
    return error


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp(run, level, name, dtype):
    x = points(dtype)
    got, (high, low) = run(name, x), reference(name, dtype)
    error = ulps(got, high, low)
    if name == "sigmoid":  # 0 below the smallest normal number
        least = np.finfo(dtype).tiny * (1 + 2e-5)
        below = high < least
        assert np.all((got[below] >= 0) & (got[below] <= least))
        error[below] = 0
    worst = int(np.argmax(error))
    bound = BOUNDS[dtype][name][level == "v2"]
    assert error[worst] <= bound, f"{name}({x[worst]!r}) = {got[worst]!r}, not {high[worst]!r}"


# Inputs and what each gives; zeros of both signs.
SPECIALS = {
    "exp": ([0.0, -0.0, INF, -INF, 1e30, -1e30], [1, 1, INF, 0, INF, 0]),
    "log": ([0.0, -0.0, 1.0, INF, -INF, -1.0, -1e-40], [-INF, -INF, 0, INF, NAN, NAN, NAN]),
    "tanh": ([0.0, -0.0, INF, -INF, 1e30, 1e-40, -1e-40], [0.0, -0.0, 1, -1, 1, 1e-40, -1e-40]),
    "sigmoid": ([0.0, -0.0, INF, -INF, 1e30, -1e30, 1e-40], [0.5, 0.5, 1, 0, 1, 0, 0.5]),
    "softplus": ([INF, -INF, 1e30, -1e30], [INF, 0, 1e30, 0]),
    "relu": ([0.0, -0.0, INF, -INF, 1e-40, -1e-40], [0.0, -0.0, INF, 0, 1e-40, 0]),
}


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
@pytest.mark.parametrize("name", SPECIALS)
def test_special_values(run, name, dtype):
    x, want = (np.array(values, dtype) for values in SPECIALS[name])
    got = run(name, x)
    np.testing.assert_array_equal(got, want)
    kept = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[kept]), np.signbit(want[kept]))


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
@pytest.mark.parametrize("name", SPECIALS)
def test_any_nan_gives_nan(run, name, dtype):
    bits, infinity = (np.uint32, 0x7F800000) if dtype is np.float32 else (np.uint64, 0x7FF << 52)
    payloads = [1, 2, 255, 2**10, 2**22, 2**22 + 1, 2**23 - 1]
    x = np.array([infinity | p for p in payloads], bits)
    x = np.concatenate([x, x | bits(1 << (8 * x.itemsize - 1))]).view(dtype)
    assert np.isnan(run(name, x)).all()


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
def test_choices_are_those_of_torch(run, dtype):
    values = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3e38, INF, -INF, NAN)
    a, b = np.array([*itertools.product(values, values)], dtype).T
    ta, tb = torch.tensor(a), torch.tensor(b)
    np.testing.assert_array_equal(run("relu", a), torch.relu(ta).numpy())
    np.testing.assert_array_equal(run("maximum", a, b), torch.maximum(ta, tb).numpy())
    np.testing.assert_array_equal(run("minimum", a, b), torch.minimum(ta, tb).numpy())
    np.testing.assert_array_equal(run("greater", a, b), (ta > tb).numpy().astype(dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_lane_gives_the_same_bits(run, name, dtype):
    x = (
        np.random.default_rng(1).normal(size=1003).astype(dtype) * 5
    )  # 1003: the last vector is partial
    want = run(name, x)
    for places in range(1, 16):
        np.testing.assert_array_equal(run(name, np.roll(x, places)), np.roll(want, places))


@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.values())
def test_partial_vectors_write_no_more_than_asked(run, dtype):
    x = np.linspace(-3, 3, 40).astype(dtype)
    whole = run("tanh", x)
    for count in range(40):
        out = run("tanh", x, out=np.full_like(x, 7), count=count)
        np.testing.assert_array_equal(out[:count], whole[:count])
        assert np.all(out[count:] == 7)
