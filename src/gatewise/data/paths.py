"""The check that a path which a user gave exists, and the error if it does not."""

from __future__ import annotations

import os
from pathlib import Path

from gatewise.errors import DataError, near

_SHOWN = 60  # characters of a path that has no file


def check_exists(path: Path, what: str = "file", hint: str = "") -> None:
    """Raises DataError if there is nothing at ``path``.

    Args:
        what: what it should be, for the message.
        hint: what the message ends with if no file beside it has a similar name.
    """
    # os.path, because the methods of Path raise OSError for a text that is longer than a name may be
    if os.path.exists(path):
        return
    nearby = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    raise DataError(f"no {what} {shown(path)}{near(path.name, nearby) or hint}")


def hint_of_text(path: Path) -> str:
    """What a message says if ``path`` has several words and so is probably a text that was given alone."""
    several = len(path.name.split()) > 1 and not path.suffix
    return "; a text itself must be in a list of texts" if several else ""


def shown(path: Path) -> str:
    """The path for a message, shortened if it is a long text rather than a path."""
    text = str(path)
    return text if os.path.lexists(path.parent) and len(path.name) < 256 else f"{text[:_SHOWN]}…"
