"""The processes of a distributed training run."""

from __future__ import annotations

import numpy as np
import torch


def rank_and_count() -> tuple[int, int]:
    """The rank of this process and the number of processes of its training run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def own_share(batch: np.ndarray) -> np.ndarray:
    """This process's share of a batch of indices, at least one of them."""
    rank, count = rank_and_count()
    own = batch[rank::count]
    return own if len(own) else batch[:1]
