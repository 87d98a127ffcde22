"""A cell's cost, counted in its graph: weights, and floating-point operations of one step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gatewise.cells.language import OPERATIONS, Cell, Value, topological

_FREE = ("detach",)  # it stops a gradient and computes nothing
# Operations that take a processor several instructions. Each is counted as one operation.
FUNCTIONS = ("sigmoid", "tanh", "exp", "log", "softplus")


@dataclass(frozen=True)
class Count:
    """The number ``inputs`` · I + ``units`` · H + ``rest``, per hidden unit of a layer with I inputs
    and H units."""

    inputs: int
    units: int
    rest: int = 0

    def at(self, I: int, H: int) -> int:  # noqa: E741
        """The number per unit for these sizes."""
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
    """The trainable numbers per unit.

    Each gate has one weight for each input, one weight for each unit of each feedback state that is
    connected to it, and two biases as in torch (one bias where the cell has no feedback). Per-unit
    parameters add to these. Options of a layer (blocks, projection, layer normalisation) do not count.
    """
    matrices = products(cell)
    biases = len(cell.gates) * (2 if cell.feedback else 1)
    return Count(matrices.inputs // 2, matrices.units // 2, biases + len(cell.params))


def products(cell: Cell) -> Count:
    """Floating-point operations per unit and step in W x + U h + b.

    Each weight counts as one multiplication and one addition. A training step has three times as
    many. A feedback state counts only for the gates that it is connected to; a kernel that also
    multiplies the zeros of other gates does more.
    """
    connected = sum(len(gates) for gates in cell.connections.values())
    return Count(2 * len(cell.gates), 2 * connected)


def point_wise(cell: Cell) -> Counter[str]:
    """The number of each element-wise operation per unit and step. Equal expressions count once."""
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
