"""What gatewise's kernels require of a GPU."""

from __future__ import annotations

import torch

from gatewise.backends.contract import Spec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOWEST_CAPABILITY = 8, 0  # an A100's


def unfit_chip(spec: Spec) -> str | None:
    """Why the kernels cannot run ``spec``, as the end of the sentence "it ...", or None."""
    if spec.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on '{spec.device.type}'"
    if spec.dtype not in DTYPES:
        return f"computes in float32, bfloat16 and float16, not in {spec.dtype}"
    if torch.version.hip:
        return "runs on NVIDIA GPUs, and this torch is built for AMD's"
    if (
        torch.cuda.is_available()
        and torch.cuda.get_device_capability(spec.device) < _LOWEST_CAPABILITY
    ):
        least = ".".join(map(str, _LOWEST_CAPABILITY))
        return f"runs on GPUs of compute capability {least} (A100) and newer"
    return None
