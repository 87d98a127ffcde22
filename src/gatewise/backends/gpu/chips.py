"""What our kernels on a GPU ask of it, whichever language they are in."""

from __future__ import annotations

import torch

from gatewise.backends.contract import Spec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unfit_chip(spec: Spec, capability: tuple[int, int], example: str) -> str | None:
    """Why they cannot run there, as the end of the sentence "it ...", or None; ``example`` is the first GPU
    of the least capability."""
    if spec.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on '{spec.device.type}'"
    if spec.dtype not in DTYPES:
        return f"computes in float32, bfloat16 and float16, not in {spec.dtype}"
    if torch.version.hip:
        return "runs on NVIDIA GPUs, and this torch is built for AMD's"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(spec.device) < capability:
        least = ".".join(map(str, capability))
        return f"runs on GPUs of compute capability {least} ({example}) and newer"
    return None
