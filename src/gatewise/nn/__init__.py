"""Layers: parameters and shapes. What computes is in the backends."""
