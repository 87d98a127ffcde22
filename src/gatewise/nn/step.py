"""One step of any cell at a call, with ``torch.nn.LSTMCell``'s interface."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.backends.aten import STEPS
from gatewise.backends.contract import Masks, Spec, Weights, differentiated
from gatewise.backends.native.network import Network
from gatewise.backends.registry import checked_name, chosen, run, transformed
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError
from gatewise.nn import sentences
from gatewise.nn.at_once import step_at_once
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.checks import (
    check_input,
    check_layout,
    check_parameter_names,
    checked_cell,
    checked_size,
    shape_of,
)
from gatewise.nn.overrides import by_override, overriding
from gatewise.nn.parameters import step_shapes, weights_of
from gatewise.nn.sequences import State
from gatewise.nn.states import check_state, states_given
from gatewise.nn.structure import structure
from gatewise.options import flag


class RecurrentCell(nn.Module):
    """One step of any cell, for a loop of the caller's own. Where a sequence is there from the start,
    :class:`gatewise.Recurrent` runs it many times as fast.

    Parameters have the names, shapes and order of torch's cells: ``weight_ih`` G·H×I, ``weight_hh``
    G·H×F (F the sum of the widths of the states fed back), ``bias_ih`` and ``bias_hh`` G·H, the gains
    ``norm_ih`` and ``norm_hh`` G·H, and a cell's own by their names, each H.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one.
        input_size: I.
        hidden_size: H.
        bias: whether there are the two biases.
        backend: "auto", or the name of the one backend that is to be used.
        layer_norm: as in :class:`gatewise.Recurrent`.

    Raises:
        OptionError: an argument is out of its range.
    """

    # for type checkers; the constructor makes these by their names
    weight_ih: Tensor
    weight_hh: Tensor

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.cell = checked_cell(cell)
        check_parameter_names(self.cell)
        self.input_size = checked_size("input_size", input_size, least=0)
        self.hidden_size = checked_size("hidden_size", hidden_size, least=0)
        self.bias = _biased(bias)
        self.backend = checked_name(backend)
        self.layer_norm = flag("layer_norm", layer_norm)
        # of a layer's options that its weights depend on, those that a single step does without
        self.proj_size, self.weight_drop = 0, 0.0
        self._structure = structure(self.cell, self.hidden_size, self.hidden_size, 1, 1)
        self._structured = not self._structure.plain
        self._expected = {"": step_shapes(self, self.input_size)}
        self._network: Network | None = None
        # torch's own step, for where the core's one call is not to be had
        plain = self.backend in ("auto", "aten") and not self.layer_norm
        self._torchs = STEPS.get(self.cell) if plain else None
        for name, shape in self._expected[""].items():
            empty = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√H, 1/√H), in torch's order; the gains are one."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for name, parameter in self.named_parameters():
            if name in ("norm_ih", "norm_hh"):
                nn.init.ones_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)
            if name == "weight_hh":
                self._structure.zero_unconnected(parameter)

    def forward(self, input: Tensor, hx: State | None = None) -> Any:
        """The state after one step.

        Args:
            input: B×I, or I for a single sequence.
            hx: the state before, each B×H (H for a single sequence): one tensor where the cell has one
                state, else a tuple. Zero if not given.

        Returns:
            The state after it, in the form of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
            BackendError: the backend asked for by name cannot do this.
        """
        if not isinstance(input, Tensor):
            return by_override(RecurrentCell.forward, self, input, hx)
        batched = input.dim() == 2
        # it takes what fits and leaves the rest to the checks: they'd be a good part of its time
        if batched and (at_once := step_at_once(self, input, hx)) is not None:
            return at_once
        if hx is not None and overriding(hx):
            return by_override(RecurrentCell.forward, self, input, hx)
        check_layout("input", input)
        if (not batched and input.dim() != 1) or input.shape[-1] != self.input_size:
            expected = f"({self.input_size},) or B×{self.input_size}"
            raise ShapeError(
                f"input has the shape {shape_of(input)}, expected {expected}, which is input_size "
                f"({sentences.of_cell_input(type(self).__name__, input, self.input_size)})"
            )
        if (dtype := autocast_dtype(input)) is None:
            return self._step(input, hx, batched, None)
        with torch.autocast(input.device.type, enabled=False):
            return self._step(cast(input, dtype), cast_states(hx, dtype), batched, dtype)

    def explain_backend(self, input: Tensor, hx: State | None = None) -> str:
        """Which backend would run this, and why, in a sentence."""
        dtype = autocast_dtype(input)
        x = input if dtype is None else cast(input, dtype)
        states = () if hx is None else states_given(self.cell, hx, single=True)
        if self._torchs is not None and torch.is_grad_enabled():
            return f"aten: torch's own step of {self.cell.name}; with a gradient it takes less time"
        return chosen(self.backend, **self._fields(x, states, weights_of(self, "", dtype)))[2]

    def _step(
        self, input: Tensor, hx: State | None, batched: bool, dtype: torch.dtype | None
    ) -> Any:
        x = input if batched else input[None]
        state = self._states(hx, x, batched, dtype)
        # torch.func has no rules for these
        if self._torchs is not None and (torch.compiler.is_compiling() or not transformed()):
            after = self._by_torch(x, state, dtype)
        else:
            weights = weights_of(self, "", dtype)
            check_input(x, weights.input)
            fields = self._fields(x, state, weights)
            after = run(self.backend, fields, x[None], state, weights, _no_masks).state
        after = _own(after, state) if batched else tuple(s.squeeze(0).clone() for s in after)
        return after if len(after) > 1 else after[0]

    def _by_torch(
        self, x: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        """torch looks at the weights' shapes itself, in less time than it takes here."""
        assert self._torchs is not None
        found = [getattr(self, name) for name in self._expected[""]]
        weights = found if dtype is None else [cast(weight, dtype) for weight in found]
        check_input(x, weights[0])
        given = state if len(state) > 1 else state[0]
        after = getattr(torch, self._torchs)(x, given, *weights)
        return (after,) if isinstance(after, Tensor) else after

    def _fields(self, x: Tensor, state: tuple[Tensor, ...], weights: Weights) -> dict[str, Any]:
        """What a run's Spec is made of."""
        given = (x, *state, *weights[:7], *weights.per_unit.values())
        return dict(
            cell=self.cell,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
            proj_size=0,
            reverse=False,
            lengths=False,
            trace=False,
            dtype=x.dtype,
            device=x.device,
            layer_norm=self.layer_norm,
            single=True,
            differentiated=differentiated(given),
        )

    def _states(
        self, hx: State | None, x: Tensor, batched: bool, dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        """Each B×H, for an input B×I."""
        names, shape = self.cell.state, (x.shape[0], self.hidden_size)
        if hx is None:
            return tuple(x.new_zeros(shape) for _ in names)
        given = states_given(self.cell, hx, single=True)
        expected = shape if batched else shape[1:]
        for k, (name, state) in enumerate(zip(names, given, strict=True)):
            if state.shape != expected:
                why = sentences.of_cell_state(type(self).__name__, k, given, batched, *shape)
                raise ShapeError(
                    f"the state {name} has the shape {shape_of(state)}, expected {tuple(expected)} ({why})"
                )
            check_state(self, f"the state {name}", state, expected, x, dtype)
        return given if batched else tuple(state[None] for state in given)

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        shown += [] if self.bias else ["bias=False"]
        shown += ["layer_norm=True"] if self.layer_norm else []
        return ", ".join(shown)


def _own(after: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states as tensors of their own: a cell may hand one on as it was, or have one twice."""
    own = list(after)
    for k, state in enumerate(after):  # no generators: torch.compile cannot go through them
        for other in (*before, *after[:k]):
            if state is other:
                own[k] = state.clone()
    return tuple(own)


def _biased(bias: object) -> bool:
    """Whether there are biases. torch's cells take a nonlinearity's name in this place, as one that is
    not nothing, and go on without it."""
    if isinstance(bias, str) and bias in ("tanh", "relu"):
        warnings.warn(
            f"bias={bias!r} is taken as bias=True, as torch takes it; for the nonlinearity of an RNNCell "
            f"give nonlinearity={bias!r}",
            stacklevel=4,
        )
        return True
    return flag("bias", bias)


def _no_masks(spec: Spec) -> Masks:
    return Masks()
