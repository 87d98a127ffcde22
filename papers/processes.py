"""Processes that train small networks at the same time, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from gatewise.signals import deferred

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Iterator[Result]:
    """The result of ``work`` for each job, in the order in which they end.

    Args:
        work: a function of a module, so that other processes can import it.
        processes: how many jobs run at the same time. With 1, they run one after another in this process.
    """
    alone = partial(_in_one_thread, work)
    processes = min(processes, len(jobs))
    if processes <= 1:
        yield from map(alone, jobs)
        return
    # spawned, because a forked child has thread pools without threads. NumPy reads its number of threads from
    # the environment when it is imported.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = None
    try:
        try:
            with deferred():
                pool = multiprocessing.get_context("spawn").Pool(processes)
        finally:
            _restore(before)
        yield from pool.imap_unordered(alone, jobs)
    finally:
        if pool is not None:
            pool.terminate()


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _in_one_thread(work: Callable[[Job], Result], job: Job) -> Result:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(job)
    finally:
        torch.set_num_threads(before)
