"""Detection of forked processes, which lack the threads of their parent.

A forked process has only the thread that called fork. A library that waits for its other threads waits for
ever.
"""

from __future__ import annotations

import os
import sys

from gatewise.errors import ForkError

_forked = False
_lost: set[str] = set()  # libraries whose threads exist only in an ancestor
_running: set[str] = set()  # libraries with threads at the start of the last fork

# polars' worker threads are polars-0, …; the threads that its import starts do not matter
_POLARS = tuple(f"polars-{digit}" for digit in range(10))


def forked() -> bool:
    """Whether this process was forked after gatewise was imported. The native core must not wait for threads then."""
    return _forked


def check_polars() -> None:
    """Raises ForkError where polars would wait for ever."""
    if "polars" in _lost:
        raise ForkError(
            "tables cannot be read in this process: it was forked from a process in which polars had "
            "started threads, and does not have these threads. Start processes with multiprocessing's "
            "'spawn' or 'forkserver' instead of 'fork'"
        )


def keep_torch_from_waiting() -> None:
    """Limits torch to one thread where it would wait for ever for others, as torch's DataLoader does in its
    workers."""
    if "torch" in _lost:
        import torch

        torch.set_num_threads(1)
        _lost.discard("torch")


def _before() -> None:
    names = _thread_names()
    _running.clear()
    if "polars" in sys.modules and (not names or any(name.startswith(_POLARS) for name in names)):
        _running.add("polars")
    # torch's threads have the name of the process, as Python's threads may too
    if "torch" in sys.modules and (not names or names.count(names[0]) > 1):
        _running.add("torch")


def _in_child() -> None:
    global _forked
    _forked = True
    _lost.update(_running)


def _thread_names() -> list[str]:
    """The names of this process's threads, the main thread's first; an empty list where they are unknown."""
    folder = "/proc/self/task"
    if not os.path.isdir(folder):
        return []
    names = []
    for thread in sorted(os.listdir(folder), key=int):
        try:
            with open(f"{folder}/{thread}/comm") as file:
                names.append(file.read())
        except OSError:  # the thread has ended in the meantime
            continue
    return names


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
