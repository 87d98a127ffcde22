"""The search: trials of a task's options, each a training on the same parts of the data."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from sklearn.base import clone

from gatewise.arguments import Count, Kind, Positive, options_of
from gatewise.errors import (
    GatewiseError,
    ModelFileError,
    OptionError,
    TooLargeError,
    TrainingError,
    caution,
    need,
    out_of_memory,
)
from gatewise.options import choice
from gatewise.report.scores import NAMES, best_of
from gatewise.tasks.base import Task
from gatewise.tasks.kinds import Part
from gatewise.tasks.load import load
from gatewise.train.folder import FolderLock
from gatewise.train.history import History
from gatewise.train.objective import TrainingData
from gatewise.train.record import Record, check_same
from gatewise.train.run import Run
from gatewise.tuning import study as studies
from gatewise.tuning.result import Trial, Tuned, trial_of
from gatewise.tuning.space import FORMS, Space, as_text, combinations, named, space_of, within

Searched = Annotated[
    Mapping[str, Any] | Iterable[str],
    Kind(read=str, expected=FORMS, metavar="NAME=VALUES", many="list"),
]


def tune(
    estimator: Task,
    data: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    trials: Count = 20,
    seconds: Positive | None = None,
    metric: str | None = None,
    search: Searched = (),
    validation: Part = 0.2,
    test: Part | None = None,
    run: Run | None = None,
    after_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """The model with the best options that a search by Optuna finds, and the table of its trials.

    The first trial has the estimator's own options. Each is trained on the training part and compared on the
    validation part; the test part is not touched. A trial whose validation loss is above the median of the
    others' at the same round is ended early (pruned), after a quarter of its rounds.

    Args:
        estimator: a task with its options. Those that are not the defaults are kept, and not searched.
        data: what ``fit`` takes; with ``y`` and ``sample_weight`` where those are arrays.
        trials: how many trials the study has in all, those before a resume included.
        seconds: after so many, no trial begins, and the present one ends with its round.
        metric: a score of ``evaluate``, by which trials are compared on the validation part; its loss if not
            given.
        search: ranges beside the task's own, or in their place, such as hidden=32,64 dropout=0:0.5
            learning_rate=1e-4:1e-2:log. A single value is not searched.
        validation: what trials are compared on, as ``fit`` has it.
        test: as ``fit`` has it.
        run: where and with what the trainings run. In its folder the study is kept, and resumed by
            ``resume``.
        after_trial: called with each trial that has ended.

    Raises:
        OptionError: an argument cannot be used, or the study that is to be resumed was of other data or
            options.
        DataError: the data cannot be used.
        TrainingError: no trial could be trained.
        MissingExtraError: Optuna is not installed.
    """
    need("optuna", "tune")
    own = options_of(tune)
    trials, seconds = own["trials"].checked(trials), own["seconds"].checked(seconds)
    run = run or Run(quiet=True)
    _check_run(run)
    direction = _direction(metric)
    space, single = space_of(estimator, _given(search))
    given = {"sample_weight": sample_weight, "validation": validation, "test": test}
    parts = {name: value for name, value in given.items() if value is not None}
    arrays = (data,) if y is None else (data, y)
    problem = _Problem(clone(estimator).set_params(**single), arrays, parts, space, metric)
    with ExitStack() as end:
        if run.path is not None:
            (run.lock or end.enter_context(FolderLock(run.path))).acquire()
        study = studies.opened(run.path, run.resume, direction)
        return _Search(problem, study, run, trials, seconds, after_trial).result()


def _given(search: Mapping[str, Any] | Iterable[str]) -> Mapping[str, Any]:
    if isinstance(search, Mapping):
        return search
    return named([search] if isinstance(search, str) else search)


def _check_run(run: Run) -> None:
    if run.devices not in ("auto", 1) or run.nodes != 1:
        raise OptionError(
            f"devices={run.devices!r}, nodes={run.nodes}: a search trains on one device; leave them out"
        )
    if run.tensorboard:
        raise OptionError("tensorboard: a search writes no logs; leave it out")
    if run.monitor:
        raise OptionError("monitor: a search has no report of a single training; leave it out")


def _direction(metric: str | None) -> str:
    if metric is None:
        return "minimize"
    best = best_of({"maximize": 1.0, "minimize": 0.0}, choice("metric", metric, NAMES))
    if best is None:
        raise OptionError(
            f"metric={metric!r} is best at neither end of its range, so a search cannot choose by it"
        )
    return best


@dataclass(frozen=True)
class _Problem:
    """What is searched.

    Attributes:
        estimator: with the options that all trials share.
        data: the positional arguments of its ``fit``.
        parts: the others.
        space: what differs between the trials.
        metric: a score, or None for the validation loss.
    """

    estimator: Task
    data: tuple[Any, ...]
    parts: dict[str, Any]
    space: Space
    metric: str | None

    def model(self, options: Mapping[str, Any]) -> Task:
        made: Task = clone(self.estimator).set_params(**options)
        return made

    def first(self) -> dict[str, Any]:
        """The estimator's own values of what is searched, where they are in the ranges."""
        own = {name: self.estimator.value_of(name) for name in self.space}
        return {name: value for name, value in own.items() if within(self.space[name], value)}


