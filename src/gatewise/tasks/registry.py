"""The table of tasks. A line here adds a task to ``gatewise``, to the command line and to ``gatewise.load``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gatewise.errors import GatewiseError, TaskImportError

# Each task's name on the command line and in saved models, and its class.
TASKS = {
    "forecast": "gatewise.tasks.forecast.forecaster:Forecaster",
    "classify": "gatewise.tasks.classify:Classifier",
    "regress": "gatewise.tasks.regress:Regressor",
}


def task_of(name: str) -> Any:
    """The class of the task with this name.

    Raises:
        TaskImportError: the task's module cannot be imported, or does not have the class.
    """
    module, _, kind = TASKS[name].partition(":")
    try:
        return getattr(import_module(module), kind)
    except GatewiseError:
        raise
    except Exception as error:
        raise TaskImportError(
            f"task {name!r} ({module}) cannot be imported: {str(error) or type(error).__name__}"
        ) from error


def importable_tasks() -> dict[str, Any]:
    """The classes of the tasks whose modules can be imported, by name."""
    found = {}
    for name in TASKS:
        try:
            found[name] = task_of(name)
        except TaskImportError:
            continue
    return found
