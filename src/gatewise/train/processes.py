"""The share of a batch that a process of a distributed training run takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gatewise.processes import rank_and_count


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
