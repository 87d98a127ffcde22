"""Keras's recurrent layers on gatewise's kernels: ``from gatewise.keras import LSTM`` for Keras's own.

Needs the extra ``gatewise[keras]`` and Keras's torch backend, which this import chooses where nothing
else has been chosen.
"""

from gatewise.keras.engine import require_torch

require_torch()

from gatewise.keras.layers import GRU, LSTM, SimpleRNN  # noqa: E402  they need keras on torch

__all__ = ["GRU", "LSTM", "SimpleRNN"]
