"""The compiled code of a cell: built in, or of a user's cell, compiled at its first use and cached on disk."""

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

_TIMEOUT = 300  # seconds; no cell takes as long
_UNFINISHED = ".compiling-"
_LONGEST_NAME = 40  # characters of a cell's name in a file's name


def built_in(cell: Cell) -> bool:
    """Whether the core has kernels of exactly these equations. It may be older than the catalogue."""
    return fingerprint(cell) in _symbols()


@cache
def _symbols() -> dict[str, str]:
    """The symbol of each built-in cell, by the fingerprint of the equations that it was compiled from."""
    library = str(library_path())
    symbols = [f"gw_cell_{name}" for name in CELLS]
    found = {core().fingerprint(library, symbol): symbol for symbol in symbols}
    return {key: symbol for key, symbol in found.items() if key is not None}


@cache
def unusable(cell: Cell) -> str | None:
    """Why the core cannot run ``cell``, as the end of the sentence "it ...", or None.

    This compiles a user's cell that is not in the cache yet. If that fails, a warning says so once.
    """
    if reason := unsupported(cell):
        return f"cannot run the cell '{cell.name}', which {reason}"
    if built_in(cell):
        return None
    try:
        target = _target(cell)
    except BackendError as error:
        reason = str(error)
    else:
        reason = None if _is_intact(target) else _compile(cell, target)
    if reason:
        warnings.warn(
            f"gatewise's CPU kernels are not used: the backend 'cpu' {reason}", stacklevel=2
        )
    return reason


@cache
def address(cell: Cell) -> int:
    """The address of the compiled ``cell``. The core must be able to run it."""
    if symbol := _symbols().get(fingerprint(cell)):
        return int(core().cell(str(library_path()), symbol))
    return int(core().cell(str(_target(cell)), "gw_cell"))


@cache
def compiler() -> tuple[str, ...] | None:
    """The command of the system's C++ compiler: $CXX, which may have arguments, or the first of the usual
    names that is found."""
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError:  # an unclosed quotation mark
        words = [given]
    for command in ([given], words, ["c++"], ["g++"], ["clang++"]):
        if command and (found := shutil.which(command[0])):
            return found, *command[1:]
    return None


def cache_folder() -> Path:
    """The folder of compiled cells: $GATEWISE_CACHE, or a folder in the user's cache folder.

    Raises:
        BackendError: the variable is not set, and the user has no home folder.
    """
    if given := os.environ.get("GATEWISE_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "gatewise" / "cells"
    except RuntimeError:  # the user has no entry in the system's list and no $HOME
        raise BackendError(
            "has no folder for compiled cells, because this user has no home folder; set "
            "GATEWISE_CACHE to a folder"
        ) from None


@cache
def _target(cell: Cell) -> Path:
    """The library's file for ``cell``. Its name has a digest of everything that its content depends on."""
    digest = hashlib.sha256()
    flags = cell_flags(loaded_level(), gnu=True)  # for any compiler, because running it takes time
    for part in (source(cell, "gw_cell"), *flags, *_arguments(), *_headers()):
        digest.update(part.encode() + b"\0")
    name = re.sub(r"\W", "_", cell.name, flags=re.ASCII)[:_LONGEST_NAME]
    return cache_folder() / f"{name}-{loaded_level()}-{digest.hexdigest()[:24]}.so"


def _arguments() -> tuple[str, ...]:
    """The arguments in $CXX after the compiler's name."""
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
    """Compiles ``cell`` to ``target``. Returns the reason if that fails, else None.

    The complete library is moved to its name, so several processes may compile the same cell at once.
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
            # the arguments in $CXX come last, so that they override the others
            flags = [*_flags_for(found[0]), "-I", str(include_path()), *_arguments()]
            run = subprocess.run(
                [found[0], *flags, str(text), "-o", str(library)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
            if run.returncode:
                return f"could not compile the cell '{cell.name}': {_first_error(run.stderr)}"
            _seal(library)
            core().cell(str(library), "gw_cell")  # raises if the library cannot be loaded
            library.replace(target)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return f"could not compile the cell '{cell.name}': {error}"
    return None


def _without_compiler(cell: Cell) -> str:
    """Why the cell cannot be compiled, as the end of the sentence "it ..."."""
    reason = f"needs a C++ compiler for the cell '{cell.name}', and none was found (c++, g++, clang++ or $CXX)"
    if CELLS.get(cell.name) != cell:
        return reason
    return (
        f"{reason}; gatewise was built from other equations: build it again with pip install -e ."
    )


def _sweep(folder: Path) -> None:
    """Removes the folders that killed compiles have left. Running compiles have younger folders."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        try:
            old = left.stat().st_mtime < time.time() - 2 * _TIMEOUT
        except OSError:  # its own process has just removed it
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def _seal(library: Path) -> None:
    """Appends a digest of the file to the file. The system's loader ignores it."""
    digest = hashlib.sha256(library.read_bytes()).digest()
    with library.open("ab") as file:
        file.write(digest)


def _is_intact(library: Path) -> bool:
    """Whether the file exists and has its digest. Loading a damaged library could crash the process."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _first_error(text: str) -> str:
    lines = text.splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
