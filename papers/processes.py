"""Trainings of small networks, several at a time, each in one thread."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from gatewise.signals import deferred

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Order = TypeVar("Order")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Order], Result], orders: Sequence[Order], processes: int
) -> Iterator[Result]:
    """``work`` of each order, as each ends; with one process here and in turn.

    Args:
        work: a module's function, so that other processes find it.
    """
    alone = partial(_in_one_thread, work)
    processes = min(processes, len(orders))
    if processes <= 1:
        yield from map(alone, orders)
        return
    # spawned: a forked child inherits thread pools that have lost their threads. NumPy's products read
    # how many threads they have from the environment when they are loaded.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = None
    try:
        try:
            with deferred():
                pool = multiprocessing.get_context("spawn").Pool(processes)
        finally:
            _restore(before)
        yield from pool.imap_unordered(alone, orders)
    finally:
        if pool is not None:  # also where a signal waited for its beginning
            pool.terminate()


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _in_one_thread(work: Callable[[Order], Result], order: Order) -> Result:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(order)
    finally:
        torch.set_num_threads(before)
