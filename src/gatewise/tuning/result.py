"""What a search found: the best model, and the table of its trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gatewise.errors import need
from gatewise.report.scores import NAMES
from gatewise.tuning import study as studies

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
STOPPED = "stopped"
_ENOUGH = 8  # different complete trials, below which nothing is said of what mattered


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: from 0 on.
        state: "complete", "pruned" (ended early), "failed", or "stopped" (to be gone on with).
        value: what it reached on the validation part; None where it is not complete.
        options: the values that were tried.
        rounds: how many rounds it was trained.
        seconds: how long it took.
        repeats: the earlier trial of the same options, of which it has the result; else None.
        error: why it failed; else "".
        given: whether it has the estimator's own options.
    """

    number: int
    state: str
    value: float | None
    options: dict[str, Any]
    rounds: int
    seconds: float
    repeats: int | None
    error: str
    given: bool


def trial_of(found: Any) -> Trial:
    """The record of a trial of Optuna's."""
    known = found.user_attrs
    stopped = studies.interrupted(found) or not found.state.is_finished()
    complete = found.state.name == "COMPLETE"
    return Trial(
        number=found.number,
        state=STOPPED if stopped else STATES[found.state.name],
        value=found.value if complete else None,
        options=dict(found.params),
        rounds=known.get(studies.ROUNDS, len(found.intermediate_values)),
        seconds=known.get(studies.SECONDS, 0.0),
        repeats=known.get(studies.REPEATS),
        error=known.get(studies.ERROR, ""),
        given=known.get(studies.GIVEN, False),
    )


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        model: the best trial's model, fitted.
        best: that trial.
        trials: all of them.
        metric: the score by which they were compared; None for the validation loss.
        logarithmic: the options whose ranges are logarithmic.
        importance: the share of each option in how the trials' results differ (fANOVA, Hutter, Hoos &
            Leyton-Brown 2014); empty where fewer than eight are complete.
    """

    model: Any
    best: Trial
    trials: tuple[Trial, ...]
    metric: str | None
    logarithmic: frozenset[str]
    importance: dict[str, float]

    @classmethod
    def of(cls, study: Any, best: Any, model: Any, metric: str | None) -> Tuned:
        """The result of a study of Optuna's."""
        trials = tuple(map(trial_of, study.get_trials()))
        ranges = best.distributions.items()
        logarithmic = frozenset(name for name, each in ranges if getattr(each, "log", False))
        return cls(model, trial_of(best), trials, metric, logarithmic, _importance(study))

    @property
    def measure(self) -> str:
        """What trials were compared by, in words."""
        return "validation loss" if self.metric is None else f"validation {NAMES[self.metric]}"

    @property
    def given(self) -> Trial | None:
        """The trial of the estimator's own options; None where a range leaves one of them out."""
        ended = (each for each in self.trials if each.state != STOPPED)
        return next((each for each in ended if each.given), None)

    @property
    def counts(self) -> dict[str, int]:
        """How many trials there are of each state, without those that were stopped."""
        found = {state: sum(t.state == state for t in self.trials) for state in STATES.values()}
        return {state: count for state, count in found.items() if count}

    def table(self) -> Any:
        """The trials, a row each, as a polars table."""
        columns: dict[str, list[Any]] = {
            "trial": [each.number for each in self.trials],
            "state": [each.state for each in self.trials],
            "value": [each.value for each in self.trials],
        }
        for name in dict.fromkeys(name for each in self.trials for name in each.options):
            columns[name] = [each.options.get(name) for each in self.trials]
        for name in ("rounds", "seconds", "repeats", "error"):
            columns[name] = [getattr(each, name) for each in self.trials]
        return need("polars", "tasks").DataFrame(columns, strict=False, infer_schema_length=None)


def _importance(study: Any) -> dict[str, float]:
    optuna: Any = need("optuna", "tune")
    trials = studies.complete(study)
    if len({tuple(sorted(each.params.items())) for each in trials}) < _ENOUGH:
        return {}
    if len({each.value for each in trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
