"""The backend ``cuda``: gatewise's kernels in CUDA C++ for large layers on a GPU, compiled by NVRTC.

A cell's step is printed from its equations. The programs of the time loop form clusters, which exchange
less data than Triton's programs do."""

from __future__ import annotations

import importlib
from functools import cache

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights, recorded
from gatewise.backends.engine import unfit
from gatewise.backends.gpu.chips import unfit_chip
from gatewise.backends.ops import run
from gatewise.errors import BackendError

_COPIED_AT_ONCE = 16  # bytes that a thread copies at once


def supports(spec: Spec) -> str | None:
    if reason := unfit_chip(spec, (9, 0), "H100") or unfit(spec) or unsuited(spec) or _missing():
        return reason
    from gatewise.backends.gpu.clusters.call import fits

    if fits(spec):
        return None
    return f"has no room on this chip for the weights of {spec.hidden_size} units in {spec.dtype}"


@cache
def _missing() -> str | None:
    """Why the libraries that compile and launch the kernels cannot be used, or None."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        importlib.import_module("cuda.core")
        bindings = importlib.import_module("cuda.bindings").__version__
    except ImportError as error:
        return f"needs NVIDIA's cuda-core ({error}): pip install 'gatewise[cuda]'"
    of_torch = torch.version.cuda
    if of_torch and bindings.split(".")[0] != of_torch.split(".")[0]:
        needed = f"pip install 'cuda-bindings=={of_torch.split('.')[0]}.*'"
        return f"needs cuda-bindings for torch's CUDA {of_torch}, not {bindings}: {needed}"
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except RuntimeError as error:
        return f"needs NVRTC, which torch's CUDA builds bring along: {str(error).splitlines()[0]}"
    return None


def unsuited(spec: Spec) -> str | None:
    """Why the loops cannot run the spec's cell and sizes, or None."""
    cell = spec.cell
    if cell.feedback != cell.state[:1]:
        inputs = ", ".join(cell.feedback) or "none"
        return f"takes the output as the only recurrent input; '{cell.name}' has {inputs}"
    if cell.second_stage:
        return f"has no second stage of gates; '{cell.name}' has {', '.join(cell.second_stage)}"
    for there, name in (
        (spec.proj_size, "project the output"),
        (spec.layer_norm, "normalise the pre-activations"),
    ):
        if there:
            return f"cannot {name}"
    multiple = _COPIED_AT_ONCE // spec.dtype.itemsize
    if spec.hidden_size % multiple:
        return f"takes units in multiples of {multiple} in {spec.dtype}, not {spec.hidden_size}"
    return None


def describe(spec: Spec) -> str:
    return f"gatewise's kernels, {spec.cell.name} compiled by NVRTC"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    x, state = x.resolve_neg(), tuple(s.resolve_neg() for s in state)
    if recorded([x, *state, *weights.listed(spec.cell)]):
        raise BackendError(
            "the backend 'cuda' has no operator that torch can compile, export or trace; use "
            "backend='triton' there"
        )
    from gatewise.backends.gpu.clusters.call import engine

    return run(engine, spec, x, state, weights, masks)
