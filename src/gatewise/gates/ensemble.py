"""The members of an ensemble: networks of the same shape, in its list ``members``. A page shows the first."""

from __future__ import annotations

from torch import nn

from gatewise.gates.attach import recurrent_modules

_LIST = "members"


def member_count(network: nn.Module) -> int:
    """The number of members; 1 for a network that is no ensemble."""
    members = getattr(network, _LIST, None)
    return len(members) if isinstance(members, nn.ModuleList) else 1


def shown_modules(network: nn.Module) -> list[str] | None:
    """The names of the recurrent modules of the first member; None for a network that is no ensemble, whose modules
    are all shown."""
    return [name for name in recurrent_modules(network) if _of_first(name)] or None


def in_each_member(network: nn.Module, module: str) -> list[str]:
    """The names that a module of the first member has in each member; its own name if it is in none."""
    if not _of_first(module):
        return [module]
    rest = module.split(".")[2:]
    return [".".join([_LIST, str(k), *rest]) for k in range(member_count(network))]


def _of_first(module: str) -> bool:
    return module.split(".")[:2] == [_LIST, "0"]
