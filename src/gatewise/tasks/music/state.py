"""The saved state of a music model: checks of its entries, and the tensors of its baselines."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import ModelFileError
from gatewise.options import flag
from gatewise.tasks.entry_checks import Check, count, integer_from, invalid_entry, list_of, text
from gatewise.tasks.music.baselines import NGrams
from gatewise.tasks.saved import Saved

_TENSORS = ("ngram.keys", "ngram.counts")


def _meter(name: str, value: Any) -> str:
    if not re.fullmatch(r"[1-9]\d{0,2}/[1-9]\d{0,2}", text(name, value)):
        raise invalid_entry(name, "a metre, such as '6/8'", value)
    return str(value)


# The entries of ``learned``: what the encoding learned, the digests of the tunes that fit saw, and their lengths.
SAVED: dict[str, Check] = {
    "voices": count,
    "line": flag,
    "velocities": flag,
    "meters": list_of(_meter),
    "seen": list_of(text),
    "median_steps": integer_from(1),
    "longest": integer_from(1),
}


def tensors_of(ngrams: NGrams) -> dict[str, Tensor]:
    """The tensors of the n-grams, by name."""
    arrays = (ngrams.keys, ngrams.counts)
    return {
        name: torch.from_numpy(array.astype(np.int64))
        for name, array in zip(_TENSORS, arrays, strict=True)
    }


def expected_tensors(saved: Saved) -> dict[str, Tensor]:
    """Meta tensors for those of the n-grams."""
    stored = (saved.stored.get(name, {"shape": [0]})["shape"] for name in _TENSORS)
    return {
        name: torch.empty(tuple(shape), dtype=torch.int64, device="meta")
        for name, shape in zip(_TENSORS, stored, strict=True)
    }


def ngrams_of(tensors: dict[str, Any], symbols: int, columns: int) -> NGrams:
    """The n-grams of saved tensors.

    Raises:
        ModelFileError: they are not counts of n-grams of these symbols and columns.
    """
    keys, counts = (tensors[name].numpy() for name in _TENSORS)
    most = columns * (symbols + 1) ** 3
    if keys.ndim != 1 or keys.shape != counts.shape or not len(keys):
        raise ModelFileError(f"the n-grams have the shapes {keys.shape} and {counts.shape}")
    if (np.diff(keys) <= 0).any() or keys[0] < 0 or keys[-1] >= most or (counts < 1).any():
        raise ModelFileError(
            "the n-grams must be sorted, within the symbols, and seen at least once"
        )
    return NGrams(symbols, keys, counts)
