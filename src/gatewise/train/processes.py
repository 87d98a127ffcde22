"""The processes of one training."""

from __future__ import annotations

import torch


def rank_and_count() -> tuple[int, int]:
    """This process's rank among those of its training, and how many they are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
