"""torch's recurrent modules in a model exchanged for ours, with the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

Model = TypeVar("Model", bound=nn.Module)

# What of a module is carried over as it is: weights, masks and old weight norms live in the first three.
_CARRIED = (
    *("_parameters", "_buffers", "_non_persistent_buffers_set", "training"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)

_CACHE = ("_flat_weight_refs",)  # torch's, of its weights


def convert(model: Model, *, inplace: bool = False, backend: str = "auto") -> Model:
    """A model with every ``torch.nn.LSTM``, ``GRU``, ``RNN``, ``LSTMCell``, ``GRUCell`` and ``RNNCell``
    in it exchanged for gatewise's, which gives what it gave.

    Names in the state dict stay. Weights are the same ones, or copies as deepcopy makes them where
    ``inplace`` is false; hooks, parametrizations (weight norm and the like), pruning masks, frozen
    weights, modules that are used in several places and the mode of training are kept. What is
    derived from a class of torch's, and may do something else, stays as it is, with a warning that
    names it.

    Args:
        model: any module, or one of the six itself.
        inplace: whether the model itself is changed; a converted root is returned in any case. An
            optimizer that was made before goes on, since the parameters are the same.
        backend: as of the layers.

    Raises:
        OptionError: ``model`` is no module, has nothing to convert, or cannot be copied.
        ShapeError: a weight has numbers that are not finite; the message names it.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    found = {name: kind for name, m in model.named_modules() if (kind := _kind(m)) is not None}
    if not found:
        raise OptionError(
            f"this {type(model).__name__} has no {', '.join(of.__name__ for of in _OURS)} of torch's"
        )
    for name in found:
        _check_finite(name, model.get_submodule(name))
    model = model if inplace else _copied(model)
    made: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if (kind := _kind(module)) is None:
            _warn_of_derived(name, module)
            continue
        if id(module) not in made:
            made[id(module)] = _exchanged(module, kind, backend)
        if not name:
            return made[id(module)]  # type: ignore[return-value]
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, made[id(module)])
    return model


def _copied(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # of a weight that is a result, as hooks leave it after a call
        raise OptionError(
            f"this {type(model).__name__} cannot be copied: {error}. Convert it with inplace=True, or call "
            f"it once under torch.no_grad() first"
        ) from error


def _layer(ours: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")

    def like(theirs: Any, **options: Any) -> nn.Module:
        given = {name: getattr(theirs, name) for name in (*names, "bidirectional")}
        if theirs.proj_size:
            given["proj_size"] = theirs.proj_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout in a single layer: torch has said so
            return ours(**given, **_nonlinearity(theirs), **options)

    return like


def _cell(ours: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def like(theirs: Any, **options: Any) -> nn.Module:
        given = {name: getattr(theirs, name) for name in ("input_size", "hidden_size", "bias")}
        return ours(**given, **_nonlinearity(theirs), **options)

    return like


def _nonlinearity(theirs: nn.Module) -> dict[str, str]:
    of = getattr(theirs, "nonlinearity", None)
    return {} if of is None else {"nonlinearity": of}


_OURS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.LSTM: _layer(LSTM),
    nn.GRU: _layer(GRU),
    nn.RNN: _layer(RNN),
    nn.LSTMCell: _cell(LSTMCell),
    nn.GRUCell: _cell(GRUCell),
    nn.RNNCell: _cell(RNNCell),
}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch's that this is one of; a parametrized module has a class of its own."""
    own = type(module)
    own = own.__bases__[0] if parametrize.is_parametrized(module) else own
    return own if own in _OURS else None


def _warn_of_derived(name: str, module: nn.Module) -> None:
    for theirs in _OURS:
        if isinstance(module, theirs):
            warnings.warn(
                f"'{name}' is a {type(module).__name__}, derived from torch's {theirs.__name__}, and "
                f"stays as it is",
                stacklevel=3,
            )


def _check_finite(name: str, module: nn.Module) -> None:
    for own, weight in module.named_parameters():
        if weight.is_meta or weight.isfinite().all():
            continue
        bad = int((~weight.isfinite()).sum())
        raise ShapeError(
            f"{'.'.join(filter(None, (name, own)))} has {bad} of {weight.numel()} numbers that are not "
            f"finite (NaN or infinity); the model can't be used as it is"
        )


def _exchanged(theirs: nn.Module, kind: type[nn.Module], backend: str) -> nn.Module:
    first = next(theirs.parameters(), None)
    ours = _OURS[kind](
        theirs, device="meta", dtype=first.dtype if first is not None else None, backend=backend
    )
    parametrized = getattr(theirs, "parametrizations", {})
    for name in parametrized:  # by torch's own function, so that the class gets its properties
        parametrize.register_parametrization(ours, name, nn.Identity(), unsafe=True)
        ours.parametrizations[name] = parametrized[name]  # type: ignore[operator]
    for name in _CARRIED:  # the very same: the handles by which hooks are removed point at these
        ours.__dict__[name] = theirs.__dict__[name]
    for name, value in theirs.__dict__.items():  # weights that hooks make, and a user's own
        if not (name in ours.__dict__ or hasattr(type(ours), name) or name in _CACHE):
            ours.__dict__[name] = value
    return ours