class _OutOfTimeError(Exception):
    """Ends the present trial."""


class _Search:
    """The trials of one call."""

    def __init__(
        self,
        problem: _Problem,
        study: Any,
        run: Run,
        trials: int,
        seconds: float | None,
        after_trial: Callable[[Trial], None] | None,
    ) -> None:
        self.problem, self.study, self.run, self.trials = problem, study, run, trials
        self.end = math.inf if seconds is None else time.monotonic() + seconds
        self.after_trial = after_trial or (lambda trial: None)
        self.best: tuple[int, Task] | None = None  # the best trial of this process, and its model
        self.said: set[str] = set()
        self.optuna: Any = need("optuna", "tune")

    def result(self) -> Tuned:
        """What the search finds."""
        self._check_search()
        if self.study.get_trials():
            studies.take_up_interrupted(self.study)
        else:
            first = self.problem.first()
            given = len(first) == len(self.problem.space)
            self.study.enqueue_trial(first, user_attrs={studies.GIVEN: given})
        try:
            while self._goes_on() and self._trial():
                pass
        except KeyboardInterrupt as stopped:
            stopped.__notes__ = [self._how_to_go_on()]
            raise
        best = studies.best_of(self.study)
        if best is None:
            errors = [each.user_attrs[studies.ERROR] for each in studies.finished(self.study)]
            raise TrainingError(f"no trial could be trained, of {len(errors)}: {errors[0]}")
        return Tuned.of(self.study, best, self._best_model(best), self.problem.metric)

    def _goes_on(self) -> bool:
        done = studies.finished(self.study)
        tried = {tuple(sorted(each.params.items())) for each in done}
        return (
            len(done) < self.trials
            and len(tried) < combinations(self.problem.space)
            and (time.monotonic() < self.end or studies.best_of(self.study) is None)
        )

    def _how_to_go_on(self) -> str:
        done = len(studies.finished(self.study))
        if self.run.path is None:
            return f"stopped after {done} of {self.trials} trials; nothing is saved"
        return (
            f"stopped after {done} of {self.trials} trials; the same tune with resume=True (--resume) goes on "
            f"from {self.run.path / studies.STUDY}"
        )

    # --------------------------------------------------------------------------------- one trial

    def _trial(self) -> bool:
        """One more trial; False where the time was over within it."""
        state = self.optuna.trial.TrialState
        seed = int(getattr(self.problem.estimator, "seed", 0))
        trial = studies.asked(self.study, self.problem.space, seed)
        before = self._same(trial.params)
        begun = time.perf_counter()
        value = None
        try:
            if before is None:
                state, value = state.COMPLETE, self._value(trial)
            else:  # the same options give the same model
                trial.set_user_attr(studies.REPEATS, before.number)
                state = before.state
                value = None if before.state.name == "PRUNED" else before.value
        except _OutOfTimeError:
            return False
        except self.optuna.TrialPruned:
            state = state.PRUNED
        except Exception as error:
            if not isinstance(error, (TrainingError, TooLargeError)) and not out_of_memory(error):
                raise
            text = str(error) if isinstance(error, GatewiseError) else "out of memory"
            trial.set_user_attr(studies.ERROR, text)
            state = state.FAIL
            caution(f"trial {trial.number} failed: {text}")
        trial.set_user_attr(studies.SECONDS, time.perf_counter() - begun)
        self.study.tell(trial, value, state)
        if self.run.path is not None:
            studies.tidy(self.study, self.run.path)
        self.after_trial(trial_of(self.study.get_trials()[trial.number]))
        return True

    def _same(self, options: dict[str, Any]) -> Any:
        """An earlier trial of the same options, complete or pruned."""
        ended = (each for each in studies.finished(self.study) if each.state.name != "FAIL")
        return next((each for each in ended if each.params == options), None)

    def _value(self, trial: Any) -> float:
        """What the trial's training reaches on the validation part; its model is kept if it is the best."""
        training_data: list[TrainingData] = []

        def prepared(found: TrainingData) -> None:
            training_data.append(found)
            self._check_material(found)

        reported = 0
        worse = -1 if self.study.direction.name == "MAXIMIZE" else 1

        def after_round(history: History) -> None:
            nonlocal reported
            losses = history.validation
            for at in range(reported, len(losses)):
                trial.report(worse * losses[at], at)
            reported, rounds = len(losses), training_data[0].recipe.rounds
            if rounds <= 4 * reported < 4 * rounds and trial.should_prune():
                raise self.optuna.TrialPruned
            if time.monotonic() > self.end and studies.best_of(self.study) is not None:
                raise _OutOfTimeError

        model = self.problem.model(trial.params)
        folder = None if self.run.path is None else studies.folder_of(self.run.path, trial)
        run = replace(
            self.run,
            out=folder,
            resume=folder is not None,
            lock=None,
            prepared=prepared,
            after_round=after_round,
        )
        with self._said_once():
            model.fit(*self.problem.data, **self.problem.parts, run=run)
        trial.set_user_attr(studies.ROUNDS, len(model.history_.train))
        value = self._score(model, training_data[0])
        self._keep(trial, model, value)
        return value

    @contextmanager
    def _said_once(self) -> Iterator[None]:
        """Within, a warning that an earlier trial had too is left out; the others come at the end."""
        with warnings.catch_warnings(record=True) as heard:
            yield
        for each in heard:
            if str(each.message) not in self.said:
                self.said.add(str(each.message))
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)

    def _score(self, model: Task, training_data: TrainingData) -> float:
        metric = self.problem.metric
        if metric is None:
            return float(model.history_.validation[model.history_.best])
        scores = model.validation_scores(training_data)
        value = scores[choice("metric", metric, scores)]
        if not math.isfinite(value):
            raise TrainingError(f"{metric} is not defined on the validation part")
        return float(value)

    def _keep(self, trial: Any, model: Task, value: float) -> None:
        best = studies.best_of(self.study)
        sign = -1 if self.study.direction.name == "MAXIMIZE" else 1
        if best is None or sign * value < sign * best.value:
            if self.run.path is not None:  # before the study says that this trial is the best
                model.save(studies.folder_of(self.run.path, trial))
            self.best = trial.number, model

    def _best_model(self, best: Any) -> Task:
        if self.best is not None and self.best[0] == best.number:
            return self.best[1]
        assert self.run.path is not None
        folder = studies.folder_of(self.run.path, best)
        try:
            model: Task = load(folder)
        except ModelFileError as error:
            caution(f"{error}. The model of the best trial is trained again")
            model = self.problem.model(best.params)
            model.fit(
                *self.problem.data,
                **self.problem.parts,
                run=replace(self.run, out=None, lock=None, resume=False),
            )
        return model

    # ------------------------------------------------------------------------------ the same study

    def _check_search(self) -> None:
        """Raise OptionError where the study was of another metric or other ranges."""
        if self.run.path is None:
            return
        ranges = {f"search of {name}": as_text(each) for name, each in self.problem.space.items()}
        now = Record({"metric": self.problem.metric, **ranges}, {})
        self._check_recorded("search", now, self.run.path)

    def _check_material(self, training_data: TrainingData) -> None:
        """Raise OptionError where there is nothing to compare trials on, or the study was of other data or
        options."""
        if training_data.validation is None:
            raise OptionError(
                "trials are compared on the validation part, and there is none: give validation=0.2 "
                "(--validation 0.2)"
            )
        if self.run.path is not None:
            given = training_data.record.options.items()
            shared = {name: value for name, value in given if name not in self.problem.space}
            self._check_recorded("data", Record(shared, training_data.record.data), self.run.path)

    def _check_recorded(self, what: str, now: Record, folder: Path) -> None:
        recorded = self.study.user_attrs.get(what)
        if recorded is None:
            self.study.set_user_attr(what, asdict(now))
        else:
            nothing = Record({}, {})  # each trial has a recipe of its own
            check_same(recorded | {"recipe": asdict(nothing)}, now, nothing, folder)
