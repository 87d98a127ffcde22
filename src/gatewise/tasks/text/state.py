"""The saved state of the text classifier: checks of its entries, and its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewise.data.tokens import Tokenizer
from gatewise.errors import ModelFileError
from gatewise.models.text import TextShape
from gatewise.options import probability
from gatewise.tasks.entry_checks import (
    HISTORY,
    Check,
    check_equal,
    integer_from,
    label,
    list_of,
    object_with,
    or_none,
    text,
)
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences.state import classes_of
from gatewise.tasks.text.baseline import BagOfWords
from gatewise.train.history import History

# The arrays of indices and hashes of texts, of any length.
INDICES = ("held_out_", "tested_", "seen_")


def learned_checks(saved: Saved) -> dict[str, Check]:
    """The checks of the entries of ``learned``."""
    size = integer_from(1, saved.most)
    shape = dict(
        symbols=size,
        outputs=size,
        embedding=size,
        hidden=size,
        layers=integer_from(1, len(saved.stored)),  # each has a tensor or more
        dropout=probability,
        embedding_dropout=probability,
        word_dropout=probability,
        members=integer_from(1, len(saved.stored)),
        filters=integer_from(0, saved.most),
    )
    return dict(
        shape=object_with(shape),
        classes=list_of(label),
        dtype=text,
        tokenizer=text,
        data=text,
        notes=list_of(text),
        pretraining=or_none(HISTORY),
    )


def restore_learned(model: Any, learned: dict[str, Any]) -> None:
    """Sets the model's attributes from the entries of ``learned``.

    Raises:
        ModelFileError: two of them contradict each other, such as the tokenizer of another model.
    """
    model.classes_ = classes_of(learned["classes"], learned["dtype"])
    model.shape_ = TextShape(**learned["shape"])
    model.tokenizer_ = Tokenizer.from_json(learned["tokenizer"])
    model.data_, model.notes_ = learned["data"], tuple(learned["notes"])
    history = learned["pretraining"]
    model.pretraining_ = None if history is None else History(**history)
    check_equal(
        [
            ("the number of symbols of the tokenizer", len(model.tokenizer_), model.shape_.symbols),
            ("the unit of the tokenizer", model.tokenizer_.unit, model.unit),
            ("the number of classes", len(model.classes_), model.shape_.outputs),
            ("the number of units", model.hidden, model.shape_.hidden),
            ("the number of layers", model.layers, model.shape_.layers),
            ("the number of filters", model.filters, model.shape_.filters),
            ("the number of members", model.members, model.shape_.members),
        ]
    )


def expected_tensors(model: Any, saved: Saved) -> dict[str, Tensor]:
    """Meta tensors for those besides the network's weights."""
    features = saved.stored.get("baseline_.features", {"shape": [0]})["shape"][:1]
    classes = model.shape_.outputs
    sizes: dict[str, tuple[list[int], torch.dtype]] = {
        "features": (features, torch.int64),
        "rarity": (features, torch.float64),
        "weight": ([*features, classes], torch.float64),
        "bias": ([classes], torch.float64),
        "prior": ([classes], torch.float64),
    }
    expected = {
        f"baseline_.{name}": torch.empty(size, dtype=kind, device="meta")
        for name, (size, kind) in sizes.items()
    }
    for name in INDICES:
        length = saved.stored.get(name, {"shape": [0]})["shape"][:1]
        expected[name] = torch.empty(length, dtype=torch.int64, device="meta")
    return expected


def baseline_of(tensors: dict[str, Tensor]) -> BagOfWords:
    """The baseline, from its tensors."""
    parts = {
        name.removeprefix("baseline_."): each.numpy()
        for name, each in tensors.items()
        if name.startswith("baseline_.")
    }
    if not len(parts["features"]) or (parts["features"][1:] <= parts["features"][:-1]).any():
        raise ModelFileError("'baseline_.features' must be rising")
    return BagOfWords(**parts)
