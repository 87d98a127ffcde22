"""The cells of Keras's layers.

With recurrent dropout Keras draws a mask for each gate. A cell with ``separate_gates`` has one copy of h
for each gate; each copy is the recurrent input of that gate only, so that each gate has its own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gatewise.cells.activations import KERAS
from gatewise.cells.language import Cell, cell
from gatewise.cells.variants import gru_cell, lstm_cell, rnn_cell


def _lstm(activation: str, recurrent: str, separate_gates: bool) -> Cell:
    """Keras's LSTM with its gates in Keras's order; the first two states are h and c."""
    act, gate = KERAS[activation], KERAS[recurrent]
    if not separate_gates:
        return lstm_cell(gate, act, act)
    copies = _copies("i f g o")
    state = " ".join(["h", "c", *list(copies)[1:]])

    @cell(
        gates="i f g o", state=state, feedback=copies, name=f"keras_lstm_{activation}_{recurrent}"
    )
    def step(a, s):  # type: ignore[no-untyped-def]
        i, f, o = gate(a.i), gate(a.f), gate(a.o)
        c = f * s.c + i * act(a.g)
        return dict(c=c) | dict.fromkeys(copies, o * act(c))

    return step


def _gru(activation: str, recurrent: str, reset_after: bool, separate_gates: bool) -> Cell:
    """Keras's GRU with its gates in torch's order; the first state is h.

    Only ``reset_after`` allows separate gates: otherwise the candidate's recurrent input is r * h."""
    act, gate = KERAS[activation], KERAS[recurrent]
    if not separate_gates:
        return gru_cell(gate, act, reset_after=reset_after)
    copies = _copies("r z n")
    state = " ".join(copies)

    @cell(gates="r z n", state=state, feedback=copies, name=f"keras_gru_{activation}_{recurrent}")
    def step(a, s):  # type: ignore[no-untyped-def]
        r, z = gate(a.r), gate(a.z)
        return dict.fromkeys(copies, z * s.h + (1 - z) * act(a.n.x + r * a.n.h))

    return step


def _simple(activation: str) -> Cell:
    """Keras's SimpleRNN."""
    return rnn_cell(KERAS[activation])


_KINDS: Mapping[str, Callable[..., Cell]] = {"lstm": _lstm, "gru": _gru, "rnn": _simple}
_MADE: dict[
    tuple[str | bool, ...], Cell
] = {}  # a dict, because torch.compile cannot trace functools.cache


def cell_of(kind: str, *options: str | bool) -> Cell:
    """The cell of a kind of layer, "lstm", "gru" or "rnn". The options are the arguments of its function
    above."""
    key = (kind, *options)
    if key not in _MADE:
        _MADE[key] = _KINDS[kind](*options)
    return _MADE[key]


def _copies(gates: str) -> dict[str, str]:
    """h and its copies, each with the one gate that it is connected to."""
    first, *others = gates.split()
    return {"h": first} | {f"h_{gate}": gate for gate in others}
