"""The training monitor as a callback of Keras."""

from __future__ import annotations

from typing import Any

import gatewise.keras  # noqa: F401  it chooses the torch backend, before Keras is loaded

# isort: split
import keras

from gatewise.gates.monitor import Monitor


class KerasMonitorCallback(keras.callbacks.Callback):
    """Watches a Keras model's recurrent layers with a :class:`gatewise.gates.Monitor` while it is fitted::

        model.fit(x, y, callbacks=[gw.gates.KerasMonitorCallback()])

    Keras calls it after each update of the weights. So a look sees the inputs of a batch, and the weights after
    the step with it.

    Args:
        options: those of :class:`gatewise.gates.Monitor`.

    Attributes:
        monitor: the monitor, from the start of the fit on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.monitor: Monitor | None = None

    @property
    def warnings(self) -> list[str]:
        """The monitor's warnings, as sentences."""
        return [] if self.monitor is None else self.monitor.warnings

    def on_train_begin(self, logs: Any = None) -> None:
        self.on_train_end()  # of a fit that an error has ended
        self.monitor = Monitor(self.model, **self.options)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.monitor is not None:
            self.monitor.step()

    def on_train_end(self, logs: Any = None) -> None:
        if self.monitor is not None:
            self.monitor.close()
