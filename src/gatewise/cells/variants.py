"""LSTM, GRU and simple RNN cells with the activations and the clipping of Keras and ONNX.

Each function returns the catalogue's cell where one has the same equations, else it makes a cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from gatewise.cells.activations import Activation
from gatewise.cells.catalogue import find
from gatewise.cells.language import Cell, Value, cell, maximum, minimum, relu, sigmoid, tanh

_LSTMS = {
    (False, False): "lstm",
    (True, False): "peephole",
    (False, True): "coupled",
    (True, True): "cifg",
}


def lstm_cell(
    f: Activation,
    g: Activation,
    h: Activation,
    *,
    clip: float | None = None,
    peepholes: bool = False,
    coupled: bool = False,
) -> Cell:
    """An LSTM whose gates have the activation f, its candidate g and its output h.

    ``clip`` clips the pre-activations, after the peepholes, but not the input of h. ONNX says that it
    clips the input of activations; ONNX Runtime does what is done here. With ``coupled`` the input
    gate has weights and the forget gate is 1 - i. In the catalogue's two coupled cells the forget gate
    has the weights.
    """
    if (f, g, h, clip) == (sigmoid, tanh, tanh, None):
        return find(_LSTMS[peepholes, coupled])
    gates = "i g o" if coupled else "i f g o"
    params = ("pi po" if coupled else "pi pf po") if peepholes else ""

    @cell(gates=gates, state="h c", params=params, name=_name("lstm", f, g, h, clip))
    def made(a: Any, s: Any, p: Any = None) -> Mapping[str, Value]:
        def gate(name: str, c: Value) -> Value:
            peephole = getattr(p, f"p{name}") * c if peepholes else 0
            return f(_clipped(getattr(a, name) + peephole, clip))

        i, new = gate("i", s.c), g(_clipped(a.g, clip))
        forget = 1 - i if coupled else gate("f", s.c)
        c = forget * s.c + i * new
        o = gate("o", c)
        return _named(i=i, f=forget, g=new, o=o, c=c, h=o * h(c))

    return made


def gru_cell(f: Activation, g: Activation, *, reset_after: bool, clip: float | None = None) -> Cell:
    """A GRU whose gates have the activation f, its candidate g; ``reset_after`` is ONNX's linear_before_reset."""
    if (f, g, clip) == (sigmoid, tanh, None):
        return find("gru" if reset_after else "gru_2014")

    @cell(gates="r z n", name=_name("gru", f, g, clip))
    def made(a: Any, s: Any) -> Mapping[str, Value]:
        r, z = f(_clipped(a.r, clip)), f(_clipped(a.z, clip))
        candidate = a.n.x + r * a.n.h if reset_after else a.n.recurrent(r * s.h)
        n = g(_clipped(candidate, clip))
        return _named(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)

    return made


def rnn_cell(f: Activation, *, clip: float | None = None) -> Cell:
    """A simple recurrent network with the activation f."""
    if clip is None and f in (tanh, relu):
        return find("rnn_tanh" if f is tanh else "rnn_relu")

    @cell(gates="h", name=_name("rnn", f, clip))
    def made(a: Any, s: Any) -> Mapping[str, Value]:
        return dict(h=f(_clipped(a.h, clip)))

    return made


def _clipped(x: Value, clip: float | None) -> Value:
    return x if clip is None else minimum(maximum(x, -clip), clip)


def _named(**values: Value) -> Mapping[str, Value]:
    """The values except bare pre-activations, which have no name in a cell (an identity leaves them)."""
    return {name: value for name, value in values.items() if not value.op.startswith("gate")}


def _name(kind: str, *parts: Activation | float | None) -> str:
    """A name such as ``lstm_sigmoid_tanh_tanh_clip_3_0``."""
    words = [kind]
    for part in parts:
        if isinstance(part, float):
            words.append(f"clip_{part}")
        elif part is not None:
            function = part.func if isinstance(part, partial) else part
            words.append(function.__name__)
    return re.sub(r"\W", "_", "_".join(words))
