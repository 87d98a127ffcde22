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
)
_GNU_FLAGS = ("-fschedule-insns", "-fsched-pressure")  # clang refuses them
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
    target = _target(cell)
    reason = None if _whole(target) else _compile(cell, target)
    if reason:
        warnings.warn(
            f"gatewise's CPU kernels are not used: the backend 'cpu' {reason}", stacklevel=2
        )
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
    return (*_FLAGS, *_LEVEL_FLAGS[loaded_level()], *_GNU_FLAGS)


def _flags_for(compiler: str) -> list[str]:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, errors="replace", check=False
    )
    gnu = "Free Software Foundation" in version.stdout
    return [flag for flag in _all_flags() if gnu or flag not in _GNU_FLAGS]


@cache
def _headers() -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted(include_path().glob("*.h")))


def _compile(cell: Cell, target: Path) -> str | None:
    """Compile ``cell`` to ``target``; the reason if that fails.

    The library gets its name in one move when it is whole: processes that compile the same cell at
    the same time do the work twice and disturb nobody.
    """
    found = compiler()
    if found is None:
        return f"needs a C++ compiler for the cell '{cell.name}', and there is none (c++, g++, clang++, or $CXX)"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            text, library = Path(folder) / "cell.cpp", Path(folder) / "cell.so"
            text.write_text(source(cell, "gw_cell"))
            flags = [*_flags_for(found), "-I", str(include_path())]
            run = subprocess.run(
                [found, *flags, str(text), "-o", str(library)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
            if run.returncode:
                return f"could not compile the cell '{cell.name}': {_first_error(run.stderr)}"
            _seal(library)
            core().cell(str(library), "gw_cell")  # an error if it cannot be loaded
            library.replace(target)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return f"could not compile the cell '{cell.name}': {error}"
    return None


def _seal(library: Path) -> None:
    """Put a digest of the file at its end, where a loader doesn't look."""
    digest = hashlib.sha256(library.read_bytes()).digest()
    with library.open("ab") as file:
        file.write(digest)


def _whole(library: Path) -> bool:
    """Whether the file is there and as it was when it was sealed: loading half a one would be a crash."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _first_error(text: str) -> str:
    lines = text.splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
