"""The options of the sequence estimators, checked and in Python's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gatewise.nn.checks import checked_cell
from gatewise.options import choice, flag, probability, real, whole
from gatewise.tasks.fitted import MOST_LAYERS, MOST_SEED
from gatewise.tasks.sequences.network import POOLINGS


@dataclass(frozen=True)
class Options:
    """What a ``SequenceClassifier`` or ``SequenceRegressor`` was given, less its cell; see there."""

    hidden: int
    layers: int
    bidirectional: bool
    dropout: float
    pooling: str
    missing: str
    epochs: int
    batch: int
    learning_rate: float
    validation_fraction: float
    patience: int
    seed: int
    verbose: bool

    @classmethod
    def of(cls, given: Any) -> Options:
        """From an object with attributes of these names.

        Raises:
            OptionError: one cannot be used; the message has its value.
        """
        checked_cell(given.cell)
        counts = ("hidden", "epochs", "batch", "patience")
        return cls(
            **{name: whole(name, getattr(given, name)) for name in counts},
            layers=whole("layers", given.layers, most=MOST_LAYERS),
            bidirectional=flag("bidirectional", given.bidirectional),
            dropout=probability("dropout", given.dropout),
            pooling=choice("pooling", given.pooling, POOLINGS),
            missing=choice("missing", given.missing, ("error", "mask")),
            learning_rate=real("learning_rate", given.learning_rate, "a number above 0", above=0),
            validation_fraction=real(
                "validation_fraction",
                given.validation_fraction,
                "a share from 0 to below 1",
                least=0,
                below=1,
            ),
            seed=whole("seed", given.seed, least=0, most=MOST_SEED),
            verbose=flag("verbose", given.verbose),
        )
