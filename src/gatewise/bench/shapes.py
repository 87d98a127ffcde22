"""The shapes that are timed, and their work."""

from __future__ import annotations

from dataclasses import dataclass

from gatewise.cells.counts import products
from gatewise.cells.language import Cell
from gatewise.errors import OptionError

MODES = ("inference", "training")


@dataclass(frozen=True)
class Shape:
    """T steps, B sequences, I input features, H hidden units."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int

    @property
    def bytes(self) -> int:
        """A lower bound of a row's memory in float32: x, y, dy and dx, and four gates with their
        gradients."""
        steps = self.T * self.B * (2 * self.I + 10 * self.H)
        return 4 * (steps + 2 * 4 * self.H * (self.I + self.H))

    def __str__(self) -> str:
        return f"{self.T},{self.B},{self.I},{self.H}"


DEFAULT = (
    Shape(1, 1, 64, 64),
    Shape(100, 1, 32, 64),
    Shape(100, 1, 128, 256),
    Shape(100, 32, 50, 50),
    Shape(100, 32, 128, 128),
    Shape(200, 64, 256, 256),
    Shape(50, 64, 512, 512),
    Shape(35, 20, 650, 650),
    Shape(50, 128, 1024, 1024),
    Shape(1000, 16, 128, 128),
)
QUICK = (DEFAULT[0], DEFAULT[1], DEFAULT[4])


def parse(text: str) -> Shape:
    """A shape from "T,B,I,H".

    Raises:
        OptionError: the text is not four positive integers.
    """
    numbers = text.split(",")
    # no machine can run a size of more than 18 digits
    fine = (n.strip().isdecimal() and len(n) <= 18 and int(n) > 0 for n in numbers)
    if len(numbers) != 4 or not all(fine):
        raise OptionError(
            f"a shape is T,B,I,H (steps, sequences, inputs, units), four positive integers, "
            f"such as 100,32,128,128; not '{text}'"
        )
    return Shape(*(int(n) for n in numbers))


def flop(cell: Cell, shape: Shape, mode: str) -> int:
    """The floating-point operations of the matrix products over all steps and sequences.

    See :func:`gatewise.cells.counts.products`. Training has three times as many. Element-wise operations do not
    count."""
    forward = shape.T * shape.B * shape.H * products(cell).at(shape.I, shape.H)
    return forward * (3 if mode == "training" else 1)
