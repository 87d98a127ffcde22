"""The study of a search: Optuna's, kept in a run's folder, where it can be gone on with after any stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need
from gatewise.tasks.ranges import Between
from gatewise.tuning.space import Space

STUDY = "study.db"
_TRIALS = "trials"
_STARTING = 5  # complete trials before the first is pruned
_BESIDE = 3  # trials that have come as far, before one is pruned

# Entries that this file writes to trials.
FOLDER, ERROR, REPEATS, ROUNDS, SECONDS = "folder", "error", "repeats", "rounds", "seconds"
GIVEN = "given"


def opened(folder: Path | None, resume: bool, direction: str) -> Any:
    """The study in ``folder``: a new one, or with ``resume`` the one that is there, if any.

    Raises:
        ModelFileError: it cannot be read.
    """
    optuna: Any = need("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if folder is not None and not resume:
        _clear(folder)
    try:
        study = optuna.create_study(
            storage=None if folder is None else _storage(folder / STUDY),
            study_name="gatewise",
            direction=direction,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(_STARTING, n_min_trials=_BESIDE),
        )
        study.get_trials()
    except Exception as error:  # sqlalchemy's, Optuna's, or a KeyError of a table that isn't one
        raise ModelFileError(
            f"the study {folder}/{STUDY} cannot be read ({type(error).__name__}): tune without --resume "
            f"(resume=False), or into another folder"
        ) from error
    return study


def _storage(path: Path) -> Any:
    """SQLite: a transaction is there or not, whenever the process is killed."""
    optuna: Any = need("optuna", "tune")
    from sqlalchemy.engine import URL

    url = URL.create("sqlite", database=str(path.absolute()))
    return optuna.storages.RDBStorage(url.render_as_string(hide_password=False))


def _clear(folder: Path) -> None:
    """Remove an earlier study and what its trials have left."""
    study = folder / STUDY
    if not study.exists():
        return
    _keep_folders(folder, set())
    for path in (study, folder / f"{STUDY}-journal"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ModelFileError(
                f"cannot remove the earlier study {path}: {error.strerror or error}"
            ) from error


def asked(study: Any, space: Space, seed: int) -> Any:
    """The next trial, with a value for each option of ``space``.

    It is drawn from the seed, the number of trials that have ended, and their results: so a study that is
    resumed goes on as if it had not been stopped. A sampler that was made anew with the same seed would
    draw its first trials again.
    """
    optuna: Any = need("optuna", "tune")
    ended = sum(not interrupted(each) for each in _ended(study))
    drawn = np.random.SeedSequence([seed, ended]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(drawn[0]))
    return study.ask(distributions(space))


def distributions(space: Space) -> dict[str, Any]:
    """Optuna's form of the ranges."""
    optuna: Any = need("optuna", "tune")
    made = optuna.distributions
    found = {}
    for name, each in space.items():
        if not isinstance(each, Between):
            found[name] = made.CategoricalDistribution(each.values)
        elif isinstance(each.low, int):
            found[name] = made.IntDistribution(each.low, each.high, log=each.log)
        else:
            found[name] = made.FloatDistribution(each.low, each.high, log=each.log)
    return found


def take_up_interrupted(study: Any) -> None:
    """Put the trials that were stopped midway in the queue again, each with its own options and folder."""
    optuna: Any = need("optuna", "tune")
    state = optuna.trial.TrialState
    for trial in study.get_trials(states=(state.RUNNING,)):
        study.tell(trial.number, state=state.FAIL)
    for name, trial in _last_by_folder(study).items():
        if interrupted(trial):
            study.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, FOLDER: name})


def _last_by_folder(study: Any) -> dict[str, Any]:
    """Of a trial that was stopped, and those that went on with it, the last one."""
    return {folder_name(trial): trial for trial in study.get_trials()}


def interrupted(trial: Any) -> bool:
    """Whether a trial was stopped midway. A failed one says with what error."""
    return bool(trial.state.name == "FAIL" and ERROR not in trial.user_attrs)


def _ended(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def finished(study: Any) -> list[Any]:
    """The trials that are complete, pruned or failed."""
    return [trial for trial in _ended(study) if not interrupted(trial)]


def complete(study: Any) -> list[Any]:
    """The trials that have a result."""
    return [trial for trial in _ended(study) if trial.state.name == "COMPLETE"]


def best_of(study: Any) -> Any:
    """The first trial with the best result; None where no trial has one."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return min(complete(study), key=lambda trial: (sign * trial.value, trial.number), default=None)


# ------------------------------------------------------------------------------ folders of trials


def folder_name(trial: Any) -> str:
    """The name of a trial's folder: its number, or that of the stopped trial that it goes on with."""
    return str(trial.user_attrs.get(FOLDER, trial.number))


def folder_of(folder: Path, trial: Any) -> Path:
    """Where a trial has its checkpoint, and the best one its model."""
    return folder / _TRIALS / folder_name(trial)


def tidy(study: Any, folder: Path) -> None:
    """Remove the folders of trials that have ended, but for the best one's."""
    best = best_of(study)
    last = _last_by_folder(study).items()
    open_ = {name for name, trial in last if interrupted(trial) or not trial.state.is_finished()}
    _keep_folders(folder, open_ if best is None else open_ | {folder_name(best)})


def _keep_folders(folder: Path, names: set[str]) -> None:
    """Remove the folders of all other trials."""
    parent = folder / _TRIALS
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        if path.name.isdecimal() and path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
    if not names and not any(parent.iterdir()):
        parent.rmdir()
