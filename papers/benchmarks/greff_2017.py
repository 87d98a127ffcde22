"""Greff et al. 2017, "LSTM: A Search Space Odyssey": nine cells on the JSB chorales.

    python -m papers.benchmarks.greff_2017 --data PATH [--seeds 5] [--units 64] [--protocols paper adam]
        [--variants NAME ...] [--out benchmarks/results/paper_greff_2017.json]

PATH is the chorales in quarter notes: the JSON file, or the folder or archive that holds it. Two protocols:
the paper's (a step after each chorale, Nesterov's momentum, nothing clipped) and one of today (Adam, 16
chorales to a step, clipped). Each variant gets its own rate of learning by validation, then the seeds. Lower is
better: negative log-likelihood in nats a step. Others' (Bai et al. 2018): LSTM 8.45, GRU 8.43, RNN 8.91. A
protocol that isn't run stays in the file as it was; one that is run begins anew, with the variants named.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gatewise.bench.machine import describe
from papers.greff_2017.chorales import read
from papers.greff_2017.experiment import (
    PROTOCOLS,
    VARIANTS,
    Found,
    compare,
    protocol,
    ranking,
)

PUBLISHED = {"LSTM": 8.45, "GRU": 8.43, "RNN": 8.91}


def _plain(value: Any) -> Any:
    """For JSON, which has no infinity: None in its place."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':<10}{'nats':>8}{'±':>8}{'more':>8}{'p':>9}{'weights':>9}{'rate':>9}"]
    for row in rows:
        spread = "-" if row["spread"] is None else f"{row['spread']:.3f}"
        more, p = ("-" if row.get(key) is None else f"{row[key]:.3f}" for key in ("more", "p"))
        lines.append(
            f"{row['variant']:<10}{row['mean']:8.3f}{spread:>8}{more:>8}{p:>9}{row['weights']:>9,}"
            f"{row['rate']:>9g}   {VARIANTS[row['variant']]}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/paper_greff_2017.json")
    )
    given = parser.parse_args()
    torch.set_num_threads(1)  # one chorale's step is too small for two
    data, machine = read(given.data), describe()
    older = json.loads(given.out.read_text())["protocols"] if given.out.exists() else {}
    results: dict[str, Any] = {"published": PUBLISHED, "protocols": older}
    for name in given.protocols:
        begin, found = time.perf_counter(), dict[str, Found]()
        print(f"protocol {name}")
        for variant in given.variants:
            found[variant] = compare(
                variant,
                given.units,
                data,
                protocol(name),
                given.seeds,
                lambda s: print(s, flush=True),
            )
            results["protocols"][name] = _plain({
                "machine": machine,
                "units": given.units,
                "seeds": given.seeds,
                "seconds": time.perf_counter() - begin,
                "ranking": ranking(found),
                "variants": {key: asdict(each) for key, each in found.items()},
            })  # fmt: skip
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{time.perf_counter() - begin:.0f} s\n{_table(ranking(found))}", flush=True)


if __name__ == "__main__":
    main()
