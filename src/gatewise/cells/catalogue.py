"""The built-in cells, each a few lines that read like its paper.

Gates are in torch's order where torch has the cell, else i, f, g, o. States at step t-1 are ``s``,
pre-activations W x + U h + b are ``a``. Each cell's docstring names its source and the equations.
"""

from __future__ import annotations

from collections.abc import Iterable

from gatewise.cells.language import (
    Cell,
    cell,
    detach,
    exp,
    greater,
    maximum,
    relu,
    sigmoid,
    softplus,
    tanh,
)
from gatewise.errors import OptionError, near


@cell(gates="h")
def rnn_tanh(a, s):
    """Simple recurrent network, tanh.

    Elman 1990, "Finding Structure in Time"; as torch.nn.RNN."""
    return dict(h=tanh(a.h))


@cell(gates="h")
def rnn_relu(a, s):
    """Simple recurrent network with rectified units.

    Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
    Units", section 2."""
    return dict(h=relu(a.h))


def squash(x):
    """The 1997 paper's g: a logistic function with the range from -2 to 2 (appendix A.1)."""
    return 4 * sigmoid(x) - 2


def squash_state(x):
    """The 1997 paper's h: a logistic function with the range from -1 to 1 (appendix A.1)."""
    return 2 * sigmoid(x) - 1


@cell(gates="i g o", state="h c", shared="i o")
def lstm_1997(a, s):
    """Long short-term memory as first published: no forget gate, no peepholes.

    Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", section 4 and appendix A.1, with the
    squashing functions of its experiments and the whole gradient. The gates of a block's cells
    are one where the layer has a ``block_size``. See :data:`lstm_1997_truncated` for the network
    of the paper's experiments."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    return dict(i=i, g=g, o=o, c=c, h=o * squash_state(c))


@cell(gates="i g o", state="h c y y_i y_o", feedback="y y_i y_o", shared="i o")
def lstm_1997_truncated(a, s):
    """The 1997 cell as its experiments have it: every cell and every gate sees all cells' outputs and
    all gates, and the gradient is cut where it would go back into them.

    Hochreiter & Schmidhuber 1997, appendix A.1: "d net / d y := 0", so that errors flow back through
    the cell state alone. y, y_i and y_o are h, i and o with the gradient cut."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    h = o * squash_state(c)
    return dict(i=i, g=g, o=o, c=c, h=h, y=detach(h), y_i=detach(i), y_o=detach(o))


@cell(gates="i f g o", state="h c")
def lstm(a, s):
    """Long short-term memory with forget gate, without peepholes; as torch.nn.LSTM.

    Hochreiter & Schmidhuber 1997; the forget gate is Gers, Schmidhuber & Cummins 2000, "Learning to
    Forget: Continual Prediction with LSTM", equations 3.1 and 3.2."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def peephole(a, s, p):
    """LSTM with peepholes: the gates see the cell state, the output gate the new one.

    Gers, Schraudolph & Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent Networks",
    equations 2 to 7; with the whole gradient, as the vanilla LSTM of Greff et al. 2017, "LSTM: A
    Search Space Odyssey", section II.A."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="f g o", state="h c")
def coupled(a, s):
    """LSTM whose input gate is what its forget gate leaves, without peepholes.

    Greff et al. 2017, "LSTM: A Search Space Odyssey", section III (CIFG without peepholes); ONNX's
    LSTM with input_forget=1."""
    f, g, o = sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + (1 - f) * g
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


# The eight variants of the peephole LSTM: Greff et al. 2017, "LSTM: A Search Space Odyssey", section
# III, each without or with one thing.


@cell(gates="f g o", state="h c", params="pf po")
def nig(a, s, p):
    """No input gate: i = 1. Greff et al. 2017, section III (NIG)."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i g o", state="h c", params="pi po")
def nfg(a, s, p):
    """No forget gate: f = 1. Greff et al. 2017, section III (NFG)."""
    i, g = sigmoid(a.i + p.pi * s.c), tanh(a.g)
    c = s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g", state="h c", params="pi pf")
def nog(a, s, p):
    """No output gate: o = 1. Greff et al. 2017, section III (NOG)."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, c=c, h=tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def niaf(a, s, p):
    """No input activation function: g is linear. Greff et al. 2017, section III (NIAF)."""
    i, f = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c)
    c = f * s.c + i * a.g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def noaf(a, s, p):
    """No output activation function: h = o c. Greff et al. 2017, section III (NOAF)."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * c)


@cell(gates="f g o", state="h c", params="pf po")
def cifg(a, s, p):
    """Coupled input and forget gate: i = 1 - f. Greff et al. 2017, section III (CIFG)."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + (1 - f) * g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c")
