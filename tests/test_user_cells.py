"""A user's own cell in the native core: compiled once, kept on disk, by several at once or not at all."""

import copy
import functools
import math
import os
import pickle
import re
import shlex
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gatewise as gw
from cases import ALL, assert_within, case
from gatewise import sigmoid, tanh
from gatewise.backends import cpu, reference
from gatewise.backends.native import cells
from gatewise.backends.native.library import loaded_level
from gatewise.cells.catalogue import CELLS
from gatewise.emit import core, cpp
from gatewise.emit.cpp import source
from gatewise.emit.equations import latex
from gatewise.errors import BackendError, CellError

COMPILER = shlex.join(cells.compiler() or ()) or None
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

# What each process below does: a cell of its own in a layer, against the reference.
PROGRAM = textwrap.dedent("""
    import torch
    import gatewise as gw

    @gw.cell(gates="f g", state="h")
    def mine(a, s):
        f = gw.sigmoid(a.f)
        return dict(h=f * s.h + (1 - f) * gw.tanh(a.g))

    layer, x = gw.Recurrent(mine, 3, 5, dtype=torch.float64), torch.rand(4, 2, 3).double()
    print(layer.explain_backend(x))
    found = layer(x)
    layer.backend = "reference"
    torch.testing.assert_close(found, layer(x), rtol=1e-12, atol=1e-12)
""")
COMPILED = "cpu: gatewise's kernels, mine compiled for this machine, level "


def start(folder, **environment):
    """A process that runs PROGRAM with ``folder`` as the cache of compiled cells."""
    given = os.environ | {"GATEWISE_CACHE": str(folder)} | environment
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=given, stdout=pipe, stderr=pipe, text=True)


