"""Cells that only these experiments need. The others are in the catalogue."""

from gatewise.cells.catalogue import squash, squash_state
from gatewise.cells.language import cell, sigmoid


@cell(gates="i g o", state="h c y_i y_o", feedback="h y_i y_o", shared_gates="i o")
def lstm_1997_whole(a, s):
    """``lstm_1997_truncated`` with the whole gradient."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    return dict(i=i, g=g, o=o, c=c, h=o * squash_state(c), y_i=1 * i, y_o=1 * o)


@cell(gates="i g", state="h")
def memory(a, s):
    """The cell of experiments 2a and 2b: an input gate, no output gate and no recurrent weights.

    g is logistic, from 0 to 1, and h is the identity (section 5.2)."""
    i, g = sigmoid(a.i.x), sigmoid(a.g.x)
    return dict(i=i, g=g, h=s.h + i * g)
