"""The plan of a call: sequences are divided into tiles, units into slices, and weights may stay on chip.

The choices were measured on an H200 and an H100 in bfloat16 (benchmarks/NOTES.md). Most of a step's time is
waiting, for memory and for other programs, so many small slices are faster than a few large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# The shared memory of a multiprocessor that the exchange of blocks between threads takes, in bytes.
_BESIDE = 8 * 1024
# The most bytes of weights that stay in the registers of a program, if one program has them all.
_IN_REGISTERS = 64 * 1024
_TILES = (16, 32, 64, 128)
_SLICES = (8, 16, 32, 64)
# The rows of weights that a group of four warps multiplies from shared memory (see TRANSPOSED in loops.py).
_ROWS = 64
# The fixed time of a chunk, as that of multiplying so many more numbers (a step took 3.79 µs with one chunk of
# 512 numbers, and 3.91 with two of 256).
_OF_A_CHUNK = 64
CACHE_SIZE = 1024  # plans and layouts that are kept, since batches differ in size


@dataclass(frozen=True)
class Chip:
    """The number of multiprocessors, and the shared memory of one that a program may have, in bytes."""

    processors: int
    shared: int


@dataclass(frozen=True)
class Work:
    """The work of a call.

    Attributes:
        width: the number of units, or of outputs if these are more.
        feedbacks: the number of states that are fed back.
        accumulators: of a unit. Each has a row of ``width`` weights for each state that is fed back.
        beside: further such rows of a unit.
    """

    width: int
    batch: int
    itemsize: int
    feedbacks: int
    accumulators: int
    beside: int


@dataclass(frozen=True)
class Plan:
    """The constants of loops.py that are chosen, the warps of a program, and the most tiles of a launch."""

    BT: int
    US: int
    SLICES: int
    INTERLEAVED: int
    PARTS: int
    KC: int
    CHUNKS: int
    RESIDENT: bool
    TRANSPOSED: bool
    warps: int
    tiles: int

    @property
    def columns(self) -> int:
        """The columns of one matmul tile."""
        return self.US * self.INTERLEAVED * self.PARTS

    def launches(self, batch: int) -> int:
        """How many consecutive launches a batch takes."""
        return -(-batch // (self.tiles * self.BT))

    def at_once(self, batch: int, chip: Chip) -> bool:
        """Whether there is a multiprocessor for each program of a batch."""
        return -(-batch // self.BT) * self.SLICES <= chip.processors

    def blocks(self) -> dict[str, int | bool]:
        names = ("BT", "US", "SLICES", "KC", "CHUNKS", "RESIDENT", "TRANSPOSED")
        return {name: getattr(self, name) for name in names} | {"ROOM": power_of_two(self.SLICES)}


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


@lru_cache(CACHE_SIZE)
def forward(work: Work, chip: Chip) -> Plan:
    """The plan of a forward pass: one product gives all accumulators of a unit, side by side."""
    return _one_slice(work) or _sliced(work, chip, back=False)


@lru_cache(CACHE_SIZE)
def backward(work: Work, chip: Chip) -> Plan:
    """The plan of a backward pass: the gradient of the recurrent input is a sum of one product for each
    accumulator, and several slices compute a part of it each (split-K)."""
    return _one_slice(work) or _sliced(work, chip, back=True)


def _one_slice(work: Work) -> Plan | None:
    """All units in one program, if they are few: no program waits for another."""
    units = max(power_of_two(work.width), 16)
    matrices = work.feedbacks * work.accumulators + work.beside
    if units > 64 or (units > 16 and matrices * units * units * work.itemsize > _IN_REGISTERS):
        return None
    sizes = (16, units, 1, 1, 1, units, 1)
    warps, tiles = 8 if units == 64 else 4, max(-(-work.batch // 16), 1)
    return Plan(*sizes, RESIDENT=True, TRANSPOSED=False, warps=warps, tiles=tiles)


def _sliced(work: Work, chip: Chip, back: bool) -> Plan:
    # the fewest launches, then the smallest tile, then the smallest slice
    fewest = min(plans(work, chip, back), key=lambda plan: plan.launches(work.batch), default=None)
    if fewest is not None:
        return fewest
    # the weights are read again at every step, through registers
    units = _SLICES[1]
    while _slices(work, units, back) > chip.processors:
        units *= 2
    return _plan(work, chip, back, 16, units, False, 64)


def plans(work: Work, chip: Chip, back: bool) -> Iterator[Plan]:
    """All plans that fit with their weights on chip. For each tile and slice, the one that is expected to be
    fastest comes first."""
    for tile in _TILES:
        for units in _SLICES:
            chunks = _chunks(work, tile, _interleaved(work, back), _parts(work, units, back))
            for chunk in chunks:
                plan = _plan(work, chip, back, tile, units, True, chunk)
                if _fits(work, chip, plan):
                    yield plan


def _plan(
    work: Work, chip: Chip, back: bool, tile: int, units: int, resident: bool, chunk: int
) -> Plan:
    interleaved, parts, slices = (
        _interleaved(work, back),
        _parts(work, units, back),
        _slices(work, units, back),
    )
    columns = units * interleaved * parts
    return Plan(
        *(tile, units, slices, interleaved, parts, chunk, -(-work.width // chunk)),
        RESIDENT=resident,
        TRANSPOSED=resident and work.itemsize == 2 and columns >= _ROWS,
        warps=8 if columns > _ROWS or tile * work.itemsize > 64 else 4,
        tiles=max(1, min(-(-work.batch // tile), chip.processors // slices)),
    )


def _interleaved(work: Work, back: bool) -> int:
    return power_of_two(work.accumulators) if not back and 1 < work.accumulators <= 4 else 1


def _parts(work: Work, units: int, back: bool) -> int:
    if not back:
        return 1
    return max(_ROWS // units, 2) if work.itemsize == 2 else 4


def _slices(work: Work, units: int, back: bool) -> int:
    parts = _parts(work, units, back)
    return -(-work.width // (units * parts)) * parts


def _fits(work: Work, chip: Chip, plan: Plan) -> bool:
    """Whether all programs can run at once and have room for what they keep."""
    in_registers = 32 if work.itemsize == 4 else 128 if plan.TRANSPOSED else 64
    can_run = plan.columns >= 16 and 1 < plan.SLICES <= chip.processors
    return can_run and in_registers >= plan.BT and shared(work, plan) <= chip.shared


def _chunks(work: Work, tile: int, interleaved: int, parts: int) -> list[int]:
    """The sizes that a chunk may have, the fastest first."""
    most = 512 if tile == 16 or work.width <= 512 else 256
    if work.itemsize == 4 or tile > 64:  # float32 is multiplied in three products
        most = 64
    most = max(min(power_of_two(work.width), most), 16)
    sizes = [most]
    while sizes[-1] > 64:
        sizes.append(sizes[-1] // 2)

    def time(chunk: int) -> int:
        chunks = _share(_products(work, interleaved), -(-work.width // chunk), parts)
        return chunks * (chunk + _OF_A_CHUNK)

    return sorted(sizes, key=time)


def shared(work: Work, plan: Plan) -> int:
    """The most bytes of shared memory that a plan takes that keeps its weights there. Beside the weights there
    is a chunk of the recurrent input, and later, in its place, the result of a product."""
    of_weight = 2 if work.itemsize == 2 else 8  # float32 in two parts, for three products
    chunks = (
        work.feedbacks
        * _share(_products(work, plan.INTERLEAVED), plan.CHUNKS, plan.PARTS)
        * plan.INTERLEAVED
    )
    chunks += work.beside * _share(1, plan.CHUNKS, plan.PARTS)
    weights = chunks * plan.KC * plan.US * plan.PARTS * of_weight
    made = plan.BT * plan.columns * 4
    return weights + max(plan.BT * plan.KC * work.itemsize + _BESIDE, made)


def _products(work: Work, interleaved: int) -> int:
    """How many products are computed separately for each state that is fed back."""
    return 1 if interleaved > 1 else work.accumulators


def _share(products: int, chunks: int, parts: int) -> int:
    """The most chunks that a part has."""
    return -(-products * chunks // parts)
