"""The tasks of Hochreiter & Schmidhuber 1997 with today's training, for an LSTM and a simple recurrent network.

    python -m papers.benchmarks.lstm_1997_today [EXPERIMENT ...] [--cells lstm,rnn_tanh] [--rate R] [--trials 3]
        [--thorough] [--processes N] [--pictures FOLDER] [--out benchmarks/results/paper_1997_today.json]

Without names all rows with short sequences are run, and with --thorough also those of 500 and 1,000 steps. Each
cell has the same setting and the same number of sequences. A row is written to the file when its trials have
ended; other rows of the file stay. With --pictures only the two figures are drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.bench.machine import cores, describe
from papers.lstm_1997.pictures import draw
from papers.lstm_1997.today import ROWS, Result, Setting, run
from papers.processes import in_processes

SHORT = [name for name, row in ROWS.items() if row.task(0).longest < 500]
# what is learned from before a trial is given up; 3c-100-1's noisy targets took the paper most of all
MOST, LONGER = 200_000, {"3c-100-1": 600_000}

Job = tuple[str, str, int, int, Setting]  # experiment, cell, seed, most


def main() -> None:
    given = _arguments()
    if given.pictures:
        for path in draw(given.pictures):
            print(path)
        return
    names = given.experiments or (list(ROWS) if given.thorough else SHORT)
    setting = replace(Setting(), rate=given.rate)
    begun, rows, machine = time.perf_counter(), [], describe()
    for name in names:
        for cell in given.cells.split(","):
            most = given.most or LONGER.get(name, MOST)
            jobs = [(name, cell, seed, most, setting) for seed in range(given.trials)]
            results = sorted(in_processes(_run, jobs, given.processes), key=lambda r: r.seed)
            row = summary(results, setting)
            row |= {"processes": given.processes, "machine": machine}
            other = "" if setting == Setting() else f" rate {given.rate}"
            _write(given.out, f"{name} {cell}{other}", row)
            rows.append(line(row))
            print(rows[-1], flush=True)
    print(f"\n{HEAD}\n" + "\n".join(rows))
    print(f"\n{time.perf_counter() - begun:.0f} s")


def _run(job: Job) -> Result:
    return run(*job)


def summary(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """One row: the results of the trials of one experiment and cell, and the paper's numbers."""
    first, solved = results[0], [r for r in results if r.solved]
    paper = ROWS[first.experiment].paper
    needed = [r.sequences for r in solved]
    wrong = [r.wrong for r in solved if r.wrong is not None]
    return {
        "experiment": first.experiment,
        "title": ROWS[first.experiment].title.partition(", rate")[0],
        "cell": first.cell,
        "weights": first.weights,
        "trials": len(results),
        "solved": len(solved),
        "sequences": (
            {"mean": round(float(np.mean(needed))), "least": min(needed), "most": max(needed)}
            if needed
            else None
        ),
        "given_up_after": min((r.sequences for r in results if not r.solved), default=None),
        "wrong_of_2560": float(np.mean(wrong)) if wrong else None,
        "seconds_a_trial": round(float(np.mean([r.seconds for r in results])), 2),
        "paper": {"sequences": paper.sequences, "wrong_of_2560": paper.wrong},
        "setting": asdict(setting),
        "each": [asdict(r) for r in results],
    }


_FORM = "{:<13} {:<9} {:>7} {:>6} {:>10} {:>18} {:>10} {:>7} {:>8} {:>8}"
HEAD = _FORM.format(
    *("experiment", "cell", "weights", "solved", "sequences", "range", "paper's"),
    *("wrong", "paper's", "s/trial"),
)


def line(row: dict[str, Any]) -> str:
    needed, paper = row["sequences"], row["paper"]
    return _FORM.format(
        row["experiment"],
        row["cell"],
        row["weights"],
        f"{row['solved']}/{row['trials']}",
        f"{needed['mean']:,}" if needed else f">{row['given_up_after']:,}",
        f"{needed['least']:,}-{needed['most']:,}" if needed else "-",
        f"{paper['sequences']:,}",
        "-" if row["wrong_of_2560"] is None else f"{row['wrong_of_2560']:.1f}",
        "-" if paper["wrong_of_2560"] is None else f"{paper['wrong_of_2560']:g}",
        f"{row['seconds_a_trial']:.1f}",
    )


def _write(path: Path, key: str, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[key] = row
    order = list(ROWS)
    rows = dict(sorted(rows.items(), key=lambda item: order.index(item[1]["experiment"])))
    path.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--cells", default="lstm,rnn_tanh", help="of the catalogue")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rate", type=float, default=Setting().rate, help="Adam's")
    parser.add_argument("--most", type=int, help="training sequences after which a trial fails")
    parser.add_argument("--thorough", action="store_true", help="500 and 1,000 steps too")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/paper_1997_today.json")
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
