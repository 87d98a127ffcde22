"""The native core without Python: its self-test for each width of vectors, for another processor and
compiler and under sanitizers; the thread pool; and what is in the libraries that were installed."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cells import OWN_CELLS
from gatewise.cells.catalogue import CELLS
from gatewise.emit import core
from gatewise.emit.cpp import source
from native import COMPILER, levels

HERE = Path(__file__).parent / "native"
CSRC = Path(__file__).parents[1] / "csrc"
# the cells that selftest.cpp has by hand
OWN = ("both_fed_back", "stabilised", "halves", "of_input_alone")
BY_HAND = ("rnn_tanh", "rnn_relu", "lstm", "gru", "peephole", *OWN)
DEFINITIONS = tuple(f"-D{each}" for each in core.DEFINITIONS)
MODE = (f"-std=gnu++{core.STANDARD}", *core.COMMON_FLAGS, *DEFINITIONS)
STRICT = ("-Wall", "-Wextra", "-Werror")
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

X86 = platform.machine() in ("x86_64", "AMD64")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, `c++`")


def call(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    output = done.stdout[-4000:] + done.stderr[-4000:]
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{output}"
    return done.stdout


@pytest.fixture(scope="module")
def cell_sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = [*CELLS.values(), *(OWN_CELLS[name] for name in OWN)]
    for cell in cells:
        (folder / f"{cell.name}.cpp").write_text(source(cell, f"gw_cell_{cell.name}"))
    return sorted(folder.glob("*.cpp"))


def build(target, sources, compiler, *flags):
    """A program of ``sources``, each compiled apart, two at a time. It is kept for the next run, beside the
    tests' own cells, and compiled anew where anything that goes into it is another."""

    def compiled(file):
        to = target.parent / f"{target.name}-{file.stem}.o"
        call(compiler, *MODE, *STRICT, *flags, "-I", CSRC, "-c", file, "-o", to)
        return to

    folder = Path(os.environ["GATEWISE_CACHE"]) / "programs"
    kept = folder / made_of(target, sources, compiler, flags)
    if not kept.exists():
        with ThreadPoolExecutor(2) as threads:
            objects = list(threads.map(compiled, sources))
        call(compiler, *flags, *objects, "-o", target, "-lpthread")
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.glob(f"{kept.stem}.*"):
            other.unlink(missing_ok=True)
        new = folder / f"{os.getpid()}.new"
        shutil.copy(target, new)
        os.replace(new, kept)
    return kept


def made_of(target, sources, compiler, flags):
    """The name of a program: what it is, and after the dot what it is made of."""
    options = repr((compiler, *MODE, *STRICT, *flags))
    content = hashlib.sha256(call(compiler, "--version").encode())
    files = {*sources, *CSRC.glob("*.[ch]*"), *HERE.glob("*.[ch]*")}
    for file in sorted(files, key=lambda file: file.name):
        content.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    kind = hashlib.sha256(options.encode()).hexdigest()[:16]
    return f"{target.name}-{kind}.{content.hexdigest()}"


@pytest.fixture
def self_test(cell_sources, tmp_path):
    """Builds the self-test and runs it; its output."""

    def run(compiler, *flags, under=(), every=1, **environment):
        by_hand = [file for file in cell_sources if file.stem in BY_HAND]
        sources = [CSRC / "kernels.cpp", HERE / "selftest.cpp", *by_hand]
        program = build(tmp_path / "selftest", sources, compiler, "-DGW_LEVEL=test", *flags)
        output = call(*under, program, every, **environment)
        assert re.search(r"^[1-9]\d* passed, 0 failed$", output, re.MULTILINE), output
        return output

    return run


def best_flags():
    return list(levels().values())[-1]


# The stand-in for matrix tiles, and the packed layout that it reads.
TILES = ("-DGW_AMX_STAND_IN", "-DGW_BF16_PAIRS=1", "-I", HERE)


@needs_compiler
def test_this_machine(self_test):
    flags, width = best_flags()
    tiles = TILES if width == 64 else ()
    # working memory and tapes begin as 3.4e38
    output = self_test(COMPILER, "-Og", *flags, *tiles, every=4, MALLOC_PERTURB_="128")
    assert f"{width}-byte vectors" in output, output
    assert not re.search(r"by units: 0\b", output), output
    assert bool(re.search(r"^[1-9]\d* products of tiles$", output, re.MULTILINE)) == bool(tiles)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("sanitized", [False, True], ids=["as_it_is", "sanitized"])
def test_matrix_tiles(self_test, sanitized):
    """On any machine: vectors of 64 bytes that no register holds need not be there."""
    more = ("-DGW_VECTOR_BYTES=64", "-Wno-psabi", *(SANITIZED if sanitized else ()))
    every = 4 if sanitized else 1
    assert "products of tiles" in self_test(
        COMPILER, "-O1", *best_flags()[0], *TILES, *more, every=every
    )


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(not X86, reason="needs an x86-64 machine")
@pytest.mark.parametrize("width", [16, 32, 64])
def test_each_width_of_vectors(self_test, width):
    """64 bytes on AVX2 too, with the tiles of AVX-512: its shapes without its instructions."""
    flags = levels()["v2"][0] if width == 16 or "v3" not in levels() else levels()["v3"][0]
    # of vectors that no register holds; GCC says that they would be passed otherwise elsewhere
    more = (f"-DGW_VECTOR_BYTES={width}", "-Wno-psabi")
    assert f"{width}-byte vectors" in self_test(COMPILER, "-O1", *flags, *more)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("width", [16, 32, 64])
