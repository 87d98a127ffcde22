"""The tables of a run as text, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gatewise.bench.run import Listener
from gatewise.cells.language import Cell

_COMPARED = ("× best peer", "× torch", "GFLOP/s", "of GEMM")
_FIRST = 17  # the width of the column of shapes


class Printer(Listener):
    """Prints each table row by row: the contenders' medians in ms, then gatewise's ratios."""

    def __init__(self, dtype: str, threads: int, say: Callable[[str], None] = print) -> None:
        self._what = f"{dtype}, {threads} thread{'s' if threads > 1 else ''}"
        self._say = say
        self._widths: dict[str, int] = {}
        self._peer_width = 0

    def block(self, cell: Cell, mode: str, names: list[str]) -> None:
        self._widths = {name: max(len(name), 8) + 2 for name in names}
        peers = [len(name) for name in names if not name.startswith("gw.")]
        self._peer_width = max([len("× best peer"), *(8 + n for n in peers)]) + 2
        self._say(f"\n{cell.name}, {mode}, {self._what}: median ms\n")
        head = "T,B,I,H".ljust(_FIRST) + "".join(n.rjust(w) for n, w in self._widths.items())
        self._say(head + self._last(*_COMPARED))

    def row(self, row: dict[str, Any]) -> None:
        shape = ",".join(str(n) for n in row["shape"].values())
        self._say(shape.ljust(_FIRST) + self._times(row) + self._last(*_compared(row)))

    def means(self, means: dict[str, Any]) -> None:
        indent = " " * sum(self._widths.values())
        last = (_ratio(means["times_best"]), _ratio(means["times_torch"]), "", "")
        self._say("geometric mean".ljust(_FIRST) + indent + self._last(*last).rstrip())

    def _times(self, row: dict[str, Any]) -> str:
        cells = []
        for name, width in self._widths.items():
            timing = row["contenders"].get(name)
            cells.append((_figure(timing["median_ms"]) if timing else "failed").rjust(width))
        return "".join(cells)

    def _last(self, best: str, torch: str, gflops: str, share: str) -> str:
        return best.rjust(self._peer_width) + torch.rjust(9) + gflops.rjust(9) + share.rjust(9)


def _compared(row: dict[str, Any]) -> tuple[str, str, str, str]:
    best = _ratio(row["times_best"])
    if row["times_best"] is not None:
        best = f"{row['best_peer']} {best}"
    gflops, share = row["gflops"], row["gemm_share"]
    return (
        best,
        _ratio(row["times_torch"]),
        "–" if gflops is None else _figure(gflops),
        "–" if share is None else f"{100 * share:.{1 if share < 0.1 else 0}f} %",
    )


def closing(report: dict[str, Any]) -> str:
    """The text under the tables."""
    ours = sorted({row["ours"] for row in report["rows"]})
    lines = [
        f'Ours is {" or ".join(ours)}, the backend that "auto" picks; a ratio is a peer\'s time over '
        "ours, above 1 where ours is the faster.",
        f"GEMM is torch's fp32 matrix product of 2048³ in the same run: "
        f"{_figure(report['gemm_gflops'])} GFLOP/s.",
        *report["notes"],
    ]
    return "\n".join(lines)


def _figure(number: float) -> str:
    """The number with three significant digits, without an exponent."""
    for limit, digits in ((1, 4), (10, 2), (100, 1)):
        if number < limit:
            return f"{number:.{digits}f}"
    return f"{number:.0f}"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
