"""What a cell costs, counted in its graph: weights, and floating-point operations of a step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gatewise.cells.language import OPERATIONS, Cell, Value, topological

_FREE = ("detach",)  # it cuts a gradient and computes nothing
# Those that a processor has no single instruction for. Each is counted as one all the same.
FUNCTIONS = ("sigmoid", "tanh", "exp", "log", "softplus")


@dataclass(frozen=True)
class Count:
    """``inputs`` · I + ``units`` · H + ``rest``, of one hidden unit of a layer with I inputs and H
    units."""

    inputs: int
    units: int
    rest: int = 0

    def at(self, I: int, H: int) -> int:  # noqa: E741
        """The number for one unit."""
        return self.inputs * I + self.units * H + self.rest

    def __str__(self) -> str:
        if self.inputs == self.units:
            both = f"{self.inputs} (I + H)" if self.inputs != 1 else "I + H"
            terms = [both] if self.inputs else []
        else:
            each = ((self.inputs, "I"), (self.units, "H"))
            terms = [f"{n} {of}" if n != 1 else of for n, of in each if n]
        return " + ".join([*terms, str(self.rest)] if self.rest or not terms else terms)


def weights(cell: Cell) -> Count:
    """The numbers that one unit learns: for each gate a weight of each input, of each unit of each
    state that is fed back to it, and torch's two biases (one where nothing is fed back); and the
    unit's own parameters.

    No options of the layer: no blocks, no projection, no layer normalisation.
    """
    matrices = products(cell)
    biases = len(cell.gates) * (2 if cell.feedback else 1)
    return Count(matrices.inputs // 2, matrices.units // 2, biases + len(cell.params))


def products(cell: Cell) -> Count:
    """Floating-point operations of a unit and step in W x + U h + b: a multiplication and an addition
    for each weight, which adds one bias too. A training step has three times as many.

    A state that is fed back to some of the gates is counted for these alone; a kernel that also
    multiplies the zeros beside them does more.
    """
    fed_back = sum(len(gates) for gates in cell.fed.values())
    return Count(2 * len(cell.gates), 2 * fed_back)


def point_wise(cell: Cell) -> Counter[str]:
    """How many of each operation a unit takes in a step, element by element; what stands in the
    equations twice is worked out once."""
    found: Counter[str] = Counter()
    known: dict[tuple[object, ...], int] = {}
    place: dict[Value, int] = {}
    for value in topological(cell.values.values()):
        same = (value.op, value.name, value.number, *(place[arg] for arg in value.args))
        if same not in known:
            known[same] = len(known)
            if value.op in OPERATIONS and value.op not in _FREE:
                found[value.op] += 1
        place[value] = known[same]
    return found
