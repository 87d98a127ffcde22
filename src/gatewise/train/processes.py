"""The processes of a distributed training run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch


def rank_and_count() -> tuple[int, int]:
    """The rank of this process and the number of processes of its training run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def sum_of_all(x: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the processes of a training run, of x's shape, with a gradient. All of them
    have to call this."""
    if rank_and_count()[1] == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    found: torch.Tensor = all_reduce(x)
    return found


def own_share(batch: np.ndarray) -> np.ndarray:
    """The members of a batch that this process takes, at least one."""
    rank, count = rank_and_count()
    own = batch[rank::count]
    return own if len(own) else batch[:1]


class SharedBatches:
    """Batches of indices in their order, for validation. Each process takes its share of every batch.

    The shares are taken when the batches are read, since the processes may be started after this is made."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from map(own_share, self.parts)
