"""The tables of Hochreiter & Schmidhuber 1997, section 5, with gatewise's cells.

    python -m papers.benchmarks.lstm_1997 [EXPERIMENT ...] [--trials 10] [--processes N] [--whole-gradient]
        [--most N] [--again] [--out benchmarks/results/paper_1997.json]

Without a name all experiments are run, which takes more than half a day. Experiments with long sequences have --few
trials. A trial that is in the file already is not run again, unless it was given up earlier than --most, or --again
is given. The file is written after each trial. So a new --out reproduces everything.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gatewise.bench.machine import cores, describe
from gatewise.errors import OptionError
from papers.lstm_1997.experiments import EXPERIMENTS, Trial, find, with_truncated_gradient
from papers.lstm_1997.trials import Job, run_jobs, summary, table


def main() -> None:
    given = _arguments()
    rows: dict[str, Any] = {}
    machine = describe() | {"processes": given.processes}
    truncated = not given.whole_gradient
    for name in given.experiments:
        count = given.few if EXPERIMENTS[name].thorough else given.trials
        key = name if truncated else f"{name} whole gradient"
        most = given.most or EXPERIMENTS[name].most
        old = None if given.again else _read(given.out).get(key)
        each = {t["seed"]: t for t in old["each"]} if old else {}
        machines = old["machines"] if old else []
        if machine not in machines:
            machines.append(machine)
        jobs = [
            Job(name, seed, most, truncated)
            for seed in sorted({*range(count), *each})
            if seed not in each or not (each[seed]["solved"] or each[seed]["sequences"] >= most)
        ]
        if old:
            rows[key] = old
        begun = time.perf_counter()
        for _, trial in run_jobs(jobs, given.processes):
            came = "solved" if trial.solved else "given up"
            print(f"  {name} {trial.seed}: {came} after {trial.sequences:,}", flush=True)
            each[trial.seed] = asdict(trial) | {"machine": machines.index(machine)}
            trials = [each[seed] for seed in sorted(each)]
            rows[key] = summary(name, [_trial(t) for t in trials]) | {
                "each": trials,
                "machines": machines,
            }
            _write(given.out, key, rows[key])
        print(f"{key}: {time.perf_counter() - begun:.0f} s", flush=True)
    print(table(rows))


def _trial(record: dict[str, Any]) -> Trial:
    return Trial(**{field.name: record[field.name] for field in fields(Trial)})


def _read(path: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return rows


def _write(path: Path, key: str, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [k + of for k in EXPERIMENTS for of in ("", " whole gradient")]
    rows = {**_read(path), key: row}
    text = json.dumps({k: rows[k] for k in order if k in rows}, indent=1) + "\n"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiments", nargs="*", help="names, or their beginnings: 3, 4-100, …")
    parser.add_argument("--trials", type=_count, default=10)
    parser.add_argument("--few", type=_count, default=3, help="trials of the long sequences")
    parser.add_argument("--most", type=_count, help="training sequences after which a trial fails")
    parser.add_argument("--again", action="store_true", help="also run what the file has already")
    parser.add_argument("--processes", type=_count, default=cores())
    parser.add_argument("--whole-gradient", action="store_true", help="nothing is cut")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_1997.json"))
    given = parser.parse_args()
    try:
        named = (
            dict.fromkeys(key for name in given.experiments for key in find(name)) or EXPERIMENTS
        )
        given.experiments = with_truncated_gradient(named) if given.whole_gradient else list(named)
    except OptionError as error:
        parser.error(str(error))
    return given


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive integer, not {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
