"""The command line: verbs, each a thin call into the library."""

from gatewise.cli.command import main

__all__ = ["main"]
