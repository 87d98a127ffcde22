"""The forecaster: fit, predict, backtest and evaluate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gatewise.arguments import Count, Layers, Number, Positive, Probability, Seed
from gatewise.data.panel import Panel
from gatewise.data.scaling import Scaling
from gatewise.data.table import load
from gatewise.data.windows import Batch, Windows, least_observed
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting
from gatewise.models.forecaster import ForecasterShape, PatchLSTM
from gatewise.options import whole
from gatewise.report.scores import Evaluation
from gatewise.tasks.base import Task
from gatewise.tasks.described import Check
from gatewise.tasks.forecast import output, report, sizes, state
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.forecasting import Forecasting, calibrated, observed_by_step
from gatewise.tasks.forecast.intervals import check_enough
from gatewise.tasks.forecast.options import Frequency, Levels, Refit, TimeFormat, refit_every
from gatewise.tasks.forecast.preparing import (
    check_no_test,
    check_same_series,
    check_windows,
    cycles,
    known_ahead,
    say_short,
    shape_of,
)
from gatewise.tasks.forecast.record import recorded
from gatewise.tasks.forecast.summary import DataSummary
from gatewise.tasks.forecast.testing import NOTHING, first_unseen, tested, unseen_rows
from gatewise.tasks.forecast.training import Batches, pinball
from gatewise.tasks.kinds import (
    AnyTable,
    Column,
    Columns,
    Device,
    Part,
    device_of,
    is_size,
)
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.train.objective import Carry, Material
from gatewise.train.recipe import Recipe
from gatewise.train.record import Record
from gatewise.train.run import Run

Array = np.ndarray
FIRST = np.array([0])  # the first of a panel's windows


@dataclass(eq=False, repr=False)
class Forecaster(Task):
    """Forecast the next steps of one or many series, with quantiles.

    One recurrent model serves all series.

    Args:
        horizon: K, how many steps are forecast at once.
        target: the column, or columns, to forecast; several are forecast by one shared model, each
            from its own past.
        time: the column of time stamps (or of whole numbers); without one the rows are the steps.
        series: the column that names the series, where the table holds several.
        past: numeric columns known up to the present.
        known: numeric columns known in the future too; ``predict`` needs their future values.
        static: columns constant within a series, numbers or text.
        freq: the step ("1h", "15min", "D", "B", "W", "MS", …, as pandas spells it too, or an offset of
            pandas or a timedelta); inferred and checked if not given.
        time_format: how texts or whole numbers spell times ("%d/%m/%Y", "%Y%m"), in the notation of
            ``datetime.strptime``; ISO dates if not given.
        gaps: "error", or "mask" to take missing time stamps as missing values.
        context: L, how many steps the model sees; rounded to whole patches. Chosen from the season,
            the horizon and the rows there are if not given.
        season: the seasonal period in steps; from the step if not given (24 for hours).
        quantiles: levels to forecast beside the point (which is trained on the absolute error).
        calendar: let the model see hour of day, day of week and the like, where the training part
            holds such a cycle twice. Off unless asked for: they help where days differ (calls, sales, visits),
            and made ETTh1's validation loss worse by one percent.
        conformal: widen or narrow the intervals to their coverage on the validation part (Romano,
            Patterson & Candès 2019).
        minimum: forecasts and quantiles are cut off below it, such as 0 for counts and prices.
        maximum: forecasts and quantiles are cut off above it.
        hidden: units of the LSTM.
        layers: layers of the LSTM.
        dropout: probability of dropping a value between layers and before the output.
        steps: training steps; three passes over the windows if not given, within 300 and 2,400.
        batch: windows to a training step.
        learning_rate: the highest learning rate of AdamW.
        seed: of the weights and the batches; the same seed gives the same model.

    Raises:
        OptionError: an argument cannot be used; the message says what can.
    """

    name: ClassVar[str] = "forecast"
    sources: ClassVar[tuple[str, ...]] = ("series",)
    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((32, 64, 128)),
        "layers": OneOf((1, 2)),
        "dropout": Between(0.0, 0.5),
        "batch": OneOf((64, 128, 256, 512)),
        "learning_rate": Between(1e-3, 2e-2, log=True),
    }
    not_searched: ClassVar[tuple[str, ...]] = (
        "seed",
        "time",
        "series",
        "freq",
        "time_format",
        "gaps",
        "season",
    )

    horizon: Count
    target: Columns
    time: Column | None = None
    _: KW_ONLY
    series: Column | None = None
    past: Columns = ()
    known: Columns = ()
    static: Columns = ()
    freq: Frequency | None = None
    time_format: TimeFormat | None = None
    gaps: Literal["error", "mask"] = "error"
    context: Count | None = None
    season: Count | None = None
    quantiles: Levels = (0.1, 0.5, 0.9)
    calendar: bool = False
    conformal: bool = False
    minimum: Number | None = None
    maximum: Number | None = None
    hidden: Count = 64
    layers: Layers = 1
    dropout: Probability = 0.2
    steps: Count | None = None
    batch: Count = 256
    learning_rate: Positive = 4e-3
    seed: Seed = 0

    def __post_init__(self) -> None:
        self.checked()

    def check_together(self, options: SimpleNamespace) -> None:
        lower, upper = options.minimum, options.maximum
        if lower is not None and upper is not None and lower >= upper:
            raise OptionError(f"minimum={lower} must be below maximum={upper}")
        if options.conformal and len(options.quantiles) < 2:
            raise OptionError(
                f"conformal calibrates the interval between two quantiles, and "
                f"quantiles={self.quantiles!r} has none: give two or more"
            )

    # --------------------------------------------------------------------------------- learning

    def fit(
        self, data: Any, *, validation: Part = 0.15, test: Part = 0.15, run: Run | None = None
    ) -> Forecaster:
        """Learn from a table (pandas, polars, pyarrow) or a file (CSV, Parquet).

        Each series is split in time: training, then ``validation`` rows (which stop the training),
        then ``test`` rows, which the model never sees and ``backtest`` scores it on.

        Args:
            validation: a share below 1 of each series' rows, and at least a horizon, or a number of rows, or
                a file with newer rows of the same series.
            test: as validation, or 0 for none. With a file for validation it is 0 or a file of still
                newer rows.

        Raises:
            DataError: the table cannot be used; the message names column, series and row.
            TrainingError: the loss is not a number any more.
        """
        return super().fit(data, validation=validation, test=test, run=run)

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> Material:
        self.name_columns()
        panel = self._panel(data)
        output.check_names(panel, self.quantiles_)
        panel.check_learnable()
        self.timeline_, self.static_labels_ = panel.timeline, panel.static_labels
        size, newer = validation if is_size(validation) else None, None
        if size is not None:
            held = test if is_size(test) else 0
            split = sizes.Split.of(panel.lengths, size, held, self.options_.horizon)
        else:
            check_no_test(test)
            newer = self._panel(validation, fitted=True)
            check_same_series(panel, newer)
            newer = newer.in_order(panel.names)
            split = sizes.Split(panel.lengths, panel.lengths)
        record = Record({}, {})
        if run.out is not None:
            record = recorded(self, panel, size or "a file", test, run.precision, newer)
        return self._material(panel, split, size, record, newer)

    def name_columns(self) -> None:
        """Learn what the options say of columns and quantiles, however they were written."""
        options = self.options_ = self.checked()
        self.target_, self.quantiles_ = options.target, options.quantiles
        self.past_, self.known_, self.static_ = options.past, options.known, options.static

    def _material(
        self,
        panel: Panel,
        split: sizes.Split,
        validation: int | float | None,
        record: Record,
        newer: Panel | None = None,
    ) -> Material:
        """What is learned from the training part of each series.

        Args:
            validation: the size that the split was made by, or None where ``newer`` has the validation rows.
        """
        options = self.options_
        self.season_ = sizes.season_for(options.season, panel.timeline.season, split.trained)
        longest = int(split.trained.max())
        self.calendar_ = cycles(panel, longest) if options.calendar else []
        self.shape_ = shape = shape_of(options, panel, split.trained, self.season_, self.calendar_)
        given = options.context is not None
        sizes.check_room(
            split, panel.lengths, shape.context, shape.horizon, shape.patch, validation, given
        )
        if options.season is None and self.season_ < panel.timeline.season:
            sizes.say_no_season(panel.timeline.season, split.trained)
        if not given and shape.context < self.season_:
            sizes.say_short_context(shape.context, self.season_, split.trained)
        self.scaling_ = Scaling.learn(panel, split.trained, self.season_)
        starts, names = panel.starts, panel.names
        self.trained_ = dict(zip(names, (starts + split.trained).tolist(), strict=True))
        self.seen_ = dict(zip(names, (starts + split.seen).tolist(), strict=True))
        first = sizes.first_origins(split.trained, shape.context, shape.horizon)
        windows = self._windows(panel, first, split.trained - shape.horizon, whole=True)
        if newer is None:
            begin = np.maximum(split.trained, least_observed(shape.context))
            checks = self._windows(panel, begin, split.seen - shape.horizon, whole=True)
        else:
            begin = unseen_rows(newer, shape, self.trained_)
            checks = self._windows(newer, begin, newer.lengths - shape.horizon, whole=True)
            ends = zip(names, (newer.starts + newer.lengths).tolist(), strict=True)
            self.seen_ = {name: max(self.seen_[name], end) for name, end in ends}
            validation = int(max(self.seen_[name] - self.trained_[name] for name in names))
        self.validation_ = validation
        check_windows("training", windows)
        check_windows("validation", checks)
        if options.conformal:
            check_enough(observed_by_step(checks), self.quantiles_)
        recipe = Recipe(
            steps=options.steps or min(max(3 * len(windows) // options.batch, 300), 2400),
            batch=options.batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        per_round = recipe.steps_per_round
        training, validating = (
            DataLoader(each, batch_size=None, sampler=sampler)
            for each, sampler in (
                (windows, Batches(len(windows), recipe.batch, per_round, recipe.seed)),
                (checks, Batches(len(checks), 2048, None, recipe.seed)),
            )
        )
        return Material(training, validating, recipe, record)

    def build(self) -> nn.Module:
        return PatchLSTM(self.shape_)

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        levels = batch.future.new_tensor(self.quantiles_)
        return pinball(network(batch), batch, levels), None

    def place(self, batch: Batch, at: int) -> str:
        series = list(self.trained_)[int(batch.series[at])] or "the series"
        return (
            f"a window of series '{series}' that begins its horizon at row {int(batch.origin[at])}"
        )

    def settle(self, material: Material) -> None:
        self.offsets_ = np.zeros((self.shape_.horizon, len(self.quantiles_)))
        if self.options_.conformal and material.validation is not None:
            windows: Any = material.validation.dataset
            self.offsets_ = calibrated(self.network_, windows, self.quantiles_)

    def validation_scores(self, material: Material) -> dict[str, float]:
        windows: Any = material.validation.dataset if material.validation is not None else ()
        return self._tested(windows, self._forecasting("cpu")).evaluation().scores

    # ------------------------------------------------------------------------------- forecasting

    def predict(self, data: Any, *, future: AnyTable | None = None, device: Device = "cpu") -> Any:
        """Forecast the ``horizon`` steps after the end of every series in ``data``.

        Each series is scaled as ``fit`` learned it, whatever rows are given here; see docs/forecast.md for
        series that ``fit`` never saw. A series of which too little was observed has NaN, and a warning
        names it.

        Args:
            data: the history, with the columns that ``fit`` had.
            future: a table, or file, of the ``known`` columns over these steps, where there are any.
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Returns:
            A table of the kind of ``data`` (polars for a file): time, series and target where there
            are several, ``forecast``, and a column for each quantile (``q0.1``).

        Raises:
            DataError: the table cannot be used, or no series can be forecast.
            OptionError: this machine has no such device.
        """
        forecasting = self._forecasting(device)
        if not isinstance(data, (str, os.PathLike, Mapping)):
            data = load(data, time_format=self.time_format)  # once, for its rows and its types
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        times = dict(time=self.time, series=self.series, time_format=self.time_format)
        beyond = known_ahead(panel, future, self.shape_.horizon, **times)
        windows = self._windows(panel, rows, rows, future=beyond)
        say_short(panel, self.shape_.context)
        every = np.arange(len(windows))
        channel, series, origin = windows.place(every)
        forecast = forecasting.forecast(windows, every)
        horizon = self.shape_.horizon
        steps = (panel.starts[series] + origin)[:, None] + np.arange(horizon)
        columns: dict[str, Any] = {}
        if panel.series is not None:
            columns[panel.series] = np.repeat(panel.labels[series], horizon)
        if len(self.target_) > 1:
            columns["target"] = np.repeat(np.asarray(self.target_)[channel], horizon)
        columns["step" if panel.time is None else panel.time] = panel.timeline.times(steps.ravel())
        columns["forecast"] = forecast[..., 0].ravel()
        for k, level in enumerate(self.quantiles_):
            columns[output.quantile_name(level)] = forecast[..., 1 + k].ravel()
        return output.table(columns, like=data, panel=panel, time_format=self.time_format)

    def evaluate(
        self,
        data: Any,
        *,
        windows: Count = 20,
        stride: Count | None = None,
        refit: Refit = False,
        device: Device = "cpu",
    ) -> Evaluation:
        """Backtest, beside the naive forecasts.

        Args:
            windows: how many dates for each series, the last of them a horizon before its end.
            stride: steps between them; spread evenly over what the model has not seen if not given.
            refit: False keeps this model and takes only dates it has not seen; True fits a new one
                before every date, a number k before every k-th.
            device: where the network runs: "cpu", "cuda", "cuda:1".
        """
        return self.backtest(
            data, windows=windows, stride=stride, refit=refit, device=device
        ).evaluation()

    def backtest(
        self,
        data: Any,
        *,
        windows: int = 20,
        stride: int | None = None,
        refit: bool | int = False,
        device: str | torch.device = "cpu",
    ) -> Backtest:
        """Forecast from past dates and compare with what came; the arguments are those of ``evaluate``.

        Raises:
            DataError: there is nothing that the model has not seen; the message says what to do.
        """
        windows = whole("windows", windows)
        stride = None if stride is None else whole("stride", stride)
        every = refit_every("refit", refit)
        forecasting = self._forecasting(device)
        panel = self._panel(data, fitted=True)
        if every:
            return self._refitted(panel, windows, stride or self.shape_.horizon, every, device)
        rows, horizon = panel.lengths, self.shape_.horizon
        first = first_unseen(panel, self.shape_, self.seen_)
        room = rows - horizon - first
        steps = np.maximum(room // max(windows - 1, 1), 1) if stride is None else stride
        count = np.minimum(room // steps, windows - 1)
        start = np.where(room >= 0, rows - horizon - count * steps, rows)
        last = np.where(room >= 0, rows - horizon, 0)
        return self._tested(self._windows(panel, start, last, steps, whole=True), forecasting)

    def _refitted(
        self, panel: Panel, windows: int, stride: int, every: int, device: str | torch.device
    ) -> Backtest:
        rows, horizon = panel.lengths, self.shape_.horizon
        copy = clone(self).set_params(context=self.shape_.context, season=self.season_)
        copy.name_columns()
        copy.timeline_, copy.static_labels_ = panel.timeline, panel.static_labels
        parts = []
        for k in reversed(range(windows)):
            origin = rows - horizon - k * stride
            if (windows - 1 - k) % every == 0:
                split = sizes.Split.before(np.maximum(origin, 0), self.validation_, horizon)
                material = copy._material(panel, split, self.validation_, Record({}, {}))
                copy.learn(material, Run(quiet=True))
            first = np.where(origin >= least_observed(self.shape_.context), origin, rows)
            dates = copy._windows(panel, first, np.minimum(first, origin), whole=True)
            if len(dates):
                parts.append(copy._tested(dates, copy._forecasting(device)))
        if not parts:
            raise DataError(NOTHING)
        return Backtest.joined(parts)

    def _tested(self, windows: Windows, forecasting: Forecasting) -> Backtest:
        return tested(forecasting, windows, self.shape_, self.season_, self.trained_)

    def inputs(self, data: Any) -> tuple[Batch]:
        """The last window of the first series."""
        panel = self._panel(data, fitted=True)
        return (self._windows(panel, panel.lengths, panel.lengths)[FIRST],)

    def _forecasting(self, device: str | torch.device) -> Forecasting:
        self.check_fitted()
        where = device_of("device", device)
        options = self.options_
        return Forecasting(
            self.network_on(where),
            where,
            self.shape_.context,
            self.quantiles_,
            self.offsets_,
            options.minimum,
            options.maximum,
        )

    def report(self, data: Any, evaluation: Evaluation | None, folder: Path) -> Path:
        panel = self._panel(data, fitted=True)
        summary = DataSummary.of(self.trained_, self.seen_, panel)
        windows = self._windows(panel, panel.lengths, panel.lengths)
        values, trace = (
            windows.contexts(FIRST, self.shape_.context)[0],
            self.traced((windows[FIRST],)),
        )
        backtest = None if evaluation is None else evaluation.details
        return report.write(self, backtest, trace, values, summary, folder)

    # ------------------------------------------------------------------------------------ reading

    def _panel(self, data: Any, fitted: bool = False) -> Panel:
        keep_torch_from_waiting()
        return Panel.from_table(
            data,
            target=self.target_,
            time=self.time,
            series=self.series,
            past=self.past_,
            known=self.known_,
            static=self.static_,
            freq=self.freq,
            time_format=self.time_format,
            gaps=self.options_.gaps,
            timeline=self.timeline_ if fitted else None,
            static_labels=self.static_labels_ if fitted else None,
        )

    def _windows(
        self,
        panel: Panel,
        first: Array,
        last: Array,
        stride: int | Array = 1,
        future: Array | None = None,
        whole: bool = False,
    ) -> Windows:
        return Windows(
            panel,
            self.scaling_.of(panel),
            self.shape_.context,
            self.shape_.horizon,
            first,
            last,
            stride,
            future,
            self.calendar_,
            whole,
        )

    # ------------------------------------------------------------------------------------- saving

    def learned(self) -> dict[str, Any]:
        names = ("static_labels", "season", "calendar", "validation", "trained", "seen")
        kept = {name: getattr(self, f"{name}_") for name in names}
        return kept | dict(timeline=self.timeline_.to_json(), shape=asdict(self.shape_))

    def tensors(self) -> dict[str, Tensor]:
        offsets = {state.OFFSETS: torch.from_numpy(self.offsets_)}
        return offsets | state.scaling_tensors(self.scaling_)

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        return state.learned_checks(saved.most, len(saved.stored)), {}

    def take_learned(self, learned: dict[str, Any]) -> None:
        self.name_columns()
        self.shape_ = ForecasterShape(**learned.pop("shape"))
        super().take_learned(learned)
        state.check_fit(self)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(self)

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.offsets_ = tensors.pop(state.OFFSETS).numpy()
        self.scaling_ = state.scaling_of(list(self.trained_), tensors)
