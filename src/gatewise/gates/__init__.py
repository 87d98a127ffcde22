"""What gates do: pages and pictures, interventions and attributions. A name is imported at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.gates.attribution import (
        gradient_times_input,
        integrated_gradients,
        occlusion,
    )
    from gatewise.gates.decomposition import contextual_contributions, contextual_decomposition
    from gatewise.gates.explained import Attribution
    from gatewise.gates.interventions import ablate, clamp, patch
    from gatewise.gates.page.writer import write_page
    from gatewise.gates.picture import gate_map
    from gatewise.gates.relevance import layerwise_relevance

# The exported names of each module.
_EXPORTS = {
    "attribution": "gradient_times_input integrated_gradients occlusion",
    "decomposition": "contextual_contributions contextual_decomposition",
    "explained": "Attribution",
    "interventions": "ablate clamp patch",
    "page.writer": "write_page",
    "picture": "gate_map",
    "relevance": "layerwise_relevance",
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
    "Attribution",
    "ablate",
    "clamp",
    "contextual_contributions",
    "contextual_decomposition",
    "gate_map",
    "gradient_times_input",
    "integrated_gradients",
    "layerwise_relevance",
    "occlusion",
    "patch",
    "write_page",
]
