"""A cell's graph as text."""
