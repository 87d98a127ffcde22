"""Backends, which run a cell through time: one module each, with the contract of contract.py."""
