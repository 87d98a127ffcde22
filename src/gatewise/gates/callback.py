"""The training monitor as a callback of Lightning."""

from __future__ import annotations

from typing import Any

from gatewise.errors import missing
from gatewise.gates.monitor import Monitor

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise missing(error, "tasks") from error


class MonitorCallback(Callback):
    """Watches a Lightning module's recurrent layers with a :class:`Monitor` while it is fitted::

        lightning.Trainer(callbacks=[gw.gates.MonitorCallback()]).fit(module, batches)

    Of several training processes only the first one watches.

    Args:
        options: those of :class:`Monitor`.

    Attributes:
        monitor: the monitor, from the start of the fit on; None in the other processes.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.monitor: Monitor | None = None

    @property
    def warnings(self) -> list[str]:
        """The monitor's warnings, as sentences."""
        return [] if self.monitor is None else self.monitor.warnings

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.monitor = Monitor(pl_module, **self.options)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.monitor is not None:
            self.monitor.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()
