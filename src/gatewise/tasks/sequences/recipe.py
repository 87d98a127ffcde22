"""How networks on sequences are trained, by the number of sequences there are."""

from __future__ import annotations

import math
from types import SimpleNamespace

from gatewise.train.recipe import Recipe

SMALL = 500  # sequences; below, there is no validation part, and training adds noise
VALIDATION = 0.1  # from SMALL on, the share of the validation part, where none is given
TEST = 0.15  # the share of a table's series that is held out, where none is given
NOISE = 0.2  # below SMALL
MEMBERS = 3  # networks whose mean is the output, below SMALL
UPDATES = 400  # at least
EPOCHS = 20  # at least


def validation_for(sequences: int) -> float:
    """The share of the validation part of so many sequences, where none is given."""
    return VALIDATION if sequences >= SMALL else 0.0


def noise_for(options: SimpleNamespace, sequences: int) -> float:
    """The standard deviation of the noise that is added to so many training sequences."""
    if options.noise is not None:
        return float(options.noise)
    return NOISE if sequences < SMALL else 0.0


def members_for(options: SimpleNamespace, sequences: int) -> int:
    """The number of networks that learn from so many training sequences."""
    if options.members is not None:
        return int(options.members)
    return MEMBERS if sequences < SMALL else 1


def recipe_for(options: SimpleNamespace, sequences: int, least: int = EPOCHS) -> Recipe:
    """The recipe for so many training sequences. Without a number of epochs there are ``least`` or more."""
    batch = options.batch or _batch_for(sequences)
    updates = -(-sequences // batch)  # in an epoch
    epochs = options.epochs or max(least, -(-UPDATES // updates))
    return Recipe(
        steps=epochs * updates,
        batch=batch,
        learning_rate=options.learning_rate,
        rounds=epochs,
        patience=options.patience,
        seed=options.seed,
    )


def _batch_for(sequences: int) -> int:
    """The power of two nearest to the square root, so that batches and updates both grow with the data."""
    nearest: int = 2 ** round(math.log2(sequences) / 2)
    return min(256, max(16, nearest))
