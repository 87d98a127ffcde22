"""The command ``gatewise``, and ``python -m gatewise``. Signal handlers are set before anything else is imported."""

from __future__ import annotations

from functools import partial

from gatewise import signals


def main(argv: list[str] | None = None) -> int:
    """The command's exit code: that of :func:`gatewise.cli.main`, or 128 plus the number of the signal that
    stopped it. A stopped command prints a line on standard error."""
    return signals.exit_code_of(partial(_loaded, argv))


def _loaded(argv: list[str] | None) -> int:
    from gatewise.cli import main

    return main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
