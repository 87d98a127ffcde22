"""Traces of Keras models: the calls of Keras's LSTM, GRU and SimpleRNN, run a second time by gatewise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gatewise.errors import BackendError, OptionError
from gatewise.keras.model import WatchedLoop, twin

_TOLERANCE = 1e-3


def watchers_of(
    modules: Mapping[str, Any],
    sink: Any,
    lengths: Any,
    differentiable: bool,
) -> list[Any]:
    """A watcher for each of the recurrent layers, which are named by their paths."""
    return [KerasCalls(name, layer, sink, lengths) for name, layer in modules.items()]


class KerasCalls:
    """The calls of a Keras layer. While a model is traced, the layer's time loop is watched."""

    def __init__(self, name: str, layer: Any, sink: Any, lengths: Any) -> None:
        self.name, self._layer, self._sink, self._lengths = name, layer, sink, lengths
        self._twin = twin(layer)

    def attach(self) -> list[WatchedLoop]:
        return [WatchedLoop(self._layer, self._trace)]

    def finish(self) -> None:
        """All calls are traced already."""

    def _trace(
        self, sequences: Tensor, state: Any, mask: Any, training: bool | None, result: Any
    ) -> None:
        last = result[0]
        if mask is None and self._lengths is not None:
            lengths = torch.as_tensor(self._lengths)
            if lengths.shape != sequences.shape[:1]:
                raise OptionError(
                    f"lengths has {tuple(lengths.shape)} numbers, and '{self.name}' gets {len(sequences)} sequences"
                )
            mask = torch.arange(sequences.shape[1]) < lengths[:, None]
            last = last.new_empty(0)
        found, trace = self._twin.traced(sequences, state, mask, training)
        if last.numel():
            off = (found.detach() - last.detach()).abs().max()
            if off > _TOLERANCE * last.detach().abs().max().clamp(min=1):
                raise BackendError(
                    f"the output of '{self.name}' differs by {float(off):.2g} from that of Keras's equations with its "
                    f"weights, so it computes something else; leave it out with modules="
                )
        self._sink.put(self.name, trace)
