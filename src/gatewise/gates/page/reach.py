"""The memory horizon of the layers of a page."""

from __future__ import annotations

import numpy as np
from torch import nn

from gatewise.errors import DataError
from gatewise.gates.horizon import memory_horizon
from gatewise.gates.page.shown import Shown

_VECTORS = 8  # random ones, from which the norms are estimated: each is a backward pass
_LEFT = 1e-3  # the share of the greatest norm at which the curve ends
_MOST_LAGS = 1000


def horizon_of(network: nn.Module, shown: Shown) -> dict[str, np.ndarray] | None:
    """For each layer the norms ‖∂h_t/∂x_{t-k}‖ for k = 0, 1, …; None if nothing depends on the input."""
    if not shown.inputs:
        return None
    try:
        found = memory_horizon(network, *shown.inputs, modules=list(shown.traces), samples=_VECTORS)
    except DataError:
        return None
    return {
        str(place): horizon.norm[: min(horizon.reach(_LEFT) + 2, _MOST_LAGS)]
        for place, horizon in found.items()
    }
