"""The scores of a model and of simple baselines on the same data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatewise.report.words import sentence

# The column headings of score tables, in order. A score without a heading is only in the JSON.
NAMES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
    "nll": "NLL",
    "bleu": "BLEU",
    "chrf": "chrF",
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
_HIGHER_IS_BETTER = {"accuracy", "f1_macro", "auroc", "auprc", "r2", "bleu", "chrf"}
# Scores of which neither the highest nor the lowest is the best.
_NO_BEST = {"coverage"}

Rows = Mapping[str, Mapping[str, float]]
MODEL = "gatewise"


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model and of its baselines.

    Attributes:
        task: the task's name.
        scores: the model's scores, by the names in :data:`NAMES`.
        baseline: the scores of each baseline, by the baseline's name.
        n: the number of members that were scored.
        unit: the word for members, such as "sequences".
        main_score: the score that decides whether the model beats the baselines.
        notes: what is printed below the scores, see :attr:`sentences`.
        details: further results for the task's report.
        signatures: of scores that depend on settings, such as BLEU, these settings.
    """

    task: str
    scores: dict[str, float]
    baseline: dict[str, dict[str, float]]
    n: int
    unit: str
    main_score: str
    notes: tuple[str, ...] = ()
    details: Any = None
    signatures: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, dict[str, float]]:
        """The scores of the model and of each baseline, by name."""
        return {MODEL: self.scores, **self.baseline}

    def record(self) -> dict[str, Any]:
        """The evaluation as data for JSON. A score that is not defined on this data is None."""
        found = {
            "task": self.task,
            "scores": _finite(self.scores),
            "baseline": {name: _finite(row) for name, row in self.baseline.items()},
            "n": self.n,
        }
        return found | ({"signatures": dict(self.signatures)} if self.signatures else {})

    @property
    def sentences(self) -> tuple[str, ...]:
        """The notes, each as a sentence."""
        return tuple(map(sentence, self.notes))

    def table(self) -> str:
        """The score table and the notes as text."""
        return "\n".join([table(self.rows), *self.sentences])

    def not_beaten(self) -> list[str]:
        """The baselines that the model does not beat. A baseline whose main score is NaN counts as one."""
        ours = self.scores[self.main_score]
        return [
            name
            for name, row in self.baseline.items()
            if not better(self.main_score, ours, row[self.main_score])
        ]

    def verdict(self) -> str:
        """A sentence on whether the model beats its baselines."""
        name, names = NAMES[self.main_score], self.not_beaten()
        ours = f"{self.scores[self.main_score]:.4g}"
        if not self.baseline:
            return f"The model's {name} is {ours}."
        if not names:
            best = best_of(
                {k: row[self.main_score] for k, row in self.baseline.items()}, self.main_score
            )
            theirs = f"{self.baseline[best][self.main_score]:.4g}" if best else ""
            return (
                f"The model beats its baselines: {name} {ours}, compared with {theirs} of {best}."
            )
        equal = [
            each
            for each in names
            if self.baseline[each][self.main_score] == self.scores[self.main_score]
        ]
        worse = self._listed([each for each in names if each not in equal])
        parts = [f"does not beat {worse}"] if worse else []
        parts += [f"is only as good as {self._listed(equal)}"] if equal else []
        return f"The model {' and '.join(parts)} on this data: its {name} is {ours}."

    def _listed(self, names: Sequence[str]) -> str:
        """Baselines with their main scores."""
        return " or ".join(f"{each} ({self.baseline[each][self.main_score]:.4g})" for each in names)


def better(score: str, one: float, other: float) -> bool:
    """Whether the value ``one`` of a score is better than ``other``."""
    return one > other if score in _HIGHER_IS_BETTER else one < other


def best_of(values: Mapping[str, float], score: str) -> str | None:
    """The name of the best of several values of a score; None if no value is the best."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    if not known or score in _NO_BEST:
        return None
    pick = max if score in _HIGHER_IS_BETTER else min
    return pick(known, key=known.__getitem__)


def table(rows: Rows) -> str:
    """Rows of scores as a text table. The columns are those of the first row."""
    columns = [name for name in NAMES if name in next(iter(rows.values()))]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{NAMES[name]:>16}" for name in columns)]
    for name, row in rows.items():
        cells = (f"{row[c]:>16.4g}" if c in row else f"{'–':>16}" for c in columns)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in row.items()}
