"""The losses of a training by round, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gatewise.train.recipe import Recipe


@dataclass
class History:
    """Losses by round, and the round whose weights were kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0


def best_round(history: History, validated: bool) -> int:
    """The first round with the least loss on the validation part, or the last where there is none."""
    losses = history.validation
    if validated:
        return min(range(len(losses)), key=losses.__getitem__)
    return len(history.train) - 1


def complete(history: History, recipe: Recipe, validated: bool) -> bool:
    """Whether all rounds are done, or as many as ``patience`` since the best one."""
    done = len(history.train)
    waited = done - 1 - best_round(history, validated) if done else 0
    return done >= recipe.rounds or (validated and waited >= recipe.patience)
