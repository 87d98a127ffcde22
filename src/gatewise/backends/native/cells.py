"""A cell in the core: built in, or a user's own, compiled when first used and kept on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

from gatewise.backends.native.library import core, include_path, library_path, loaded_level
from gatewise.cells.catalogue import CELLS
from gatewise.cells.language import Cell
from gatewise.emit.cpp import source, too_large

# As the built-in cells are compiled; see CMakeLists.txt.
_FLAGS = (
    *("-std=gnu++20", "-O3", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fschedule-insns", "-fsched-pressure"),
)
_LEVEL_FLAGS = {
    "v2": ("-march=x86-64-v2",),
    "v3": ("-march=x86-64-v3",),
    "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "v4bf16": ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"),
    "neon": (),
}
_SECONDS = 300  # longer than any cell takes


def built_in(cell: Cell) -> bool:
    return CELLS.get(cell.name) == cell


@cache
def unusable(cell: Cell) -> str | None:
    """Why the core cannot have ``cell``, as the end of the sentence "it ...", or None.

    A user's cell is compiled by this call if it never was. Where that fails, a warning says so, once.
    """
    if reason := too_large(cell):
        return f"cannot have the cell '{cell.name}': it {reason}"
    if built_in(cell):
        return None
    if compiler() is None and not _target(cell).exists():
        reason = f"needs a C++ compiler for the cell '{cell.name}', and there is none (c++, g++, clang++, or $CXX)"
    else:
        reason = _compiled(cell)
    if reason:
        warnings.warn(f"gatewise's CPU kernels are not used: the backend 'cpu' {reason}", stacklevel=2)
    return reason


@cache
def address(cell: Cell) -> int:
    """Where the core finds ``cell``, which it must be able to have."""
    if built_in(cell):
        return int(core().cell(str(library_path()), f"gw_cell_{cell.name}"))
    return int(core().cell(str(_target(cell)), "gw_cell"))


@cache
def compiler() -> str | None:
    """The system's C++ compiler: $CXX, or the first found of the usual names."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where compiled cells are kept: $GATEWISE_CACHE, else in the user's cache folder."""
    given = os.environ.get("GATEWISE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "gatewise" / "cells"


@cache
def _target(cell: Cell) -> Path:
    """The file for ``cell``: its name holds everything that its content depends on."""
    digest = hashlib.sha256()
    for part in (source(cell, "gw_cell"), *_all_flags(), *_headers()):
        digest.update(part.encode() + b"\0")
    return cache_folder() / f"{cell.name}-{loaded_level()}-{digest.hexdigest()[:24]}.so"


def _all_flags() -> tuple[str, ...]:
    return (*_FLAGS, *_LEVEL_FLAGS[loaded_level()])


@cache
def _headers() -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted(include_path().glob("*.h")))


def _compiled(cell: Cell) -> str | None:
    """Compile ``cell`` unless it is there already; the reason if that fails.

    The library gets its name in one move when it is whole: processes that compile the same cell at
    the same time do the work twice and disturb nobody.
    """
    target = _target(cell)
    if target.exists():
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            text, library = Path(folder) / "cell.cpp", Path(folder) / "cell.so"
            text.write_text(source(cell, "gw_cell"))
            command = [str(compiler()), *_all_flags(), "-I", str(include_path())]
            run = subprocess.run(
                [*command, str(text), "-o", str(library)],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            if run.returncode:
                return f"could not compile the cell '{cell.name}': {_first_error(run.stderr)}"
            library.replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not compile the cell '{cell.name}': {error}"
    return None


def _first_error(text: str) -> str:
    lines = text.splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
