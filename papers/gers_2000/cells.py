"""The paper's cells. Their gradient is truncated: it flows back in time through the cell state only."""

from gatewise.cells.catalogue import squash, squash_state
from gatewise.cells.language import Cell, cell, detach, sigmoid


@cell(gates="i f g o", state="h c y", feedback="y", shared_gates="i f o")
def forgetting(a, s):
    """The cell with forget gates: Gers et al. 2000, equations 3.1 and 3.2 and section 2.

    y is h without its gradient, so that errors flow back through the cell state only."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), squash(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    h = o * squash_state(c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=h, y=detach(h))


def keeping(share: float) -> Cell:
    """The cell without forget gates. At each step its state is multiplied by ``share``: 1 in the standard LSTM
    (Gers et al. 2000, section 2), 0.9 in table 2's "state decay"."""

    @cell(gates="i g o", state="h c y", feedback="y", shared_gates="i o", name=f"keeping_{share:g}")
    def keeping(a, s):
        i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
        c = share * s.c + i * g
        h = o * squash_state(c)
        return dict(i=i, g=g, o=o, c=c, h=h, y=detach(h))

    return keeping
