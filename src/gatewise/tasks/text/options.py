"""Kinds of options of the tasks that read text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from gatewise.arguments import Kind, parse_path
from gatewise.errors import OptionError
from gatewise.options import short_repr
from gatewise.tasks import entry_checks


def file(name: str, value: Any) -> Path:
    """The path of a file, which need not exist any more when a saved model is loaded."""
    if isinstance(value, (str, os.PathLike)):
        return Path(value)
    raise OptionError(f"{name} must be the path of a file, not {short_repr(value)}")


def unlabelled(name: str, value: Any) -> list[Path] | list[str]:
    """Texts without labels: the paths of files and folders, or a list of texts."""
    if isinstance(value, (str, os.PathLike)):
        value = [Path(value)]
    if isinstance(value, Sequence) and value:
        if all(isinstance(each, str) for each in value):
            if all(map(os.path.exists, value)):
                raise OptionError(
                    f"{name} is a list of texts, but {short_repr(value[0])} is the name of a file: give files "
                    f"as pathlib.Path"
                )
            return list(value)
        if all(isinstance(each, os.PathLike) for each in value):
            return [Path(each) for each in value]
    raise OptionError(
        f"{name} must be a path, a list of pathlib.Path or a list of texts, not {short_repr(value)}"
    )


def _saved_texts(value: Any) -> Any:
    """The paths as texts; of texts in memory only their number."""
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return [str(value)]
    if all(isinstance(each, str) for each in value):
        return [f"{len(value)} texts in memory"]
    return [str(each) for each in value]


def _restored_texts(name: str, value: Any) -> list[Path] | None:
    found = entry_checks.or_none(entry_checks.list_of(entry_checks.text))(name, value)
    return None if found is None else [Path(each) for each in found]


TextFile = Annotated[
    str | Path,
    Kind(
        file,
        parse_path,
        "a path",
        "FILE",
        save=lambda value: None if value is None else str(value),
        restore=entry_checks.or_none(entry_checks.text),
    ),
]
Unlabelled = Annotated[
    Any,
    Kind(
        unlabelled,
        parse_path,
        "a path",
        "PATH",
        many="list",
        save=_saved_texts,
        restore=_restored_texts,
    ),
]
