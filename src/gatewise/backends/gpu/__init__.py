"""The time loops of the backends ``triton`` and ``cuda``, and what is launched for a call."""
