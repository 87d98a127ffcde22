"""The native core: the choice of an instruction level for this processor, and the library of that level."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from gatewise.emit.core import LEVELS
from gatewise.errors import BackendError, OptionError, near
from gatewise.forks import forked

VARIABLE = "GATEWISE_CPU"


@cache
def core() -> Any:
    """The native module, with the kernels of one level loaded.

    Raises:
        BackendError: the package was installed without its native core, or no level fits.
        OptionError: GATEWISE_CPU names a level that does not exist or that this process may not use.
    """
    try:
        from gatewise._native import _core
    except ImportError as error:
        raise BackendError(f"the native core cannot be loaded: {error}") from error
    _core.load(str(_library(_core, level(_core))), forked())
    return _core


def level(native: Any) -> str:
    """The level to load: the one that GATEWISE_CPU names, or the best that this process may use.

    To ask whether a level is supported is to ask the kernel for what it needs, so no other one is asked for.
    """
    asked = os.environ.get(VARIABLE)
    usable = filter(native.supports, LEVELS)
    if not asked:
        if (best := next(usable, None)) is None:
            raise BackendError(f"this processor has none of the levels {', '.join(LEVELS)}")
        return best
    if asked not in LEVELS:
        raise OptionError(
            f"{VARIABLE}={asked}: no such level{near(asked, LEVELS)}; there are: {', '.join(LEVELS)}"
        )
    if not native.supports(asked):
        raise OptionError(f"{VARIABLE}={asked}: this process may use only {', '.join(usable)}")
    return asked


def _library(native: Any, name: str) -> Path:
    return Path(native.__file__).parent / f"kernels_{name}.so"


def loaded_level() -> str:
    """The level of the loaded kernels, from the library itself."""
    return str(core().level())


def library_path() -> Path:
    return _library(core(), loaded_level())


def include_path() -> Path:
    """The folder of the headers for compiling a user's cell."""
    return Path(core().__file__).parent / "include"
