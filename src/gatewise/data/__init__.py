"""Readers: tables of a user as checked series on a regular grid of steps."""

from gatewise.data.panel import Panel
from gatewise.data.table import Table, load
from gatewise.data.timeline import Timeline

__all__ = ["Panel", "Table", "Timeline", "load"]