def ended(process):
    """What it printed: which backend ran and why."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return printed


def program(path, text):
    """A shell script that takes a compiler's place."""
    path.write_text(
        f"#!/bin/sh\n[ $# = 1 ] && exec {COMPILER} $@  # it is asked for its version\n{text}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def counting(folder):
    """A compiler that leaves a line in the file "log" at each call."""
    return program(folder / "c++", f'echo once >> "{folder}/log"; exec {COMPILER} "$@"')


def compiled(folder):
    """How often it was called."""
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def libraries(folder):
    """The cells that are kept there; nothing else may be."""
    found = sorted(folder.iterdir())
    assert all(f.suffix == ".so" for f in found), found
    return found


@needs_compiler
@pytest.mark.slow
def test_a_cell_is_compiled_once_and_kept(tmp_path):
    """By several processes at once on an empty cache, and by a later one that has no compiler."""
    kept = tmp_path / "not yet there" / "cells"
    several = [start(kept, CXX=counting(tmp_path)) for _ in range(2)]
    assert all(ended(process).startswith(COMPILED + loaded_level()) for process in several)
    (library,) = libraries(kept)
    assert library.name.startswith(f"mine-{loaded_level()}-")
    before = library.stat()
    assert ended(start(kept, CXX="", PATH=str(kept))).startswith(COMPILED)
    assert libraries(kept) == [library]
    assert library.stat().st_mtime_ns == before.st_mtime_ns
    assert compiled(tmp_path) in (1, 2)


@needs_compiler
def test_a_damaged_file_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path / "cells"))
    found = counting(tmp_path)
    unusable = cells.unusable.__wrapped__  # what a new process would find

    @gw.cell(gates="f", state="h")
    def frail(a, s):
        return dict(h=tanh(a.f) / 7)

    monkeypatch.setattr(cells, "compiler", lambda: (found,))
    for _ in range(2):
        assert unusable(frail) is None
    assert compiled(tmp_path) == 1
    (library,) = libraries(tmp_path / "cells")
    sound = library.read_bytes()
    for damaged in (b"", sound[:9], sound[: len(sound) // 2], sound[:-1], b"\0" + sound[1:]):
        library.unlink()  # this process has it loaded: its file must stay as it is
        library.write_bytes(damaged)
        with monkeypatch.context() as patch:
            patch.setattr(cells, "compiler", lambda: None)
            with pytest.warns(UserWarning, match="needs a C"):
                assert unusable(frail)
    assert unusable(frail) is None
    assert compiled(tmp_path) == 2
    assert libraries(tmp_path / "cells") == [library]


def test_without_a_compiler_the_reference_runs_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path / "cells"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cells, "compiler", cells.compiler.__wrapped__)

    @gw.cell(gates="f", state="h")
    def uncompiled(a, s):
        return dict(h=tanh(a.f) + 0.5 * s.h)

    lacks = "needs a C++ compiler for the cell 'uncompiled', and none was found (c++, g++, clang++ or $CXX)"
    layer, x = gw.Recurrent(uncompiled, 3, 5), torch.randn(4, 2, 3)
    with pytest.warns(UserWarning, match="a C") as told:
        output, _ = layer(x)
    told = [str(warning.message) for warning in told]
    assert told == [f"gatewise's CPU kernels are not used: the backend 'cpu' {lacks}"]
    again, _ = layer(x)  # a second warning would be an error
    assert torch.equal(output, again)
    why = layer.explain_backend(x)
    assert why.startswith("reference: the cell's equations in torch operations")
    assert f"'cpu' {lacks}" in why
    layer.backend = "cpu"
    for use in (layer, layer.explain_backend):
        with pytest.raises(BackendError, match=re.escape(f"'cpu' was asked for, but it {lacks}")):
            use(x)


def test_the_compiler_is_the_users_or_the_first_of_the_usual_names(tmp_path, monkeypatch):
    find = cells.compiler.__wrapped__
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find() is None
    clang = program(tmp_path / "clang++", "")
    assert find() == (clang,)
    own = program(tmp_path / "my own", "")
    monkeypatch.setenv("CXX", own)
    assert find() == (own,)
    monkeypatch.setenv("CXX", "there is none such")
    assert find() == (clang,)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo notes >&2; echo 'cell.cpp:3:1: error: no such luck' >&2; exit 1", "no such luck"),
        ("exit 1", "no message"),
        ("exit 0", "No such file or directory"),  # wrote nothing
        ('for last; do :; done; head -c 999 /dev/zero > "$last"', "invalid ELF header"),
        ('for last; do :; done; : > "$last"', "file too short"),
    ],
)
def test_what_a_broken_compiler_says_is_passed_on(tmp_path, monkeypatch, script, message):
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path / "cells"))
    monkeypatch.setattr(cells, "compiler", lambda: (program(tmp_path / "broken", script),))

    @gw.cell(gates="f", state="h")
    def unlucky(a, s):
        return dict(h=tanh(a.f) + sum(map(ord, script)))

    layer, x = gw.Recurrent(unlucky, 3, 5), torch.zeros(2, 1, 3)
    with pytest.warns(UserWarning, match="could not compile the cell 'unlucky': ") as told:
        output, _ = layer(x)
    assert message in str(told[0].message)
    assert len(told) == 1
    assert torch.equal(output, gw.Recurrent.forward(layer, x)[0])  # and no second warning
    assert message in layer.explain_backend(x)
    assert libraries(tmp_path / "cells") == []
    layer.backend = "cpu"
    with pytest.raises(BackendError, match="but it could not compile the cell 'unlucky'"):
        layer(x)


def test_the_files_name_holds_all_that_it_depends_on(monkeypatch, tmp_path):
    def name(cell):
        return cells._target.__wrapped__(cell).name

    def made(factor, title="mine"):
        return gw.cell(gates="f", name=title)(lambda a, s: dict(h=factor * tanh(a.f)))

    first = name(made(2))
    assert name(made(2)) == first
    names = {first, name(made(3)), name(made(2, "other"))}
    with monkeypatch.context() as patch:
        patch.setattr(core, "COMMON_FLAGS", (*core.COMMON_FLAGS, "-g"))
        names.add(name(made(2)))
    with monkeypatch.context() as patch:
        patch.setattr(cells, "_headers", lambda: ("another cell.h",))
        names.add(name(made(2)))
    with monkeypatch.context() as patch:
        patch.setattr(cells, "loaded_level", lambda: "v2" if loaded_level() != "v2" else "v3")
        names.add(name(made(2)))
    assert len(names) == 6
    assert cells._headers.__wrapped__() == tuple(
        (cells.include_path() / header).read_text() for header in ("cell.h", "math.h", "vec.h")
    )
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path))
    assert cells._target.__wrapped__(made(2)) == tmp_path / first
    monkeypatch.delenv("GATEWISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cells.cache_folder() == tmp_path / "gatewise" / "cells"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cells.cache_folder() == Path.home() / ".cache" / "gatewise" / "cells"


@needs_compiler
@pytest.mark.usefixtures("one_thread")
def test_cells_of_one_name_are_kept_apart():
    """Two of the user's, and one that is called like a built-in one and is another."""

    @gw.cell(gates="i f g o", state="h c", name="lstm")
    def coupled(a, s):
        f = sigmoid(a.f + a.i)
        c = f * s.c + (1 - f) * tanh(a.g)
        return dict(c=c, h=sigmoid(a.o) * tanh(c))

    @gw.cell(gates="i f g o", state="h c", name="lstm")
    def linear(a, s):
        c = s.c + sigmoid(a.i + a.f) * a.g
        return dict(c=c, h=sigmoid(a.o) * c)

    for cell in (coupled, linear, gw.CELLS["lstm"]):
        given = case(cell, T=5, B=3, H=9, **ALL)
        assert cpu.supports(given.spec) is None
        assert ("built in" in cpu.describe(given.spec)) == (cell is gw.CELLS["lstm"])
        assert_within(given.gradients(cpu), given.gradients(reference), 1e-12)


# A core that is older than the catalogue --------------------------------------------------------------


def test_the_core_was_built_from_the_catalogue_as_it_is():
    """Where this fails, build the core again: pip install -e ."""
    assert [name for name, cell in CELLS.items() if not cells.built_in(cell)] == []


def edited_lstm():
    """The cell "lstm" with other equations, of the same sizes."""

    @gw.cell(gates="i f g o", state="h c", name="lstm")
    def lstm(a, s):
        i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
        c = f * s.c + (1 - f) * i * g
        return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))

    return lstm


