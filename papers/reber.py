"""The Reber grammar. Each node has one or two arrows: a symbol, and the node that it leads to. Node 7 is the end."""

from __future__ import annotations

from collections.abc import Mapping

SYMBOLS = "BTPSXVE"
END = 7

ARROWS: Mapping[int, tuple[tuple[str, int], ...]] = {
    0: (("B", 1),),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", END),),
}
