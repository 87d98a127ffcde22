"""A cell through time: one file for each way to run it, all with one contract (see registry.py)."""