def new_cell():
    return gw.cell(gates="z", name="brand_new")(lambda a, s: dict(h=s.h / 3 + tanh(a.z)))


CHANGES = pytest.mark.parametrize("make", [edited_lstm, new_cell], ids=["edited", "new"])


@needs_compiler
@CHANGES
@pytest.mark.usefixtures("one_thread")
def test_a_cell_of_the_catalogue_that_the_core_lacks_is_compiled(make, monkeypatch):
    cell = make()
    monkeypatch.setitem(CELLS, cell.name, cell)
    given = case(cell, T=5, B=3, H=9, **ALL)
    assert cpu.supports(given.spec) is None
    assert "compiled for this machine" in cpu.describe(given.spec)
    assert_within(given.gradients(cpu), given.gradients(reference), 1e-12)


@CHANGES
def test_without_a_compiler_it_says_that_the_core_is_to_be_built(make, tmp_path, monkeypatch):
    cell = make()
    monkeypatch.setitem(CELLS, cell.name, cell)
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "compiler", lambda: None)
    monkeypatch.setattr(cells, "_target", cells._target.__wrapped__)
    monkeypatch.setattr(cells, "unusable", cells.unusable.__wrapped__)
    layer = gw.Recurrent(cell.name, 3, 5, backend="cpu")
    expected = "gatewise was built from other equations: build it again with pip install -e ."
    with (
        pytest.warns(UserWarning, match=f"'{cell.name}'.*{re.escape(expected)}"),
        pytest.raises(BackendError, match=re.escape(expected)),
    ):
        layer(torch.zeros(2, 1, 3))


def test_other_code_for_the_same_equations_is_not_what_is_built_in(monkeypatch):
    assert cells.built_in(CELLS["lstm"])
    monkeypatch.setattr(cpp, "_CPP", replace(cpp._CPP, line="const V {} = ({});"))
    assert not cells.built_in(CELLS["lstm"])


def test_an_equal_cell_of_another_name_runs_what_is_built_in():
    twin = gw.cell(gates="h", name="twin")(lambda a, s: dict(h=tanh(a.h)))
    assert cells.built_in(twin)
    assert cells.address(twin) == cells.address(CELLS["rnn_tanh"])


@pytest.mark.parametrize("name", ["g++", "clang++"])
@pytest.mark.usefixtures("one_thread")
def test_either_compiler(name, monkeypatch, tmp_path):
    found = cells.shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "compiler", lambda: (found,))
    number = float(len(name))  # another cell for each: what is compiled is known by the process

    @gw.cell(gates="f g", state="h n", params="w")
    def mine(a, s, p):
        f = sigmoid(a.f) / number
        return dict(n=gw.maximum(f * s.n, a.g), h=f * s.h + gw.exp(-gw.softplus(a.g)) * p.w)

    given = case(mine, T=5, B=3, H=9, lengths=(5, 0, 2), **ALL)
    assert cpu.supports(given.spec) is None
    assert_within(given.gradients(cpu), given.gradients(reference), 1e-12)
    assert len(libraries(tmp_path)) == 1


