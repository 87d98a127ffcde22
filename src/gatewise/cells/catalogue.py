"""The built-in cells, each a few lines that read like its paper. Gates are in torch's order."""

from __future__ import annotations

from gatewise.cells.language import Cell, cell, relu, sigmoid, tanh
from gatewise.errors import OptionError, near


@cell(gates="h")
def rnn_tanh(a, s):
    """Simple recurrent network (Elman 1990, "Finding Structure in Time"), tanh."""
    return dict(h=tanh(a.h))


@cell(gates="h")
def rnn_relu(a, s):
    """Simple recurrent network with rectified units (Le, Jaitly & Hinton 2015, "A Simple Way to
    Initialize Recurrent Networks of Rectified Linear Units")."""
    return dict(h=relu(a.h))


@cell(gates="i f g o", state="h c")
def lstm(a, s):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gate (Gers, Schmidhuber &
    Cummins 2000, "Learning to Forget", section 3); without peepholes."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="r z n")
def gru(a, s):
    """Gated recurrent unit (Cho et al. 2014, equations 5 to 8), with the reset gate applied after
    the recurrent product, as cuDNN and PyTorch have it, and z keeping the old state."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


CELLS: dict[str, Cell] = {c.name: c for c in (rnn_tanh, rnn_relu, lstm, gru)}


def find(name: str) -> Cell:
    """The built-in cell of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    if name not in CELLS:
        raise OptionError(f"no cell '{name}'{near(name, CELLS)}; there are: {', '.join(CELLS)}")
    return CELLS[name]
