"""How a call is divided: sequences into tiles, units into slices, and what stays on chip."""

from __future__ import annotations

from dataclasses import dataclass

# A multiprocessor's registers hold 256 KiB; what weights may take of them.
_KEPT_BYTES = 136 * 1024


@dataclass(frozen=True)
class Plan:
    """The loops' block sizes (see loops.py), and how many tiles a launch has."""

    BT: int
    US: int
    SLICES: int
    NK: int
    KC: int
    CHUNKS: int
    KEPT: bool
    warps: int
    tiles: int

    def blocks(self) -> dict[str, int | bool]:
        names = ("BT", "US", "SLICES", "NK", "KC", "CHUNKS", "KEPT")
        return {name: getattr(self, name) for name in names}


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def plan(width: int, rows: int, columns: int, batch: int, itemsize: int, processors: int) -> Plan:
    """For ``width`` units (or outputs, if more) of which each has ``rows`` sums of products with
    ``columns`` numbers, and ``batch`` sequences, on so many multiprocessors."""
    units = max(power_of_two(width), 16)
    if max(rows, 1) * units * max(columns, units) * itemsize <= _KEPT_BYTES and units <= 128:
        return _one_slice(units, batch, rows)
    return _sliced(width, rows, columns, batch, itemsize, processors)


def _one_slice(units: int, batch: int, rows: int) -> Plan:
    warps = 8 if units * max(rows, 1) >= 512 else 4
    return Plan(16, units, 1, 1, units, 1, True, warps, -(-batch // 16))


def _sliced(
    width: int, rows: int, columns: int, batch: int, itemsize: int, processors: int
) -> Plan:
    tile = 16
    while tile < 64 and -(-batch // tile) * -(-width // 64) > processors:
        tile *= 2
    for units in (64, 32, 16, 8):
        slices = -(-width // units)
        kept = rows * columns * units * itemsize <= _KEPT_BYTES
        if slices > processors:
            units, slices = units * 2, -(-width // (units * 2))
            kept = False
            break
        if kept:
            break
    parts, chunk = 8, 32
    chunks = -(-width // (parts * chunk))
    tiles = max(1, min(-(-batch // tile), processors // slices))
    return Plan(tile, units, slices, parts, chunk, chunks, kept, 8, tiles)
