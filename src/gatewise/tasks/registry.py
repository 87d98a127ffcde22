"""The tasks that there are. A line here adds one: its public name, its verb and its saved models follow."""

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
