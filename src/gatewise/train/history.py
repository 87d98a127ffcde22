"""The losses of each training round, the best round, and when training ends.

A round is a number of updates followed by validation; Lightning calls it an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gatewise.train.recipe import Recipe


@dataclass
class History:
    """The losses of each round, the index of the round whose weights were kept, the time of the fit, and the
    warnings of the monitor."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def best_round(history: History, validated: bool) -> int:
    """The index of the first round with the lowest validation loss; the last round without validation."""
    losses = history.validation
    if validated:
        return min(range(len(losses)), key=losses.__getitem__)
    return len(history.train) - 1


def complete(history: History, recipe: Recipe, validated: bool) -> bool:
    """Whether training has ended: after all rounds, or after ``patience`` rounds without a lower loss."""
    done = len(history.train)
    waited = done - 1 - best_round(history, validated) if done else 0
    return done >= recipe.rounds or (validated and waited >= recipe.patience)
