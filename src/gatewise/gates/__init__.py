"""What gates do: pictures, interventions and attributions. A name is imported at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewise.gates.interventions import ablate, clamp, patch
    from gatewise.gates.picture import gate_map

# The exported names of each module.
_EXPORTS = {
    "interventions": "ablate clamp patch",
    "picture": "gate_map",
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


__all__ = ["ablate", "clamp", "gate_map", "patch"]
