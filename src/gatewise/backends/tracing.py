"""What writes torch's operators down one by one: torch.jit.trace and what rests on it, and torch.onnx.export.

A loop over steps would be written down as often as the example has steps, and stay so: a recorded model
would leave out the steps of a longer sequence. torch and ONNX have operators of whole sequences for some
cells, and these are recorded as they are. Everything else that loops is refused.
"""

from __future__ import annotations

import sys

import torch

from gatewise.backends.torch_private import constant, tracing_state
from gatewise.errors import BackendError, ShapeError

# Why a backend that loops in Python records nothing, as the end of the sentence "it ...".
UNROLLED = "loops over the steps, of which a record would have as many as the example"

# What records, by the names of a Spec, and the backend whose operators it is given.
JIT, ONNX = "torch.jit.trace", "torch.onnx.export"
OPERATORS = {JIT: "aten", ONNX: "onnx"}

_CALLED = {
    JIT: "torch.jit.trace (and what rests on it, such as torch.onnx.export(dynamo=False))",
    ONNX: "torch.onnx.export",
}


def recording() -> str:
    """What records operators here, or "".

    JIT stands for all that rests on it too: ONNX's older exporter (``dynamo=False``), OpenVINO's and
    coremltools' converters of modules. ONNX is the newer exporter, which rests on torch.export.
    """
    if tracing_state() is not None:
        return JIT
    return ONNX if exports_onnx() else ""


def exports_onnx() -> bool:
    """Whether it is one of ONNX's exporters."""
    onnx = sys.modules.get("torch.onnx")  # it is imported when it is first used
    return onnx is not None and bool(onnx.is_in_onnx_export())


@constant
def recorded_by() -> str:
    """The same where torch.compile may look on: constant in what it makes."""
    return recording()


def unrecorded(what: str, why: str, instead: str = "") -> BackendError:
    """What to raise for a loop that would be recorded for the example's number of steps.

    ``why`` is the end of the sentence "its own operator …"."""
    return BackendError(
        f"{_CALLED[recording()]} cannot take {what}: its own operator {why}, and a loop over the steps "
        f"would be fixed at the example's number of them; torch.export and torch.compile take it{instead}"
    )


def check_unrecorded(what: str) -> None:
    """Raises BackendError where a loop of torch's operations would be recorded."""
    if recorded_by():
        raise unrecorded(what, "is an LSTM, a GRU or a simple RNN")


def check_packed() -> None:
    """Raises BackendError for a PackedSequence that ONNX's exporter would find unpacked: it knows none but
    those that torch's own layers take."""
    if recording() and exports_onnx():
        raise BackendError(
            "torch.onnx.export takes a PackedSequence for layers that are torch's own alone, and this one "
            "has more (connect=, learn_initial=, …); give the padded tensor and lengths= instead"
        )


def check_recordable(lengths: object) -> None:
    """Raises ShapeError for lengths whose values a record would have as constants."""
    if not isinstance(lengths, torch.Tensor):
        raise ShapeError(
            f"lengths is a {type(lengths).__name__}; {_CALLED[recording()]} would record its values as "
            f"constants: give a tensor that is an input of the model"
        )
