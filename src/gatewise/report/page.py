"""Rendering of report pages, and the default page for tasks without a page of their own."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatewise.atomic import write_atomically
from gatewise.errors import need
from gatewise.report.classes import ClassResults
from gatewise.report.pictures import PAGE, losses_figure, svg
from gatewise.report.scores import NAMES, Evaluation, best_of
from gatewise.report.words import duration, format_number, name_list, with_unit
from gatewise.train.history import History


def render(template: str, **values: Any) -> str:
    """The self-contained HTML of a template in this folder."""
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
    """Writes ``report.html`` to ``folder`` and returns its path.

    Args:
        evaluation: the scores on the test part. Without it the page has no scores.
        options: the task's options; those that are not None are listed on the page.
        figures: the task's figures, by heading.
    """
    parameters = sum(weight.numel() for weight in network.parameters())
    headline: dict[str, tuple[str, str | None]] = {
        "Parameters": (f"{parameters:,}", None),
        "Fitted in": (duration(history.seconds), None),
    }
    details = None if evaluation is None else evaluation.details
    results = details if isinstance(details, ClassResults) else None
    figures = {**({} if results is None else results.figures()), **figures}
    page = render(
        "page.html.j2",
        heading=heading,
        under=""
        if evaluation is None
        else f"scored on {evaluation.n:,} held-out {evaluation.unit}",
        verdict=_verdict(evaluation),
        won=evaluation is not None and not evaluation.not_beaten(),
        headline=_headline_scores(evaluation) | headline,
        model=_facts(options) | _versions(history),
        training=svg(losses_figure(history), "Training"),
        warnings=history.warnings,
        examples=[] if results is None else results.examples,
        pictures={name: svg(figure, name) for name, figure in figures.items()},
        **({} if evaluation is None else _score_table(evaluation)),
    )
    write_atomically(folder, {"report.html": page.encode()})
    return folder / "report.html"


def _verdict(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "There is no test part, so the model has not been tested."
    return evaluation.verdict()


def _headline_scores(evaluation: Evaluation | None) -> dict[str, tuple[str, str | None]]:
    if evaluation is None:
        return {}
    score = evaluation.main_score
    others = (f"{name} {format_number(row[score])}" for name, row in evaluation.baseline.items())
    name = NAMES[score][0].upper() + NAMES[score][1:]
    return {name: (format_number(evaluation.scores[score]), "; ".join(others))}


def _score_table(evaluation: Evaluation) -> dict[str, Any]:
    rows = evaluation.rows
    columns = [name for name in NAMES if name in evaluation.scores]
    known = {c: {name: row[c] for name, row in rows.items() if c in row} for c in columns}
    return dict(
        columns={NAMES[name]: (name, "") for name in columns},
        scores={
            name: {c: format_number(row[c]) if c in row else "–" for c in columns}
            for name, row in rows.items()
        },
        best={c: best_of(values, c) for c, values in known.items()},
        count=f"{evaluation.n:,} {evaluation.unit} that the model was not trained on",
        units=" ".join(evaluation.sentences),
    )


def _facts(options: Mapping[str, Any]) -> dict[str, str]:
    given = {name: value for name, value in options.items() if value is not None}
    return {name.replace("_", " "): _fact(value) for name, value in given.items()}


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return name_list(f"{name}: {_fact(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return name_list(map(_fact, value)) or "none"
    return str(getattr(value, "name", value))


def _versions(history: History) -> dict[str, str]:
    rounds = with_unit(len(history.train), "round")
    return {
        "training": f"{rounds}, the weights of round {history.best + 1} were kept",
        "gatewise": version("gatewise"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
