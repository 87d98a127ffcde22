"""``python -m papers 1997 [EXPERIMENT]`` runs trials of an experiment and prints them with the paper's numbers.

Run it in the repository's root."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any

from gatewise import signals
from gatewise.errors import GatewiseError
from gatewise.options import integer


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0; 2 if the arguments are not valid; 128 plus the number of the signal that stopped the
    command."""
    return signals.exit_code_of(partial(_answered, argv))


def _answered(argv: list[str] | None) -> int:
    parser = _parser()
    try:
        given = parser.parse_args(argv)
        given.run(given)
    except GatewiseError as error:
        print(f"papers: {error}", file=sys.stderr)
        return 2
    except SystemExit as ended:  # argparse, after --help or an error message
        return int(ended.code or 0)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m papers", description="Run published experiments again."
    )
    papers = parser.add_subparsers(metavar="PAPER", required=True)
    paper = papers.add_parser("1997", help="Hochreiter & Schmidhuber 1997, section 5")
    paper.set_defaults(run=_run_1997)
    paper.add_argument(
        "experiment",
        nargs="?",
        help="a name such as 3a-100-3, or 3 for all of experiment 3; without it, all are listed",
    )
    paper.add_argument(
        "--trials", type=int, default=3, help="networks to train, each from its own seed (3)"
    )
    paper.add_argument(
        "--processes", type=int, help="trials that run at the same time (the number of processors)"
    )
    paper.add_argument("--most", type=int, help="training sequences after which a trial fails")
    paper.add_argument(
        "--whole-gradient",
        action="store_true",
        help="do not truncate the gradient as the paper does",
    )
    return parser


def _run_1997(given: argparse.Namespace) -> None:
    from papers.lstm_1997.experiments import find, with_truncated_gradient

    if given.experiment is None:
        _list_1997()
        return
    for option, most in (("trials", 100_000), ("processes", 4 * (os.cpu_count() or 1))):
        if (value := getattr(given, option)) is not None:
            integer(f"--{option}", value, most=most)
    if given.most is not None:
        integer("--most", given.most)
    truncated = not given.whole_gradient
    rows = find(given.experiment)
    _train_1997(list(rows) if truncated else with_truncated_gradient(rows), given, truncated)


def _list_1997() -> None:
    from papers.lstm_1997.experiments import EXPERIMENTS

    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        needed = f"the paper's network needs {experiment.paper.sequences:,} sequences"
        print(f"{name:<{width}} {experiment.title}; {needed}")


def _train_1997(names: list[str], given: argparse.Namespace, truncated: bool) -> None:
    """Prints each trial on standard error when it ends, and the table of all trials at the end."""
    from gatewise.bench.machine import cores
    from papers.lstm_1997.trials import Job, run_jobs, summary, table

    jobs = [Job(n, seed, given.most, truncated) for n in names for seed in range(given.trials)]
    found: dict[str, list[Any]] = {name: [] for name in names}
    each = "one trial" if given.trials == 1 else f"{given.trials} trials"
    print(f"{', '.join(names)}: {each} each", file=sys.stderr)
    for job, trial in run_jobs(jobs, given.processes or cores()):
        found[job.name].append(trial)
        what = "solved after" if trial.solved else "not solved in"
        print(
            f"{job.name}, seed {trial.seed}: {what} {trial.sequences:,} sequences, "
            f"{trial.seconds:.1f} s",
            file=sys.stderr,
        )
    of = "" if truncated else " whole gradient"
    print(table({name + of: summary(name, trials) for name, trials in found.items()}))


if __name__ == "__main__":
    raise SystemExit(main())
