"""Conversion of a model: torch's recurrent modules are replaced by gatewise's, with the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from gatewise.backends.torch_private import MODULE_ATTRIBUTES, RNN_CACHES
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, *, inplace: bool = False, backend: str = "auto") -> Model:
    """The model with each of torch's recurrent modules replaced by gatewise's, with equal results.

    The modules are ``torch.nn.LSTM``, ``GRU``, ``RNN``, ``LSTMCell``, ``GRUCell`` and ``RNNCell``. Names in
    the state dict do not change. Hooks, parametrizations (such as weight norm), pruning masks, frozen
    weights, modules that are used in several places and the training mode are kept. A class that is
    derived from one of torch's may do something else, so it is not replaced, and a warning names it.

    Args:
        model: any module, or one of the six itself.
        inplace: whether to change the model itself, with the same parameters, so that an existing
            optimizer still works. By default the result is a copy. A root that is converted is a new
            module in both cases.
        backend: the backend of the new layers.

    Raises:
        OptionError: ``model`` is not a module, has nothing to convert, or cannot be copied.
        ShapeError: a weight has a value that is not finite; the message names it.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    found = {name: kind for name, m in model.named_modules() if (kind := _kind(m)) is not None}
    if not found:
        raise OptionError(
            f"this {type(model).__name__} has no torch.nn.{', torch.nn.'.join(of.__name__ for of in _OURS)} to "
            f"convert"
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
            made[id(module)] = _replacement(module, kind, backend)
        if not name:
            return made[id(module)]  # type: ignore[return-value]
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, made[id(module)])
    return model


def _copied(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # a weight that is not a leaf, as hooks leave it after a call
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
            warnings.simplefilter("ignore")  # dropout in a single layer: torch has warned already
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
    """The class of torch that the module is an instance of, or None. Parametrized modules have a subclass."""
    own = type(module)
    own = own.__bases__[0] if parametrize.is_parametrized(module) else own
    return own if own in _OURS else None


def _warn_of_derived(name: str, module: nn.Module) -> None:
    for theirs in _OURS:
        if isinstance(module, theirs):
            warnings.warn(
                f"'{name}' is a {type(module).__name__}, derived from torch's {theirs.__name__}, and is "
                f"not converted",
                stacklevel=3,
            )


def _check_finite(name: str, module: nn.Module) -> None:
    for own, weight in module.named_parameters():
        if weight.is_meta or weight.isfinite().all():
            continue
        bad = int((~weight.isfinite()).sum())
        raise ShapeError(
            f"{'.'.join(filter(None, (name, own)))} has {bad} of {weight.numel()} numbers that are not "
            f"finite (NaN or infinity); give a model with finite weights"
        )


def _replacement(theirs: nn.Module, kind: type[nn.Module], backend: str) -> nn.Module:
    first = next(theirs.parameters(), None)
    ours = _OURS[kind](
        theirs, device="meta", dtype=first.dtype if first is not None else None, backend=backend
    )
    parametrized = getattr(theirs, "parametrizations", {})
    for name in parametrized:  # torch's function also gives the class its properties
        parametrize.register_parametrization(ours, name, nn.Identity(), unsafe=True)
        ours.parametrizations[name] = parametrized[name]  # type: ignore[operator]
    # the same objects: the handles that remove hooks refer to them
    for name in MODULE_ATTRIBUTES:
        ours.__dict__[name] = theirs.__dict__[name]
    # weights that hooks make, and attributes of the user
    for name, value in theirs.__dict__.items():
        if not (name in ours.__dict__ or hasattr(type(ours), name) or name in RNN_CACHES):
            ours.__dict__[name] = value
    return ours
