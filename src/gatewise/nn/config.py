"""The configuration of a recurrent layer: its cell, its sizes and the options that parameters depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatewise.cells.language import Cell
from gatewise.nn.structure import Structure, structure

# The shapes of parameters by name, without the suffix of layer and direction, in torch's order.
Shapes = dict[str, tuple[int, ...]]

# Initial bias of a highway's gates. It is negative, so that a new layer passes most of its input on.
HIGHWAY_BIAS = -1.0


@dataclass(frozen=True)
class LayerConfig:
    """The configuration of a recurrent layer, and the shapes that follow from it. It does not change.

    Options that may change between calls, such as ``dropout``, are attributes of the layer.

    Attributes:
        single_step: whether the layer is a RecurrentCell, whose parameters have no suffix.
        state_sizes: the width of each state of the cell. The first is P if there is a projection.
        output_size: D·P, the width of the output.
        suffixes: for each layer the suffixes of its directions.
        structure: how the recurrent weights are stored.
        step_shapes: for each suffix the shapes of the parameters that a backend gets.
        other_shapes: the shapes of the other parameters by full name: learned initial states and
            highways.
        plain: whether all parameters are stored as backends get them, and layers have no residual or
            highway connection.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    bidirectional: bool = False
    proj_size: int = 0
    layer_norm: bool = False
    connect: str = "plain"
    learn_initial: bool = False
    block_size: int = 1
    recurrent_blocks: int = 1
    single_step: bool = False

    state_sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    output_size: int = field(init=False, repr=False, compare=False)
    suffixes: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)
    structure: Structure = field(init=False, repr=False, compare=False)
    step_shapes: Mapping[str, Shapes] = field(init=False, repr=False, compare=False)
    other_shapes: Shapes = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        projected = self.proj_size or self.hidden_size
        self._set("state_sizes", (projected, *[self.hidden_size] * (len(self.cell.state) - 1)))
        self._set("output_size", projected * (1 + self.bidirectional))
        self._set("suffixes", tuple(self._suffixes_of(k) for k in range(self.num_layers)))
        blocks = self.block_size, self.recurrent_blocks
        self._set("structure", structure(self.cell, self.hidden_size, projected, *blocks))
        step_shapes = {
            suffix: self._step_shapes(self.layer_input_size(k))
            for k, of_layer in enumerate(self.suffixes)
            for suffix in of_layer
        }
        self._set("step_shapes", step_shapes)
        self._set("other_shapes", self._other_shapes())
        stored_plainly = self.structure.plain and not self.other_shapes
        self._set("plain", stored_plainly and self.connect == "plain")

    def layer_input_size(self, layer: int) -> int:
        """The width of the input of a stacked layer."""
        return self.input_size if layer == 0 else self.output_size

    @property
    def shapes(self) -> Shapes:
        """The shapes of all parameters by full name, in the order in which a layer registers them."""
        of_steps = self.step_shapes.items()
        return {n + s: shape for s, each in of_steps for n, shape in each.items()} | (
            self.other_shapes
        )

    @property
    def first_suffix(self) -> str:
        return self.suffixes[0][0]

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _suffixes_of(self, layer: int) -> tuple[str, ...]:
        if self.single_step:
            return ("",)
        forward = f"_l{layer}"
        return (forward, f"{forward}_reverse") if self.bidirectional else (forward,)

    def _step_shapes(self, input_size: int) -> Shapes:
        cell, rows = self.cell, sum(self.structure.rows)
        parts = ("ih", "hh") if cell.feedback else ("ih",)
        shapes: Shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, sum(self.structure.columns)),
        }
        if self.bias:
            shapes |= {f"bias_{part}": (rows,) for part in parts}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        if self.layer_norm:
            shapes |= {f"norm_{part}": (rows,) for part in parts}
        return shapes | dict.fromkeys(cell.params, (self.hidden_size,))

    def _other_shapes(self) -> Shapes:
        shapes: Shapes = {}
        for k, suffixes in enumerate(self.suffixes):
            if self.learn_initial:
                for suffix in suffixes:
                    for name, size in zip(self.cell.state, self.state_sizes, strict=True):
                        if name not in self.cell.coupled_states:
                            shapes[f"initial_{name}{suffix}"] = (size,)
            if self.connect == "highway" and k:
                width = self.layer_input_size(k)
                shapes[f"highway_weight_l{k}"] = (width, width)
                shapes[f"highway_bias_l{k}"] = (width,)
        return shapes


class Configured:
    """A layer's read-only attributes that its configuration has, by the names of the arguments."""

    config: LayerConfig

    @property
    def cell(self) -> Cell:
        return self.config.cell

    @property
    def input_size(self) -> int:
        return self.config.input_size

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def num_layers(self) -> int:
        return self.config.num_layers

    @property
    def bias(self) -> bool:
        return self.config.bias

    @property
    def bidirectional(self) -> bool:
        return self.config.bidirectional

    @property
    def proj_size(self) -> int:
        return self.config.proj_size

    @property
    def layer_norm(self) -> bool:
        return self.config.layer_norm

    @property
    def connect(self) -> str:
        return self.config.connect

    @property
    def learn_initial(self) -> bool:
        return self.config.learn_initial

    @property
    def block_size(self) -> int:
        return self.config.block_size

    @property
    def recurrent_blocks(self) -> int:
        return self.config.recurrent_blocks

    @property
    def output_size(self) -> int:
        """D·P, the width of the output. P is H without a projection."""
        return self.config.output_size

    @property
    def _step_shapes(self) -> Mapping[str, Shapes]:
        return self.config.step_shapes

    @property
    def _structure(self) -> Structure:
        return self.config.structure
