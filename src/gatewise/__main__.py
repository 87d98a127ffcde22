"""The command ``gatewise``, and ``python -m gatewise``: signals are answered before all else is loaded."""

from __future__ import annotations

from functools import partial

from gatewise import signals


def main(argv: list[str] | None = None) -> int:
    """The command's exit code: that of :func:`gatewise.cli.main`, or 128 and the number of the signal that
    stopped it, which a line on standard error then tells."""
    return signals.answered(partial(_loaded, argv))


def _loaded(argv: list[str] | None) -> int:
    from gatewise.cli import main

    return main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
