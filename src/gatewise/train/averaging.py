"""SGD that averages the weights once the validation loss stops falling: NT-ASGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import SGD, Optimizer


class AveragingSGD(SGD):
    """Non-monotonically triggered averaged SGD (Merity et al. 2018, algorithm 1).

    The averaging starts after the first round whose validation loss is higher than the lowest of all rounds
    before it but the last ``patience`` ones. From then on the mean of the weights after each update is kept
    beside them.

    Args:
        parameters, lr, weight_decay: as for :class:`torch.optim.SGD`.
        patience: the number of rounds before the present one whose losses are not compared.
    """

    def __init__(
        self, parameters: Any, lr: float, weight_decay: float = 0.0, patience: int = 5
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group.update(patience=patience, averaged=0, averaging=False)

    @property
    def averaging(self) -> bool:
        return bool(self.param_groups[0]["averaging"])

    def after_validation(self, losses: Sequence[float]) -> None:
        """Starts the averaging if the validation losses of all rounds so far say so."""
        earlier = losses[:-1][: -self.param_groups[0]["patience"]]
        if earlier and losses[-1] > min(earlier):
            for group in self.param_groups:
                group["averaging"] = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            if not group["averaging"]:
                continue
            group["averaged"] += 1
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "mean" in state:
                    state["mean"].lerp_(weight, 1 / group["averaged"])
                else:
                    state["mean"] = weight.clone()
        return loss

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchanges the weights and their means, where there are means."""
        for group in self.param_groups:
            if group["averaged"]:
                for weight in group["params"]:
                    if "mean" in self.state[weight]:
                        mean = self.state[weight]["mean"]
                        now = weight.clone()
                        weight.copy_(mean)
                        mean.copy_(now)


@contextmanager
def averaged_weights(optimizer: Optimizer) -> Iterator[None]:
    """Within it the weights are their means, if the optimizer averages them."""
    if not isinstance(optimizer, AveragingSGD):
        yield
        return
    optimizer.exchange()
    try:
        yield
    finally:
        optimizer.exchange()
