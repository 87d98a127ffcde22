"""What writes torch's operators down one by one: torch.jit.trace and what rests on it, and torch.onnx.export.

A loop over steps would be written down as often as the example has steps, and stay so: a recorded model
would leave out the steps of a longer sequence. torch has operators of whole sequences for the LSTM, the
GRU and the simple RNN, and these are recorded as they are. Everything else that loops is refused.
"""

from __future__ import annotations

import sys

import torch

from gatewise.backends.contract import constant
from gatewise.errors import BackendError

# Why a backend that loops in Python records nothing, as the end of the sentence "it ...".
UNROLLED = "loops over the steps, of which a record would have as many as the example"

_state = torch._C._get_tracing_state


def scripted() -> bool:
    """Whether torch.jit.trace is at work, or what rests on it: ONNX's older exporter, OpenVINO's and
    coremltools' converters."""
    return _state() is not None


@constant
def recording() -> bool:
    """Whether operators are recorded by torch.jit.trace or by either of ONNX's exporters."""
    if scripted():
        return True
    onnx = sys.modules.get("torch.onnx")  # it is imported when it is first used
    return onnx is not None and bool(onnx.is_in_onnx_export())


def unrecorded(what: str, why: str) -> BackendError:
    """What to raise for a loop that would be recorded for the example's number of steps.

    ``why`` is the end of the sentence "torch's own operator …"."""
    return BackendError(
        f"torch.jit.trace and torch.onnx.export cannot record {what}: torch's own operator {why}, and a "
        f"loop over steps would be fixed at the example's number of them. torch.export and torch.compile "
        f"take it; ONNX can have one step of it, a gatewise.RecurrentCell's"
    )


def check_unrecorded(what: str) -> None:
    """Raises BackendError where torch.jit.trace would record a loop of torch's operations."""
    if scripted():
        raise unrecorded(what, "is for LSTM, GRU and RNN only")
