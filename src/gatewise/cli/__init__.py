"""The command line. Each verb is a thin call into the library."""

from gatewise.cli.command import main

__all__ = ["main"]
