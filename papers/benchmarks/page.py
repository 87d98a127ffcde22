"""Writes the tables of docs/papers.md from benchmarks/results: between ``<!-- table NAME -->`` and
``<!-- end -->`` the page holds what the files of the papers' benchmarks say.

    python -m papers.benchmarks.page [--page docs/papers.md]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "papers.md"

Row = Mapping[str, Any]


def written(page: str, results: Path = RESULTS) -> str:
    """The page with its tables as the results have them.

    Raises:
        KeyError: the page names a table that isn't known.
    """

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        file, lines = _TABLES[name]
        text = "\n".join(lines(json.loads((results / file).read_text())))
        return f"<!-- table {name} -->\n{text}\n<!-- end -->"

    return re.sub(r"<!-- table (?P<name>\S+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _table(head: str, rows: Iterable[Iterable[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [f"| {head} |", "|" + "---|" * (head.count(" | ") + 1), *lines]


def _needed(row: Row, spread: bool = True) -> str:
    """How many sequences the solved trials needed, and after how many the others were given up."""
    parts, found = [], row["sequences"]
    if found is not None:
        around = f" ({found['least']:,} to {found['most']:,})"
        parts.append(f"{found['mean']:,}" + (around if spread else ""))
    if row["given_up_after"] is not None:
        parts.append(f"given up after {row['given_up_after']:,}")
    return "; ".join(parts)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _hochreiter(rows: Row) -> list[str]:
    return _table(
        "experiment | weights | solved | sequences: mean (least to most) | the paper's"
        " | wrong of 2,560 | the paper's",
        (
            (
                name,
                f"{row['weights']:,}",
                f"{row['solved']} of {row['trials']}",
                _needed(row),
                f"{row['paper']['sequences']:,} ({row['paper']['solved']:.0%})",
                _optional(row["wrong_of_2560"], ".1f"),
                _optional(row["paper"]["wrong_of_2560"], "g"),
            )
            for name, row in rows.items()
        ),
    )


def _today(rows: Row) -> list[str]:
    lstm = {row["experiment"]: row for key, row in rows.items() if key.endswith(" lstm")}
    simple = {row["experiment"]: row for key, row in rows.items() if key.endswith(" rnn_tanh")}
    return _table(
        "experiment | LSTM: solved | sequences | seconds | simple network: solved | sequences",
        (
            (
                name,
                f"{row['solved']} of {row['trials']}",
                _needed(row, spread=False),
                f"{row['seconds_a_trial']:.1f}",
                *(
                    (f"{other['solved']} of {other['trials']}", _needed(other, spread=False))
                    if (other := simple.get(name))
                    else ("-", "-")
                ),
            )
            for name, row in lstm.items()
        ),
    )


def _speed(found: Row) -> list[str]:
    def row(name: str, figures: Row) -> Iterable[str]:
        ours = figures["on-line"]["median_ms"]
        yield name
        yield f"{ours:.3f} ms"
        for other, form in ("layer", ".2f"), ("loop", ".0f"):
            ms = figures[other]["median_ms"]
            times = ms / ours
            yield (
                f"{ms:{form}} ms ({times:,.1f}×)"
                if times < 10
                else (f"{ms:{form}} ms ({times:,.0f}×)")
            )

    return _table(
        " | on-line call | layer and autograd | Python loop and autograd",
        (row(name, figures) for name, figures in found["figures"].items()),
    )


def _gers(found: Row) -> list[str]:
    def needed(streams: float | None, of: str = "-") -> str:
        return of if streams is None else f"{streams:,.0f}"

    return _table(
        " | perfect | good | the rest | streams of the perfect | the paper's: perfect | good | rest",
        (
            (
                row["title"],
                *(f"{row['found'][kind]:.0%}" for kind in ("perfect", "good", "rest")),
                needed(row["found"]["streams"]),
                f"{paper['perfect']:.0%}"
                + (f" ({paper['streams']:,})" if paper["streams"] is not None else ""),
                f"{paper['good']:.0%}",
                f"{paper['rest']:.0%}",
            )
            for row in found["rows"].values()
            for paper in [row["paper"]]
        ),
    )


def _greff(found: Row) -> list[str]:
    def chance(p: float | None) -> str:
        return "" if p is None else "< .01" if p < 0.01 else f"{p:.2f}".removeprefix("0")

    return _table(
        "variant | test | deviation | from vanilla | p | weights",
        (
            (
                f"{row['variant']}: {_VARIANTS[row['variant']]}",
                _optional(row["mean"], ".3f"),
                _optional(row["spread"], ".3f"),
                "" if row["variant"] == "peephole" else _optional(row["more"], ".3f"),
                "" if row["variant"] == "peephole" else chance(row["p"]),
                f"{row['weights']:,}",
            )
            for row in found["protocols"]["paper"]["ranking"]
        ),
    )


_VARIANTS = {
    "np": "no peepholes",
    "peephole": "vanilla",
    "cifg": "coupled gates",
    "nig": "no input gate",
    "nfg": "no forget gate",
    "nog": "no output gate",
    "niaf": "no input activation",
    "noaf": "no output activation",
    "fgr": "full gate recurrence",
}

_TABLES = {
    "1997": ("paper_1997.json", _hochreiter),
    "1997-today": ("paper_1997_today.json", _today),
    "1997-speed": ("paper_1997_speed.json", _speed),
    "gers-2000": ("paper_gers_2000.json", _gers),
    "greff-2017": ("paper_greff_2017.json", _greff),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--page", type=Path, default=PAGE)
    page = parser.parse_args().page
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
