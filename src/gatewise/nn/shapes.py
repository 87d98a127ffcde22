"""The tensor types in the annotations of ``nn``: dtype and shape, as jaxtyping spells them.

A type such as ``Float[Tensor, "T B I"]`` names the dimensions: T steps, B sequences, I inputs, H units,
O outputs. ``*steps`` are the dimensions before the last one: T B, B T with ``batch_first``, or T for a
single sequence. A name means the same size everywhere in one signature.

jaxtyping is not a dependency of gatewise, so these names exist for type checkers only: import them
under ``TYPE_CHECKING``. The tests check them against real calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Bool, Float, Integer
    from torch import Tensor

    Input = Float[Tensor, "*steps I"]
    Output = Float[Tensor, "*steps O"]
    Lengths = Integer[Tensor, " B"] | Sequence[int] | Integer[np.ndarray, " B"]
    Reset = Bool[Tensor, "*steps"]
    StepInput = Float[Tensor, "*batch I"]  # B I, or I for a single sequence
    StepState = Float[Tensor, "*batch H"]

    __all__ = [
        "Bool",
        "Float",
        "Input",
        "Integer",
        "Lengths",
        "Output",
        "Reset",
        "StepInput",
        "StepState",
    ]
