"""The forecaster: fit, predict, backtest, save and load."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone

from gatewise.data import frequency
from gatewise.data.panel import Panel
from gatewise.data.scaling import Scaling
from gatewise.data.stamps import check_format
from gatewise.data.table import names_of
from gatewise.data.timeline import cycle_length
from gatewise.data.windows import Windows, least_observed
from gatewise.errors import DataError, OptionError, caution
from gatewise.forks import keep_torch_from_waiting
from gatewise.memory import check_network
from gatewise.options import flag, whole
from gatewise.tasks.fitted import take_over
from gatewise.tasks.forecast import baselines, output, sizes
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.intervals import check_enough, ordered, widened
from gatewise.tasks.forecast.network import PatchLSTM, Shape
from gatewise.tasks.forecast.options import Options
from gatewise.tasks.forecast.reach import say_far
from gatewise.tasks.forecast.record import recorded
from gatewise.tasks.forecast.training import spread, train
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.fitting import Recipe, Run

Array = np.ndarray
Columns = Any  # a name, or a list or tuple of names


class Forecaster(BaseEstimator):
    """One recurrent model for one or many series, with quantiles and honest scores.

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
        calendar: whether the model sees hour of day, day of week and the like, where the training part
            holds such a cycle twice. Off unless asked for: they help where days differ (calls, sales, visits),
            and made ETTh1's validation loss worse by one percent.
        conformal: widen or narrow the intervals to their coverage on the validation part (Romano,
            Patterson & Candès 2019).
        minimum, maximum: bounds at which forecasts and quantiles are cut off, such as ``minimum=0`` for
            counts and prices; none if not given.
        hidden, layers, dropout: of the LSTM.
        steps, batch, learning_rate, seed: of the training; the same seed gives the same model. The
            steps are three passes over the windows if not given, within 300 and 2,400.

    Raises:
        OptionError: an argument cannot be used; the message says what can.
    """

    def __init__(
        self,
        horizon: int,
        target: Columns,
        time: str | None = None,
        *,
        series: str | None = None,
        past: Columns = (),
        known: Columns = (),
        static: Columns = (),
        freq: Any = None,
        time_format: str | None = None,
        gaps: str = "error",
        context: int | None = None,
        season: int | None = None,
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        calendar: bool = False,
        conformal: bool = False,
        minimum: float | None = None,
        maximum: float | None = None,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.2,
        steps: int | None = None,
        batch: int = 256,
        learning_rate: float = 4e-3,
        seed: int = 0,
    ) -> None:
        self.horizon = horizon
        self.target = target
        self.time = time
        self.series = series
        self.past = past
        self.known = known
        self.static = static
        self.freq = freq
        self.time_format = time_format
        self.gaps = gaps
        self.context = context
        self.season = season
        self.quantiles = quantiles
        self.calendar = calendar
        self.conformal = conformal
        self.minimum = minimum
        self.maximum = maximum
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.seed = seed
        Options.of(self)
        self._check_times()
        _names("target", target)

    def _resolve(self) -> None:
        """Learn what the arguments say of columns and quantiles, however they were written.

        Raises:
            OptionError: an argument was set since to what cannot be used.
        """
        self.options_ = Options.of(self)
        self._check_times()
        self.target_, self.past_ = _names("target", self.target), _names("past", self.past)
        self.known_, self.static_ = _names("known", self.known), _names("static", self.static)
        self.quantiles_ = self.options_.quantiles

    def _check_times(self) -> None:
        if self.freq is not None:
            frequency.read(self.freq)
        if self.time_format is not None:
            check_format(self.time_format)

    def fit(
        self,
        data: Any,
        *,
        validation: int | float = 0.15,
        test: int | float = 0.15,
        run: Run | None = None,
    ) -> Forecaster:
        """Learn from a table (pandas, polars, pyarrow) or a file (CSV, Parquet).

        Each series is split in time: training, then ``validation`` rows (which stop the training),
        then ``test`` rows, which the model never sees and ``backtest`` scores it on. A share below 1
        is of the series' rows, and at least a horizon; a whole number is rows; ``test=0`` holds none
        out.

        Raises:
            DataError: the table cannot be used; the message names column, series and row.
            TrainingError: the loss is not a number any more.
        """
        fresh = clone(self)
        fresh._resolve()
        panel = fresh._panel(data)
        output.check_names(panel, fresh.quantiles_)
        panel.check_learnable()
        split = sizes.Split.of(panel.lengths, validation, test, fresh.options_.horizon)
        fresh._fit(panel, split, validation, recorded(run or Run(), fresh, panel, validation, test))
        take_over(self, fresh)
        return self

    def _fit(self, panel: Panel, split: sizes.Split, validation: int | float, run: Run) -> None:
        """Learn from the training part of each series."""
        begun = time.perf_counter()
        options = self.options_
        self.timeline_ = panel.timeline
        self.static_labels_ = panel.static_labels
        self.season_ = sizes.season_for(options.season, panel.timeline.season, split.trained)
        longest = int(split.trained.max())
        self.calendar_ = self._cycles(panel, longest) if options.calendar else []
        self.shape_ = self._shape(panel, split.trained)
        shape = self.shape_
        sizes.check_room(
            split,
            panel.lengths,
            shape.context,
            shape.horizon,
            shape.patch,
            validation,
            options.context is not None,
        )
        if options.season is None and self.season_ < panel.timeline.season:
            sizes.say_no_season(panel.timeline.season, split.trained)
        if options.context is None and shape.context < self.season_:
            sizes.say_short_context(shape.context, self.season_, split.trained)
        self.validation_ = validation
        self.scaling_ = Scaling.learn(panel, split.trained, self.season_)
        starts, names = panel.starts, panel.names
        self.trained_ = dict(zip(names, (starts + split.trained).tolist(), strict=True))
        self.seen_ = dict(zip(names, (starts + split.seen).tolist(), strict=True))
        windows, checks = self._parts(panel, split)
        recipe = Recipe(
            steps=options.steps or min(max(3 * len(windows) // options.batch, 300), 2400),
            batch=options.batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        with torch.random.fork_rng(devices=[]):
            sizes_given = (
                f"hidden={options.hidden}, layers={options.layers}, horizon={options.horizon}"
            )
            check_network(lambda: PatchLSTM(shape), sizes_given)
            levels = list(self.quantiles_)
            self.network_, self.history_ = train(shape, levels, recipe, run, windows, checks)
        self.offsets_ = np.zeros((shape.horizon, len(self.quantiles_)))
        if options.conformal:
            self.offsets_ = self._calibrate(checks)
        self.history_.seconds = time.perf_counter() - begun

    def _parts(self, panel: Panel, split: sizes.Split) -> tuple[Windows, Windows]:
        """The windows that are learned from, and those that the training stops by.

        Raises:
            DataError: there is none of one kind, or too few to calibrate by.
        """
        context, horizon = self.shape_.context, self.shape_.horizon
        first = sizes.first_origins(split.trained, context, horizon)
        windows = self._windows(panel, first, split.trained - horizon, whole=True)
        begin = np.maximum(split.trained, least_observed(context))
        checks = self._windows(panel, begin, split.seen - horizon, whole=True)
        for kind, each in (("training", windows), ("validation", checks)):
            if not len(each):
                raise DataError(
                    f"the {kind} part has no window to go by: none has {least_observed(context)} "
                    f"observed values of a target among the {context} steps of its context and one "
                    f"among the {horizon} of its horizon. Give another split, or fill what is missing"
                )
            absent = np.setdiff1d(np.arange(len(panel.names)), each.series())
            if absent.size:
                caution(
                    f"{panel.listed(absent)}: too short, or with too few observed values, for a window "
                    f"in the {kind} part, in which it takes no part"
                )
        if self.options_.conformal:
            chosen = spread(len(checks))
            observed = sum((~np.isnan(checks.futures(part))).sum(0) for part in _chunks(chosen))
            check_enough(np.asarray(observed), self.quantiles_)
        return windows, checks

    def predict(self, data: Any, *, future: Any = None) -> Any:
        """Forecast the ``horizon`` steps after the end of every series in ``data``.

        Each series is scaled as ``fit`` learned it, whatever rows are given here; see docs/forecast.md for
        series that ``fit`` never saw. A series of which too little was observed has NaN, and a warning
        names it.

        Args:
            data: the history, with the columns that ``fit`` had.
            future: where there are ``known`` columns, a table of them over these steps.

        Returns:
            A table of the kind of ``data`` (polars for a file): time, series and target where there
            are several, ``forecast``, and a column for each quantile (``q0.1``).

        Raises:
            DataError: the table cannot be used, or no series can be forecast.
        """
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        beyond = self._future(panel, future)
        windows = self._windows(panel, rows, rows, future=beyond)
        self._say_short(panel)
        every = np.arange(len(windows))
        channel, series, origin = windows.place(every)
        forecast = self._forecast(windows, every)
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

    def backtest(
        self,
        data: Any,
        *,
        windows: int = 20,
        stride: int | None = None,
        refit: bool | int = False,
    ) -> Backtest:
        """Forecast from past dates and compare with what came.

        Args:
            windows: how many dates for each series, the last of them a horizon before its end.
            stride: steps between them; spread evenly over what the model has not seen if not given.
            refit: False keeps this model and takes only dates it has not seen; True fits a new one
                before every date, a number k before every k-th.

        Raises:
            DataError: there is nothing that the model has not seen; the message says what to do.
        """
        windows = whole("windows", windows)
        stride = None if stride is None else whole("stride", stride)
        every = _every(refit)
        panel = self._panel(data, fitted=True)
        if every:
            return self._refitted(panel, windows, stride or self.shape_.horizon, every)
        rows, horizon = panel.lengths, self.shape_.horizon
        first = self._first_unseen(panel)
        room = rows - horizon - first
        steps = np.maximum(room // max(windows - 1, 1), 1) if stride is None else stride
        count = np.minimum(room // steps, windows - 1)
        start = np.where(room >= 0, rows - horizon - count * steps, rows)
        last = np.where(room >= 0, rows - horizon, 0)
        return self._tested(self._windows(panel, start, last, steps, whole=True))

    def _first_unseen(self, panel: Panel) -> Array:
        """The first row of each series from which the model can be tested.

        Raises:
            DataError: there is none in any series.
        """
        context, horizon, rows = self.shape_.context, self.shape_.horizon, panel.lengths
        least = np.where(rows >= context + horizon, context, least_observed(context))
        if (rows < least + horizon).all():
            raise DataError(
                f"the longest series has {int(rows.max())} rows to backtest, and "
                f"{int(least.min()) + horizon} are needed: a horizon of {horizon} and what it is "
                f"forecast from"
            )
        seen = np.array([self.seen_.get(name, 0) for name in panel.names]) - panel.starts
        first = np.maximum(seen, least)
        if (rows - horizon < first).all():
            counted = (
                ""
                if panel.time is not None
                else (
                    "; without a time column rows are counted from the table's first, so give the rows of "
                    "fit too, and the newer ones behind them"
                )
            )
            raise DataError(
                f"the model has seen all of this data up to a horizon before its end, so there is "
                f"nothing to test it on: give newer rows{counted}, fit with test=, or use refit=True"
            )
        return first

    def _refitted(self, panel: Panel, windows: int, stride: int, every: int) -> Backtest:
        rows, horizon = panel.lengths, self.shape_.horizon
        copy = clone(self).set_params(context=self.shape_.context, season=self.season_)
        copy._resolve()
        parts = []
        for k in reversed(range(windows)):
            origin = rows - horizon - k * stride
            if (windows - 1 - k) % every == 0:
                split = sizes.Split.before(np.maximum(origin, 0), self.validation_, horizon)
                copy._fit(panel, split, self.validation_, Run(progress=False))
            first = np.where(origin >= least_observed(self.shape_.context), origin, rows)
            tested = copy._windows(panel, first, np.minimum(first, origin), whole=True)
            if len(tested):
                parts.append(copy._tested(tested))
        if not parts:
            raise DataError(_NOTHING)
        return Backtest.joined(parts)

    def _tested(self, windows: Windows) -> Backtest:
        if not len(windows):
            raise DataError(_NOTHING)
        panel, every = windows.panel, np.arange(len(windows))
        channel, series, origin = windows.place(every)
        forecast = self._forecast(windows, every)
        shape, season = self.shape_, self.season_
        past = windows.contexts(every, -(-shape.context // season) * season)
        context = windows.contexts(every, shape.context)
        steps = (panel.starts[series] + origin)[:, None] + np.arange(shape.horizon)
        scale, errors = self._score_units(windows)
        return Backtest(
            actual=windows.futures(every),
            point=forecast[..., 0],
            quantiles=forecast[..., 1:],
            levels=self.quantiles_,
            last_value=baselines.last_value(context, shape.horizon),
            seasonal_naive=baselines.seasonal(past, season, shape.horizon),
            context=context,
            series=np.asarray(panel.names)[series],
            target=np.asarray(self.target_)[channel],
            origin=origin,
            times=panel.timeline.times(steps.ravel()).reshape(steps.shape),
            scale=scale[channel, series],
            mase_scale=errors[channel, series],
            left_out=windows.left_out,
        )

    def _score_units(self, windows: Windows) -> tuple[Array, Array]:
        """V×S each: the deviation and the error of seasonal naive that scores are given in, of the training
        part; of a series that was not fitted, what is before its first tested date."""
        scaling, panel = windows.scaling, windows.panel
        scale, errors = scaling.target.scale, scaling.seasonal_error
        new = np.array([name not in self.trained_ for name in panel.names])
        if np.isnan(scale).any() or new.any():
            own = Scaling.learn(panel, np.minimum(windows.first, panel.lengths), self.season_)
            scale = np.where(np.isnan(scale), own.target.scale, scale)
            errors = np.where(new, own.seasonal_error, errors)
        return np.nan_to_num(scale, nan=1.0), errors

    def trace(self, data: Any) -> tuple[Any, Array]:
        """The LSTM's gates over the last window of the first series, and that window's L values."""
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        windows = self._windows(panel, rows, rows)
        first = np.array([0])
        with torch.no_grad():
            _, trace = self.network_(windows[first], trace=True)
        return trace, windows.contexts(first, self.shape_.context)[0]

    def _forecast(self, windows: Windows, indices: Array) -> Array:
        """N×K×(1 + Q) in the data's units, the quantiles in rising order; NaN where too little of the
        context was observed.

        Raises:
            DataError: no window can be forecast, or a forecast is not finite.
        """
        options, least = self.options_, least_observed(self.shape_.context)
        parts, blind = [], []
        for chosen in _chunks(indices):
            batch = windows[chosen]
            with torch.no_grad():
                values = self.network_(batch).double().numpy()
            values[..., 1:] += self.offsets_
            values = ordered(values, self.quantiles_)
            location, scale = batch.location.numpy(), batch.scale.numpy()
            with np.errstate(over="ignore"):
                values = values * scale[:, None, None] + location[:, None, None]
            missing = batch.observed.sum(1).numpy() < least
            missing |= self._unscaled(windows, batch)
            say_far(
                windows, batch, np.where(missing[:, None, None], location[:, None, None], values)
            )
            values = values.clip(options.minimum, options.maximum)
            values[missing] = np.nan
            parts.append(values)
            blind.append(batch.series.numpy()[missing])
        self._say_blind(windows.panel, np.unique(np.concatenate(blind)), parts)
        return np.concatenate(parts)

    @staticmethod
    def _unscaled(windows: Windows, batch: Any) -> Array:
        """Whether a window is of a series without a scale, and is flat, so that it has none either."""
        usual = windows.scaling.target.scale[batch.channel.numpy(), batch.series.numpy()]
        return np.isnan(usual) & ~(batch.target != 0).any(1).numpy()

    def _say_blind(self, panel: Panel, series: Array, parts: list[Array]) -> None:
        """Warn of series that cannot be forecast, or raise where none can."""
        if not series.size:
            return
        said = (
            f"{panel.listed(series)}: of the last {self.shape_.context} steps at least "
            f"{least_observed(self.shape_.context)} values must be observed, and of a series that fit "
            f"did not see two that differ"
        )
        if all(np.isnan(part).all() for part in parts):
            raise DataError(f"there is nothing to forecast from in {said}")
        caution(f"the forecast is NaN for {said}")

    def _say_short(self, panel: Panel) -> None:
        short = np.flatnonzero(panel.lengths < self.shape_.context)
        if short.size:
            caution(
                f"{panel.listed(short)}: shorter than the {self.shape_.context} steps that the model "
                f"reads; what is before the first row is taken as missing"
            )

    def _calibrate(self, checks: Windows) -> Array:
        """K×Q: by how many of a window's deviations each quantile must move, so that the interval between
        it and its counterpart has its coverage on ``checks``."""
        gaps = []
        with torch.no_grad():
            for chosen in _chunks(spread(len(checks))):
                batch = checks[chosen]
                gap = batch.future[..., None] - self.network_(batch)[..., 1:]
                seen = batch.future_observed[..., None].bool()
                gaps.append(torch.where(seen, gap, torch.nan).double().numpy())
        return widened(np.concatenate(gaps), self.quantiles_)

    def _panel(self, data: Any, fitted: bool = False) -> Panel:
        if fitted and not hasattr(self, "network_"):
            raise UnfittedError("this forecaster has not been fitted yet: call fit first")
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

    def _future(self, panel: Panel, future: Any) -> Array | None:
        if not self.known_:
            if future is not None:
                raise DataError(
                    "a future= table was given, and this model has no known columns to take from it"
                )
            return None
        horizon = self.shape_.horizon
        if future is None:
            raise DataError(
                f"the known columns ({', '.join(self.known_)}) are needed over the horizon: give "
                f"predict a future= table of {horizon} rows for each series (--future FILE)"
            )
        values = panel.future_table(
            future,
            horizon=horizon,
            time=self.time,
            series=self.series,
            time_format=self.time_format,
        )
        return values.reshape(len(self.known_), len(panel.names), horizon)

    def _shape(self, panel: Panel, trained: Array) -> Shape:
        """The network's sizes for this data."""
        options = self.options_
        patch = sizes.patch_of(self.season_, options.context)
        return Shape(
            context=sizes.context_for(
                options.context, self.season_, patch, trained, options.horizon
            ),
            horizon=options.horizon,
            patch=patch,
            quantiles=len(self.quantiles_),
            past=len(self.past_),
            known=len(self.known_),
            calendar=len(self.calendar_),
            static=panel.static.shape[1],
            hidden=options.hidden,
            layers=options.layers,
            dropout=options.dropout,
        )

    @staticmethod
    def _cycles(panel: Panel, rows: int) -> list[int]:
        """Which calendar features the training part has seen through at least twice."""
        first, last = panel.timeline.times(np.array([0, rows]))
        names = panel.timeline.calendar_names
        if not names:
            return []
        span = int((last - first) / np.timedelta64(1, "us"))
        return [k for k, name in enumerate(names) if span >= 2 * cycle_length(name)]

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

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder; an older model there stays whole until the new one is complete."""
        from gatewise.tasks.forecast.files import save

        return save(self, Path(folder))

    def _learned(self) -> dict[str, Any]:
        return dict(
            timeline=self.timeline_.to_json(),
            static_labels=self.static_labels_,
            season=self.season_,
            calendar=self.calendar_,
            shape=asdict(self.shape_),
            validation=self.validation_,
            trained=self.trained_,
            seen=self.seen_,
            history=asdict(self.history_),
        )


_NOTHING = (
    "there is nothing to test on: no date that the model has not seen has enough observed values before "
    "it to forecast from, and one after it to compare with"
)


def _names(role: str, given: Columns) -> tuple[str, ...]:
    """The columns of a role.

    Raises:
        OptionError: these are no names.
    """
    nothing = given is None or isinstance(given, (dict, set))
    if not nothing and not (isinstance(given, (list, tuple)) and None in given):
        return names_of(given)
    raise OptionError(f"{role} must be the name of a column or a list of names, not {given!r}")


def _every(refit: Any) -> int:
    """0 for no refit, or before every how many dates a new model is fitted."""
    try:
        return int(flag("refit", refit))
    except OptionError:
        pass
    try:
        return whole("refit", refit)
    except OptionError:
        raise OptionError(
            f"refit must be True, False or a positive integer, not {refit!r}"
        ) from None


def _chunks(indices: Array) -> Iterator[Array]:
    for start in range(0, len(indices), 1024):
        yield indices[start : start + 1024]
