"""LSTMs, GRUs and simple networks with other activations than usual, or bounds, as Keras and ONNX have
them: the catalogue's cells where they are these, else made from their equations."""

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
    """An LSTM with f at its gates, g at its input and h at its output.

    ``clip`` bounds the pre-activations, peepholes among them, and not the state on its way into h:
    ONNX speaks of the input of activations, and this is how ONNX Runtime has it. ``coupled`` is i with
    weights and 1 - i in the place of f; the catalogue's two coupled cells have the weights at f instead.
    """
    if (f, g, h, clip) == (sigmoid, tanh, tanh, None):
        return find(_LSTMS[peepholes, coupled])
    gates = "i g o" if coupled else "i f g o"
    params = ("pi po" if coupled else "pi pf po") if peepholes else ""

    @cell(gates=gates, state="h c", params=params, name=_name("lstm", f, g, h, clip))
    def made(a: Any, s: Any, p: Any = None) -> Mapping[str, Value]:
        def gate(name: str, c: Value) -> Value:
            seen = getattr(p, f"p{name}") * c if peepholes else 0
            return f(_clipped(getattr(a, name) + seen, clip))

        i, new = gate("i", s.c), g(_clipped(a.g, clip))
        forget = 1 - i if coupled else gate("f", s.c)
        c = forget * s.c + i * new
        o = gate("o", c)
        return _named(i=i, f=forget, g=new, o=o, c=c, h=o * h(c))

    return made


def gru_cell(f: Activation, g: Activation, *, reset_after: bool, clip: float | None = None) -> Cell:
    """A GRU with f at its gates and g at its candidate; ``reset_after`` is ONNX's linear_before_reset."""
    if (f, g, clip) == (sigmoid, tanh, None):
        return find("gru" if reset_after else "gru_2014")

    @cell(gates="r z n", name=_name("gru", f, g, clip))
    def made(a: Any, s: Any) -> Mapping[str, Value]:
        r, z = f(_clipped(a.r, clip)), f(_clipped(a.z, clip))
        candidate = a.n.x + r * a.n.h if reset_after else a.n.fed(r * s.h)
        n = g(_clipped(candidate, clip))
        return _named(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)

    return made


def rnn_cell(f: Activation, *, clip: float | None = None) -> Cell:
    """A simple recurrent network with f."""
    if clip is None and f in (tanh, relu):
        return find("rnn_tanh" if f is tanh else "rnn_relu")

    @cell(gates="h", name=_name("rnn", f, clip))
    def made(a: Any, s: Any) -> Mapping[str, Value]:
        return dict(h=f(_clipped(a.h, clip)))

    return made


def _clipped(x: Value, clip: float | None) -> Value:
    return x if clip is None else minimum(maximum(x, -clip), clip)


def _named(**values: Value) -> Mapping[str, Value]:
    """Without what an identity as activation leaves as it was: a pre-activation has no name in a cell."""
    return {name: value for name, value in values.items() if not value.op.startswith("gate")}


def _name(kind: str, *parts: Activation | float | None) -> str:
    """Such as ``lstm_sigmoid_tanh_tanh_clip_3_0``."""
    words = [kind]
    for part in parts:
        if isinstance(part, float):
            words.append(f"clip_{part}")
        elif part is not None:
            function = part.func if isinstance(part, partial) else part
            words.append(function.__name__)
    return re.sub(r"\W", "_", "_".join(words))
