"""Streams: a layer that runs one step per call, keeps its state, and packs its weights once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from gatewise.backends.contract import Weights, in_double
from gatewise.backends.registry import streaming
from gatewise.backends.torch_private import tracing_state
from gatewise.backends.tracing import check_unrecorded
from gatewise.errors import BackendError, OptionError, ShapeError
from gatewise.nn.config import LayerConfig
from gatewise.nn.states import states_given
from gatewise.options import integer

_ROWS = {torch.float32: "float32", torch.float64: "float64"}


# The input of one step: B×I, or I for one sequence.
Row = Tensor | np.ndarray[Any, Any]


class Stream:
    """A layer that runs one step at a time. :meth:`gatewise.Recurrent.stream` makes it.

    ``step(row)`` takes the next input of every sequence: a C-contiguous NumPy array or CPU tensor of the
    layer's dtype, B×I (or I for a stream of one sequence). It returns the layer's output for this step, a
    new NumPy array B×P (or P). P is H without a projection. The results are those of the layer on the
    whole sequence. Later changes of the layer's weights, or of torch's settings of precision, do not change the
    stream.

    ``select(rows)`` chooses and repeats sequences. The batch is then at most that at the beginning.

    Raises:
        OptionError: the layer is bidirectional, or ``batch`` is not a positive integer.
        BackendError: the CPU kernels cannot run the layer's cell, dtype or device.
    """

    def __init__(
        self,
        config: LayerConfig,
        weights: Sequence[Weights],
        zoneout: Sequence[float],
        batch: int,
    ) -> None:
        check_unrecorded("a stream")
        if config.bidirectional:
            raise OptionError(
                "a bidirectional layer cannot stream, because it reads each sequence from its end too"
            )
        batch, weight = integer("batch", batch), weights[0].input
        if weight.dtype not in _ROWS or weight.device.type != "cpu":
            raise BackendError(
                f"streams run in float32 and float64 on the CPU; this layer is {weight.dtype} on "
                f"'{weight.device}'"
            )
        cell, dtype = config.cell, weight.dtype
        self._batch, self._inputs, self._dtype = batch, config.input_size, dtype
        self._most = batch
        self._wide = config.layer_norm and in_double(cell, config.hidden_size, dtype)
        if self._wide:
            weights, dtype = [each.double() for each in weights], torch.float64
        self._cell, sizes = cell, config.state_sizes
        self._all = tuple(torch.zeros(config.num_layers, batch, n, dtype=dtype) for n in sizes)
        shares = None
        if any(zoneout):
            pairs = zip(zoneout, sizes, strict=True)
            shares = tuple(torch.full((1, 1, n), p, dtype=dtype) for p, n in pairs)
        states = [[s[k] for s in self._all] for k in range(config.num_layers)]
        self._native = streaming(cell).stream(cell, states, weights, shares)

    def step(self, row: Row) -> np.ndarray[Any, Any]:
        """The output for the next input of each sequence.

        Raises:
            ShapeError: the row does not fit.
            BackendError: torch.jit.trace is running; it would record the output as a constant.
        """
        if tracing_state() is not None:
            check_unrecorded("a stream")
        if self._wide:
            return self._step_in_double(row)
        output = self._native.step(row)
        return output if output is not None else self._misfit(row)

    def _step_in_double(self, row: Row) -> np.ndarray[Any, Any]:
        """``step`` for a float32 layer that runs in double precision."""
        fits = getattr(row, "dtype", None) in (np.float32, torch.float32)
        output = self._native.step(np.asarray(row, np.float64)) if fits else None
        return output.astype(np.float32) if output is not None else self._misfit(row)

    def _misfit(self, row: Row) -> NoReturn:
        shape = f"({self._batch}, {self._inputs})"
        if self._batch == 1:
            shape = f"({self._inputs},) or {shape}"
        found = f"{type(row).__name__} of shape {tuple(getattr(row, 'shape', ()))}"
        dtype = getattr(row, "dtype", None)
        raise ShapeError(
            f"step takes a contiguous {_ROWS[self._dtype]} array of shape {shape}, not a "
            f"{found}{f' and dtype {dtype}' if dtype is not None else ''}"
        )

    def select(self, rows: Tensor) -> None:
        """Replaces the sequences by those with the indices ``rows``, in this order. An index may repeat.

        Raises:
            ShapeError: the indices do not fit, or are more than the sequences at the beginning.
        """
        if rows.dim() != 1 or rows.dtype != torch.int64 or not 1 <= len(rows) <= self._most:
            raise ShapeError(
                f"select takes 1 to {self._most} indices of dtype torch.int64, not a tensor of shape "
                f"{tuple(rows.shape)} and dtype {rows.dtype}"
            )
        least, greatest = map(int, rows.aminmax())
        if least < 0 or greatest >= self._batch:
            raise ShapeError(
                f"select takes indices from 0 to {self._batch - 1}, not {least if least < 0 else greatest}"
            )
        chosen = [s.index_select(1, rows) for s in self._all]
        if len(rows) != self._batch:
            self._batch = len(rows)
            self._native.resize(self._batch)
        for ours, new in zip(self._state, chosen, strict=True):
            ours.copy_(new)

    @property
    def _state(self) -> tuple[Tensor, ...]:
        """The states of the present sequences, which are the first rows of memory for the greatest batch."""
        return tuple(s[:, : self._batch] for s in self._all)

    @property
    def state(self) -> Tensor | tuple[Tensor, ...]:
        """A copy of the present state, as a call of the layer returns it: L×B×P for the first state and
        L×B×H for others."""
        copies = tuple(s.to(self._dtype, copy=True).contiguous() for s in self._state)
        return copies if len(copies) > 1 else copies[0]

    @state.setter
    def state(self, given: Tensor | Sequence[Tensor]) -> None:
        states = states_given(self._cell, given)
        for name, ours, new in zip(self._cell.state, self._state, states, strict=True):
            if new.shape != ours.shape or new.dtype != self._dtype:
                raise ShapeError(
                    f"the state {name} has the shape {tuple(new.shape)} and dtype {new.dtype}, expected "
                    f"{tuple(ours.shape)} and {self._dtype}"
                )
        for ours, new in zip(self._state, states, strict=True):
            ours.copy_(new.detach())

    def reset(self) -> None:
        """Sets all states to zero."""
        for state in self._all:
            state.zero_()
