"""Cells of the experiments that are of no use elsewhere; the others are in the catalogue."""

from gatewise.cells.catalogue import squash, squash_state
from gatewise.cells.language import cell, sigmoid


@cell(gates="i g o", state="h c y_i y_o", feedback="h y_i y_o", shared_gates="i o")
def lstm_1997_whole(a, s):
    """The network's cell with the whole gradient: ``lstm_1997_truncated`` with nothing cut."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    return dict(i=i, g=g, o=o, c=c, h=o * squash_state(c), y_i=1 * i, y_o=1 * o)


@cell(gates="i g", state="h")
def memory(a, s):
    """Experiments 2a and 2b's one cell: an input gate, no output gate, no recurrent weights but the
    fixed one to itself; g is logistic, from 0 to 1, and h the identity (section 5.2)."""
    i, g = sigmoid(a.i.x), sigmoid(a.g.x)
    return dict(i=i, g=g, h=s.h + i * g)
