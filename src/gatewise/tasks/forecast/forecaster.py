"""The forecaster: fit, predict, backtest and evaluate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gatewise.arguments import Count, Layers, Number, Positive, Probability, Seed
from gatewise.data.panel import Panel
from gatewise.data.scaling import Scaling
from gatewise.data.table import Frame, load
from gatewise.data.windows import Batch, Windows, least_observed
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting
from gatewise.gates.page.shown import InputEdit, Shown
from gatewise.models.forecaster import ForecasterShape, PatchLSTM
from gatewise.options import integer
from gatewise.report.scores import Evaluation
from gatewise.tasks.base import Task
from gatewise.tasks.entry_checks import Check
from gatewise.tasks.forecast import gates, output, report, sizes, state
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.forecasting import Forecasting, calibrated_offsets, observed_by_step
from gatewise.tasks.forecast.intervals import check_enough
from gatewise.tasks.forecast.options import Frequency, Levels, Refit, TimeFormat, refit_every
from gatewise.tasks.forecast.preparing import (
    check_no_test,
    check_same_series,
    check_windows,
    cycles,
    known_ahead,
    shape_of,
    warn_short_series,
)
from gatewise.tasks.forecast.record import training_record
from gatewise.tasks.forecast.summary import DataSummary
from gatewise.tasks.forecast.testing import NOTHING_TO_TEST, backtest_of, first_unseen, unseen_rows
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
from gatewise.train.objective import Carry, TrainingData
from gatewise.train.recipe import Recipe
from gatewise.train.record import Record
from gatewise.train.run import Run

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
FIRST = np.array([0])  # the first of a panel's windows


@dataclass(eq=False, repr=False)
class Forecaster(Task):
    """Forecast the next steps of one or many series, with quantiles.

    One recurrent model is trained on all series.

    Args:
        horizon: K, the number of steps to forecast.
        target: the column or columns to forecast. One shared model forecasts each of several columns from
            that column's own past.
        time: the column of times: timestamps or integers. Without it each row is one step.
        series: the column with the names of the series. Without it the table is one series.
        past: numeric columns whose values are known up to the present.
        known: numeric columns whose values are also known in the future. ``predict`` needs their future
            values.
        static: columns that are constant within a series, numbers or text.
        freq: the time step, such as "1h", "15min", "D", "B", "W" or "MS"; pandas' names and offsets and
            timedeltas are valid too. By default it is inferred from the times.
        time_format: the format of times that are text or integers, such as "%d/%m/%Y" or "%Y%m", in the
            notation of ``datetime.strptime``. By default text is read as ISO dates.
        gaps: what to do about missing time steps: "error", or "mask" to treat them as missing values.
        context: the number of past steps that the model sees. It is rounded down to a multiple of the
            patch length. By default it is chosen from the season, the horizon and the number of rows.
        season: the seasonal period in steps. The default depends on the time step: 24 for hours.
        quantiles: the levels of the quantile forecasts. The point forecast is trained on the absolute error.
        calendar: give the model calendar features such as hour of day and day of week, if the training part
            contains the cycle at least twice. They help if days differ, as for calls, sales or visits. They
            are off by default, because they increased ETTh1's validation loss by one percent.
        conformal: adjust the quantiles so that their intervals have their nominal coverage on the validation
            part (Romano, Patterson & Candès 2019).
        minimum: the lower bound of forecasts and quantiles, such as 0 for counts and prices.
        maximum: the upper bound of forecasts and quantiles.
        hidden: hidden units of the LSTM.
        layers: layers of the LSTM.
        dropout: dropout probability between layers and before the output.
        steps: weight updates. The default is three passes over the windows, but at least 300 and at most
            2,400.
        batch: windows per batch.
        learning_rate: the highest learning rate of AdamW.
        seed: the seed of weights, batches and dropout. The same seed gives the same model.

    Raises:
        OptionError: an argument is not valid. The message says what is expected.
    """

    name: ClassVar[str] = "forecast"
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
        """Fits the model to a table (pandas, polars, pyarrow) or a file (CSV, Parquet).

        Each series is split in time into three parts: training, validation, test. The validation part is
        used for early stopping and to choose the best weights. The model never sees the test part;
        ``backtest`` scores it there.

        Args:
            validation: the size of the validation part: a share below 1 of each series' rows (at least one
                horizon), or a number of rows; or a file with newer rows of the same series.
            test: the size of the test part, as for validation; 0 for no test part; or a file with newer rows.
                If validation is a file, test must be 0 or a file with still newer rows.

        Raises:
            DataError: the table is not valid. The message names the column, series and row.
            TrainingError: the loss is not finite.
        """
        return super().fit(data, validation=validation, test=test, run=run)

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
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
            record = training_record(self, panel, size or "a file", test, run.precision, newer)
        return self._training_data(panel, split, size, record, newer)

    def name_columns(self) -> None:
        """Sets the attributes of column names and quantiles from the checked options."""
        options = self.options_ = self.checked()
        self.target_, self.quantiles_ = options.target, options.quantiles
        self.past_, self.known_, self.static_ = options.past, options.known, options.static

    def _training_data(
        self,
        panel: Panel,
        split: sizes.Split,
        validation: int | float | None,
        record: Record,
        newer: Panel | None = None,
    ) -> TrainingData:
        """The training data of a panel. This learns scales and sizes from the training part of each series.

        Args:
            validation: the size of the validation part, or None if ``newer`` has the validation rows.
            newer: the panel of the validation rows, if they come from a file of their own.
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
            sizes.warn_no_season(panel.timeline.season, split.trained)
        if not given and shape.context < self.season_:
            sizes.warn_short_context(shape.context, self.season_, split.trained)
        self.scaling_ = Scaling.learn(panel, split.trained, self.season_)
        starts, names = panel.starts, panel.names
        self.trained_ = dict(zip(names, (starts + split.trained).tolist(), strict=True))
        self.seen_ = dict(zip(names, (starts + split.seen).tolist(), strict=True))
        first = sizes.first_origins(split.trained, shape.context, shape.horizon)
        windows = self._windows(panel, first, split.trained - shape.horizon, scorable_only=True)
        if newer is None:
            begin = np.maximum(split.trained, least_observed(shape.context))
            checks = self._windows(panel, begin, split.seen - shape.horizon, scorable_only=True)
        else:
            begin = unseen_rows(newer, shape, self.trained_)
            checks = self._windows(newer, begin, newer.lengths - shape.horizon, scorable_only=True)
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
        return TrainingData(training, validating, recipe, record)

    def build(self) -> nn.Module:
        return PatchLSTM(self.shape_)

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        levels = batch.future.new_tensor(self.quantiles_)
        return pinball(network(batch), batch, levels), None

    def describe_member(self, batch: Batch, at: int) -> str:
        series = list(self.trained_)[int(batch.series[at])] or "the series"
        return (
            f"the window of series '{series}' whose horizon starts at row {int(batch.origin[at])}"
        )

    def after_training(self, training_data: TrainingData) -> None:
        self.offsets_ = np.zeros((self.shape_.horizon, len(self.quantiles_)))
        if self.options_.conformal and training_data.validation is not None:
            windows: Any = training_data.validation.dataset
            self.offsets_ = calibrated_offsets(self.network_, windows, self.quantiles_)

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        windows: Any = (
            training_data.validation.dataset if training_data.validation is not None else ()
        )
        return self._tested(windows, self._forecasting("cpu")).evaluation().scores

    # ------------------------------------------------------------------------------- forecasting

    @overload
    def predict(
        self, data: Frame, *, future: AnyTable | None = None, device: Device = "cpu"
    ) -> Frame: ...

    @overload
    def predict(
        self,
        data: str | os.PathLike[str] | Mapping[str, Any],
        *,
        future: AnyTable | None = None,
        device: Device = "cpu",
    ) -> pl.DataFrame: ...

    def predict(self, data: Any, *, future: AnyTable | None = None, device: Device = "cpu") -> Any:
        """Forecasts the ``horizon`` steps after the end of every series in ``data``.

        Each series has the scale that ``fit`` learned, whatever rows are given here. docs/forecast.md
        describes series that ``fit`` did not see. A series with too few observed values gets NaN and a
        warning.

        Args:
            data: the history, with the same columns as for ``fit``.
            future: a table or file with the values of the ``known`` columns for the forecast steps. Needed
                only if the model has ``known`` columns.
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Returns:
            A table of the same library as ``data`` (polars for a file). Its columns are the series, the
            target if there are several, the time, ``forecast``, and each quantile, such as ``q0.1``.

        Raises:
            DataError: the table is not valid, or no series can be forecast.
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
        warn_short_series(panel, self.shape_.context)
        every = np.arange(len(windows))
        channel, series, origin = windows.place(every)
        forecast = forecasting.forecast(windows, every)
        horizon = self.shape_.horizon
        steps = panel.steps_from(series, origin, horizon)
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
        """The scores of forecasts from past dates (a backtest), and those of naive forecasts.

        Args:
            windows: the number of dates per series to forecast from. The last date is one horizon before the
                end of the series.
            stride: the number of steps from one date to the next. By default the dates are spread evenly over
                the rows that the model has not seen.
            refit: False uses this model and only dates that it has not seen. True fits a new model before
                every date; a number k before every k-th date.
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
        """Forecasts from past dates, with the actual values and naive forecasts. Arguments as for ``evaluate``.

        Raises:
            DataError: the model has seen all of the data. The message says what to do.
        """
        windows = integer("windows", windows)
        stride = None if stride is None else integer("stride", stride)
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
        return self._tested(
            self._windows(panel, start, last, steps, scorable_only=True), forecasting
        )

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
                training_data = copy._training_data(panel, split, self.validation_, Record({}, {}))
                copy.learn(training_data, Run(quiet=True))
            first = np.where(origin >= least_observed(self.shape_.context), origin, rows)
            dates = copy._windows(panel, first, np.minimum(first, origin), scorable_only=True)
            if len(dates):
                parts.append(copy._tested(dates, copy._forecasting(device)))
        if not parts:
            raise DataError(NOTHING_TO_TEST)
        return Backtest.joined(parts)

    def _tested(self, windows: Windows, forecasting: Forecasting) -> Backtest:
        return backtest_of(forecasting, windows, self.shape_, self.season_, self.trained_)

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

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        """The last window of each series whose following values are known, and its forecast."""
        panel = self._panel(data, fitted=True)
        rows, (context, horizon) = panel.lengths, (self.shape_.context, self.shape_.horizon)
        origin = np.where(rows - horizon >= least_observed(context), rows - horizon, rows)
        windows = self._windows(panel, origin, origin)
        count = min(limit, len(windows))

        def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
            panel = gates.with_values(windows, k, edits, self.shape_, steps)
            return self._shown(self._windows(panel, origin, origin), np.array([k]), steps)

        return self._shown(windows, np.arange(count), steps).with_edits(edited)

    def _shown(self, windows: Windows, chosen: Array, steps: int) -> Shown:
        inputs = (windows[chosen],)
        forecast = self._forecasting("cpu").forecast(windows, chosen)
        shown = gates.shown(windows, chosen, self.traces(inputs), forecast, self, steps)
        return replace(shown, inputs=inputs)

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
        scorable_only: bool = False,
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
            scorable_only,
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

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.name_columns()
        self.shape_ = ForecasterShape(**learned.pop("shape"))
        super().restore_learned(learned)
        state.check_fit(self)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(self)

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.offsets_ = tensors.pop(state.OFFSETS).numpy()
        self.scaling_ = state.scaling_of(list(self.trained_), tensors)
