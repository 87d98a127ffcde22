"""What all tasks share: fit, save and load, resume, the report, and options that are written once.

A task is a dataclass of its options. It says how its data are read and divided (:meth:`Task.prepare`),
what network learns from them (:meth:`Task.build`, :meth:`Task.loss`), and what comes out
(:meth:`Task.predict`, :meth:`Task.evaluate`). What it has learned beside the network's weights stands in
attributes that end in ``_``: those named in :attr:`Task.learns` are saved.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from lightning.fabric.utilities import move_data_to_device
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gatewise.arguments import Option, options_of
from gatewise.errors import ModelFileError, OptionError
from gatewise.memory import check_network
from gatewise.nn.trace import Trace
from gatewise.report.scores import Evaluation
from gatewise.tasks.described import HISTORY, Check, record, wrong
from gatewise.tasks.kinds import Device, Part, device_of, is_size
from gatewise.tasks.ranges import Range
from gatewise.tasks.saved import Saved, write_model
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.history import History
from gatewise.train.loop import train
from gatewise.train.objective import Carry, Material
from gatewise.train.recipe import Recipe, one_cycle
from gatewise.train.record import Record, digest, plain
from gatewise.train.run import Run

CPU = torch.device("cpu")


class Task(BaseEstimator):
    """A model that learns from data of one source. Its options are the arguments of its constructor."""

    name: ClassVar[str]  # as in the registry
    sources: ClassVar[tuple[str, ...]]  # kinds of data that it takes
    learns: ClassVar[dict[str, Check]] = {}  # what is saved beside the network, each with its check
    searched: ClassVar[dict[str, Range]] = {}  # options that a search tries, and their values
    not_searched: ClassVar[tuple[str, ...]] = ("seed",)  # options that change what is measured

    # ------------------------------------------------------------------------- what a task writes

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> Material:
        """Read the data, divide it, learn scales, vocabularies and sizes from the training part; gives
        the batches and the recipe."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """A new network, of the sizes that ``prepare`` learned."""
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Any, carry: Carry) -> tuple[Tensor, Carry]:
        """The losses of a batch's B members, and the state that the next batch goes on from, if any."""
        raise NotImplementedError

    def predict(self, data: Any) -> Any:
        """A table of predictions."""
        raise NotImplementedError

    def evaluate(self, data: Any) -> Evaluation:
        """The model's scores on data that it has not learned from, beside baselines'."""
        raise NotImplementedError

    def validation_scores(self, material: Material) -> dict[str, float]:
        """The scores of ``evaluate`` on the validation part, by which a search may choose."""
        raise OptionError(
            f"the task {self.name!r} has no scores of its validation part: choose by its loss"
        )

    def evaluate_held_out(self, data: Any, test: Any) -> Evaluation | None:
        """The scores on what ``fit`` held out of ``data``, or on the file ``test``; None where nothing was
        held out."""
        if not is_size(test):
            return self.evaluate(test)
        return None if test == 0 else self.evaluate(data)

    # --------------------------------------------------------------------- what a task may change

    def inputs(self, data: Any) -> tuple[Any, ...]:
        """The arguments of the network for a trace of ``data``."""
        raise NotImplementedError

    def check_together(self, options: SimpleNamespace) -> None:
        """Raise OptionError where options cannot be used together."""

    def optimizer(self, network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and the schedule that moves on after each step."""
        return one_cycle(network, recipe)

    def place(self, batch: Any, at: int) -> str:
        """Where in the data the batch's member ``at`` stands, for an error's message."""
        return f"member {at} of its batch"

    def settle(self, material: Material) -> None:
        """Learn what needs the trained network, such as a calibration."""

    def learned(self) -> dict[str, Any]:
        """What :attr:`learns` names, as text and numbers."""
        return {name: getattr(self, f"{name}_") for name in self.learns}

    def tensors(self) -> dict[str, Tensor]:
        """What is saved as tensors beside the network's weights."""
        return {}

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        """The checks of what was learned, and of what of it may be absent."""
        return cls.learns, {}

    def take_learned(self, learned: dict[str, Any]) -> None:
        """Take over what ``learned`` gave."""
        for name, value in learned.items():
            setattr(self, f"{name}_", value)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        """Meta tensors like those of ``tensors``, and the names of those that may hold NaN."""
        return {}, set()

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors`` gave."""

    def report(self, data: Any, evaluation: Evaluation | None, folder: Path) -> Path:
        """Write ``report.html`` to ``folder``; gives its path.

        Args:
            evaluation: of held-out data; without one there are no scores.
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

    def figures(self, data: Any) -> dict[str, Any]:
        """Pictures for the report, by their headings."""
        return {}

    # ---------------------------------------------------------------------------------- inherited

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The task's options, by name."""
        return options_of(cls)  # type: ignore[arg-type]  # scikit-learn's classes can be hashed

    def checked(self) -> SimpleNamespace:
        """The options in Python's own types.

        Raises:
            OptionError: one cannot be used; the message has its value.
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
        """Learn from ``data``; a fit that is stopped midway changes nothing.

        Args:
            validation: a share below 1 or a number of members, which stop the training.
            test: those that the model never sees, and is scored on.
            run: where and with what the training runs, and whether it is resumed.
        """
        parts = options_of(type(self).fit)
        validation, test = parts["validation"].checked(validation), parts["test"].checked(test)
        return self.fit_by(
            lambda fresh, run: fresh.prepare(data, validation, test, run), run or Run()
        )

    def fit_by(self, prepare: Callable[[Self, Run], Material], run: Run) -> Self:
        """Learn from what ``prepare`` makes of a fresh copy."""
        fresh: Self = clone(self)
        fresh.options_ = fresh.checked()
        fresh.learn(prepare(fresh, run), run)
        # all at once: no scale of new data ever stands beside weights of the old
        kept = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        learned = {name: value for name, value in vars(fresh).items() if name.endswith("_")}
        self.__dict__ = kept | learned
        return self

    def learn(self, material: Material, run: Run) -> None:
        """Train a network, in place of the one that there was."""
        begun = time.perf_counter()
        sizes = ("hidden", "layers", "horizon")
        given = [f"{name}={getattr(self, name)}" for name in sizes if hasattr(self, name)]
        with torch.random.fork_rng(devices=[]):
            check_network(self.build, ", ".join(given) or "the network's sizes")
            self.network_, self.history_ = train(self, material, run)
        self.settle(material)
        self.history_.seconds = time.perf_counter() - begun

    def recorded(self, data: dict[str, Any], validation: Any, test: Any, run: Run) -> Record:
        """What decides what is learned, for checkpoints: the options, and the ``data`` as
        :class:`gatewise.train.record.Record` describes it."""
        given = {
            name: option.kind.save(getattr(self, name)) for name, option in self.options().items()
        }
        given |= {"validation": validation, "test": test, "precision": run.precision}
        return Record({name: plain(value) for name, value in given.items()}, data)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def check_fitted(self) -> None:
        """Raise NotFittedError where nothing has been learned yet."""
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
        with torch.no_grad():
            _, trace = self.network_on(device)(*move_data_to_device(inputs, device), trace=True)
        found: Trace = trace
        return found

    def network_on(self, device: torch.device) -> nn.Module:
        """The network there; a copy where it is elsewhere."""
        if device.type == "cpu":
            return self.network_
        return copy.deepcopy(self.network_).to(device)

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder, which ``gatewise.load`` opens; an older model there stays whole until
        the new one is complete.

        Raises:
            NotFittedError: there is nothing to save yet.
            ModelFileError: the folder cannot be written, or the model has a weight that is not finite or
                options that another fit is needed for; what was there stays.
        """
        self.check_fitted()
        given = self.get_params(deep=False)
        options = {name: option.kind.save(given[name]) for name, option in self.options().items()}
        learned = self.learned() | {"history": asdict(self.history_)}
        tensors = {**self.network_.state_dict(), **self.tensors()}
        return write_model(Path(folder), self.name, options, learned, tensors)

    @classmethod
    def from_state(cls, saved: Saved) -> Self:
        """The model that was saved.

        Raises:
            ModelFileError: the description is not one, or the tensors are not those that it needs.
            OptionError, CellError: an option or a cell cannot be used.
        """
        model = cls._with_options(saved.options)
        checks, optional = cls.learned_checks(saved)
        learned = record({**checks, "history": HISTORY}, optional)("learned", saved.learned)
        model.history_ = History(**learned.pop("history"))
        model.take_learned(learned)
        with torch.device("meta"):  # the sizes, before anything is made of them
            network = model.build()
        beside, gaps = model.expected_tensors(saved)
        tensors = saved.tensors({**network.state_dict(), **beside}, gaps)
        model.take_tensors({name: tensors.pop(name) for name in beside})
        network.load_state_dict(tensors, assign=True)
        model.network_ = network.eval()
        return model

    @classmethod
    def _with_options(cls, saved: dict[str, Any]) -> Self:
        checks = {name: option.kind.restore or _restored for name, option in cls.options().items()}
        options = record(checks)("options", saved)
        try:
            model = cls(**options)
            model.options_ = model.checked()
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"options: {error}") from error
        return model


def _restored(name: str, value: Any) -> Any:
    """A saved option; its range is checked with the others."""
    if isinstance(value, dict):
        raise wrong(name, "a text, a number or a list of these", value)
    return tuple(value) if isinstance(value, list) else value


__all__ = ["Material", "Recipe", "Record", "Run", "Task", "digest"]  # what a task's file needs
