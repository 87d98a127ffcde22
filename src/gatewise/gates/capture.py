"""The trace of any model: every gate and state of its recurrent modules, at every step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import OptionError, near, some
from gatewise.gates.calls import watcher
from gatewise.gates.find import find_modules, is_keras
from gatewise.gates.joining import joined
from gatewise.gates.notebook import PageView, notebook_page
from gatewise.gates.pieces import InMemory, InStore
from gatewise.gates.store import read_store
from gatewise.nn.trace import Trace
from gatewise.options import flag, integer


class Traces(Mapping[str, Trace]):
    """The traces of a model's recurrent modules, by their names in the model.

    Attributes:
        output: what the model returned, or None for traces that were read from a store.
    """

    def __init__(self, traces: Mapping[str, Trace], output: Any = None) -> None:
        self._traces, self.output = dict(traces), output

    @classmethod
    def load(cls, store: str | Path) -> Traces:
        """The traces in a store that :func:`gatewise.trace` wrote. Values are read when they are used: each is
        like a tensor B×T×H of which ``trace.f[0][0][:, 100:200]`` reads only a part.

        Raises:
            DataError: there is no store, or it is damaged; a damaged part may only be found when it is read.
            MissingExtraError: zarr is not installed.
        """
        return cls(read_store(Path(store)))

    def gradients(self, of: Tensor) -> Traces:
        """The gradients of a number with respect to all traced values: see :meth:`gatewise.Trace.gradients`."""
        return Traces({name: trace.gradients(of) for name, trace in self.items()})

    def view(self, **options: Any) -> PageView:
        """The page of all these modules in a notebook: see :meth:`gatewise.Trace.view`."""
        return notebook_page(self, **options)

    def __getitem__(self, name: str) -> Trace:
        if name not in self._traces:
            raise OptionError(
                f"no module '{name}' in these traces{near(name, self._traces)}; there are: "
                f"{', '.join(self._traces)}"
            )
        return self._traces[name]

    def __contains__(self, name: object) -> bool:
        return name in self._traces

    def get(self, name: str, default: Any = None) -> Any:
        return self._traces.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {trace!r}" for name, trace in self.items())


def trace(
    model: Any,
    *inputs: Any,
    lengths: Any = None,
    modules: str | Sequence[str] | None = None,
    differentiable: bool = False,
    memory: int | None = None,
    store: str | Path | None = None,
    **named_inputs: Any,
) -> Traces:
    """Runs a model, and returns every gate and state of its recurrent modules at every step.

    The model is any ``torch.nn.Module`` that calls gatewise's or torch's recurrent modules, or a Keras model on
    the torch backend, or a fitted task. It is not changed, and neither is its output. A module of torch or of
    Keras is traced by gatewise's kernels, from the inputs and weights of the call, with the dropout masks that
    it drew. Modules that are called directly as ``module.forward(x)`` are not seen.

    The names are those of ``model.named_modules()``; a model that is itself a layer is called "model". The
    layers of a :class:`gatewise.Stack` and of a :class:`gatewise.HybridBlock` have names of their own. The two
    layers of a :class:`gatewise.Bidirectional` are the directions of one trace. Several calls of a module are
    joined along time, in their order: ``trace.calls`` has their numbers of steps. So a step cell, such as
    ``torch.nn.LSTMCell`` in a decoder's loop, has a trace with a step for each call.

    Args:
        model: the model; a task such as a fitted :class:`gatewise.Forecaster`.
        *inputs: the arguments of the model; for a task the data, as ``predict`` takes them.
        lengths: B integers, the length of each sequence. The model gets them if its ``forward`` has the argument
            ``lengths``. Otherwise they are the lengths of the recurrent modules' inputs in the trace, and the
            model's output is unchanged.
        modules: the name of a recurrent module, or several; the default is all.
        differentiable: whether gradients flow through the output and the traced values to parameters and
            inputs. Otherwise the model runs without gradients. See also :meth:`Trace.gradients`.
        memory: the greatest number of bytes of the traced values, by default half of the machine's memory; with
            ``store`` the number of bytes that are computed at once, by default 256 MiB.
        store: a new folder for the traces, a Zarr v3 store. They are written in parts, and read when they are
            used. This needs the extra ``gatewise[gates]``.

        **named_inputs: the keyword arguments of the model.

    Returns:
        A mapping from the names of modules to :class:`gatewise.Trace`, and as ``.output`` the model's output.

    Raises:
        OptionError: the model has no recurrent module, or called none; no module has the name; a module's calls
            cannot be joined.
        ShapeError: an input does not fit.
        TooLargeError: the traced values take more than ``memory``. The message says how much.
        BackendError: a module computes something else than torch's equations.
    """
    run, model = _runner(model, inputs, named_inputs)
    if is_keras(model):
        from gatewise.keras.tracing import watchers_of  # it loads Keras
    else:
        watchers_of = _watchers
    differentiable = flag("differentiable", differentiable)
    if store is not None and differentiable:
        raise OptionError("differentiable=True needs the traces in memory; leave store= out")
    if memory is not None:
        memory = integer("memory", memory)
    if lengths is not None and "lengths" in _parameters(model):
        run, lengths = partial(run, lengths=lengths), None
    sink: Any = InMemory(memory) if store is None else InStore(Path(store), memory)
    watchers = watchers_of(find_modules(model, modules), sink, lengths, differentiable)
    handles: list[Any] = []
    try:
        for each in watchers:
            handles += each.attach()
        with torch.set_grad_enabled(differentiable):
            output = run()
            for each in watchers:
                each.finish()
        found = sink.close([each.name for each in watchers])
    finally:
        for handle in handles:
            handle.remove()
        sink.discard()
    if not found:
        raise OptionError(
            f"the model did not call its recurrent modules ({some([w.name for w in watchers], 5)}) as "
            f"module(x); a call of module.forward(x) is not seen"
        )
    if store is not None:
        return Traces(read_store(Path(store)), output)
    return Traces({name: joined(name, each) for name, each in found.items()}, output)


def _runner(model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, Any]:
    """A function that runs the model, and the model: for a task its network."""
    if isinstance(model, nn.Module):
        compiled = getattr(
            model, "_orig_mod", None
        )  # torch.compile's: its graphs would run no hook
        model = model if compiled is None else compiled
        return partial(model, *inputs, **named), model
    if hasattr(model, "run_inputs") and hasattr(model, "check_fitted"):
        model.check_fitted()
        if len(inputs) != 1 or named:
            raise OptionError(
                f"a trace of a {type(model).__name__} takes one argument, the data that predict takes"
            )
        network = model.network_
        return partial(model.run_inputs, network, model.inputs(inputs[0])), network
    raise OptionError(
        f"trace takes a torch.nn.Module, a Keras model on the torch backend or a fitted task, not "
        f"{type(model).__name__}"
    )


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of the model's ``forward``, unless the model is itself a recurrent layer of torch's."""
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}


def _watchers(
    modules: Mapping[str, Any],
    sink: Any,
    lengths: Any,
    differentiable: bool,
) -> list[Any]:
    """A watcher for each of the recurrent modules."""
    return [
        watcher(module)(name, module, sink, lengths, differentiable)
        for name, module in modules.items()
    ]
