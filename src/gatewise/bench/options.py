"""The plan of a benchmark from the command line's options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gatewise.backends.registry import BACKENDS
from gatewise.bench import peers, shapes
from gatewise.bench.run import Plan
from gatewise.bench.timing import Budget
from gatewise.cells.catalogue import find
from gatewise.errors import OptionError, unknown


def plan(given: Any) -> Plan:
    """The plan of ``gatewise bench``'s parsed options.

    Raises:
        OptionError: an option is not valid.
    """
    asked = Plan(
        cells=tuple(find(name) for name in given.cells.split(",")),
        modes=_known("mode", given.mode, shapes.MODES),
        peers=peers.parse(given.peers),
        dtype=given.dtype,
        threads=given.threads,
    )
    if given.quick:
        asked = replace(asked, shapes=shapes.QUICK, budget=Budget(seconds=1.0, least=3))
    if given.shapes is not None:
        asked = replace(asked, shapes=tuple(shapes.parse(text) for text in given.shapes))
    if given.backends is not None:
        names = BACKENDS if given.backends == "all" else given.backends
        asked = replace(asked, backends=_known("backend", names, BACKENDS))
    length = {"rounds": given.repeats, "seconds": given.seconds}
    changed = {name: value for name, value in length.items() if value is not None}
    return replace(asked, budget=replace(asked.budget, **changed))


def _known(kind: str, text: str | Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    given = text.split(",") if isinstance(text, str) else tuple(text)
    for name in given:
        if name not in names:
            raise unknown(kind, name, names)
    return tuple(name for name in names if name in given)


def check_writable(path: Path | None) -> None:
    """Raises OptionError where ``path`` cannot be written, before the run starts."""
    if path is None:
        return
    existed = path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror}") from error
    if not existed:
        path.unlink()
