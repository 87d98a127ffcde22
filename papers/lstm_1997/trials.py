"""Trials of the experiments in several processes, and tables of their results with the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from papers.lstm_1997.experiments import EXPERIMENTS, Trial, run
from papers.processes import in_processes


class Job(NamedTuple):
    """The arguments of a trial: see :func:`papers.lstm_1997.experiments.run`."""

    name: str
    seed: int
    most: int | None
    truncated: bool


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Trial]]:
    """The trial of each job, in the order in which they end. Each runs in one thread."""
    return in_processes(_run, jobs, processes)


def _run(job: Job) -> tuple[Job, Trial]:
    return job, run(EXPERIMENTS[job.name], job.seed, job.most, job.truncated)


def summary(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """One row: the results of the trials, and the paper's numbers under "paper"."""
    experiment, solved = EXPERIMENTS[name], [t for t in trials if t.solved]
    needed = np.array([t.sequences for t in solved])
    wrong = [t.details["wrong"] for t in solved if "wrong" in t.details]
    paper = experiment.paper
    return {
        "title": experiment.title,
        "weights": trials[0].details["weights"],
        "trials": len(trials),
        "solved": len(solved),
        "sequences": _needed(needed),
        "wrong_of_2560": float(np.mean(wrong)) if wrong else None,
        "given_up_after": min((t.sequences for t in trials if not t.solved), default=None),
        "seconds_a_trial": round(float(np.mean([t.seconds for t in trials])), 2),
        "paper": {
            "solved": paper.success,
            "trials": paper.trials,
            "sequences": paper.sequences,
            "wrong_of_2560": paper.wrong,
        },
    }


def _needed(sequences: np.ndarray) -> dict[str, int] | None:
    if not len(sequences):
        return None
    found = {"mean": sequences.mean(), "deviation": sequences.std()}
    found |= {"least": sequences.min(), "most": sequences.max()}
    return {key: round(float(of)) for key, of in found.items()}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of :func:`summary` by name, as a text table with the paper's numbers."""
    lines = [_HEAD]
    for name, row in rows.items():
        needed, paper = row["sequences"], row["paper"]
        lines.append(
            (
                name,
                f"{row['weights']}",
                f"{row['solved']} of {row['trials']}",
                f"{paper['solved']:.0%}",
                f"{needed['mean']:,}" if needed else f">{row['given_up_after']:,}",
                f"{needed['least']:,} to {needed['most']:,}" if needed else "-",
                f"{paper['sequences']:,}",
                "-" if row["wrong_of_2560"] is None else f"{row['wrong_of_2560']:.1f}",
                "-" if paper["wrong_of_2560"] is None else f"{paper['wrong_of_2560']:g}",
                f"{row['seconds_a_trial']:.1f}",
            )
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


_HEAD = (
    *("experiment", "weights", "solved", "paper", "sequences", "range", "paper"),
    *("wrong/2560", "paper", "s/trial"),
)
