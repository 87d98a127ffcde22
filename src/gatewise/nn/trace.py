"""Traces: every named value of a layer's cell, at every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import OptionError, near


class Trace:
    """The named values of a cell, by layer and direction.

    ``trace.f[layer][direction]`` (or ``trace["f"][layer][direction]``) is B×T×H, also for a layer that is
    not ``batch_first``. Padding is zero. ``trace.names`` has the names. ``trace.lengths`` has the lengths
    of the sequences, or is None if none were given. ``trace.cell`` is the layer's cell, or None if the layer
    is not made of one, as the mLSTM.
    """

    def __init__(
        self,
        values: Mapping[str, list[list[Tensor]]],
        lengths: Tensor | None,
        cell: Cell | None = None,
    ) -> None:
        self._values = dict(values)
        self.lengths = lengths
        self.cell = cell

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def __getitem__(self, name: str) -> list[list[Tensor]]:
        if name not in self._values:
            names = ", ".join(self._values)
            raise OptionError(
                f"no '{name}' in this trace{near(name, self._values)}; it has: {names}"
            )
        return self._values[name]

    def __getattr__(self, name: str) -> list[list[Tensor]]:
        if name.startswith("_"):  # copy and pickle look names up before _values exists
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"this trace has no '{name}'; it has: {', '.join(self._values)}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __repr__(self) -> str:
        layers = next(iter(self._values.values()))
        shape = "×".join(map(str, layers[0][0].shape))
        return f"<trace of {', '.join(self._values)}: layers {len(layers)}, directions {len(layers[0])}, {shape}>"
