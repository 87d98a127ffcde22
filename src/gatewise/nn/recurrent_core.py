"""The run of stacked recurrent layers over a checked input T×B×I: parameters, states, masks, backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import (
    Choice,
    Masks,
    Outcome,
    Weights,
    differentiated,
    recorded,
)
from gatewise.backends.registry import choose, run
from gatewise.backends.tracing import recorded_by
from gatewise.nn.checks import check_input
from gatewise.nn.config import HIGHWAY_BIAS, Configured
from gatewise.nn.layer_loop import LayersOutcome, run_layers
from gatewise.nn.masks import make_masks, mask_kinds
from gatewise.nn.parameters import learned_states, other_parameter, step_parameters, weights_of
from gatewise.nn.runs import LayerRun, Runner
from gatewise.nn.sequences import State
from gatewise.nn.states import initial_states, states_of_runs, zero_states
from gatewise.nn.torch_names import TorchNames


def _by_another_tracer(tensors: Sequence[Tensor | None]) -> bool:
    """Whether something other than torch.compile records the operations on these tensors."""
    compiling = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    return not compiling and recorded(tensors)


class RecurrentCore(Configured, TorchNames, nn.Module):
    """The base of :class:`gatewise.Recurrent`. It runs the layers over an input T×B×I of one dtype."""

    # set by the constructor of Recurrent
    backend: str
    dropout: float
    recurrent_dropout: float
    zoneout: tuple[float, ...]
    weight_drop: float
    locked_dropout: bool

    # runs a layer in one direction in place of the chosen backend: see runs.py
    runner: Runner | None = None

    # for type checkers; the constructor registers the parameters of all layers
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def reset_parameters(self) -> None:
        """Draws the parameters from U(-1/√H, 1/√H), in torch's order.

        Norm weights are one. Learned initial states, and recurrent weights between a gate and a state
        that are not connected, are zero. Highway biases are -1.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        fixed = {"norm_ih": 1.0, "norm_hh": 1.0, "highway_bias": HIGHWAY_BIAS}
        fixed |= {f"initial_{state}": 0.0 for state in self.cell.state}
        for name, parameter in self.named_parameters():
            kind = name.rpartition("_l")[0]
            if kind in fixed:
                nn.init.constant_(parameter, fixed[kind])
            else:
                nn.init.uniform_(parameter, -bound, bound)
            if kind == "weight_hh":
                self.config.structure.zero_unconnected(parameter)

    def _initial_states(
        self,
        hx: State | None,
        x: Tensor,
        batched: bool,
        dtype: torch.dtype | None = None,
        packed: bool = False,
    ) -> tuple[Tensor, ...]:
        """L·D×B×(P or H) for each of the cell's states."""
        config, learned = self.config, None
        if hx is None and config.learn_initial:
            learned = learned_states(self, config, x, dtype)
        options: dict[str, Any] = dict(learned=learned, dtype=dtype, packed=packed)
        return initial_states(config, hx, x, batched, self.weight_ih_l0, **options)

    def _states_of_runs(
        self,
        hx: State | None,
        x: Tensor,
        batched: bool,
        dtype: torch.dtype | None,
        packed: bool,
    ) -> list[tuple[Tensor, ...]]:
        """The initial states of each layer and direction."""
        if hx is None and not self.config.learn_initial:
            return zero_states(self.config, x)
        return states_of_runs(self.config, self._initial_states(hx, x, batched, dtype, packed))

    def _weights(self, suffix: str, dtype: torch.dtype | None = None, drop: float = 0.0) -> Weights:
        stored = step_parameters(self, self.config, suffix)
        return weights_of(self.config, suffix, stored, dtype, drop)

    def _mask_kinds(self, reset: object) -> tuple[str, ...]:
        return mask_kinds(reset, self._in_training(self.recurrent_dropout), self.zoneout)

    def _in_training(self, probability: float) -> float:
        return probability if self.training else 0.0

    def _choose(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        layer: int,
        reverse: bool,
        masks: tuple[str, ...],
        trace: bool,
        backend: str | None = None,
    ) -> Choice:
        """The backend for one layer in one direction; ``backend`` is used in place of the option."""
        config = self.config
        # a compiled or recorded graph must hold for any number of steps and sequences
        known = x.is_cuda and not (torch.compiler.is_compiling() or recorded_by())
        steps, batch = x.shape[:2] if known else (0, 0)
        return choose(
            backend or self.backend,
            cell=config.cell,
            input_size=config.layer_input_size(layer),
            hidden_size=config.hidden_size,
            proj_size=config.proj_size,
            reverse=reverse,
            trace=trace,
            dtype=x.dtype,
            device=x.device,
            layer_norm=config.layer_norm,
            masks=masks,
            differentiated=differentiated((x, *state, *weights.listed(config.cell))),
            steps=steps,
            batch=batch,
            in_graph=trace and _by_another_tracer((x, *state, *weights.listed(config.cell))),
        )

    def _run_layers(
        self,
        x: Tensor,
        states: Sequence[tuple[Tensor, ...]],
        lengths: Tensor | None,
        reset: Tensor | None,
        trace: bool,
        dtype: torch.dtype | None,
    ) -> LayersOutcome:
        config, kinds = self.config, self._mask_kinds(reset)
        drop = self._in_training(self.weight_drop)
        options: dict[str, Any] = dict(
            recurrent_dropout=self.recurrent_dropout, zoneout=self.zoneout, training=self.training
        )

        def run_one(
            layer: int, reverse: bool, suffix: str, x: Tensor, state: tuple[Tensor, ...]
        ) -> Outcome:
            weights = self._weights(suffix, dtype, drop)
            check_input(x, weights.input)
            masks = make_masks(kinds, config, x, lengths, reset, reverse=reverse, **options)
            if self.runner is None:
                choice = self._choose(x, state, weights, layer, reverse, kinds, trace)
                return run(choice, x, state, weights, masks)

            def execute(
                x: Tensor,
                state: tuple[Tensor, ...],
                masks: Masks,
                trace: bool,
                any_backend: bool = False,
            ) -> Outcome:
                backend = "auto" if any_backend else None
                choice = self._choose(x, state, weights, layer, reverse, kinds, trace, backend)
                return run(choice, x, state, weights, masks)

            return self.runner(
                LayerRun(config.cell, layer, reverse, x, state, weights, masks, trace, execute)
            )

        connect = None if config.connect == "plain" else partial(self._connected, dtype=dtype)
        names = tuple(config.cell.values) if trace else ()
        return run_layers(
            config.suffixes, x, states, run_one, self._dropped, connect=connect, traced=names
        )

    def _dropped(self, x: Tensor) -> Tensor:
        """A layer's output after dropout, as the next layer's cells read it."""
        if self.locked_dropout and self.training:
            return x * F.dropout(x.new_ones(1, *x.shape[1:]), self.dropout)
        return F.dropout(x, self.dropout, self.training)  # with the draws of torch's layers

    def _connected(
        self, layer: int, output: Tensor, below: Tensor, *, dtype: torch.dtype | None
    ) -> Tensor:
        """A layer's output with its residual or highway connection to ``below``, the layer's input.

        Both are zero in the padding, and so is the result."""
        if layer == 0:
            return output
        if self.config.connect == "residual":
            return output + below
        weight, bias = (
            other_parameter(self, self.config, f"highway_{part}_l{layer}", output, dtype)
            for part in ("weight", "bias")
        )
        t = torch.sigmoid(F.linear(below, weight, bias))
        return t * output + (1 - t) * below
