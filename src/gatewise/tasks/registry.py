"""The table of tasks. A line here adds a task to ``gatewise``, to the command line and to ``gatewise.load``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Each task's name on the command line and in saved models, and its class.
TASKS = {
    "forecast": "gatewise.tasks.forecast.forecaster:Forecaster",
    "classify": "gatewise.tasks.classify:Classifier",
    "regress": "gatewise.tasks.regress:Regressor",
}


def task_of(name: str) -> Any:
    """The class of the task with this name."""
    module, _, kind = TASKS[name].partition(":")
    return getattr(import_module(module), kind)
