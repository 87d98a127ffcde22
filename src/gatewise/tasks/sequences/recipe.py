"""How networks on sequences are trained, by the number of sequences there are."""

from __future__ import annotations

from types import SimpleNamespace

from gatewise.train.recipe import Recipe

VALIDATION = 0.1  # the share that stops the training, where none is given
TEST = 0.15  # the share of a table's series that is held out, where none is given


def recipe_for(options: SimpleNamespace, sequences: int) -> Recipe:
    """The recipe for so many training sequences."""
    return Recipe(
        steps=options.epochs * -(-sequences // options.batch),
        batch=options.batch,
        learning_rate=options.learning_rate,
        rounds=options.epochs,
        patience=options.patience,
        seed=options.seed,
    )
