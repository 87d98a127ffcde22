"""The levels of the processor: the one that is asked for runs, and each gives the right numbers.

Each runs in a process of its own, with malloc's memory filled with large numbers before it is used. These
are forked from one that has collected the tests and has not loaded the kernels.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import gatewise as gw
from gatewise.backends.native import library
from gatewise.errors import OptionError

VECTOR_BYTES = {"v4amx": 64, "v4bf16": 64, "v4": 64, "v3": 32, "v2": 16, "neon": 16}
NATIVE = library.core()
HERE = Path(__file__).parent

# Some of the comparisons with the reference, collected once and run by a process for each level; then what
# ran, as the library itself says. The kernels are loaded after the fork, and their threads start there:
# to the library the process is no forked one.
PROGRAM = f"""
import os, sys, pytest, torch
import torch._inductor.config  # the tests set what it has to know

class Levels:
    level = None

    def pytest_runtestloop(self, session):
        from gatewise import forks
        from gatewise.backends.native.library import core
        assert not core.cache_info().currsize
        session.config.get_terminal_writer().flush()
        for level in sys.argv[1:]:
            if not (child := os.fork()):
                assert not forks._lost or sys.platform != "linux"  # elsewhere it cannot be known
                forks._forked = False
                forks._lost.clear()
                self.level = os.environ["GATEWISE_CPU"] = level
                return None  # pytest's own loop follows
            os.waitpid(child, 0)
        return True

chosen = "(awkward or shared or blocks or bfloat16) and (lstm or peephole)"
levels = Levels()
failed = pytest.main(
    ["-q", "-p", "no:cacheprovider", "-k", chosen, {str(HERE / "test_cpu.py")!r}], plugins=[levels]
)
if levels.level:
    from gatewise.backends.native.library import core, loaded_level
    print("ran", loaded_level(), core().vector_bytes(), "with the status", int(failed), flush=True)
    os._exit(0)  # a library may wait at the interpreter's end for a thread that the fork left behind
"""


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_each_level_that_this_machine_has():
    levels = [level for level in library.LEVELS if NATIVE.supports(level)]
    poison = dict(MALLOC_PERTURB_="128", MALLOC_MMAP_THRESHOLD_=str(1 << 30))
    done = run(PROGRAM, *levels, **poison)
    said = done.stdout.splitlines()
    expected = [f"ran {each} {VECTOR_BYTES[each]} with the status 0" for each in levels]
    assert [line for line in said if line.startswith("ran ")] == expected, (
        done.stdout[-9000:] + done.stderr[-3000:]
    )
    assert sum(" passed" in line for line in said) == len(levels)


def _is_intel():
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@pytest.mark.skipif(
    library.loaded_level() != "v4bf16" or not _is_intel(),
    reason="needs an Intel processor with AVX512-BF16 and without tiles",
)
def test_bfloat16_is_multiplied_in_pairs_where_that_pays():
    """For one or two sequences; with more it has the bits of the level without pairs."""
    torch.manual_seed(0)
    layer = gw.LSTM(20, 65, dtype=torch.bfloat16)
    results = []
    loaded = library.library_path()
    try:
        for name in ("v4bf16", "v4"):
            NATIVE.load(str(loaded.with_name(f"kernels_{name}.so")), False)
            torch.manual_seed(1)
            results.append([])
            for B in (2, 3):  # in pairs, gradients are rounded on their way into a product
                output = layer(torch.randn(9, B, 20).bfloat16())[0]
                results[-1] += torch.autograd.grad(output.sum(), layer.weight_hh_l0)
    finally:
        NATIVE.load(str(loaded), False)
    (two, three), (two_floats, three_floats) = results
    assert torch.equal(three, three_floats)
    assert not torch.equal(two, two_floats)


def test_the_best_level_is_loaded_unless_another_is_asked_for(monkeypatch):
    monkeypatch.delenv("GATEWISE_CPU", raising=False)
    everything = SimpleNamespace(supports=lambda name: name != "neon")
    assert library.level(everything) == "v4amx"
    # the kernel has denied the process its tiles
    assert library.level(SimpleNamespace(supports=lambda name: name != "v4amx")) == "v4bf16"
    assert library.level(SimpleNamespace(supports=lambda name: name in ("v2", "v3"))) == "v3"
    monkeypatch.setenv("GATEWISE_CPU", "v2")
    tried = []
    assert library.level(SimpleNamespace(supports=lambda name: tried.append(name) or True)) == "v2"
    assert tried == ["v2"]  # nothing is asked of the kernel for a level that is not loaded
    asked = os.environ.get(
        "GATEWISE_CPU_OF_THESE_TESTS"
    )  # whatever runs here is one of the machine's
    assert asked is None
    assert NATIVE.supports(library.loaded_level())
    assert NATIVE.vector_bytes() == VECTOR_BYTES[library.loaded_level()]
    assert f"level {library.loaded_level()}" in gw.LSTM(2, 3).explain_backend(torch.zeros(4, 1, 2))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("v4 ", "GATEWISE_CPU=v4 : no such level (did you mean 'v4'?); there are: v4amx, v4bf16, v4, v3, v2, neon"),
        ("haswell", "GATEWISE_CPU=haswell: no such level; there are: v4amx, v4bf16, v4, v3, v2, neon"),
        ("neon", "GATEWISE_CPU=neon: this process may use only v3, v2"),
        ("v4amx", "GATEWISE_CPU=v4amx: this process may use only v3, v2"),
    ],
)  # fmt: skip
def test_a_level_that_there_is_not(monkeypatch, asked, message):
    monkeypatch.setenv("GATEWISE_CPU", asked)
    machine = SimpleNamespace(supports=lambda name: name in ("v2", "v3"))
    with pytest.raises(OptionError) as error:
        library.level(machine)
    assert str(error.value) == message


def test_a_layer_says_so_too():
    """Whatever backend it might fall back on: what was asked for is not there."""
    program = "import torch, gatewise as gw; gw.LSTM(2, 3)(torch.zeros(4, 1, 2))"
    done = run(program, GATEWISE_CPU="v9")
    assert done.returncode == 1
    assert "gatewise.errors.OptionError: GATEWISE_CPU=v9: no such level" in done.stderr
