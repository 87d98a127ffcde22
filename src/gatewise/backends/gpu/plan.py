"""How a call is divided: sequences into tiles, units into slices, and what stays on chip.

What is chosen was measured on an H200 in bfloat16 (benchmarks/NOTES.md). A step's time is mostly
waiting, for memory and for each other, so that many small slices beat a few large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# Of a multiprocessor's shared memory, what the exchange of blocks between threads takes beside.
_BESIDE = 8 * 1024
# Weights that stay in the registers of the one program that has them all.
_IN_REGISTERS = 64 * 1024
_TILES = (16, 32, 64)
_SLICES = (8, 16, 32, 64)
REMEMBERED = 1024  # sizes of calls that are worked out once: batches differ in size


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
    PARTS: int
    KC: int
    CHUNKS: int
    KEPT: bool
    warps: int
    tiles: int

    def launches(self, batch: int) -> int:
        """How many launches after each other so many sequences take."""
        return -(-batch // (self.tiles * self.BT))

    def blocks(self) -> dict[str, int | bool]:
        names = ("BT", "US", "SLICES", "KC", "CHUNKS", "KEPT")
        return {name: getattr(self, name) for name in names} | {"ROOM": power_of_two(self.SLICES)}


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


@lru_cache(REMEMBERED)
def forward(work: Work, chip: Chip) -> Plan:
    """For the way forward: the sums of a unit come out of one product, side by side."""
    side = power_of_two(work.sums) if 1 < work.sums <= 4 else 1
    whole = _most_at_once(work, 512 if power_of_two(work.width) == work.width else 256)
    return _one_slice(work) or _sliced(work, chip, side, 1, whole)


@lru_cache(REMEMBERED)
def backward(work: Work, chip: Chip) -> Plan:
    """For the way back: one sum, of as many products as the way forward has sums. To read all that it
    is formed of takes longest where units are many: there four slices read a quarter each, which was
    not measured yet."""
    parts = 4 if work.width * work.itemsize > 1024 else 1
    return _one_slice(work) or _sliced(work, chip, 1, parts, _most_at_once(work, 256))


def _most_at_once(work: Work, of_halves: int) -> int:
    """How many numbers a product takes at once; of float32 each in three, which need registers."""
    most = of_halves if work.itemsize == 2 else 64
    return max(min(power_of_two(work.width), most), 16)


def _one_slice(work: Work) -> Plan | None:
    """All units in one program, if these are few: nobody waits for another."""
    units = max(power_of_two(work.width), 16)
    matrices = work.fed * work.sums + work.beside
    if units > 64 or (units > 16 and matrices * units * units * work.itemsize > _IN_REGISTERS):
        return None
    warps = 8 if units == 64 else 4
    return Plan(16, units, 1, 1, 1, units, 1, True, warps, max(-(-work.batch // 16), 1))


def _sliced(work: Work, chip: Chip, side: int, parts: int, whole: int) -> Plan:
    whole_chunks = -(-work.width // whole)
    kept_bytes = 2 if work.itemsize == 2 else 8  # float32 in two parts, for three products
    early = work.fed * _share(side if side > 1 else work.sums, whole_chunks, parts)
    kept_chunks = early + work.beside * _share(1, whole_chunks, parts)

    def slices(units: int) -> int:
        return -(-work.width // (units * parts)) * parts

    def plan(tile: int, units: int, kept: bool) -> Plan:
        chunk = whole if kept else min(whole, 64)  # what is read again is in registers on its way
        tiles = max(1, min(-(-work.batch // tile), chip.processors // slices(units)))
        sizes = (tile, units, slices(units), side, parts, chunk, -(-work.width // chunk))
        many = units * side * parts > 64 or (parts > 1 and tile > 32)
        return Plan(*sizes, kept, 8 if many else 4, tiles)

    def fitting() -> Iterator[Plan]:
        for tile in _TILES:
            for units in _SLICES:
                weights = kept_chunks * whole * units * parts * kept_bytes
                enough = weights + tile * whole * work.itemsize + _BESIDE <= chip.shared
                columns = units * side * parts
                if enough and columns >= 16 and 1 < slices(units) <= chip.processors:
                    yield plan(tile, units, True)

    # the fewest launches, then the smallest tile, then the smallest slice
    best = min(fitting(), key=lambda plan: plan.launches(work.batch), default=None)
    if best is None:  # the weights are read again at every step
        units = _SLICES[1]
        while slices(units) > chip.processors:
            units *= 2
        best = plan(16, units, False)
    return best


def _share(products: int, chunks: int, parts: int) -> int:
    """How many chunks of so many products each part has at most."""
    return -(-products * chunks // parts)
