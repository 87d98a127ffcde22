"""Our own kernels in CUDA C++, for layers whose weights Triton cannot keep on a GPU's multiprocessors: a
cell's step printed from its equations, in time loops whose programs form clusters, compiled by NVRTC."""

from __future__ import annotations

import importlib
from functools import cache

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights, recorded
from gatewise.backends.engine import flat, unfit
from gatewise.backends.ops import run
from gatewise.emit.cpp import too_large
from gatewise.errors import BackendError

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PIECE = 16  # bytes that a thread copies at once


def supports(spec: Spec) -> str | None:
    if spec.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on '{spec.device.type}'"
    if spec.dtype not in _DTYPES:
        return f"computes in float32, bfloat16 and float16, not in {spec.dtype}"
    if torch.version.hip:
        return "runs on NVIDIA GPUs, and this torch is built for AMD's"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(spec.device) < (9, 0):
        return "runs on GPUs of compute capability 9.0 (H100) and newer"
    if reason := unfit(spec) or unsuited(spec):
        return reason
    try:
        find_compiler()
    except (ImportError, RuntimeError) as error:
        return f"needs NVIDIA's cuda-core and NVRTC ({error}): pip install 'gatewise[cuda]'"
    from gatewise.backends.gpu.clusters.call import fits

    return None if fits(spec) else "has no room on this chip for the weights of so many units"


@cache
def find_compiler() -> None:
    """Raises ImportError or RuntimeError where there is none."""
    pathfinder = importlib.import_module("cuda.pathfinder")
    for name in ("cuda.core", "cuda.bindings"):
        importlib.import_module(name)
    pathfinder.load_nvidia_dynamic_lib("nvrtc")


def unsuited(spec: Spec) -> str | None:
    """What its loops have no part for."""
    cell = spec.cell
    if cell.feedback != cell.state[:1]:
        fed = f"has {', '.join(cell.feedback)}" if cell.feedback else "feeds nothing back"
        return f"has the output alone fed back, and '{cell.name}' {fed}"
    if cell.late:
        return f"has no gates that wait for others, and '{cell.name}' has {', '.join(cell.late)}"
    for there, name in (
        (spec.proj_size, "projection"),
        (spec.layer_norm, "layer normalisation"),
    ):
        if there:
            return f"has no {name}"
    of_piece = _PIECE // spec.dtype.itemsize
    if spec.hidden_size % of_piece:
        return f"takes units in multiples of {of_piece} in {spec.dtype}, not {spec.hidden_size}"
    reason = too_large(cell)
    return reason and f"cannot have the cell '{cell.name}': it {reason}"


def describe(spec: Spec) -> str:
    return f"gatewise's kernels, {spec.cell.name} compiled by NVRTC"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    x, state = x.resolve_neg(), tuple(s.resolve_neg() for s in state)
    if recorded([x, *state, *flat(weights, spec.cell)]):
        raise BackendError(
            "the backend 'cuda' runs on its own, not in what torch traces or compiles"
        )
    from gatewise.backends.gpu.clusters.call import engine

    return run(engine, spec, x, state, weights, masks)
