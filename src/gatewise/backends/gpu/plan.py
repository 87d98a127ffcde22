"""How a call is divided: sequences into tiles, units into slices, and what stays on chip.

What is chosen was measured on an H200 in bfloat16 (benchmarks/NOTES.md). A step's time is mostly
waiting, for memory and for each other, so that many small slices beat a few large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Of a multiprocessor's shared memory, what the exchange of blocks between threads takes beside.
_BESIDE = 8 * 1024
# Weights that stay in the registers of the one program that has them all.
_IN_REGISTERS = 64 * 1024
_TILES = (16, 32, 64)
_SLICES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Chip:
    """Multiprocessors, and the shared memory that a program may have of one, in bytes."""

    processors: int
    shared: int


@dataclass(frozen=True)
class Work:
    """What is to be divided. ``width``: units, or outputs if these are more. A unit has ``sums``, each of
    a row of ``width`` weights for each of the ``fed`` states, and ``beside`` further such rows."""

    width: int
    batch: int
    itemsize: int
    fed: int
    sums: int
    beside: int


@dataclass(frozen=True)
class Plan:
    """The loops' block sizes (see loops.py), the warps of a program, and the tiles of a launch."""

    BT: int
    US: int
    SLICES: int
    SIDE: int
    NK: int
    KC: int
    CHUNKS: int
    KEPT: bool
    warps: int
    tiles: int

    def launches(self, batch: int) -> int:
        """How many launches after each other so many sequences take."""
        return -(-batch // (self.tiles * self.BT))

    def blocks(self) -> dict[str, int | bool]:
        names = ("BT", "US", "SLICES", "NK", "KC", "CHUNKS", "KEPT")
        return {name: getattr(self, name) for name in names} | {"ROOM": power_of_two(self.SLICES)}


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def forward(work: Work, chip: Chip) -> Plan:
    """For the way forward: the sums of a unit come out of one product, side by side."""
    side = power_of_two(work.sums) if 1 < work.sums <= 4 else 1
    units = power_of_two(work.width)
    most = _most_at_once(work, 512 if units == work.width else 256)
    return _one_slice(work) or _sliced(work, chip, side, 1, max(min(units, most), 16), 4)


def backward(work: Work, chip: Chip) -> Plan:
    """For the way back: one sum, of as many products as the way forward has sums."""
    if one := _one_slice(work):
        return one
    if work.width <= 512:
        chunk = min(power_of_two(work.width), _most_at_once(work, 256))
        return _sliced(work, chip, 1, 1, max(chunk, 16), 4)
    return _sliced(work, chip, 1, 8, 32, 8)


def _most_at_once(work: Work, of_halves: int) -> int:
    """How many numbers a product takes at once; of float32 each in three, which need registers."""
    return of_halves if work.itemsize == 2 else 64


def _one_slice(work: Work) -> Plan | None:
    """All units in one program, if these are few: nobody waits for another."""
    units = max(power_of_two(work.width), 16)
    matrices = work.fed * work.sums + work.beside
    if units > 64 or (units > 16 and matrices * units * units * work.itemsize > _IN_REGISTERS):
        return None
    warps = 8 if units == 64 else 4
    return Plan(16, units, 1, 1, 1, units, 1, True, warps, max(-(-work.batch // 16), 1))


def _sliced(work: Work, chip: Chip, side: int, parts: int, whole: int, warps: int) -> Plan:
    whole_chunks = -(-work.width // (parts * whole))
    kept_bytes = 2 if work.itemsize == 2 else 8  # float32 in two parts, for three products
    rows = work.fed * (side if side > 1 else work.sums) + work.beside

    def plan(tile: int, units: int, kept: bool) -> Plan:
        chunk, chunks = whole, whole_chunks
        if not kept:  # a chunk of weights is in registers on its way
            chunk = min(chunk, 64)
            chunks = -(-work.width // (parts * chunk))
        slices = -(-work.width // units)
        tiles = max(1, min(-(-work.batch // tile), chip.processors // slices))
        more = 2 if units * side > 64 else 1
        sizes = (tile, units, slices, side, parts, chunk, chunks)
        return Plan(*sizes, kept, min(warps * more, 8), tiles)

    def fitting() -> Iterator[Plan]:
        for tile in _TILES:
            for units in _SLICES:
                weights = rows * whole_chunks * parts * whole * units * kept_bytes
                chunk_bytes = tile * parts * whole * work.itemsize
                enough = weights + chunk_bytes + _BESIDE <= chip.shared
                if enough and units * side >= 16 and 1 < -(-work.width // units) <= chip.processors:
                    yield plan(tile, units, True)

    # the fewest launches, then the smallest tile, then the smallest slice
    best = min(fitting(), key=lambda plan: plan.launches(work.batch), default=None)
    if best is None:  # the weights are read again at every step
        units = _SLICES[1]
        while -(-work.width // units) > chip.processors:
            units *= 2
        best = plan(16, units, False)
    return best
