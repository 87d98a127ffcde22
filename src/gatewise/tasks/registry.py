"""The table of tasks. A line here adds a task to ``gatewise``, to the command line and to ``gatewise.load``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from gatewise.errors import GatewiseError, TaskImportError, missing

# For each task the kinds of data that it accepts (see data.sources), each with the class that reads it.
# The names are those on the command line and in saved models.
TASKS: dict[str, dict[str, str]] = {
    "forecast": {"series": "gatewise.tasks.forecast.forecaster:Forecaster"},
    "classify": {
        "series": "gatewise.tasks.classify:Classifier",
        "arrays": "gatewise.tasks.classify:Classifier",
        "text": "gatewise.tasks.text.classify:TextClassifier",
    },
    "regress": {
        "series": "gatewise.tasks.regress:Regressor",
        "arrays": "gatewise.tasks.regress:Regressor",
    },
    "generate": {
        "text": "gatewise.tasks.text.generate:LanguageModel",
        "music": "gatewise.tasks.music.generate:MusicModel",
    },
    "translate": {"text": "gatewise.tasks.text.translate:Translator"},
}

# The flag that names a source on the command line, and its values if not all do. Without such a flag, a task
# reads its first source.
_NAMED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "text": ("--text", ()),
    "music": ("--unit", ("event", "step")),
}


def sources_of(task: str) -> list[str]:
    """The sources of a task that have a class of their own. The first is the default."""
    places = TASKS[task]
    return [s for k, s in enumerate(places) if places[s] not in list(places.values())[:k]]


def source_in(task: str, words: Sequence[str]) -> str:
    """The source that the words of a command line name for a task."""
    for source in sources_of(task):
        flag, values = _NAMED_BY.get(source, ("", ()))
        for at, word in enumerate(words):
            given, _, value = word.partition("=")
            value = value or "".join(words[at + 1 : at + 2])
            if flag and given == flag and (not values or value in values):
                return source
    return sources_of(task)[0]


def naming(source: str) -> str:
    """The words of a command line that name a source; "" if no flag names it."""
    flag, values = _NAMED_BY.get(source, ("", ()))
    return f"{flag} {values[0] if values else 'COLUMN'}" if flag else ""


def task_of(name: str, source: str | None = None) -> Any:
    """The class of the task with this name for a source. The default is the task's first source.

    Raises:
        TaskImportError: the task's module cannot be imported, or does not have the class.
    """
    places = TASKS[name]
    module, _, kind = places[source or next(iter(places))].partition(":")
    try:
        return getattr(import_module(module), kind)
    except GatewiseError:
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and module.startswith("gatewise."):
            why = str(missing(error, "tasks"))
        raise TaskImportError(f"task {name!r} ({module}) cannot be imported: {why}") from error


def place_of(kind: type) -> tuple[str, str]:
    """The task and the source of a task's class, or of the nearest base that is in the table."""
    for each in kind.__mro__:
        for task in TASKS:
            for source in sources_of(task):
                if TASKS[task][source] == f"{each.__module__}:{each.__qualname__}":
                    return task, source
    raise KeyError(f"{kind.__name__} has no line in TASKS")


def importable_tasks() -> dict[str, Any]:
    """The classes of tasks whose modules can be imported, by name; ``name (source)`` for the further classes of
    a task."""
    found = {}
    for task in TASKS:
        for at, source in enumerate(sources_of(task)):
            try:
                found[task if at == 0 else f"{task} ({source})"] = task_of(task, source)
            except TaskImportError:
                continue
    return found
