"""Loading of a saved model of any task."""

from __future__ import annotations

from pathlib import Path

from gatewise.errors import ModelFileError
from gatewise.tasks.base import Task
from gatewise.tasks.saved import INVALID, read_model, rebuilt


def load(folder: str | Path) -> Task:
    """The model in a folder that ``save`` wrote.

    While another process saves to the folder, this returns either the old or the new model.

    Raises:
        ModelFileError: the folder is not a saved model, is damaged, or was written by a newer gatewise.
    """
    folder = Path(folder)
    described, data = read_model(folder)
    try:
        model: Task = rebuilt(described, data)
    except INVALID as error:
        raise ModelFileError(f"the model in {folder} is damaged: {error}") from error
    return model
