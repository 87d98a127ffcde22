"""Whether this process is a fork of one that had imported gatewise, and whose threads it lacks by that.

A fork has the thread that forked and no other. What waits for the others waits for ever.
"""

from __future__ import annotations

import os
import sys

from gatewise.errors import ForkError

_forked = False
_lost: set[str] = set()  # libraries whose threads only an ancestor has
_running: set[str] = set()  # libraries that had threads as the last fork began

# polars' threads that work are polars-0, …; those that it has from its import on do not matter
_POLARS = tuple(f"polars-{digit}" for digit in range(10))


def forked() -> bool:
    """There torch's threads are gone, and the native core must not wait for them."""
    return _forked


def check_polars() -> None:
    """Raise ForkError where polars would wait for ever."""
    if "polars" in _lost:
        raise ForkError(
            "tables cannot be read in this process: it was forked from one in which polars had started "
            "its threads, and has none of them. Start processes with multiprocessing's 'spawn' or "
            "'forkserver' instead of 'fork'"
        )


def keep_torch_from_waiting() -> None:
    """Have torch compute in one thread where it would wait for ever for more, as its own DataLoader does
    in its workers."""
    if "torch" in _lost:
        import torch

        torch.set_num_threads(1)
        _lost.discard("torch")


def _before() -> None:
    names = _thread_names()
    _running.clear()
    if "polars" in sys.modules and (not names or any(name.startswith(_POLARS) for name in names)):
        _running.add("polars")
    # torch's threads have the name of the process, as Python's own may have
    if "torch" in sys.modules and (not names or names.count(names[0]) > 1):
        _running.add("torch")


def _in_child() -> None:
    global _forked
    _forked = True
    _lost.update(_running)


def _thread_names() -> list[str]:
    """The names of this process's threads, its first one's first; none where the system doesn't tell."""
    folder = "/proc/self/task"
    if not os.path.isdir(folder):
        return []
    names = []
    for thread in sorted(os.listdir(folder), key=int):
        try:
            with open(f"{folder}/{thread}/comm") as file:
                names.append(file.read())
        except OSError:  # it has ended meanwhile
            continue
    return names


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
