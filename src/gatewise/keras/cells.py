"""The cells of Keras's layers: the catalogue's where the activations are the usual ones, else made.

Keras's dropout draws a mask for each gate where there is recurrent dropout. A cell that has its gates
*apart* reads h in as many copies as it has gates, each fed to one gate, so that each has a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gatewise.cells import catalogue
from gatewise.cells.activations import KERAS
from gatewise.cells.language import Cell, cell


def _lstm(activation: str, recurrent: str, apart: bool) -> Cell:
    """Keras's LSTM, gates in its own order; the first two states are h and c."""
    if (activation, recurrent, apart) == ("tanh", "sigmoid", False):
        return catalogue.lstm
    act, gate = KERAS[activation], KERAS[recurrent]
    fed = _fed("i f g o") if apart else {"h": "i f g o"}

    @cell(
        gates="i f g o",
        state=" ".join(["h", "c", *list(fed)[1:]]),
        feedback=fed,
        name=_named("lstm", activation, recurrent, apart),
    )
    def step(a, s):  # type: ignore[no-untyped-def]
        i, f, o = gate(a.i), gate(a.f), gate(a.o)
        c = f * s.c + i * act(a.g)
        return dict(c=c) | dict.fromkeys(fed, o * act(c))

    return step


def _gru(activation: str, recurrent: str, reset_after: bool, apart: bool) -> Cell:
    """Keras's GRU, gates in torch's order; the first state is h. Only with the reset gate after the
    product can its gates be apart: before it, the candidate is fed with r * h."""
    if (activation, recurrent, apart) == ("tanh", "sigmoid", False):
        return catalogue.gru if reset_after else catalogue.gru_2014
    act, gate = KERAS[activation], KERAS[recurrent]
    fed = _fed("r z n") if apart else {"h": "r z n"}
    name = _named("gru" if reset_after else "gru_2014", activation, recurrent, apart)

    @cell(gates="r z n", state=" ".join(fed), feedback=fed, name=name)
    def step(a, s):  # type: ignore[no-untyped-def]
        r, z = gate(a.r), gate(a.z)
        n = act(a.n.x + r * a.n.h if reset_after else a.n.fed(r * s.h))
        return dict.fromkeys(fed, z * s.h + (1 - z) * n)

    return step


def _simple(activation: str) -> Cell:
    """Keras's SimpleRNN."""
    if activation in ("tanh", "relu"):
        return catalogue.find(f"rnn_{activation}")
    act = KERAS[activation]

    @cell(gates="h", name=f"keras_rnn_{activation}")
    def step(a, s):  # type: ignore[no-untyped-def]
        return dict(h=act(a.h))

    return step


_KINDS: Mapping[str, Callable[..., Cell]] = {"lstm": _lstm, "gru": _gru, "rnn": _simple}
_MADE: dict[
    tuple[str | bool, ...], Cell
] = {}  # torch.compile sees through this, not through a cache


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


def _named(kind: str, activation: str, recurrent: str, apart: bool) -> str:
    return f"keras_{kind}_{activation}_{recurrent}{'_apart' if apart else ''}"
