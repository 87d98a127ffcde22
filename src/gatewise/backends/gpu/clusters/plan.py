"""The plan of a call for clusters (see loops.h), and what stays in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gatewise.backends.gpu.plan import CACHE_SIZE, Divided

_WARPS = 8  # of a program
_PIECE, _WARP = 16, 32  # bytes; threads
THREADS = _WARPS * _WARP
_TILES = (8, 16, 32, 64)
_ACCUMULATORS = 96  # the most that a thread has in registers
_CHUNKS = 4  # a step's share is copied in so many, so that the product begins early
OF_SEQUENCE = 16  # bytes of shared memory for each sequence
# The cost of a byte that is read from the L2 cache, or from another program's shared memory; one from a
# program's own costs 1. From the chip's rates (about 20, 30 and 128 bytes for each cycle and multiprocessor),
# not measured.
_FROM_MEMORY, _FROM_PEERS = 6, 4


@dataclass(frozen=True)
class Chip:
    """The shared memory that a program may have, in bytes; and the sizes of clusters in order of preference,
    each with how many programs run at once."""

    shared: int
    programs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Work:
    """The work of a call: ``rows`` of weights for each of ``units``, each of ``fed`` numbers."""

    units: int
    batch: int
    itemsize: int
    rows: int
    fed: int


@dataclass(frozen=True)
class Plan(Divided):
    """The constants of loops.h that are chosen, the cost of a step, and the tiles of a launch."""

    BT: int
    US: int
    SLICES: int
    PARTS: int
    ROWS: int
    K: int
    GROUPS: int
    CHUNK: int
    STAGES: int
    SHARED: int
    cost: int
    tiles: int

    def constants(self) -> dict[str, int]:
        names = ("BT", "US", "SLICES", "PARTS", "ROWS", "K", "GROUPS", "CHUNK", "STAGES", "SHARED")
        return {name: getattr(self, name) for name in names} | {"THREADS": THREADS}


@lru_cache(CACHE_SIZE)
def divide(work: Work, chip: Chip) -> Plan | None:
    """The plan with the fewest launches, then the least cost; None if nothing fits."""

    def taken(plan: Plan) -> tuple[int, int]:
        return plan.launches(work.batch), plan.cost

    return min(plans(work, chip), key=taken, default=None)


def plans(work: Work, chip: Chip) -> Iterator[Plan]:
    """All plans that fit: for each size of a tile and of a cluster, and each number of tiles that run at once,
    those with the smallest slices that allow it."""
    for tile in _TILES:
        for parts, programs in chip.programs:
            most_tiles = min(max(-(-work.batch // tile), 1), programs // parts)
            for tiles in range(1, most_tiles + 1):
                most = programs // tiles // parts * parts  # slices of a tile
                units = -(-work.units // most)
                slices = -(-work.units // (units * parts)) * parts
                for sizes in _arrangements(work, chip, tile, units, parts):
                    yield Plan(tile, units, slices, parts, *sizes, tiles=tiles)


def _arrangements(
    work: Work, chip: Chip, tile: int, units: int, parts: int
) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """ROWS, K, GROUPS, CHUNK, STAGES, SHARED and the cost of a step, for all that fit, the best first. As few
    warps as have room for their accumulators divide the rows, since each reads the whole recurrent input; then
    as much as possible is copied ahead."""
    rows, block = work.rows * units * parts, 4 * _PIECE // work.itemsize
    row_tiles, blocks = -(-rows // 16), -(-work.fed // (block * parts))
    of_block = tile // 8 * _WARP * _PIECE
    kept = blocks * row_tiles * 2 * _WARP * _PIECE
    exchanged = tile * work.rows * units * parts * 4
    for members in (1, 2, 4, 8):
        groups = _WARPS // members
        if -(-row_tiles // members) * (tile // 8) * 4 > _ACCUMULATORS:
            continue
        partial_sums = tile * (row_tiles * 16 + 4) * 4 * max(groups // 2, 1)
        cost = kept + (members + _FROM_MEMORY) * blocks * of_block + _FROM_PEERS * exchanged
        for chunk in dict.fromkeys((-(-blocks // (_CHUNKS * groups)) * groups, groups)):
            chunks = -(-blocks // chunk)
            for stages in range(min(chunks, _CHUNKS) + 1, 1, -1):
                copied = min(stages, chunks) * chunk * of_block
                shared = kept + max(copied, partial_sums) + tile * OF_SEQUENCE
                if shared <= chip.shared:
                    yield rows, work.fed, groups, chunk, stages, shared, cost
