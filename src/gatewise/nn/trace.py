"""What a layer's gates did: every named value of the cell, at every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from gatewise.errors import OptionError, near


class Trace:
    """A cell's named values by layer and direction.

    ``trace.f`` (or ``trace["f"]``) is a list over layers of lists over directions of tensors B×T×H,
    whatever the layer's ``batch_first``; steps beyond a sequence's length are zero. ``trace.names``
    lists what there is; ``trace.lengths`` are the sequences' lengths, or None where all are full.
    """

    def __init__(self, values: Mapping[str, list[list[Tensor]]], lengths: Tensor | None) -> None:
        self._values = dict(values)
        self.lengths = lengths

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
        if name.startswith("_"):  # copy and pickle ask before there is anything in _values
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"this trace has no '{name}'; it has: {', '.join(self._values)}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __repr__(self) -> str:
        layers = next(iter(self._values.values()))
        shape = "×".join(map(str, layers[0][0].shape))
        names, size = ", ".join(self._values), f"{len(layers)} layers, {len(layers[0])} directions"
        return f"<trace of {names}: {size}, {shape}>"
