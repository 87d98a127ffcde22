"""What torch's settings allow products of float32 numbers to multiply: the numbers as they are, the numbers rounded
to bfloat16, or their two bfloat16 parts.

The nearest setting counts: ``torch.backends.mkldnn.rnn.fp32_precision``, or, if that is "none", the setting of matrix
products, which ``torch.set_float32_matmul_precision`` writes. The former inherits ``torch.backends.fp32_precision``,
which is often "tf32" for a GPU.
"""

from __future__ import annotations

import torch

from gatewise.backends.native.library import core
from gatewise.backends.torch_private import fp32_precision

# The values of enum Factors in csrc/problem.h, by torch's name of a precision. All other names mean 0.
_ALLOWED = {"bf16": 1, "tf32": 2}
_UNSET = "none"
# Short calls read the weights as they lie: see is_short in csrc/plan.h.
_SHORT = "but not in calls of one sequence and up to 4 steps, or of two sequences and one step"
_TEXTS = (
    None,
    f"torch's settings let products of float32 numbers round their factors to bfloat16, {_SHORT}",
    "torch's settings let products of float32 numbers be three products of bfloat16 parts, where a thread has 8 "
    "sequences or more",
)


def allowed() -> int:
    """The value of enum Factors that torch's settings ask for now."""
    precision = fp32_precision("mkldnn", "rnn")
    if precision == _UNSET:
        precision = fp32_precision("mkldnn", "matmul")
    return _ALLOWED.get(precision, 0)


def factors(dtype: torch.dtype) -> int:
    """The value of enum Factors for a call now: 0 unless the loaded level has matrix tiles."""
    return allowed() if dtype == torch.float32 and core().tiles() else 0


def described(dtype: torch.dtype) -> str | None:
    """What torch's settings change of a call now, as a part of a sentence, or None."""
    text = _TEXTS[allowed()] if dtype == torch.float32 else None
    if text is None or core().tiles():
        return text
    return f"{text}; this is done at level v4amx alone"
