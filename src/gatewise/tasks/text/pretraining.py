"""Pretraining of a text encoder on unlabelled text: vectors from counts, then language models in both directions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from gatewise.models.text import PretrainingNetwork, TextShape
from gatewise.tasks.text.cooccurrence import vectors_from_counts
from gatewise.tasks.text.examples import Encoded, loaders
from gatewise.train.history import History
from gatewise.train.objective import Carry, TrainingData
from gatewise.train.recipe import Recipe, one_cycle
from gatewise.train.record import Record, digest
from gatewise.train.run import Run

Array = np.ndarray

LONGEST = 100  # symbols of a text; a longer one is read in parts
FOLDER = "pretraining"  # in the folder of the run, with the checkpoint
# Of the learning rate. So words of the training part stay near the words that it does not have.
EMBEDDING_RATE = 0.3
_BATCH = 128
_LEARNING_RATE = 8e-3
_HELD_OUT = 0.03  # the share of texts for validation
_MOST_HELD_OUT = 500
_DROPOUT = 0.2


class _Texts(Dataset):
    """Texts without labels; indexing with an array of indices gives a batch of symbols and lengths."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    def __getitem__(self, chosen: Array) -> tuple[Tensor, Tensor]:
        return self.encoded.padded(chosen)


@dataclass(frozen=True)
class Pretraining:
    """The task of predicting the next word and the word before, for the training loop.

    Attributes:
        cell, shape: those of the network that is pretrained.
        counts: V, how often each symbol occurs in the unlabelled texts.
        start: weights that the encoder starts from.
    """

    cell: Any
    shape: TextShape
    counts: Tensor
    start: Mapping[str, Tensor]

    def build(self) -> nn.Module:
        shape = replace(self.shape, dropout=_DROPOUT)
        network = PretrainingNetwork(self.cell, shape, self.counts)
        network.encoder.load_state_dict(self.start, strict=False)
        return network

    def loss(self, network: nn.Module, batch: Any, carry: Carry) -> tuple[Tensor, Carry]:
        return network(*batch), None

    def weight_of(self, batch: Any, members: int) -> int:
        return members

    def describe_member(self, batch: Any, at: int) -> str:
        return f"text {at} of a batch of unlabelled text"

    def optimizer(self, network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        return one_cycle(network, recipe)


def pretrained(
    cell: Any,
    shape: TextShape,
    texts: Encoded,
    options: SimpleNamespace,
    run: Run,
    start: dict[str, Tensor],
) -> tuple[dict[str, Tensor], History | None]:
    """The weights that an encoder has learned from ``texts``, and the losses of its language models, or None.

    Args:
        start: weights that the encoder starts from. Without an embedding among them, the embedding starts from
            counts of ``texts``.
    """
    if "embedding.weight" not in start:
        vectors = vectors_from_counts(texts, shape.symbols, shape.embedding, options.seed)
        start = start | {"embedding.weight": torch.from_numpy(vectors)}
    if not options.pretrain_epochs:
        return start, None
    return _language_models(cell, shape, texts, options, run, start)


def _language_models(
    cell: Any,
    shape: TextShape,
    texts: Encoded,
    options: SimpleNamespace,
    run: Run,
    start: dict[str, Tensor],
) -> tuple[dict[str, Tensor], History]:
    """The weights of an encoder that was trained as language models of ``texts``, and its losses."""
    from gatewise.train.loop import train

    symbols = torch.from_numpy(texts.values.astype(np.int64))
    counts = torch.bincount(symbols, minlength=shape.symbols).float().clamp(min=0.5)
    objective = Pretraining(cell, shape, counts, start)
    order = np.random.default_rng(options.seed).permutation(len(texts))
    held = min(round(_HELD_OUT * len(order)), _MOST_HELD_OUT)
    lengths = texts.lengths
    parts = loaders(_Texts(texts), lengths, order[held:], order[:held], _BATCH, options.seed)
    recipe = Recipe(
        steps=options.pretrain_epochs * len(parts[0]),
        batch=_BATCH,
        learning_rate=_LEARNING_RATE,
        rounds=options.pretrain_epochs,
        seed=options.seed,
    )
    about = {"rows": len(texts), "series": 1, "span": "", "columns": {"text": digest(texts.values)}}
    data = TrainingData(*parts, recipe, Record({"hidden": shape.hidden}, about))
    out = None if run.path is None else run.path / FOLDER
    own = replace(run, out=out, lock=None, prepared=None, after_round=None, tensorboard=False)
    begun = time.perf_counter()
    network, history = train(objective, data, own)
    history.seconds = time.perf_counter() - begun
    return network.encoder.state_dict(), history