def test_what_the_core_has_no_room_for():
    names = " ".join(f"s{k}" for k in range(9))

    @gw.cell(gates="u", state=names)
    def wide(a, s):
        return {name: tanh(a.u) + getattr(s, name) for name in names.split()}

    layer, x = gw.Recurrent(wide, 3, 5), torch.randn(4, 2, 3)
    reason = "cannot run the cell 'wide', which has 9 states, the native core takes 8"
    assert f"'cpu' {reason}" in layer.explain_backend(x)
    layer(x)
    with pytest.raises(BackendError, match=f"but it {reason}"):
        gw.Recurrent(wide, 3, 5, backend="cpu")(x)


# Names, functions and depths -------------------------------------------------------------------------

NAMES = (
    *(
        "../../x",
        "/etc/x",
        "a/b",
        "x" * 5000,
        "é中文",
        "int",
        "class",
        "a\0b",
        'a"; }//',
        "a\\",
        "a\nb",
    ),
    *("\ud800", "..", ".", "-rf", "$(touch x)", "??/", ""),
)


def named(name, factor):
    return gw.cell(gates="z", name=name)(lambda a, s: dict(h=factor * tanh(a.z)))


@needs_compiler
def test_a_name_becomes_no_path_and_no_code(tmp_path, monkeypatch):
    within = tmp_path / "deep" / "cache"
    monkeypatch.setenv("GATEWISE_CACHE", str(within))
    for k in (1, 11):  # the hardest; each takes seconds to compile
        layer = gw.Recurrent(named(NAMES[k - 1], 1 + k / 7), 3, 5)
        x = torch.randn(4, 2, 3)
        assert layer.explain_backend(x).startswith("cpu:")
        found = layer(x)
        layer.backend = "reference"
        torch.testing.assert_close(found, layer(x))
    assert len(libraries(within)) == 2
    assert [p for p in tmp_path.rglob("*") if not p.is_relative_to(within.parent)] == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_cells_of_any_name_are_copied_and_kept(name, tmp_path):
    cell = named(name, 2.0)
    assert cell.name == (name or "<lambda>")
    for other in (copy.deepcopy(cell), copy.copy(cell), pickle.loads(pickle.dumps(cell))):
        assert other == cell
        assert other.name == cell.name
    layer = gw.Recurrent(cell, 3, 5, backend="reference")
    torch.save(layer, tmp_path / "layer.pt")
    x = torch.randn(4, 2, 3)
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    torch.testing.assert_close(loaded(x), layer(x), rtol=0, atol=0)
    text = source(cell, "gw_cell")
    assert text.isascii()
    assert text == source(named("other", 2.0), "gw_cell")  # the name is no part of the code


def scaled(factor, a, s):
    """One gate, scaled."""
    return dict(h=factor * tanh(a.z))


