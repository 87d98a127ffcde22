"""The attributes of torch's recurrent layers that code written for them reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gatewise.nn.config import LayerConfig


class TorchNames:
    """The lists of weights of ``torch.nn.RNNBase``.

    Each access looks the weights up, so that the lists have what a hook, a parametrization or
    ``functional_call`` has put in a parameter's place."""

    config: LayerConfig

    @property
    def _all_weights(self) -> list[list[str]]:
        return [
            [name + suffix for name in each] for suffix, each in self.config.step_shapes.items()
        ]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of each layer and direction; a layer's two directions follow each other."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [weight for weights in self.all_weights for weight in weights]

    @_flat_weights.setter
    def _flat_weights(self, weights: Sequence[Tensor]) -> None:
        for name, weight in zip(self._flat_weights_names, weights, strict=True):
            if weight is not getattr(self, name):
                setattr(self, name, weight)

    def flatten_parameters(self) -> None:
        """Does nothing, because gatewise needs no contiguous weights."""
