"""What gates do: traces, pages, statistics, memory, interventions, attributions. Names are imported at first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gatewise.gates import drawings  # noqa: F401  it registers Trace.plot and Trace.view

if TYPE_CHECKING:
    from gatewise.gates.alike import Alike, OnIndex
    from gatewise.gates.attribution import gradient_times_input, integrated_gradients, occlusion
    from gatewise.gates.callback import MonitorCallback
    from gatewise.gates.capture import Traces, trace
    from gatewise.gates.decomposition import contextual_contributions, contextual_decomposition
    from gatewise.gates.explained import Attribution
    from gatewise.gates.horizon import Horizon, memory_horizon
    from gatewise.gates.interventions import ablate, clamp, patch
    from gatewise.gates.keras_callback import KerasMonitorCallback
    from gatewise.gates.monitor import Limits, Monitor
    from gatewise.gates.notebook import notebook_page
    from gatewise.gates.page.writer import write_page
    from gatewise.gates.picture import gate_map
    from gatewise.gates.probes import Probe, probe
    from gatewise.gates.relevance import layerwise_relevance
    from gatewise.gates.statistics import Statistics, gate_statistics
    from gatewise.gates.time_scale import gradient_time_scale

# The exported names of each module.
_EXPORTS = {
    "alike": "Alike OnIndex",
    "attribution": "gradient_times_input integrated_gradients occlusion",
    "callback": "MonitorCallback",
    "capture": "Traces trace",
    "decomposition": "contextual_contributions contextual_decomposition",
    "explained": "Attribution",
    "horizon": "Horizon memory_horizon",
    "interventions": "ablate clamp patch",
    "keras_callback": "KerasMonitorCallback",
    "monitor": "Limits Monitor",
    "notebook": "notebook_page",
    "page.writer": "write_page",
    "picture": "gate_map",
    "probes": "Probe probe",
    "relevance": "layerwise_relevance",
    "statistics": "Statistics gate_statistics",
    "time_scale": "gradient_time_scale",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gatewise.gates' has no attribute '{name}'")
    value = getattr(import_module(f"gatewise.gates.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


__all__ = [
    "Alike",
    "Attribution",
    "Horizon",
    "KerasMonitorCallback",
    "Limits",
    "Monitor",
    "MonitorCallback",
    "OnIndex",
    "Probe",
    "Statistics",
    "Traces",
    "ablate",
    "clamp",
    "contextual_contributions",
    "contextual_decomposition",
    "gate_map",
    "gate_statistics",
    "gradient_time_scale",
    "gradient_times_input",
    "integrated_gradients",
    "layerwise_relevance",
    "memory_horizon",
    "notebook_page",
    "occlusion",
    "patch",
    "probe",
    "trace",
    "write_page",
]
