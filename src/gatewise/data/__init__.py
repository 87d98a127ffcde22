"""Readers: a user's table as series on a regular grid, checked."""

from gatewise.data.panel import Panel
from gatewise.data.table import Table, load
from gatewise.data.timeline import Timeline

__all__ = ["Panel", "Table", "Timeline", "load"]
