"""A report's page: rendered from a template, and the page of a task that has none of its own."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatewise.errors import need
from gatewise.report.pictures import PAGE, losses_figure, svg
from gatewise.report.scores import NAMES, Evaluation, best_of
from gatewise.report.words import counted, duration, listed, shown_number
from gatewise.train.history import History
from gatewise.whole import write_whole


def render(template: str, **values: Any) -> str:
    """A template of this folder as HTML that needs nothing beside itself."""
    jinja2 = need("jinja2", "tasks")
    loader = jinja2.PackageLoader("gatewise.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    return str(environment.get_template(template).render(colours=PAGE, **values))


def write(
    folder: Path,
    heading: str,
    evaluation: Evaluation | None,
    history: History,
    network: nn.Module,
    options: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> Path:
    """Write ``report.html`` to ``folder``; gives its path.

    Args:
        evaluation: of held-out data; without one there are no scores.
        options: the task's, of which the model's section lists those that are not None.
        figures: pictures, by their headings.
    """
    parameters = sum(weight.numel() for weight in network.parameters())
    headline: dict[str, tuple[str, str | None]] = {
        "Parameters": (f"{parameters:,}", None),
        "Fitted in": (duration(history.seconds), None),
    }
    page = render(
        "page.html.j2",
        heading=heading,
        under=""
        if evaluation is None
        else f"scored on {evaluation.n:,} held-out {evaluation.unit}",
        verdict=_verdict(evaluation),
        won=evaluation is not None and not evaluation.not_beaten(),
        headline=_scores_at_the_top(evaluation) | headline,
        model=_facts(options) | _versions(history),
        training=svg(losses_figure(history), "Training"),
        pictures={name: svg(figure, name) for name, figure in figures.items()},
        **({} if evaluation is None else _score_table(evaluation)),
    )
    write_whole(folder, {"report.html": page.encode()})
    return folder / "report.html"


def _verdict(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Nothing was held out, so the model has not been tested."
    return evaluation.verdict()


def _scores_at_the_top(evaluation: Evaluation | None) -> dict[str, tuple[str, str | None]]:
    if evaluation is None:
        return {}
    score = evaluation.decisive
    others = (f"{name} {shown_number(row[score])}" for name, row in evaluation.baseline.items())
    name = NAMES[score][0].upper() + NAMES[score][1:]
    return {name: (shown_number(evaluation.scores[score]), "; ".join(others))}


def _score_table(evaluation: Evaluation) -> dict[str, Any]:
    rows = evaluation.rows
    columns = [name for name in NAMES if name in evaluation.scores]
    known = {c: {name: row[c] for name, row in rows.items() if c in row} for c in columns}
    return dict(
        columns={NAMES[name]: (name, "") for name in columns},
        scores={
            name: {c: shown_number(row[c]) if c in row else "–" for c in columns}
            for name, row in rows.items()
        },
        best={c: best_of(values, c) for c, values in known.items()},
        count=f"{evaluation.n:,} {evaluation.unit} that the model has not learned from",
        units=" ".join(evaluation.notes),
    )


def _facts(options: Mapping[str, Any]) -> dict[str, str]:
    given = {name: value for name, value in options.items() if value is not None}
    return {name.replace("_", " "): _fact(value) for name, value in given.items()}


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return listed(f"{name}: {_fact(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return listed(map(_fact, value)) or "none"
    return str(getattr(value, "name", value))


def _versions(history: History) -> dict[str, str]:
    rounds = counted(len(history.train), "round")
    return {
        "training": f"{rounds}, number {history.best + 1} kept",
        "gatewise": version("gatewise"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
