"""The time loops of the backend ``triton``, and what is launched for a call."""