def np(a, s):
    """No peepholes. Greff et al. 2017, section III (NP): the cell ``lstm`` by another name."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(
    gates="i f g o",
    state="h c i f o",
    params="pi pf po",
    feedback={"h": "i f g o", "i": "i f o", "f": "i f o", "o": "i f o"},
)
def fgr(a, s, p):
    """Full gate recurrence: each gate also sees what all gates were one step before, through nine
    further matrices. Greff et al. 2017, section III (FGR)."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="r z n")
def gru(a, s):
    """Gated recurrent unit with the reset gate after the recurrent product; as torch.nn.GRU and
    cuDNN.

    Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", equations 5 to 8,
    with r moved behind the product. z keeps the old state."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="r z n")
def gru_2014(a, s):
    """Gated recurrent unit with the reset gate before the recurrent product; ONNX's default.

    Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", equations 5 to
    8."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.fed(r * s.h))
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="f n")
def mgu(a, s):
    """Minimal gated unit: one gate that resets and updates.

    Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks", section 3."""
    f = sigmoid(a.f)
    n = tanh(a.n.fed(f * s.h))
    return dict(f=f, n=n, h=(1 - f) * s.h + f * n)


@cell(gates="z n")
def mingru(a, s):
    """minGRU: gate and candidate see the input alone, so that all steps can be scanned at once.

    Feng et al. 2024, "Were RNNs All We Needed?", section 3.1."""
    z, n = sigmoid(a.z.x), a.n.x
    return dict(z=z, n=n, h=(1 - z) * s.h + z * n)


@cell(gates="f i n")
def minlstm(a, s):
    """minLSTM: gates and candidate see the input alone, and the two gates share out one.

    Feng et al. 2024, "Were RNNs All We Needed?", section 3.2."""
    f, i, n = sigmoid(a.f.x), sigmoid(a.i.x), a.n.x
    return dict(f=f, i=i, n=n, h=f / (f + i) * s.h + i / (f + i) * n)


@cell(gates="i f g o", state="h c n m")
def slstm(a, s):
    """sLSTM: exponential input gate, a normaliser n and a stabiliser m.

    Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", equations 8 to 17, with the sigmoid
    of the two forget gates that equation 12 allows; its logarithm is -softplus(-a). n is zero before
    a sequence's first step alone, which then counts whole, whatever its input gate: h = o g. The
    heads are the layer's ``recurrent_blocks``."""
    before = -softplus(-a.f) + s.m - 1e9 * (1 - greater(s.n, 0))
    m = maximum(before, a.i)
    i, f = exp(a.i - m), exp(before - m)
    g, o = tanh(a.g), sigmoid(a.o)
    c, n = f * s.c + i * g, f * s.n + i
    return dict(i=i, f=f, g=g, o=o, c=c, n=n, m=m, h=o * (c / n))


@cell(gates="d e z y", state="h z")
def lem(a, s):
    """Long expressive memory: two states, each with a learned step of time.

    Rusch et al. 2022, "Long Expressive Memory for Sequence Modeling", equation 3 with a step of 1;
    h is its y, d and e are its two time steps. The last gate is fed with the new z."""
    d, e = sigmoid(a.d), sigmoid(a.e)
    z = (1 - d) * s.z + d * tanh(a.z)
    return dict(d=d, e=e, z=z, h=(1 - e) * s.h + e * tanh(a.y.fed(z)))


def _by_name(cells: Iterable[Cell]) -> dict[str, Cell]:
    return {each.name: each for each in cells}


CELLS: dict[str, Cell] = _by_name(
    (
        rnn_tanh,
        rnn_relu,
        lstm_1997,
        lstm_1997_truncated,
        lstm,
        peephole,
        coupled,
        *(nig, nfg, nog, niaf, noaf, cifg, np, fgr),
        gru,
        gru_2014,
        mgu,
        mingru,
        minlstm,
        slstm,
        lem,
    )
)


def find(name: str) -> Cell:
    """The built-in cell of that name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    if name not in CELLS:
        raise OptionError(f"no cell '{name}'{near(name, CELLS)}; there are: {', '.join(CELLS)}")
    return CELLS[name]
