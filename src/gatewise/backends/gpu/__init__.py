"""The GPU's side of the backend ``triton``: the time loops, and what is launched for a call."""
