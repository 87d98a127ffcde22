"""A cell in the core: built in, or a user's own, compiled when first used and kept on disk."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

from gatewise.backends.native.library import core, include_path, library_path, loaded_level
from gatewise.cells.catalogue import CELLS
from gatewise.cells.language import Cell
from gatewise.emit.core import cell_flags
from gatewise.emit.cpp import fingerprint, source, unsupported
from gatewise.errors import BackendError

_SECONDS = 300  # longer than any cell takes
_UNFINISHED = ".compiling-"
_LONGEST = 40  # characters of a cell's name in a file's


def built_in(cell: Cell) -> bool:
    """Whether the core has kernels of exactly these equations: it may be older than the catalogue."""
    return fingerprint(cell) in _symbols()


@cache
def _symbols() -> dict[str, str]:
    """The symbol of each cell that is built in, by the fingerprint of what it was compiled from."""
    library = str(library_path())
    symbols = [f"gw_cell_{name}" for name in CELLS]
    found = {core().fingerprint(library, symbol): symbol for symbol in symbols}
    return {key: symbol for key, symbol in found.items() if key is not None}


@cache
def unusable(cell: Cell) -> str | None:
    """Why the core cannot have ``cell``, as the end of the sentence "it ...", or None.

    A user's cell is compiled by this call if it never was. Where that fails, a warning says so, once.
    """
    if reason := unsupported(cell):
        return f"cannot have the cell '{cell.name}': it {reason}"
    if built_in(cell):
        return None
    try:
        target = _target(cell)
    except BackendError as error:
        reason = str(error)
    else:
        reason = None if _whole(target) else _compile(cell, target)
    if reason:
        warnings.warn(
            f"gatewise's CPU kernels are not used: the backend 'cpu' {reason}", stacklevel=2
        )
    return reason


@cache
def address(cell: Cell) -> int:
    """Where the core finds ``cell``, which it must be able to have."""
    if symbol := _symbols().get(fingerprint(cell)):
        return int(core().cell(str(library_path()), symbol))
    return int(core().cell(str(_target(cell)), "gw_cell"))


@cache
def compiler() -> tuple[str, ...] | None:
    """The command of the system's C++ compiler: $CXX, which may have arguments, or the first found of
    the usual names."""
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError:  # a quotation mark without its other
        words = [given]
    for command in ([given], words, ["c++"], ["g++"], ["clang++"]):
        if command and (found := shutil.which(command[0])):
            return found, *command[1:]
    return None


def cache_folder() -> Path:
    """Where compiled cells are kept: $GATEWISE_CACHE, else in the user's cache folder.

    Raises:
        BackendError: there is neither.
    """
    if given := os.environ.get("GATEWISE_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "gatewise" / "cells"
    except RuntimeError:  # a user of no name, and without $HOME
        raise BackendError(
            "has no folder for compiled cells: this user has no home; set GATEWISE_CACHE to a folder"
        ) from None


@cache
def _target(cell: Cell) -> Path:
    """The file for ``cell``: its name holds everything that its content depends on."""
    digest = hashlib.sha256()
    flags = cell_flags(loaded_level(), gnu=True)  # whatever the compiler is: it isn't asked
    for part in (source(cell, "gw_cell"), *flags, *_arguments(), *_headers()):
        digest.update(part.encode() + b"\0")
    name = re.sub(r"\W", "_", cell.name, flags=re.ASCII)[:_LONGEST]  # no path, whatever it is
    return cache_folder() / f"{name}-{loaded_level()}-{digest.hexdigest()[:24]}.so"


def _arguments() -> tuple[str, ...]:
    """What $CXX has beside the compiler's name."""
    return (compiler() or ("",))[1:]


def _flags_for(compiler: str) -> tuple[str, ...]:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, errors="replace", check=False
    )
    return cell_flags(loaded_level(), gnu="Free Software Foundation" in version.stdout)


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
        return _without_compiler(cell)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=_UNFINISHED) as folder:
            text, library = Path(folder) / "cell.cpp", Path(folder) / "cell.so"
            text.write_text(source(cell, "gw_cell"), encoding="utf-8")
            # the caller's own arguments last, so that they win
            flags = [*_flags_for(found[0]), "-I", str(include_path()), *_arguments()]
            run = subprocess.run(
                [found[0], *flags, str(text), "-o", str(library)],
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


def _without_compiler(cell: Cell) -> str:
    reason = f"needs a C++ compiler for the cell '{cell.name}', and there is none (c++, g++, clang++, or $CXX)"
    if CELLS.get(cell.name) != cell:
        return reason
    return (
        f"{reason}; gatewise was built from other equations: build it again with pip install -e ."
    )


def _sweep(folder: Path) -> None:
    """Remove what compiles that were killed have left; those still at work are younger."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        try:
            old = left.stat().st_mtime < time.time() - 2 * _SECONDS
        except OSError:  # just removed by its own process
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


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
