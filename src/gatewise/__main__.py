"""The command ``gatewise``, and ``python -m gatewise``: signals are answered before all else is loaded."""

from gatewise import signals


def main() -> int:
    """The command's exit code."""
    return signals.answered(_loaded)


def _loaded() -> int:
    from gatewise.cli import main

    return main()


if __name__ == "__main__":
    raise SystemExit(main())