class Step:
    """One gate."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, a, s):
        return dict(h=self.factor * tanh(a.z))

    def method(self, a, s):
        return self(a, s)


@pytest.mark.parametrize(
    ("function", "name", "doc"),
    [
        (functools.partial(scaled, 3.0), "scaled", "One gate, scaled."),
        (functools.partial(functools.partial(scaled), 3.0), "scaled", "One gate, scaled."),
        (Step(3.0), "Step", "One gate."),
        (Step(3.0).method, "method", ""),
        (functools.partial(Step(3.0)), "Step", "One gate."),
    ],
    ids=["partial", "partial of one", "object", "method", "partial of an object"],
)
def test_partials_and_callable_objects_make_cells(function, name, doc):
    cell = gw.cell(gates="z")(function)
    assert (cell.name, cell.doc) == (name, doc)
    assert cell == named("other", 3.0)  # equal equations, whatever the name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gw.cell(gates="z")(5), "@cell takes a function, not 5"),
        (lambda: gw.cell(gates="z", name=5)(scaled), "a cell's name must be text, not 5"),
        (
            lambda: gw.cell(gates="z", name="n")(lambda a, s: None),
            "cell 'n' returns a NoneType; it must return a",
        ),
        (
            lambda: gw.cell(gates="z", name="n")(lambda a, s: [("h", a.z)]),
            "cell 'n' returns a list",
        ),
    ],
)
def test_what_makes_no_cell(make, message):
    with pytest.raises(CellError, match=re.escape(message)):
        make()


def unfolded(depth):
    """A cell of a recurrence within each step."""

    def deep(a, s):
        h = a.z
        for _ in range(depth):
            h = 0.5 * h + tanh(a.z)
        return dict(h=h)

    return gw.cell(gates="z")(deep)


@pytest.mark.parametrize("depth", [150, 1000])
def test_deep_cells(depth, tmp_path):
    cell = unfolded(depth)
    layer, x = gw.Recurrent(cell, 3, 5, dtype=torch.float64), torch.randn(3, 2, 3).double()
    assert f"has {2 * depth + 1} operations, the native core takes 256" in layer.explain_backend(x)
    y = layer(x)[0]
    y.sum().backward()
    pre = torch.zeros(2, 5).double()
    for t, row in enumerate(x):
        a = row @ layer.weight_ih_l0.T + pre @ layer.weight_hh_l0.T
        a = a + layer.bias_ih_l0 + layer.bias_hh_l0
        pre = a * 0.5**depth + a.tanh() * (2 - 0.5 ** (depth - 1))
        torch.testing.assert_close(y[t], pre)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x)[0], y, rtol=0, atol=0)
    torch.save(layer, tmp_path / "layer.pt")
    kept = torch.load(tmp_path / "layer.pt", weights_only=False)
    torch.testing.assert_close(kept(x)[0], y, rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(cell)) == cell
    with pytest.raises(CellError, match=r"nested operations; the most that can be printed is 100"):
        latex(cell)


# The compiler and the cache --------------------------------------------------------------------------


def test_arguments_in_cxx_are_given_on(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"{shlex.split(COMPILER or 'c++')[0]} -O1 '-DA=b c'")
    cells.compiler.cache_clear()
    try:
        found = cells.compiler()
        assert COMPILER is None or found[1:] == ("-O1", "-DA=b c")
    finally:
        monkeypatch.undo()
        cells.compiler.cache_clear()


@needs_compiler
def test_a_compiler_with_arguments_compiles(tmp_path):
    compiler = program(tmp_path / "c++", f'echo "$@" > "{tmp_path}/said"; exec {COMPILER} "$@"')
    printed = ended(start(tmp_path / "cache", CXX=f"{compiler} -O1"))
    assert printed.startswith(COMPILED)
    assert (tmp_path / "said").read_text().split().count("-O1") == 1


def test_without_a_home_the_reference_runs_and_says_what_to_set(monkeypatch):
    monkeypatch.delenv("GATEWISE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cells.Path, "home", homeless)
    layer, x = gw.Recurrent(named("homeless", 1.75), 3, 5), torch.randn(4, 2, 3)
    with pytest.warns(
        UserWarning, match="this user has no home folder; set GATEWISE_CACHE to a folder"
    ):
        found = layer(x)
    layer.backend = "reference"
    torch.testing.assert_close(found, layer(x), rtol=0, atol=0)


@needs_compiler
def test_what_killed_compiles_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWISE_CACHE", str(tmp_path))
    old, young = tmp_path / ".compiling-old", tmp_path / ".compiling-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "cell.cpp").write_text("x")
    past = time.time() - 3600
    os.utime(old, (past, past))
    gw.Recurrent(named("sweeping", 1.25), 3, 5)(torch.randn(4, 2, 3))
    assert not old.exists()
    assert young.exists()  # another process may be at work there


# relu's gradient where a number is none --------------------------------------------------------------


@gw.cell(gates="z")
def own_relu(a, s):
    return dict(h=gw.relu(a.z))


@pytest.mark.parametrize(
    ("cell", "backend"),
    [
        ("rnn_relu", "cpu"),
        ("rnn_relu", "reference"),
        pytest.param(
            own_relu, "cpu", marks=needs_compiler
        ),  # from the derived gradient as it is now
    ],
)
def test_relus_gradient_is_torchs_of_what_is_infinite_or_no_number(cell, backend):
    layer = gw.Recurrent(cell, 1, 1, bias=False, backend=backend)
    theirs = torch.nn.RNN(1, 1, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1)
        layer.weight_hh_l0.fill_(0)
    theirs.load_state_dict(layer.state_dict())
    values = torch.tensor([1.0, -1.0, 0.0, math.inf, -math.inf, math.nan, 1e-45, 1e38])
    for seed in (1.0, math.inf, -math.inf, math.nan, 1e38):
        found = []
        for module in (layer, theirs):
            x = values.view(1, -1, 1).clone().requires_grad_()
            y = module(x)[0]
            found.append(torch.autograd.grad(y, x, torch.full_like(y, seed))[0].flatten())
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=0, equal_nan=True)
