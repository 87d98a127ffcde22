"""The base class of tasks: fit, save and load, resume, the report, and options.

A task is a dataclass; its fields are its options. It defines how its data are read and split
(:meth:`Task.prepare`), the network and its loss (:meth:`Task.build`, :meth:`Task.loss`), and its results
(:meth:`Task.predict`, :meth:`Task.evaluate`). What ``fit`` learns besides the network's weights is stored in
attributes that end in ``_``. Those named in :attr:`Task.saved_attributes` are saved.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gatewise.arguments import Count, Option, Port, checked_options, options_of
from gatewise.errors import DataError, ModelFileError, OptionError, need
from gatewise.gates.capture import Traces, trace
from gatewise.gates.ensemble import member_count, shown_modules
from gatewise.gates.page.reach import horizon_of
from gatewise.gates.page.shown import Shown
from gatewise.memory import check_network
from gatewise.nn.trace import Trace
from gatewise.report.scores import Evaluation
from gatewise.tasks.entry_checks import HISTORY, Check, invalid_entry, object_with
from gatewise.tasks.kinds import Device, Part, device_of, is_size
from gatewise.tasks.ranges import Range
from gatewise.tasks.saved import Saved, write_model
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.history import History
from gatewise.train.objective import Carry, TrainingData
from gatewise.train.recipe import Recipe, one_cycle
from gatewise.train.record import Record, digest, plain
from gatewise.train.run import Run

CPU = torch.device("cpu")


class Task(BaseEstimator):
    """A model that is fitted to data. Its options are the arguments of its constructor."""

    name: ClassVar[str]  # as in the registry
    needed_by_files: ClassVar[tuple[str, ...]] = ()  # options that a fit to a file must have
    saved_attributes: ClassVar[dict[str, Check]] = {}  # what ``fit`` learns, with its checks
    searched: ClassVar[dict[str, Range]] = {}  # the options that a search varies, and their ranges
    not_searched: ClassVar[tuple[str, ...]] = ("seed",)  # options that change what is measured

    # ------------------------------------------------------------- methods that a task must define

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        """Batches and recipe for training. This reads the data, splits it, and learns scales, vocabularies
        and sizes from the training part."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """A new network, with the sizes that ``prepare`` learned."""
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Any, carry: Carry) -> tuple[Tensor, Carry]:
        """The loss of each of a batch's B members, and the state that the next batch starts from (or None)."""
        raise NotImplementedError

    def predict(self, data: Any) -> Any:
        """A table of predictions."""
        raise NotImplementedError

    def predict_parts(self, data: Any, **options: Any) -> Iterator[Any]:
        """The table of :meth:`predict` as polars tables to be put one below the other. A task whose data may be larger
        than the memory makes them one by one."""
        yield self.predict(data, **options)

    def evaluate(self, data: Any) -> Evaluation:
        """The scores of the model and of simple baselines on data that the model was not trained on."""
        raise NotImplementedError

    def generate(self) -> Any:
        """New samples from the model. A task that can make them has its options here."""
        raise OptionError(f"a model of the task {self.name!r} does not generate anything")

    def write_samples(self, samples: Any, out: Path | None) -> list[Path]:
        """Writes the result of ``generate`` to files, whose paths it returns, or prints it."""
        raise NotImplementedError

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        """The scores of ``evaluate`` on the validation part, by which a search may choose."""
        raise OptionError(
            f"the task {self.name!r} has no scores of its validation part: choose by its loss"
        )

    def evaluate_held_out(self, data: Any, test: Any) -> Evaluation | None:
        """The scores on the test part: the part of ``data`` that ``fit`` held out, or the file ``test``. None
        if there is no test part."""
        if not is_size(test):
            return self.evaluate(test)
        return None if test == 0 else self.evaluate(data)

    # -------------------------------------------------------------- methods that a task may override

    def inputs(self, data: Any) -> tuple[Any, ...]:
        """The arguments of the network for a trace of ``data``."""
        raise NotImplementedError

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        """The first ``limit`` sequences of ``data``, of at most ``steps`` steps each, for the page of
        :meth:`write_gates`."""
        raise OptionError(f"a model of the task {self.name!r} has no page of its gates")

    def run_inputs(self, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """What the network returns for the result of :meth:`inputs`, for :func:`gatewise.trace`."""
        return network(*inputs)

    def value_of(self, name: str) -> Any:
        """The value of an option; of one that is None, the default that depends on other options, if it has one."""
        return getattr(self, name)

    def check_together(self, options: SimpleNamespace) -> None:
        """Raises OptionError if options contradict each other."""

    def optimizer(self, network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and a learning-rate schedule that is stepped after each update."""
        return one_cycle(network, recipe)

    def weight_of(self, batch: Any, members: int) -> int:
        """The weight of a batch's mean loss in the validation loss: the number of its members."""
        return members

    def describe_member(self, batch: Any, at: int) -> str:
        """The member ``at`` of a batch, as text for error messages: which row or series of the data it is."""
        return f"member {at} of its batch"

    def before_training(self, run: Run) -> None:
        """Called before the network is made, to learn what it starts from. Its time is a part of the fit's."""

    def after_training(self, training_data: TrainingData) -> None:
        """Called with the trained network in place, to learn what depends on it, such as a calibration."""

    def learned(self) -> dict[str, Any]:
        """The values of :attr:`saved_attributes`, as text and numbers."""
        return {name: getattr(self, f"{name}_") for name in self.saved_attributes}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are saved besides the network's weights, by name."""
        return {}

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        """The checks of the required and of the optional entries of ``learned()`` in a saved model."""
        return cls.saved_attributes, {}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        """Sets the attributes from the result of ``learned``."""
        for name, value in learned.items():
            setattr(self, f"{name}_", value)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        """Meta tensors with the shapes and dtypes of ``tensors()``, and the names of those that may hold NaN."""
        return {}, set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Sets the attributes from the result of ``tensors``."""

    def report(self, data: Any, evaluation: Evaluation | None, folder: Path) -> Path:
        """Writes ``report.html`` to ``folder`` and returns its path.

        Args:
            data: the data that the model was fitted to.
            evaluation: the scores on the test part. Without one the report has no scores.
        """
        from gatewise.report.page import write

        title = (type(self).__doc__ or "").partition("\n")[0].rstrip(".")
        return write(
            folder,
            title,
            evaluation,
            self.history_,
            self.network_,
            vars(self.options_),
            self.figures(data),
        )

    def columns_read(self) -> tuple[str, ...]:
        """The columns of the table that the network reads, where the task may choose them itself."""
        return ()

    def figures(self, data: Any) -> dict[str, Any]:
        """The figures of the report, by heading."""
        return {}

    # ---------------------------------------------------------------------------------- inherited

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The task's options, by name."""
        return options_of(cls)  # type: ignore[arg-type]  # scikit-learn's classes can be hashed

    def checked(self) -> SimpleNamespace:
        """The options, checked and as Python types.

        Raises:
            OptionError: an option is not valid. The message has its name and value.
        """
        found = {
            name: option.checked(getattr(self, name)) for name, option in self.options().items()
        }
        checked = SimpleNamespace(**found)
        self.check_together(checked)
        return checked

    def fit(
        self, data: Any, *, validation: Part = 0.15, test: Part = 0.15, run: Run | None = None
    ) -> Self:
        """Fits the model to ``data``. A fit that is interrupted leaves the model unchanged.

        Args:
            validation: the part of the data that is used for early stopping and to choose the best weights: a
                share below 1 or a number of members.
            test: the part of the data that is held out to score the model: a share below 1 or a number of
                members.
            run: devices, output folder and whether to resume.
        """
        parts = options_of(type(self).fit)
        validation, test = parts["validation"].checked(validation), parts["test"].checked(test)
        return self.fit_prepared(
            lambda fresh, run: fresh.prepare(data, validation, test, run), run or Run()
        )

    def fit_prepared(self, prepare: Callable[[Self, Run], TrainingData], run: Run) -> Self:
        """Fits the model to the training data that ``prepare`` returns for an unfitted copy of the model."""
        fresh: Self = clone(self)
        fresh.options_ = fresh.checked()
        fresh.learn(prepare(fresh, run), run)
        # in one assignment, so that an interrupt cannot leave new scales with old weights
        kept = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        learned = {name: value for name, value in vars(fresh).items() if name.endswith("_")}
        self.__dict__ = kept | learned
        return self

    def learn(self, training_data: TrainingData, run: Run) -> None:
        """Trains a new network, which replaces the old one."""
        if not len(training_data.training):
            raise DataError(
                "the training part is empty: give more data, or smaller parts for validation= and test="
            )
        need("lightning", "tasks")  # it loads slowly, and only training needs it
        from gatewise.train.loop import train

        begun = time.perf_counter()
        self.before_training(run)
        sizes = ("hidden", "layers", "horizon")
        given = [f"{name}={getattr(self, name)}" for name in sizes if hasattr(self, name)]
        with torch.random.fork_rng(devices=[]):
            check_network(self.build, ", ".join(given) or "the network's sizes")
            self.network_, self.history_ = train(self, training_data, run)
        self.after_training(training_data)
        self.history_.seconds = time.perf_counter() - begun

    def training_record(self, data: dict[str, Any], validation: Any, test: Any, run: Run) -> Record:
        """The record of options and data that a checkpoint stores, so that a resumed run can be checked.

        Args:
            data: the description of the data, see :class:`gatewise.train.record.Record`.
        """
        given = {
            name: option.kind.save(getattr(self, name)) for name, option in self.options().items()
        }
        given |= {"validation": validation, "test": test, "precision": run.precision}
        return Record({name: plain(value) for name, value in given.items()}, data)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def check_fitted(self) -> None:
        """Raises NotFittedError if the model has not been fitted."""
        if not self.__sklearn_is_fitted__():
            raise UnfittedError(
                f"this {type(self).__name__} has not been fitted yet: call fit first"
            )

    def trace(self, data: Any, *, device: Device = "cpu") -> Trace:
        """The recurrent layer's gates and states at each step of the sequences that :meth:`inputs` reads.

        Args:
            data: as ``predict`` takes it.
            device: where the network runs: "cpu", "cuda", "cuda:1".
        """
        self.check_fitted()
        where = device_of("device", device)
        return self.traced(self.inputs(data), where)

    def traced(self, inputs: tuple[Any, ...], device: torch.device = CPU) -> Trace:
        """The trace of the network for these arguments."""
        return self.traced_outputs(inputs, device)[1]

    def traced_outputs(
        self, inputs: tuple[Any, ...], device: torch.device = CPU
    ) -> tuple[Any, Trace]:
        """The network's outputs for these arguments, and its trace."""
        from lightning.fabric.utilities import move_data_to_device

        with torch.no_grad():
            outputs, trace = self.network_on(device)(
                *move_data_to_device(inputs, device), trace=True
            )
        return outputs, trace

    def traces(self, inputs: tuple[Any, ...]) -> Traces:
        """The traces of all recurrent modules for these arguments of the network; of an ensemble, those of its
        first member."""
        return trace(self.network_, *inputs, modules=shown_modules(self.network_))

    def write_gates(self, data: Any, out: Any, *, limit: Count = 8, steps: Count = 1000) -> Path:
        """Writes a page with the gates over the first sequences of ``data``, one HTML file, and returns its path.

        Args:
            data: as ``predict`` takes it.
            out: the .html file.
            limit: the most sequences on the page.
            steps: the most steps of a sequence.

        Raises:
            OptionError: the task has no such page, or ``out`` is not an .html file.
        """
        from gatewise.gates.page.writer import write_page

        self.check_fitted()
        options = checked_options(type(self).write_gates, dict(limit=limit, steps=steps))
        out = Path(out)
        if out.suffix.lower() not in (".html", ".htm"):
            raise OptionError(f"the page of gates is an .html file, not {out}")
        shown = self.shown(data, options.limit, options.steps)
        return write_page(
            out,
            shown.traces,
            strips=shown.strips,
            predictions=shown.predictions,
            labels=shown.labels,
            step_labels=shown.step_labels,
            places=shown.places,
            members=member_count(self.network_),
            **self._page_options(data, shown),
        )

    def view(
        self,
        data: Any,
        *,
        limit: Count = 8,
        steps: Count = 1000,
        port: Port = 0,
        browser: bool = True,
    ) -> None:
        """Serves the page of :meth:`write_gates` on this machine, until it is interrupted (Ctrl-C).

        On this page the input can be changed, and units and gates can be held at a value: the network runs again.
        The page's address is printed. Only this machine can open it, and only with the token in the address.

        Args:
            data: as ``predict`` takes it.
            limit: the most sequences on the page.
            steps: the most steps of a sequence.
            port: the port; 0 is any that is free.
            browser: open the page in the browser.

        Raises:
            OptionError: the task has no such page, or the port is in use.
        """
        from gatewise.gates.live import LivePage
        from gatewise.gates.view import serve

        given = dict(limit=limit, steps=steps, port=port, browser=browser)
        options = checked_options(type(self).view, given)
        self.check_fitted()
        shown = self.shown(data, options.limit, options.steps)
        page = LivePage(self.network_, shown, **self._page_options(data, shown))
        serve(page, port=options.port, browser=options.browser)

    def _page_options(self, data: Any, shown: Shown) -> dict[str, Any]:
        history = {"train": self.history_.train, "validation": self.history_.validation}
        horizon = horizon_of(self.network_, shown)
        return dict(title=f"The gates over {data_name(data)}", history=history, horizon=horizon)

    def network_on(self, device: torch.device) -> nn.Module:
        """The network on ``device``; a copy unless the device is the CPU."""
        if device.type == "cpu":
            return self.network_
        return copy.deepcopy(self.network_).to(device)

    def save(self, folder: str | Path) -> Path:
        """Writes the model to a folder, which ``gatewise.load`` reads. A model that is already there remains
        valid until the new one is complete.

        Raises:
            NotFittedError: the model has not been fitted.
            ModelFileError: the folder cannot be written, a weight is not finite, or an option was changed
                after the fit. A model that is already there is not changed.
        """
        self.check_fitted()
        given = self.get_params(deep=False)
        options = {name: option.kind.save(given[name]) for name, option in self.options().items()}
        learned = self.learned() | {"history": asdict(self.history_)}
        tensors = {**self.network_.state_dict(), **self.tensors()}
        return write_model(Path(folder), type(self), options, learned, tensors)

    @classmethod
    def from_state(cls, saved: Saved) -> Self:
        """The model in a saved folder.

        Raises:
            ModelFileError: the description is not valid, or the tensors do not fit it.
            OptionError, CellError: an option or a cell is not valid.
        """
        model = cls._with_options(saved.options)
        checks, optional = cls.learned_checks(saved)
        learned = object_with({**checks, "history": HISTORY}, optional)("learned", saved.learned)
        model.history_ = History(**learned.pop("history"))
        model.restore_learned(learned)
        with torch.device("meta"):  # only shapes: nothing is allocated before they are checked
            network = model.build()
        others, may_be_nan = model.expected_tensors(saved)
        tensors = saved.tensors({**network.state_dict(), **others}, may_be_nan)
        model.restore_tensors({name: tensors.pop(name) for name in others})
        network.load_state_dict(tensors, assign=True)
        model.network_ = network.eval()
        return model

    @classmethod
    def _with_options(cls, saved: dict[str, Any]) -> Self:
        checks = {name: option.kind.restore or _restored for name, option in cls.options().items()}
        options = object_with(checks)("options", saved)
        try:
            model = cls(**options)
            model.options_ = model.checked()
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"options: {error}") from error
        return model


def _restored(name: str, value: Any) -> Any:
    """A saved option of a plain type. Its range is checked later, with the other options."""
    if isinstance(value, dict):
        raise invalid_entry(name, "a text, a number or a list of these", value)
    return tuple(value) if isinstance(value, list) else value


def data_name(data: Any) -> str:
    """A name for data in a heading: a file's own, else what kind of object it is."""
    return (
        data.name
        if isinstance(data, Path)
        else Path(data).name
        if isinstance(data, str)
        else type(data).__name__
    )


__all__ = [
    "Recipe",
    "Record",
    "Run",
    "Task",
    "TrainingData",
    "data_name",
    "digest",
]  # what a task's file needs
