"""Tools that record torch's operators one by one: torch.jit.trace and tools based on it, and torch.onnx.export.

They would record a loop over steps for the example's number of steps, so the recorded model would be wrong
for other lengths. For some cells torch and ONNX have operators for whole sequences, and these are recorded.
All other loops are refused.
"""

from __future__ import annotations

import sys

import torch

from gatewise.backends.torch_private import constant, tracing_state
from gatewise.errors import BackendError, ShapeError

# Why a backend that loops in Python cannot be recorded, as the end of the sentence "it ...".
UNROLLED = "loops over the steps, and a recorded loop would have the example's number of steps"

# The values of Spec.recorded, and the backend whose operators are recorded.
JIT, ONNX = "torch.jit.trace", "torch.onnx.export"
OPERATORS = {JIT: "aten", ONNX: "onnx"}

_CALLED = {
    JIT: "torch.jit.trace (and tools based on it, such as torch.onnx.export(dynamo=False))",
    ONNX: "torch.onnx.export",
}


def recording() -> str:
    """The tool that is recording operators, or "".

    JIT includes the tools based on it: ONNX's older exporter (``dynamo=False``), and the converters of
    OpenVINO and coremltools. ONNX is the newer exporter, which is based on torch.export.
    """
    if tracing_state() is not None:
        return JIT
    return ONNX if exports_onnx() else ""


def exports_onnx() -> bool:
    """Whether one of torch's two exporters to ONNX is running."""
    onnx = sys.modules.get("torch.onnx")  # torch imports it at its first use
    return onnx is not None and bool(onnx.is_in_onnx_export())


@constant
def recorded_by() -> str:
    """The result of ``recording``, as a constant in a graph of torch.compile."""
    return recording()


def unrecorded(what: str, why: str, instead: str = "") -> BackendError:
    """The error for a loop that would be recorded for the example's number of steps.

    ``why`` is the end of the sentence "its own operator …"."""
    return BackendError(
        f"{_CALLED[recording()]} cannot record {what}: its own operator {why}, and a recorded loop would "
        f"have the example's number of steps; use torch.export or torch.compile{instead}"
    )


def check_unrecorded(what: str) -> None:
    """Raises BackendError if a tool is recording, because it would record the loop of ``what``."""
    if recorded_by():
        raise unrecorded(what, "is an LSTM, a GRU or a simple RNN")


def check_packed() -> None:
    """Raises BackendError for a PackedSequence during an export to ONNX. The exporter supports it only as
    the input of a layer that equals one of torch's."""
    if recording() and exports_onnx():
        raise BackendError(
            "torch.onnx.export takes a PackedSequence only for layers that equal torch's, and this layer "
            "has more options (connect=, learn_initial=, …); give the padded tensor and lengths="
        )


def check_recordable(lengths: object) -> None:
    """Raises ShapeError for lengths whose values would be recorded as constants."""
    if not isinstance(lengths, torch.Tensor):
        raise ShapeError(
            f"lengths is a {type(lengths).__name__}; {_CALLED[recording()]} would record its values as "
            f"constants: give a tensor that is an input of the model"
        )
