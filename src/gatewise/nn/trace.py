"""Traces: every named value of a layer's cell, at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import Adjoints
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, near

# What draws a trace, by the name of the method. A room above this one registers it.
DRAWINGS: dict[str, Callable[..., Any]] = {}


class Trace:
    """The named values of a cell, by layer and direction.

    ``trace.f[layer][direction]`` (or ``trace["f"][layer][direction]``) is B×T×H, also for a layer that is
    not ``batch_first``. Padding is zero.

    Attributes:
        names: the names of the values.
        lengths: B integers, the lengths of the sequences, or None if none were given.
        cell: the :class:`gatewise.Cell`, or None for a layer that has none (an mLSTM).
        calls: the number of steps of each call of the module, if :func:`gatewise.trace` joined several.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        lengths: Tensor | None,
        cell: Cell | None = None,
        adjoints: Callable[[Tensor], Trace] | None = None,
        calls: Sequence[int] = (),
    ) -> None:
        self._values = dict(values)
        self.lengths = lengths
        self.cell = cell
        self.calls = tuple(calls)
        self._adjoints = adjoints

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def __getitem__(self, name: str) -> list[list[Tensor]]:
        if name not in self._values:
            raise OptionError(self._unknown(name))
        return self._values[name]

    def __getattr__(self, name: str) -> list[list[Tensor]]:
        if name.startswith("_"):  # copy and pickle look names up before _values exists
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(self._unknown(name))
        return self._values[name]

    def _unknown(self, name: str) -> str:
        """The message for a name that is not that of a traced value."""
        names = ", ".join(self._values)
        return f"no '{name}' in this trace{near(name, self._values)}; it has: {names}"

    @property
    def differentiable(self) -> bool:
        """Whether :meth:`gradients` has an answer."""
        return self._adjoints is not None

    def gradients(self, of: Tensor) -> Trace:
        """The gradient of a number with respect to each traced value at each step, as a trace.

        It is the whole derivative: of a step's value along every path to the number, also through all later
        steps. The number must have been computed from the layer's output or from the trace, in a call that
        was differentiable. The graph is kept, so that it can be used again.

        Args:
            of: a tensor with one number, such as a logit or a loss.

        Raises:
            OptionError: the trace has no gradient, or ``of`` is not one number that depends on parameters.
        """
        if self._adjoints is None:
            raise OptionError(
                "this trace has no gradient: trace a recurrent layer with gradients enabled, by "
                "gatewise.trace(…, differentiable=True)"
            )
        if not isinstance(of, Tensor) or of.numel() != 1 or not of.requires_grad:
            shown = tuple(of.shape) if isinstance(of, Tensor) else type(of).__name__
            raise OptionError(
                f"gradients takes a tensor with one number that was computed with gradients enabled, not "
                f"{shown}; sum it, or take one of its numbers"
            )
        return self._adjoints(of)

    def plot(self, **options: Any) -> Any:
        """A figure of matplotlib with a heat map, units × steps, of each value of one sequence.

        Args:
            **options: ``layer``, ``direction``, ``sequence`` and the other arguments of
                :func:`gatewise.gates.gate_map`.
        """
        return self._drawn("plot", options)

    def view(self, **options: Any) -> Any:
        """The page of these gates, for the last line of a notebook's cell.

        Args:
            **options: ``title``, ``strips``, ``predictions``, ``height`` and the other arguments of
                :func:`gatewise.gates.notebook_page`.
        """
        return self._drawn("view", options)

    def _drawn(self, kind: str, options: Mapping[str, Any]) -> Any:
        if kind not in DRAWINGS:
            raise OptionError(
                f"{kind}() draws a trace in gatewise.gates: import gatewise.gates first"
            )
        return DRAWINGS[kind](self, **options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the values and no gradients, which belong to a graph."""
        return {**self.__dict__, "_adjoints": None}

    def __repr__(self) -> str:
        layers = next(iter(self._values.values()))
        shape = "×".join(map(str, layers[0][0].shape))
        return f"<trace of {', '.join(self._values)}: layers {len(layers)}, directions {len(layers[0])}, {shape}>"


def adjoints_of(
    each: Sequence[Sequence[Adjoints]] | None, lengths: Tensor | None, cell: Cell
) -> Callable[[Tensor], Trace] | None:
    """The argument ``adjoints`` of a Trace, from those of each layer and direction."""
    if each is None:
        return None

    def gradients(of: Tensor) -> Trace:
        runs = [adjoints for of_layer in each for adjoints in of_layer]
        inputs = [adjoints.inputs() for adjoints in runs]
        flat = [tensor for given in inputs for tensor in given]
        found = iter(torch.autograd.grad(of, flat, retain_graph=True, allow_unused=True))
        named = [
            run.gradients([next(found) for _ in given])
            for run, given in zip(runs, inputs, strict=True)
        ]
        ahead = iter(named)
        by_layer = [[next(ahead) for _ in of_layer] for of_layer in each]
        values = {
            name: [[one[name].transpose(0, 1) for one in of_layer] for of_layer in by_layer]
            for name in named[0]
        }
        return Trace(values, lengths, cell)

    return gradients
