"""What code written for torch's recurrent layers reads of one, beside calling it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gatewise.nn.config import LayerConfig


class TorchNames:
    """Weights as ``torch.nn.RNNBase`` lists them. They are looked up anew each time, so that what a
    hook, a parametrization or ``functional_call`` has put in a parameter's place is listed."""

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
        """The weights of each layer and direction, those of a layer's two directions one after the
        other."""
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
        """Does nothing: no weights need to lie side by side here."""
