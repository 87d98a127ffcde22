"""Keras's recurrent layers on gatewise's kernels: ``gatewise.keras.LSTM`` in place of ``keras.layers.LSTM``.

This package needs the extra ``gatewise[keras]`` and Keras's torch backend. The import chooses that backend
unless another one has been chosen before.
"""

from gatewise.keras.engine import require_torch

require_torch()

from gatewise.keras.layers import GRU, LSTM, SimpleRNN  # noqa: E402  they need keras on torch

__all__ = ["GRU", "LSTM", "SimpleRNN"]
