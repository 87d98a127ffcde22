"""The page of a search: what was found, what mattered, and every trial."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewise.atomic import write_atomically
from gatewise.data.output import write_table
from gatewise.errors import need
from gatewise.ink import MUTED
from gatewise.report.page import render
from gatewise.report.pictures import LAST, MODEL, NAIVE, new_figure, svg
from gatewise.report.words import duration, format_number, with_unit
from gatewise.tuning.result import Trial, Tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 30  # trials in the table


def write(tuned: Tuned, folder: str | Path, command: str = "") -> Path:
    """Write ``trials.csv`` and ``tuning.html`` to a folder; gives the page's path.

    Args:
        command: the command line that fits the best model, for the page.
    """
    folder = Path(folder)
    write_table(tuned.table(), folder / "trials.csv")
    write_atomically(folder, {"tuning.html": page(tuned, command).encode()})
    return folder / "tuning.html"


def page(tuned: Tuned, command: str = "") -> str:
    """The page, as HTML that needs nothing beside itself."""
    pictures = {"The best result so far": history_figure(tuned)}
    if tuned.importance:
        pictures["What mattered"] = importance_figure(tuned.importance)
    slices = {name: slice_figure(tuned, name) for name in _by_importance(tuned)}
    counts = ", ".join(f"{count:,} {state}" for state, count in tuned.counts.items())
    best = tuned.best
    return render(
        "tuning.html.j2",
        heading=f"Search: {tuned.model.name}",
        under=f"{with_unit(sum(tuned.counts.values()), 'trial')}: {counts}",
        verdict=_verdict(tuned),
        won=not best.given,
        headline={
            tuned.measure.capitalize(): (format_number(best.value or 0.0), f"trial {best.number}"),
            "Trained for": (duration(sum(each.seconds for each in tuned.trials)), None),
        },
        measure=tuned.measure,
        options={name: _value(value) for name, value in best.options.items()},
        command=command,
        pictures={name: svg(each, name) for name, each in pictures.items()},
        slices={name: svg(each, f"{tuned.measure} by {name}") for name, each in slices.items()},
        trials=[_row(each, best) for each in _sorted(tuned)[:_SHOWN]],
        names=list(best.options),
        left_out=max(0, len(tuned.trials) - _SHOWN),
        errors={each.number: each.error for each in tuned.trials if each.error},
    )


def _verdict(tuned: Tuned) -> str:
    best, given = tuned.best, tuned.given
    ours = f"Trial {best.number} is the best: its {tuned.measure} is {format_number(best.value or 0.0)}"
    if best.given:
        return f"{ours}. It has the options as they were given: the search found none better."
    if given is None or given.value is None:
        return f"{ours}."
    return f"{ours}, beside {format_number(given.value)} of the options as they were given."


def _sorted(tuned: Tuned) -> list[Trial]:
    """The best trials first, then those without a result."""
    known = [each for each in tuned.trials if each.value is not None]
    rising = sorted(known, key=lambda each: (each.value, each.number))
    if rising and rising[0].value != tuned.best.value:  # the highest is the best
        rising = sorted(known, key=lambda each: (-(each.value or 0.0), each.number))
    return rising + [each for each in tuned.trials if each.value is None]


def _by_importance(tuned: Tuned) -> list[str]:
    names = list(tuned.best.options)
    return sorted(names, key=lambda name: (-tuned.importance.get(name, 0.0), names.index(name)))


def _row(trial: Trial, best: Trial) -> dict[str, Any]:
    return dict(
        number=trial.number,
        state=trial.state,
        value="–" if trial.value is None else format_number(trial.value),
        options=[_value(value) for value in trial.options.values()],
        rounds=trial.rounds,
        best=trial.number == best.number,
    )


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------- pictures


def history_figure(tuned: Tuned) -> Figure:
    """Each trial's result, and the best so far."""
    figure, axis = new_figure(4.5, 2.4)
    known = [each for each in tuned.trials if each.value is not None]
    pick = max if _sorted(tuned)[0].value == max(_values(known)) else min
    best = [pick(_values(known[: k + 1])) for k in range(len(known))]
    axis.plot([each.number for each in known], _values(known), "o", ms=4, color=LAST)
    numbers = [*(each.number for each in known), tuned.trials[-1].number]
    axis.step(numbers, [*best, best[-1]], where="post", color=MODEL, lw=1.5)
    axis.plot([tuned.best.number], _values([tuned.best]), "o", ms=8, mfc="none", mec=MODEL, mew=1.3)
    pruned = [each.number for each in tuned.trials if each.state == "pruned"]
    if pruned:
        axis.plot(pruned, [0.02] * len(pruned), "|", ms=8, color=NAIVE, mew=1.4,
                  transform=axis.get_xaxis_transform())  # fmt: skip
        axis.annotate("pruned", (pruned[-1], 0.02), (6, 2), xycoords=axis.get_xaxis_transform(),
                      textcoords="offset points", fontsize=8, color=NAIVE)  # fmt: skip
    axis.margins(y=0.14)
    axis.locator_params(axis="x", integer=True)
    _name(axis, "trial", tuned.measure)
    return figure


def importance_figure(importance: dict[str, float]) -> Figure:
    """A bar for each option."""
    figure, axis = new_figure(4.5, 0.7 + 0.28 * len(importance))
    names = sorted(importance, key=importance.__getitem__)
    places = range(len(names))
    axis.barh(places, [importance[name] for name in names], color=MODEL, height=0.6)
    axis.set_yticks(places, names)
    axis.set_xlim(0, 1)
    _name(axis, "share of the variance of the results", "")
    return figure


def slice_figure(tuned: Tuned, name: str) -> Figure:
    """The results by the values of one option."""
    figure, axis = new_figure(4.5, 2.4)
    known = [each for each in tuned.trials if each.value is not None and name in each.options]
    values = [each.options[name] for each in known]
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )
    kinds = sorted(set(values), key=str)
    if numbers and (len(kinds) > 6 or any(isinstance(value, float) for value in kinds)):
        places = values
        if name in tuned.logarithmic:
            _logarithmic(axis, max(values) / min(values))
    else:
        kinds = sorted(kinds) if numbers else kinds
        places = [kinds.index(value) for value in values]
        axis.set_xticks(range(len(kinds)), [str(kind) for kind in kinds])
        axis.set_xlim(-0.5, len(kinds) - 0.5)
    shade = [each.number for each in known]
    axis.scatter(places, _values(known), s=16, color=LAST, alpha=0.8, zorder=2)
    at = shade.index(tuned.best.number)
    axis.plot([places[at]], _values([tuned.best]), "o", ms=8, mfc="none", mec=MODEL, mew=1.3)
    axis.margins(y=0.14)
    _name(axis, name, tuned.measure)
    return figure


def _logarithmic(axis: Axes, ratio: float) -> None:
    ticker = need("matplotlib.ticker", "tasks")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(ticker.NullLocator())


def _values(trials: Iterable[Trial]) -> list[float]:
    return [each.value for each in trials if each.value is not None]


def _name(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8, color=MUTED)
    axis.set_ylabel(y, fontsize=8, color=MUTED)