def test_bfloat16_in_pairs(self_test, width):
    """Packed as the level with the dot product instruction has it, the instruction being made up."""
    more = (f"-DGW_VECTOR_BYTES={width}", "-DGW_BF16_PAIRS=1", "-Wno-psabi")
    self_test(COMPILER, "-O1", *best_flags()[0], *more, every=2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++")
def test_another_compiler(self_test):
    self_test("clang++", "-O2", *best_flags()[0])


ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason=f"needs {' and '.join(ARM)}")
def test_another_processor(self_test):
    compiler, emulator = ARM
    output = self_test(compiler, "-O2", "-static", under=[emulator], every=8)
    assert "16-byte vectors" in output


@pytest.mark.slow
@needs_compiler
def test_self_test_under_sanitizers(self_test):
    fill = "malloc_fill_byte=255:max_malloc_fill_size=1000000000"  # NaNs
    self_test(COMPILER, "-O1", *best_flags()[0], *SANITIZED, every=2, ASAN_OPTIONS=fill)


@pytest.mark.slow
@needs_compiler
def test_self_test_under_the_thread_sanitizer(self_test):
    self_test(COMPILER, "-O1", "-g", *best_flags()[0], "-fsanitize=thread", every=5)


# The sanitizer can't follow threads into a forked child; the argument leaves that part out.
POOLS = {
    "as_it_is": ((), ()),
    "address_and_undefined": (SANITIZED, ()),
    "thread": (("-g", "-fsanitize=thread"), ("no_fork",)),
    "on_openmp": (("-fopenmp", "-Wl,--no-as-needed"), ()),
}


@needs_compiler
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("as_it_is", "on_openmp") else pytest.mark.slow)
        for kind in POOLS
    ],
)
def test_thread_pool(tmp_path, kind):
    flags, arguments = POOLS[kind]
    program = build(tmp_path / "pool", [HERE / "pool_test.cpp"], COMPILER, "-O1", *flags)
    assert ", 0 failed" in call(program, *arguments)


# What is compiled for a level must not warn; AVX-512 needs no such machine for it.
@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(not X86, reason="needs an x86-64 machine")
@pytest.mark.parametrize("level", [name for name, level in core.LEVELS.items() if level.x86])
def test_no_warnings(level, cell_sources, tmp_path):
    for file in (CSRC / "kernels.cpp", *cell_sources):
        flags = (*core.cell_flags(level, gnu=True), f"-DGW_LEVEL={level}", "-I", CSRC)
        call(COMPILER, *flags, *STRICT, "-c", file, "-o", tmp_path / "object.o")


# What shows an instruction beyond the level: a prefix or a register.
BEYOND = {
    "kernels_v2": r"\tv[a-z]+\w*\s|%[yz]mm|%k[0-7]\b",
    "kernels_v3": r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b",
    "_core": r"\tv[a-z]+\w*\s|%[yz]mm|%k[0-7]\b",
}
WITHIN = {"kernels_v2": "%xmm", "kernels_v3": "%ymm", "_core": "%xmm"}


@pytest.mark.skipif(not X86, reason="needs an x86-64 machine")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize("library", BEYOND)
def test_nothing_beyond_its_level(library):
    native = pytest.importorskip("gatewise._native._core", reason="the core is not installed")
    file = next(Path(native.__file__).parent.glob(f"{library}.*so"))
    text = call("objdump", "-d", "--no-show-raw-insn", file)
    # the verbs of virtual machines and of selectors begin with a v too
    lines = [line for line in text.splitlines() if not re.search(r"\tver[rw]\b|\tvm", line)]
    assert WITHIN[library] in text
    found = [line for line in lines if re.search(BEYOND[library], line)]
    assert not found, "\n".join(found[:10])


def test_the_core_is_built_as_is_stated(tmp_path):
    """CMakeLists.txt takes levels, flags and limits from gatewise.emit.core, and states none itself."""
    native = pytest.importorskip("gatewise._native._core", reason="the core is not installed")
    assert native.limits() == core.ARRAY_LIMITS
    libraries = {file.stem for file in Path(native.__file__).parent.glob("kernels_*.so")}
    assert libraries == {
        f"kernels_{name}" for name, level in core.LEVELS.items() if level.x86 == X86
    }
    call(sys.executable, CSRC / "generate.py", tmp_path)
    variables = (tmp_path / "core.cmake").read_text()
    rules = re.sub(r"#.*", "", (CSRC.parent / "CMakeLists.txt").read_text())
    flags = {*core.COMMON_FLAGS, *core.GNU_CELL_FLAGS, *core.DEFINITIONS, core.OPTIMISATION}
    flags |= {flag for level in core.LEVELS.values() for flag in level.flags}
    for flag in flags:
        assert re.search(rf"[ (]{re.escape(flag)}[ )]", variables), flag
        assert flag not in rules, flag
    assert not [name for name in core.LEVELS if re.search(rf"\b{name}\b", rules)]
    used = {"STANDARD", "OPTIMISATION", "COMMON", "GNU_CELL_FLAGS", "DEFINITIONS", "LEVELS_X86"}
    used |= {"LEVELS_OTHER", "FLAGS_${level}", "CELL_SOURCES"}
    assert [name for name in used if f"${{GW_{name}}}" not in rules] == []


def test_a_level_that_the_core_does_not_know_is_not_supported():
    native = pytest.importorskip("gatewise._native._core", reason="the core is not installed")
    assert not native.supports("v5")
    assert native.supports("neon") == (not X86)
    assert not X86 or _cpu_has("avx2") == native.supports("v3")


def _cpu_has(flag):
    return flag in Path("/proc/cpuinfo").read_text().split()
