"""The recurrent modules of a model, and the runner that each may have for the time of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from gatewise.errors import OptionError, unknown
from gatewise.gates.find import find_modules, is_keras
from gatewise.nn.convert import twin
from gatewise.nn.convolution import ConvRecurrent
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.runs import Runner
from gatewise.nn.step import RecurrentCell

Recurring = Recurrent | ConvRecurrent | RecurrentCell


def recurrent_modules(model: nn.Module) -> dict[str, Recurring]:
    """The recurrent modules of ``model`` by their qualified names; a model that is one itself is "model".

    A module of torch.nn is represented by gatewise's with the same parameters, which runs torch's own
    function where it can.

    Raises:
        OptionError: ``model`` is not a module, or has no recurrent module.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"expected a torch.nn.Module, not {type(model).__name__}")
    found = modules_or_none(model)
    if not found:
        raise OptionError(
            f"this {type(model).__name__} has no recurrent layer of gatewise or torch.nn whose gates could "
            f"be read or changed"
        )
    return found


def modules_or_none(model: nn.Module) -> dict[str, Recurring]:
    """As :func:`recurrent_modules`; empty if the model has none."""
    found: dict[str, Recurring] = {}
    for name, module in model.named_modules():
        ours = module if isinstance(module, Recurring) else _ours(module)
        if ours is not None:
            found[name or "model"] = ours
    return found


def recurrent_module(model: nn.Module, name: str) -> Any:
    """The recurrent module of that name; for a Keras model its layer of that path, as a ``RunnableLayer``.

    Raises:
        OptionError: there is none; the message lists the names. Or gatewise has no equations for it.
    """
    found: Mapping[str, Any] = find_modules(model) if is_keras(model) else recurrent_modules(model)
    if name not in found:
        raise unknown("recurrent module", str(name), found)
    if not is_keras(model):
        return found[name]
    from gatewise.keras.model import RunnableLayer  # it loads Keras

    return RunnableLayer(found[name], "its values cannot be changed")


def _ours(module: nn.Module) -> Recurring | None:
    running = module.__dict__.get("forward")
    if isinstance(running, _InPlace):  # torch's module within a block
        return running.ours
    ours = twin(module, "aten")
    return ours if isinstance(ours, Recurring) else None


class _InPlace:
    """The function ``forward`` of one of torch's modules for the time of a block."""

    def __init__(self, theirs: nn.Module, ours: Recurring) -> None:
        self.theirs, self.ours = theirs, ours

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.ours.training = self.theirs.training
        return self.ours.forward(*args, **kwargs)


def set_runner(model: nn.Module, name: str, ours: Any, runner: Runner | None) -> None:
    """Gives the recurrent module ``name`` of ``model`` a runner, or with None takes it away.

    ``ours`` is the module from :func:`recurrent_module`."""
    if is_keras(model):
        ours.runner = runner
        return
    module = dict(model.named_modules()).get(name, model)
    if module is ours:
        ours.runner = runner
        if runner is None:
            del ours.__dict__["runner"]
    elif runner is None:
        del module.__dict__["forward"]
    else:
        ours.runner = runner
        module.__dict__["forward"] = _InPlace(module, ours)


@contextmanager
def runners(model: nn.Module, of: Callable[[str], Runner]) -> Iterator[None]:
    """Within the block, each recurrent module of a model, or layer of a Keras model, is run by the runner for its
    name.

    Raises:
        OptionError: a module has a runner already.
    """
    if is_keras(model):
        from gatewise.keras.model import recurrent_layers, run_by  # it loads Keras

        advice = "use gradient_times_input, integrated_gradients or occlusion, which need none"
        with run_by(recurrent_layers(model), of, advice):
            yield
        return
    found = modules_or_none(model)
    for name, module in found.items():
        if module.runner is not None:
            raise OptionError(
                f"'{name}' has an intervention; leave its with block before this call"
            )
    given = []
    try:
        for name, module in found.items():
            set_runner(model, name, module, of(name))
            given.append(name)
        yield
    finally:
        for name in given:
            set_runner(model, name, found[name], None)
