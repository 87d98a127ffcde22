"""Reading of data: tables, files and arrays become checked series and sequences."""

from gatewise.data.panel import Panel
from gatewise.data.table import Table, load
from gatewise.data.timeline import Timeline

__all__ = ["Panel", "Table", "Timeline", "load"]
