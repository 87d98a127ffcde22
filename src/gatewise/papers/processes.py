"""Trainings of small networks, several at a time, each in one thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

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
    # spawned: a forked child inherits thread pools that have lost their threads
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(alone, orders)


def _in_one_thread(work: Callable[[Order], Result], order: Order) -> Result:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(order)
    finally:
        torch.set_num_threads(before)
