"""What a model scores on data, beside simple baselines on the same data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What tables call the scores, in their order; a score without a line stands in JSON alone.
NAMES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
    "nll": "NLL",
    "perplexity": "perplexity",
    "bits_per_character": "bits/character",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "scaled_mae": "scaled MAE",
    "scaled_mse": "scaled MSE",
    "mase": "MASE",
    "smape": "sMAPE %",
    "scaled_pinball": "scaled pinball",
    "coverage": "coverage",
}
_HIGHER_IS_BETTER = {"accuracy", "f1_macro", "auroc", "auprc", "r2"}
# Of these neither the highest nor the lowest is the best.
_NO_BEST = {"coverage"}

Rows = Mapping[str, Mapping[str, float]]
MODEL = "gatewise"


@dataclass(frozen=True)
class Evaluation:
    """A model's scores and its baselines'.

    Attributes:
        task: the task's name.
        scores: the model's, by their names in :data:`NAMES`.
        baseline: each baseline's name, and its scores.
        n: how many members were scored, each of them a ``unit``.
        decisive: the score by which the model is compared with the baselines.
        notes: what else is to be said.
        details: what the task's report is made from.
    """

    task: str
    scores: dict[str, float]
    baseline: dict[str, dict[str, float]]
    n: int
    unit: str
    decisive: str
    notes: tuple[str, ...] = ()
    details: Any = None

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """The score table: a row for the model and one for each baseline."""
        return {MODEL: self.scores, **self.baseline}

    def record(self) -> dict[str, Any]:
        """The evaluation as JSON has it; None for a score that is not defined on this data."""
        return {
            "task": self.task,
            "scores": _finite(self.scores),
            "baseline": {name: _finite(row) for name, row in self.baseline.items()},
            "n": self.n,
        }

    def table(self) -> str:
        """The score table as text."""
        return "\n".join([table(self.rows), *self.notes])

    def not_beaten(self) -> list[str]:
        """The baselines that score as well as the model or better, or where no comparison is possible."""
        ours = self.scores[self.decisive]
        return [
            name
            for name, row in self.baseline.items()
            if not better(self.decisive, ours, row[self.decisive])
        ]

    def verdict(self) -> str:
        """A sentence that says whether the model beats its baselines."""
        name, names = NAMES[self.decisive], self.not_beaten()
        ours = f"{self.scores[self.decisive]:.4g}"
        if not names:
            best = best_of(
                {k: row[self.decisive] for k, row in self.baseline.items()}, self.decisive
            )
            theirs = f"{self.baseline[best][self.decisive]:.4g}" if best else ""
            return f"The model beats its baselines: {name} {ours}, beside {theirs} of {best}."
        theirs = " and ".join(
            f"{each} ({self.baseline[each][self.decisive]:.4g})" for each in names
        )
        return f"The model does not beat {theirs} on this data: its {name} is {ours}."


def better(score: str, one: float, other: float) -> bool:
    """Whether a value of a score is better than another one."""
    return one > other if score in _HIGHER_IS_BETTER else one < other


def best_of(values: Mapping[str, float], score: str) -> str | None:
    """Which of several values of a score is the best; None where none is."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    if not known or score in _NO_BEST:
        return None
    pick = max if score in _HIGHER_IS_BETTER else min
    return pick(known, key=known.__getitem__)


def table(rows: Rows) -> str:
    """Rows of scores as text, the first row's columns."""
    columns = [name for name in NAMES if name in next(iter(rows.values()))]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{NAMES[name]:>16}" for name in columns)]
    for name, row in rows.items():
        cells = (f"{row[c]:>16.4g}" if c in row else f"{'–':>16}" for c in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in row.items()}
