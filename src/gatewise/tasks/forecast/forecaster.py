"""The forecaster: fit, predict, backtest, save and load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone

from gatewise.data.panel import Panel
from gatewise.data.timeline import cycle_length
from gatewise.data.windows import Scaling, Windows
from gatewise.errors import DataError, OptionError, need
from gatewise.tasks.forecast import baselines
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.metrics import seasonal_error
from gatewise.tasks.forecast.network import PatchLSTM, Shape
from gatewise.tasks.forecast.training import spread, train
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.fitting import Recipe, Run

Array = np.ndarray
Columns = str | Sequence[str]


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
        freq: the step ("1h", "15min", "D", "B", "W", "MS", …); inferred and checked if not given.
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
        freq: str | None = None,
        gaps: str = "error",
        context: int | None = None,
        season: int | None = None,
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        calendar: bool = False,
        conformal: bool = False,
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
        self.gaps = gaps
        self.context = context
        self.season = season
        self.quantiles = quantiles
        self.calendar = calendar
        self.conformal = conformal
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.seed = seed
        self._check_options()

    def _check_options(self) -> None:
        whole = {name: getattr(self, name) for name in ("horizon", "hidden", "layers", "batch")}
        maybe = {name: getattr(self, name) for name in ("context", "season", "steps")}
        whole |= {k: v for k, v in maybe.items() if v is not None}
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name} must be a whole number from 1 on, not {value!r}")
        if isinstance(self.dropout, bool) or not 0 <= self.dropout <= 1:
            raise OptionError(f"dropout must be a probability from 0 to 1, not {self.dropout!r}")
        rate = self.learning_rate
        if isinstance(rate, bool) or not 0 < rate < float("inf"):
            raise OptionError(f"the learning rate must be a number above 0, not {rate!r}")
        if self.gaps not in ("error", "mask"):
            raise OptionError(f"gaps must be 'error' or 'mask', not {self.gaps!r}")
        levels = _levels(self.quantiles)
        if len(set(levels)) < len(levels) or not all(0 < level < 1 for level in levels):
            raise OptionError(
                f"quantiles must differ and lie between 0 and 1, not {self.quantiles!r}"
            )

    def _resolve(self) -> None:
        """Learn what the arguments say of columns and quantiles, however they were written.

        Raises:
            OptionError: an argument was set since to what cannot be used.
        """
        self._check_options()
        self.target_, self.past_ = _names(self.target), _names(self.past)
        self.known_, self.static_ = _names(self.known), _names(self.static)
        self.quantiles_ = _levels(self.quantiles)

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
        self._resolve()
        panel = self._panel(data)
        panel.check_learnable()
        rows = panel.lengths
        ends = rows - _part(test, rows, self.horizon, "test")
        if run is None:
            with tempfile.TemporaryDirectory() as folder:
                self._fit(panel, ends, validation, Run(Path(folder)))
        else:
            self._fit(panel, ends, validation, run)
        return self

    def _fit(self, panel: Panel, ends: Array, validation: int | float, run: Run) -> None:
        """Learn from the first ``ends`` rows of each series."""
        begun = time.perf_counter()
        self.timeline_ = panel.timeline
        self.static_labels_ = panel.static_labels
        self.season_ = self.season or panel.timeline.season
        held = _part(validation, ends, self.horizon, "validation")
        if not held.all():
            raise OptionError("validation must hold some rows: the training stops by them")
        trained = ends - held
        self.calendar_ = self._cycles(panel, int(trained.max())) if self.calendar else []
        self.shape_ = self._shape(panel, trained)
        self._check_length(panel, trained, self.shape_.context + self.horizon, "for training")
        self.validation_ = validation
        self.static_scale_ = [part.tolist() for part in Scaling.fit(panel, trained).static]
        self.trained_ = dict(zip(panel.names, (panel.starts + trained).tolist(), strict=True))
        self.seen_ = dict(zip(panel.names, (panel.starts + ends).tolist(), strict=True))
        first = np.full(len(trained), self.shape_.context)
        windows = self._windows(panel, first, trained - self.horizon)
        checks = self._windows(panel, trained, ends - self.horizon)
        recipe = Recipe(
            steps=self.steps or min(max(3 * len(windows) // self.batch, 300), 2400),
            batch=self.batch,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        with torch.random.fork_rng(devices=[]):
            levels = list(self.quantiles_)
            self.network_, self.history_ = train(self.shape_, levels, recipe, run, windows, checks)
        self.offsets_ = np.zeros((self.horizon, len(self.quantiles_)))
        if self.conformal:
            self.offsets_ = self._calibrate(checks)
        self.history_.seconds = time.perf_counter() - begun

    def predict(self, data: Any, *, future: Any = None) -> Any:
        """Forecast the ``horizon`` steps after the end of every series in ``data``.

        Args:
            data: the history, with the columns that ``fit`` had. Series that ``fit`` never saw are
                forecast too.
            future: where there are ``known`` columns, a table of them over these steps.

        Returns:
            A table of the kind of ``data`` (polars for a file): time, series and target where there
            are several, ``forecast``, and a column for each quantile (``q0.1``).
        """
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        self._check_length(panel, rows, self.shape_.context, "to forecast from")
        beyond = self._future(panel, future)
        windows = self._windows(panel, rows, rows, scaling=Scaling.fit(panel, rows), future=beyond)
        channel, series, origin = windows.place(np.arange(len(windows)))
        forecast = self._forecast(windows, np.arange(len(windows)))
        steps = (panel.starts[series] + origin)[:, None] + np.arange(self.horizon)
        columns: dict[str, Any] = {}
        if self.series is not None:
            columns[self.series] = np.repeat(panel.labels[series], self.horizon)
        if len(self.target_) > 1:
            columns["target"] = np.repeat(np.asarray(self.target_)[channel], self.horizon)
        columns[self.time or "step"] = panel.timeline.times(steps.ravel())
        columns["forecast"] = forecast[..., 0].ravel()
        for k, level in enumerate(self.quantiles_):
            columns[f"q{level:g}"] = forecast[..., 1 + k].ravel()
        return _table(columns, like=data, zoned=(self.time, panel.timeline.zone))

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
        if not isinstance(windows, int) or windows < 1:
            raise OptionError(f"windows must be a whole number from 1 on, not {windows!r}")
        if isinstance(refit, int) and refit < 0:
            raise OptionError(
                f"refit must be True, False or a whole number from 1 on, not {refit!r}"
            )
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        self._check_length(panel, rows, self.shape_.context + self.horizon, "to backtest")
        if refit:
            return self._refitted(panel, windows, stride or self.horizon, int(refit))
        seen = np.array([self.seen_.get(name, 0) for name in panel.names]) - panel.starts
        first = np.maximum(seen, self.shape_.context)
        room = rows - self.horizon - first
        if (room < 0).all():
            raise DataError(
                "the model has seen all of this data up to a horizon before its end, so there is "
                "nothing to test it on: give newer rows, fit with test=, or use refit=True"
            )
        step = stride or max(1, int(room[room >= 0].min()) // max(windows - 1, 1))
        count = np.minimum(room // step, windows - 1)
        start = np.where(room >= 0, rows - self.horizon - count * step, rows)
        chosen = self._windows(panel, start, np.where(room >= 0, rows - self.horizon, 0), step)
        return self._tested(chosen)

    def _refitted(self, panel: Panel, windows: int, stride: int, every: int) -> Backtest:
        rows = panel.lengths
        copy = clone(self)
        copy._resolve()
        parts = []
        for k in reversed(range(windows)):
            origin = rows - self.horizon - k * stride
            if (windows - 1 - k) % every == 0:
                with tempfile.TemporaryDirectory() as folder:
                    quiet = Run(Path(folder), progress=False)
                    copy._fit(panel, origin, self.validation_, quiet)
            parts.append(copy._tested(copy._windows(panel, origin, origin)))
        return Backtest.joined(parts)

    def _tested(self, windows: Windows) -> Backtest:
        panel, count = windows.panel, len(windows)
        channel, series, origin = windows.place(np.arange(count))
        forecast = self._forecast(windows, np.arange(count))
        base = (panel.offsets[series] + origin)[:, None]
        column = channel[:, None]
        context = panel.target[column, base + np.arange(-self.shape_.context, 0)]
        steps = (panel.starts[series] + origin)[:, None] + np.arange(self.horizon)
        errors = self._season_errors(panel)
        return Backtest(
            actual=panel.target[column, base + np.arange(self.horizon)],
            point=forecast[..., 0],
            quantiles=forecast[..., 1:],
            levels=self.quantiles_,
            last_value=baselines.last_value(context, self.horizon),
            seasonal_naive=baselines.seasonal(context, self.season_, self.horizon),
            context=context,
            series=np.asarray(panel.names)[series],
            target=np.asarray(self.target_)[channel],
            origin=origin,
            times=panel.timeline.times(steps.ravel()).reshape(steps.shape),
            scale=windows.scaling.target[1][channel, series],
            mase_scale=errors[channel, series],
        )

    def _season_errors(self, panel: Panel) -> Array:
        """V×S: the error of seasonal naive in each series' training part."""
        errors = np.empty((len(panel.target), len(panel.names)))
        for s, name in enumerate(panel.names):
            start = panel.offsets[s]
            trained = self.trained_.get(name, panel.starts[s] + panel.offsets[s + 1] - start)
            for channel, values in enumerate(panel.target):
                part = values[start : start + trained - panel.starts[s]]
                errors[channel, s] = seasonal_error(part, self.season_)
        return errors

    def trace(self, data: Any) -> tuple[Any, Array]:
        """The LSTM's gates over the last window of the first series, and that window's L values."""
        panel = self._panel(data, fitted=True)
        rows = panel.lengths
        windows = self._windows(panel, rows, rows, scaling=Scaling.fit(panel, rows))
        batch = windows[np.array([0])]
        with torch.no_grad():
            _, trace = self.network_(batch, trace=True)
        end = panel.offsets[1]
        return trace, panel.target[0, end - self.shape_.context : end]

    def _forecast(self, windows: Windows, indices: Array) -> Array:
        """N×K×(1 + Q) in the data's units, the quantiles in rising order."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(indices), 1024):
                batch = windows[indices[start : start + 1024]]
                values = self.network_(batch).double().numpy()
                instance = PatchLSTM.instance(batch)[1].double().numpy()
                values[..., 1:] += self.offsets_ * instance[..., None]
                values[..., 1:].sort(-1)
                at = batch.channel.numpy(), batch.series.numpy()
                loc, scale = (part[at][:, None, None] for part in windows.scaling.target)
                parts.append(values * scale + loc)
        return np.concatenate(parts)

    def _calibrate(self, checks: Windows) -> Array:
        """K×Q: by how many of a window's deviations each quantile must move, so that the interval between
        it and its counterpart has its coverage on ``checks`` (conformalised quantile regression)."""
        moves = []
        with torch.no_grad():
            chosen = spread(len(checks))
            for start in range(0, len(chosen), 1024):
                batch = checks[chosen[start : start + 1024]]
                gap = batch.future[..., None] - self.network_(batch)[..., 1:]
                gap = gap / PatchLSTM.instance(batch)[1][..., None]
                seen = batch.future_observed[..., None].bool()
                moves.append(torch.where(seen, gap, torch.nan).double().numpy())
        gaps, levels = np.concatenate(moves), self.quantiles_
        moved = np.zeros((self.horizon, len(levels)))
        for low in range(len(levels) // 2):
            high = len(levels) - 1 - low
            outside = np.maximum(-gaps[..., low], gaps[..., high])
            wider = np.nanquantile(outside, levels[high] - levels[low], axis=0)
            moved[:, low], moved[:, high] = -wider, wider
        return moved

    def _panel(self, data: Any, fitted: bool = False) -> Panel:
        if fitted and not hasattr(self, "network_"):
            raise UnfittedError("this forecaster has not been fitted yet: call fit first")
        return Panel.from_table(
            data,
            target=self.target_,
            time=self.time,
            series=self.series,
            past=self.past_,
            known=self.known_,
            static=self.static_,
            freq=self.freq,
            gaps=self.gaps,
            timeline=self.timeline_ if fitted else None,
            static_labels=self.static_labels_ if fitted else None,
        )

    def _future(self, panel: Panel, future: Any) -> Array | None:
        if not self.known_:
            return None
        if future is None:
            raise DataError(
                f"the known columns ({', '.join(self.known_)}) are needed over the horizon: give "
                f"predict a future= table of {self.horizon} rows for each series (--future FILE)"
            )
        values = panel.future_table(
            future, horizon=self.horizon, time=self.time, series=self.series
        )
        return values.reshape(len(self.known_), len(panel.names), self.horizon)

    def _shape(self, panel: Panel, trained: Array) -> Shape:
        """The network's sizes for this data."""
        patch = self.season_ if 1 < self.season_ <= 168 else 1
        wanted = self.context or max(14 * patch, 2 * self.horizon, 32)
        context = max(wanted // patch, 1) * patch
        if self.context is None:
            # leave two thirds of the shortest series to choose windows from
            room = max(int(trained.min()) // 3 - self.horizon, patch)
            context = max(min(context, room // patch * patch), patch)
        return Shape(
            context=context,
            horizon=self.horizon,
            patch=patch,
            quantiles=len(self.quantiles_),
            past=len(self.past_),
            known=len(self.known_),
            calendar=len(self.calendar_),
            static=panel.static.shape[1],
            hidden=self.hidden,
            layers=self.layers,
            dropout=self.dropout,
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
        stride: int = 1,
        scaling: Scaling | None = None,
        future: Array | None = None,
    ) -> Windows:
        location, spread = (np.asarray(part) for part in self.static_scale_)
        scaling = replace(scaling or self._scaling_of(panel), static=(location, spread))
        shape = self.shape_
        return Windows(
            panel,
            scaling,
            shape.context,
            shape.horizon,
            first,
            last,
            stride,
            future,
            self.calendar_,
        )

    def _scaling_of(self, panel: Panel) -> Scaling:
        """Each series' scale as fitted, or its own for one that was not."""
        rows = panel.lengths
        known = [self.trained_.get(name) for name in panel.names]
        upto = [
            count if end is None else min(max(end - start, 0), count)
            for count, end, start in zip(rows, known, panel.starts, strict=True)
        ]
        return Scaling.fit(panel, np.asarray(upto))

    def _check_length(self, panel: Panel, rows: Array, needed: int, purpose: str) -> None:
        if (rows >= needed).all():
            return
        short = int(np.argmin(rows))
        name = f"series '{panel.names[short]}'" if panel.names[short] else "the series"
        raise DataError(
            f"{name} has {int(rows[short])} rows {purpose}, and {needed} are needed (context "
            f"{self.shape_.context}, horizon {self.horizon}); {int((rows < needed).sum())} of "
            f"{len(rows)} series are too short. Give more rows, a shorter context or horizon, or "
            f"leave such series out"
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
            static_scale=self.static_scale_,
            shape=asdict(self.shape_),
            validation=self.validation_,
            trained=self.trained_,
            seen=self.seen_,
            history=asdict(self.history_),
        )


def _names(given: Columns) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _levels(quantiles: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(float(level) for level in quantiles))


def _part(part: int | float, rows: Array, horizon: int, name: str) -> Array:
    """How many rows of each series a part of the split holds."""
    if isinstance(part, bool) or part < 0 or (isinstance(part, float) and part >= 1):
        raise OptionError(f"{name} must be a share below 1 or a number of rows, not {part!r}")
    if part == 0:
        return np.zeros_like(rows)
    if isinstance(part, float):
        return np.maximum((part * rows).astype(np.int64), horizon)
    if part < horizon:
        raise OptionError(f"{name}={part} rows hold no window of horizon {horizon}")
    return np.full_like(rows, part)


def _table(columns: dict[str, Any], like: Any, zoned: tuple[str | None, str | None]) -> Any:
    """A table of the kind of ``like``; the time column in its zone, where it has one."""
    nw: Any = need("narwhals", "tasks")
    if isinstance(like, (str, Path, dict)):
        need("polars", "tasks")
        backend: Any = "polars"
    else:
        backend = nw.from_native(like, eager_only=True).implementation
    frame = nw.from_dict(columns, backend=backend)
    time, zone = zoned
    if time is not None and zone is not None:
        utc = nw.col(time).dt.replace_time_zone("UTC")
        frame = frame.with_columns(utc.dt.convert_time_zone(zone))
    return frame.to_native()
