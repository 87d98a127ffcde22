"""Conversion of a model: torch's recurrent modules are replaced by gatewise's with the same weights, or back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from gatewise.backends.torch_private import MODULE_ATTRIBUTES, RNN_CACHES
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.convert_back import torch_module
from gatewise.nn.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.step import RecurrentCell
from gatewise.options import flag

Model = TypeVar("Model", bound=nn.Module)


def convert(
    model: Model, *, inplace: bool = False, backend: str = "auto", back: bool = False
) -> Model:
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
        back: replace gatewise's modules by torch's instead, without their hooks. The model must not use what
            torch's lack, such as ``lengths=``.

    Raises:
        OptionError: ``model`` is not a module, has nothing to convert, or cannot be copied; with ``back``,
            torch has no such cell or option.
        ShapeError: a weight has a value that is not finite; the message names it.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    if flag("back", back):
        return _converted_back(model, flag("inplace", inplace))
    found = {name: kind for name, m in model.named_modules() if (kind := _kind(m)) is not None}
    if not found:
        raise OptionError(
            f"this {type(model).__name__} has no torch.nn.{', torch.nn.'.join(of.__name__ for of in _OURS)} to "
            f"convert"
        )
    for name in found:
        _check_finite(name, model.get_submodule(name))
    model = model if inplace else _copied(model)

    def replacement(name: str, module: nn.Module) -> nn.Module | None:
        kind = _kind(module)
        if kind is None:
            _warn_of_derived(name, module)
            return None
        return _replacement(module, kind, backend)

    return _replaced(model, replacement)


def twin(module: nn.Module, backend: str = "auto", derived: bool = False) -> nn.Module | None:
    """gatewise's module with the weights, hooks and attributes of one of torch's six recurrent modules, which it
    shares; None for any other module, also for one of a derived class unless ``derived``."""
    kind = _kind(module)
    if kind is None and derived:
        kind = next((each for each in _OURS if isinstance(module, each)), None)
    return None if kind is None else _replacement(module, kind, backend)


def _converted_back(model: Model, inplace: bool) -> Model:
    if not any(isinstance(module, (Recurrent, RecurrentCell)) for module in model.modules()):
        raise OptionError(f"this {type(model).__name__} has no layer of gatewise to convert back")
    return _replaced(
        model if inplace else _copied(model),
        lambda name, module: (
            torch_module(name, module) if isinstance(module, (Recurrent, RecurrentCell)) else None
        ),
    )


def _replaced(model: Model, replacement: Callable[[str, nn.Module], nn.Module | None]) -> Model:
    """The model with the modules for which ``replacement`` returns another one replaced by it."""
    made: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) not in made:
            new = replacement(name, module)
            if new is None:
                continue
            made[id(module)] = new
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
