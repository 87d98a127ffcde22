"""A layer that runs one step of a cell per call, with the interface of ``torch.nn.LSTMCell``."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gatewise.backends.aten import STEPS
from gatewise.backends.contract import Choice, Masks, Outcome, Weights, differentiated
from gatewise.backends.registry import checked_name, choose, explain, run
from gatewise.backends.torch_private import transformed
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError
from gatewise.nn import sentences
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.checks import (
    check_input,
    check_layout,
    check_parameter_names,
    checked_cell,
    checked_size,
    shape_of,
)
from gatewise.nn.config import Configured, LayerConfig
from gatewise.nn.one_call import OneCall
from gatewise.nn.overrides import by_override, overriding
from gatewise.nn.parameters import register_parameters, step_parameters, weights_of
from gatewise.nn.runs import LayerRun, Runner
from gatewise.nn.sequences import State
from gatewise.nn.states import check_state, states_given
from gatewise.options import flag

if TYPE_CHECKING:
    from gatewise.nn.shapes import StepInput, StepState


class RecurrentCell(Configured, nn.Module):
    """One step of any cell, for a loop in the caller's code.

    For sequences that are known as a whole, :class:`gatewise.Recurrent` is many times faster.

    Parameters have the names, shapes and order of torch's cells: ``weight_ih`` G·H×I, ``weight_hh`` G·H×F
    (F is the sum of the widths of the recurrent inputs), ``bias_ih`` and ``bias_hh`` G·H, the norm weights
    ``norm_ih`` and ``norm_hh`` G·H, and the cell's per-unit parameters by name, each H.

    Args:
        cell: a cell made with :func:`gatewise.cell`, or the name of a built-in one.
        input_size: I, the number of features of the input.
        hidden_size: H, the number of units.
        bias: whether the layer has biases.
        backend: "auto", or the name of a backend, which alone is used then.
        layer_norm: as in :class:`gatewise.Recurrent`.

    Raises:
        OptionError: an argument is not valid.
    """

    # for type checkers; the constructor registers the parameters
    weight_ih: Tensor
    weight_hh: Tensor

    # runs the step in place of the chosen backend: see runs.py
    runner: Runner | None = None

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
        cell = checked_cell(cell)
        check_parameter_names(cell)
        self.config = LayerConfig(
            cell=cell,
            input_size=checked_size("input_size", input_size, least=0),
            hidden_size=checked_size("hidden_size", hidden_size, least=0),
            bias=_biased(bias),
            layer_norm=flag("layer_norm", layer_norm),
            single_step=True,
        )
        self.backend = checked_name(backend)
        self._one_call = OneCall(self.config)
        # the name of torch's own function of one step, for calls that _one_call cannot run
        plain = self.backend in ("auto", "aten") and not self.config.layer_norm
        self._torchs = STEPS.get(cell) if plain else None
        register_parameters(self, self.config, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters from U(-1/√H, 1/√H), in torch's order. Norm weights are one."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for name, parameter in self.named_parameters():
            if name in ("norm_ih", "norm_hh"):
                nn.init.ones_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)
            if name == "weight_hh":
                self.config.structure.zero_unconnected(parameter)

    def forward(
        self, input: StepInput, hx: StepState | tuple[StepState, ...] | None = None
    ) -> StepState | tuple[StepState, ...]:
        """The state after one step.

        Args:
            input: B×I, or I for a single sequence.
            hx: the states before the step, each B×H (H for a single sequence): one tensor if the cell
                has one state, otherwise a tuple. The default is zero.

        Returns:
            The states after the step, in the form of ``hx``.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
            BackendError: the backend that ``backend`` names cannot run this call.
        """
        if not isinstance(input, Tensor):
            return by_override(RecurrentCell.forward, self, input, hx)
        batched = input.dim() == 2
        # first, because the checks below would take a good part of the time; it does the checks itself
        fast = self.config.structure.plain and self.runner is None
        if batched and not torch.is_grad_enabled() and fast:
            found = self._one_call.run_step(self.backend, self._parameters, input, hx)
            if found is not None:
                return found
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

    if TYPE_CHECKING:
        __call__ = forward  # torch declares that a call returns Any

    def explain_backend(self, input: Tensor, hx: State | None = None) -> str:
        """A sentence that says which backend would run this call, and why."""
        dtype = autocast_dtype(input)
        x = input if dtype is None else cast(input, dtype)
        states = () if hx is None else states_given(self.cell, hx, single=True)
        if self._torchs is not None and torch.is_grad_enabled():
            return f"aten: torch's own step of {self.cell.name}; it is faster with a gradient"
        return explain(self._choose(x, states, self._weights(dtype)))

    def _step(
        self, input: Tensor, hx: State | None, batched: bool, dtype: torch.dtype | None
    ) -> State:
        x = input if batched else input[None]
        state = self._states(hx, x, batched, dtype)
        if self.runner is not None:
            after = self._by_runner(self.runner, x, state, dtype)
        # torch's functions of one step have no rules for torch.func
        elif self._torchs is not None and (torch.compiler.is_compiling() or not transformed()):
            after = self._by_torch(x, state, dtype)
        else:
            weights = self._weights(dtype)
            check_input(x, weights.input)
            choice = self._choose(x, state, weights)
            after = run(choice, x[None], state, weights, Masks()).state
        after = _unshared(after, state) if batched else tuple(s.squeeze(0).clone() for s in after)
        return after if len(after) > 1 else after[0]

    def _by_runner(
        self, runner: Runner, x: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        weights = self._weights(dtype)
        check_input(x, weights.input)

        def execute(
            x: Tensor,
            state: tuple[Tensor, ...],
            masks: Masks,
            trace: bool,
            any_backend: bool = False,
        ) -> Outcome:
            by_torch = torch.is_grad_enabled() or self.backend == "aten"  # as without a runner
            if self._torchs is not None and by_torch and not trace:
                after = self._by_torch(x[0], state, dtype)
                return Outcome(after[0][None], after)
            choice = self._choose(x[0], state, weights, trace, "auto" if any_backend else None)
            return run(choice, x, state, weights, masks)

        found = runner(
            LayerRun(self.cell, 0, False, x[None], state, weights, Masks(), False, execute)
        )
        return found.state

    def _weights(self, dtype: torch.dtype | None) -> Weights:
        return weights_of(self.config, "", step_parameters(self, self.config, ""), dtype)

    def _by_torch(
        self, x: Tensor, state: tuple[Tensor, ...], dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        """The states after the step, by torch's function, which checks the weights' shapes itself."""
        assert self._torchs is not None
        found = [getattr(self, name) for name in self.config.shapes]
        weights = found if dtype is None else [cast(weight, dtype) for weight in found]
        check_input(x, weights[0])
        given = state if len(state) > 1 else state[0]
        after = getattr(torch, self._torchs)(x, given, *weights)
        return (after,) if isinstance(after, Tensor) else after

    def _choose(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        trace: bool = False,
        backend: str | None = None,
    ) -> Choice:
        config = self.config
        return choose(
            backend or self.backend,
            cell=config.cell,
            input_size=config.input_size,
            hidden_size=config.hidden_size,
            dtype=x.dtype,
            device=x.device,
            layer_norm=config.layer_norm,
            single=True,
            trace=trace,
            differentiated=differentiated((x, *state, *weights.listed(config.cell))),
        )

    def _states(
        self, hx: State | None, x: Tensor, batched: bool, dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        """The states before the step, each B×H, for an input B×I."""
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
            check_state(f"the state {name}", state, expected, x, self.weight_ih, dtype)
        return given if batched else tuple(state[None] for state in given)

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        shown += [] if self.bias else ["bias=False"]
        shown += ["layer_norm=True"] if self.layer_norm else []
        return ", ".join(shown)


def _unshared(after: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states, with copies of those that are the same tensor as an old state or as another new one."""
    unshared = list(after)
    for k, state in enumerate(after):  # torch.compile does not support generators
        for other in (*before, *after[:k]):
            if state is other:
                unshared[k] = state.clone()
    return tuple(unshared)


def _biased(bias: object) -> bool:
    """``bias`` as a bool. torch's cells take the name of a nonlinearity in this place as True."""
    if isinstance(bias, str) and bias in ("tanh", "relu"):
        warnings.warn(
            f"bias={bias!r} is taken as bias=True, as torch takes it; for the nonlinearity of an RNNCell "
            f"give nonlinearity={bias!r}",
            stacklevel=4,
        )
        return True
    return flag("bias", bias)
