"""How a call is divided: sequences into tiles, units into slices, and what stays on chip.

What is chosen was measured on an H200 and an H100 in bfloat16 (benchmarks/NOTES.md). A step's time is
mostly waiting, for memory and for each other, so that many small slices beat a few large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# Of a multiprocessor's shared memory, what the exchange of blocks between threads takes beside.
_BESIDE = 8 * 1024
# Weights that stay in the registers of the one program that has them all.
_IN_REGISTERS = 64 * 1024
_TILES = (16, 32, 64, 128)
_SLICES = (8, 16, 32, 64)
# Rows of weights that a group of four warps multiplies out of shared memory (see TURNED in loops.py).
_ROWS = 64
# A chunk takes as long beside its product as so many numbers more (3.79 and 3.91 µs a step where one
# chunk of 512 numbers became two of 256).
_OF_A_CHUNK = 64
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


class Divided:
    """A call's sequences in tiles: how many one has, and how many tiles a launch has at most."""

    BT: int
    tiles: int

    def launches(self, batch: int) -> int:
        """How many launches after each other so many sequences take."""
        return -(-batch // (self.tiles * self.BT))


@dataclass(frozen=True)
class Plan(Divided):
    """The loops' block sizes (see loops.py), the warps of a program, and the tiles of a launch."""

    BT: int
    US: int
    SLICES: int
    SIDE: int
    PARTS: int
    KC: int
    CHUNKS: int
    KEPT: bool
    TURNED: bool
    warps: int
    tiles: int

    @property
    def columns(self) -> int:
        """Of what a product makes."""
        return self.US * self.SIDE * self.PARTS

    def at_once(self, batch: int, chip: Chip) -> bool:
        """Whether there is a multiprocessor for each program of so many sequences."""
        return -(-batch // self.BT) * self.SLICES <= chip.processors

    def blocks(self) -> dict[str, int | bool]:
        names = ("BT", "US", "SLICES", "KC", "CHUNKS", "KEPT", "TURNED")
        return {name: getattr(self, name) for name in names} | {"ROOM": power_of_two(self.SLICES)}


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


@lru_cache(REMEMBERED)
def forward(work: Work, chip: Chip) -> Plan:
    """For the way forward: the sums of a unit come out of one product, side by side."""
    return _one_slice(work) or _sliced(work, chip, back=False)


@lru_cache(REMEMBERED)
def backward(work: Work, chip: Chip) -> Plan:
    """For the way back: one sum, of as many products as the way forward has sums, of which several
    slices form a part each."""
    return _one_slice(work) or _sliced(work, chip, back=True)


def _one_slice(work: Work) -> Plan | None:
    """All units in one program, if these are few: nobody waits for another."""
    units = max(power_of_two(work.width), 16)
    matrices = work.fed * work.sums + work.beside
    if units > 64 or (units > 16 and matrices * units * units * work.itemsize > _IN_REGISTERS):
        return None
    sizes = (16, units, 1, 1, 1, units, 1)
    warps, tiles = 8 if units == 64 else 4, max(-(-work.batch // 16), 1)
    return Plan(*sizes, KEPT=True, TURNED=False, warps=warps, tiles=tiles)


def _sliced(work: Work, chip: Chip, back: bool) -> Plan:
    # the fewest launches, then the smallest tile, then the smallest slice
    fewest = min(plans(work, chip, back), key=lambda plan: plan.launches(work.batch), default=None)
    if fewest is not None:
        return fewest
    # the weights are read again at every step, and are in registers on their way
    units = _SLICES[1]
    while _slices(work, units, back) > chip.processors:
        units *= 2
    return _plan(work, chip, back, 16, units, False, 64)


def plans(work: Work, chip: Chip, back: bool) -> Iterator[Plan]:
    """All that fit with their weights on chip; of a tile and a slice first what is thought to take the
    least time."""
    for tile in _TILES:
        for units in _SLICES:
            chunks = _chunks(work, tile, _side(work, back), _parts(work, units, back))
            for chunk in chunks:
                plan = _plan(work, chip, back, tile, units, True, chunk)
                if _fits(work, chip, plan):
                    yield plan


def _plan(
    work: Work, chip: Chip, back: bool, tile: int, units: int, kept: bool, chunk: int
) -> Plan:
    side, parts, slices = _side(work, back), _parts(work, units, back), _slices(work, units, back)
    columns = units * side * parts
    return Plan(
        *(tile, units, slices, side, parts, chunk, -(-work.width // chunk)),
        KEPT=kept,
        TURNED=kept and work.itemsize == 2 and columns >= _ROWS,
        warps=8 if columns > _ROWS or tile * work.itemsize > 64 else 4,
        tiles=max(1, min(-(-work.batch // tile), chip.processors // slices)),
    )


def _side(work: Work, back: bool) -> int:
    return power_of_two(work.sums) if not back and 1 < work.sums <= 4 else 1


def _parts(work: Work, units: int, back: bool) -> int:
    if not back:
        return 1
    return max(_ROWS // units, 2) if work.itemsize == 2 else 4


def _slices(work: Work, units: int, back: bool) -> int:
    parts = _parts(work, units, back)
    return -(-work.width // (units * parts)) * parts


def _fits(work: Work, chip: Chip, plan: Plan) -> bool:
    """Whether its programs can all run at once, and have room for what they keep."""
    in_registers = 32 if work.itemsize == 4 else 128 if plan.TURNED else 64
    can_run = plan.columns >= 16 and 1 < plan.SLICES <= chip.processors
    return can_run and in_registers >= plan.BT and shared(work, plan) <= chip.shared


def _chunks(work: Work, tile: int, side: int, parts: int) -> list[int]:
    """How many numbers a product may take at once: what takes least time first."""
    most = 512 if tile == 16 or work.width <= 512 else 256
    if work.itemsize == 4 or tile > 64:  # float32 is multiplied in three products
        most = 64
    most = max(min(power_of_two(work.width), most), 16)
    sizes = [most]
    while sizes[-1] > 64:
        sizes.append(sizes[-1] // 2)

    def time(chunk: int) -> int:
        chunks = _share(_products(work, side), -(-work.width // chunk), parts)
        return chunks * (chunk + _OF_A_CHUNK)

    return sorted(sizes, key=time)


def shared(work: Work, plan: Plan) -> int:
    """Bytes of shared memory that a plan takes which keeps its weights there, at most. Beside them there
    is a chunk of what is fed back, and later, in its place, what a product makes."""
    of_weight = 2 if work.itemsize == 2 else 8  # float32 in two parts, for three products
    chunks = work.fed * _share(_products(work, plan.SIDE), plan.CHUNKS, plan.PARTS) * plan.SIDE
    chunks += work.beside * _share(1, plan.CHUNKS, plan.PARTS)
    weights = chunks * plan.KC * plan.US * plan.PARTS * of_weight
    made = plan.BT * plan.columns * 4
    return weights + max(plan.BT * plan.KC * work.itemsize + _BESIDE, made)


def _products(work: Work, side: int) -> int:
    """How many a sum is of, or how many sums' products are formed apart."""
    return 1 if side > 1 else work.sums


def _share(products: int, chunks: int, parts: int) -> int:
    """How many chunks of so many products each part has at most."""
    return -(-products * chunks // parts)
