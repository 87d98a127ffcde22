"""The cells of Keras's layers.

Keras's dropout draws a mask for each gate where there is recurrent dropout. A cell that has its gates
*apart* reads h in as many copies as it has gates, each fed to one gate, so that each has a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gatewise.cells.activations import KERAS
from gatewise.cells.language import Cell, cell
from gatewise.cells.variants import gru_cell, lstm_cell, rnn_cell


def _lstm(activation: str, recurrent: str, apart: bool) -> Cell:
    """Keras's LSTM, gates in its own order; the first two states are h and c."""
    act, gate = KERAS[activation], KERAS[recurrent]
    if not apart:
        return lstm_cell(gate, act, act)
    fed = _fed("i f g o")
    state = " ".join(["h", "c", *list(fed)[1:]])

    @cell(gates="i f g o", state=state, feedback=fed, name=f"keras_lstm_{activation}_{recurrent}")
    def step(a, s):  # type: ignore[no-untyped-def]
        i, f, o = gate(a.i), gate(a.f), gate(a.o)
        c = f * s.c + i * act(a.g)
        return dict(c=c) | dict.fromkeys(fed, o * act(c))

    return step


def _gru(activation: str, recurrent: str, reset_after: bool, apart: bool) -> Cell:
    """Keras's GRU, gates in torch's order; the first state is h. Only with the reset gate after the
    product can its gates be apart: before it, the candidate is fed with r * h."""
    act, gate = KERAS[activation], KERAS[recurrent]
    if not apart:
        return gru_cell(gate, act, reset_after=reset_after)
    fed = _fed("r z n")
    state = " ".join(fed)

    @cell(gates="r z n", state=state, feedback=fed, name=f"keras_gru_{activation}_{recurrent}")
    def step(a, s):  # type: ignore[no-untyped-def]
        r, z = gate(a.r), gate(a.z)
        return dict.fromkeys(fed, z * s.h + (1 - z) * act(a.n.x + r * a.n.h))

    return step


def _simple(activation: str) -> Cell:
    """Keras's SimpleRNN."""
    return rnn_cell(KERAS[activation])


_KINDS: Mapping[str, Callable[..., Cell]] = {"lstm": _lstm, "gru": _gru, "rnn": _simple}
_MADE: dict[tuple[str | bool, ...], Cell] = {}  # which torch.compile sees through, unlike a cache


def cell_of(kind: str, *options: str | bool) -> Cell:
    """The cell of a kind of layer, "lstm", "gru" or "rnn", with these options, in the order in which
    its function above has them."""
    key = (kind, *options)
    if key not in _MADE:
        _MADE[key] = _KINDS[kind](*options)
    return _MADE[key]


def _fed(gates: str) -> dict[str, str]:
    """h and its copies, each with the one gate that it is fed to."""
    first, *others = gates.split()
    return {"h": first} | {f"h_{gate}": gate for gate in others}
