"""The built-in cells, each a few lines that read like its paper.

Gates are in torch's order where torch has the cell, else i, f, g, o. States at step t-1 are ``s``,
pre-activations W x + U h + b are ``a``. A cell's docstring is what ``gatewise cells`` and its page
in docs/cells show: a line that says what it is, a paragraph "Source: …", then what may surprise.
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
from gatewise.errors import OptionError, unknown


@cell(gates="h")
def rnn_tanh(a, s):
    """Simple recurrent network, tanh; as torch.nn.RNN.

    Source: Elman 1990, "Finding Structure in Time".

    Elman's units are logistic; tanh is what later networks, and torch's, have. ``gatewise.RNN`` is
    a layer of this cell."""
    return dict(h=tanh(a.h))


@cell(gates="h")
def rnn_relu(a, s):
    """Simple recurrent network with rectified units; as torch.nn.RNN.

    Source: Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units".

    Nothing bounds the state. The paper starts from identity as recurrent weights and zero biases;
    a layer draws both, as torch's does. ``gatewise.RNN`` with ``nonlinearity="relu"`` is a layer of
    this cell."""
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

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", section 4 and appendix A.1.

    The squashing functions are those of the paper's experiments, so g lies between -2 and 2. Without
    a forget gate nothing bounds c, which keeps all that was ever added to it. The gradient is the
    whole one; ``lstm_1997_truncated`` is the network of the paper's experiments. The cells of a
    block have one input and one output gate where the layer has a ``block_size``."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    return dict(i=i, g=g, o=o, c=c, h=o * squash_state(c))


@cell(gates="i g o", state="h c y y_i y_o", feedback="y y_i y_o", shared="i o")
def lstm_1997_truncated(a, s):
    """The 1997 cell as its experiments have it: gates are fed back, the gradient is cut.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", appendix A.1.

    Every cell and every gate sees all cells' outputs and all gates of the step before. Where errors
    would go back into these they are cut, "d net / d y := 0", so that they flow back through the
    cell state alone: a gradient that is checked by differences will not agree, and is not meant to.
    y, y_i and y_o are h, i and o with the gradient cut (detach). h is the output, which is not cut."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    h = o * squash_state(c)
    return dict(i=i, g=g, o=o, c=c, h=h, y=detach(h), y_i=detach(i), y_o=detach(o))


@cell(gates="i f g o", state="h c")
def lstm(a, s):
    """Long short-term memory with a forget gate, without peepholes; as torch.nn.LSTM.

    Source: Gers, Schmidhuber & Cummins 2000, "Learning to Forget: Continual Prediction with LSTM",
    section 3, which gave a forget gate to the cell of Hochreiter & Schmidhuber 1997, "Long
    Short-Term Memory".

    Both papers squash with scaled logistic functions where this has tanh, as all do today.
    ``gatewise.LSTM`` is a layer of this cell; its ``forget_bias=1`` lets it remember from the start."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def peephole(a, s, p):
    """LSTM with peepholes: the gates see the cell state, the output gate the new one.

    Source: Gers, Schraudolph & Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent
    Networks"; the equations are the vanilla LSTM's of Greff et al. 2017, "LSTM: A Search Space
    Odyssey", section II-A.

    A peephole is one weight of each unit, not a matrix: a unit's gates see its own state alone. In
    2002 no error went back through the peepholes; here, as in 2017, the gradient is whole."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="f g o", state="h c")
def coupled(a, s):
    """LSTM whose input gate is what its forget gate leaves, without peepholes.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (CIFG, here without
    peepholes).

    The gate that has weights is f. The paper, and ONNX's LSTM with input_forget=1, give them to i,
    which is the same cell with the sign of this gate's weights turned."""
    f, g, o = sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + (1 - f) * g
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


# The eight variants of the peephole LSTM: Greff et al. 2017, "LSTM: A Search Space Odyssey", section
# III, each without or with one thing.


@cell(gates="f g o", state="h c", params="pf po")
def nig(a, s, p):
    """Peephole LSTM without an input gate: i = 1.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NIG).

    What comes in is always added whole; only the forget gate makes room."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i g o", state="h c", params="pi po")
def nfg(a, s, p):
    """Peephole LSTM without a forget gate: f = 1.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NFG).

    Nothing bounds c, which keeps all that was ever added to it."""
    i, g = sigmoid(a.i + p.pi * s.c), tanh(a.g)
    c = s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g", state="h c", params="pi pf")
def nog(a, s, p):
    """Peephole LSTM without an output gate: o = 1.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NOG)."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, c=c, h=tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def niaf(a, s, p):
    """Peephole LSTM without an input activation function: g is linear.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NIAF).

    g has no name here, as it is the pre-activation itself, so it is not among what can be traced.
    What is added to c has no bound."""
    i, f = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c)
    c = f * s.c + i * a.g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def noaf(a, s, p):
    """Peephole LSTM without an output activation function: h = o c.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NOAF).

    h has no bound: it is as large as c."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * c)


@cell(gates="f g o", state="h c", params="pf po")
def cifg(a, s, p):
    """Peephole LSTM with its input gate coupled to its forget gate: i = 1 - f.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (CIFG).

    The gate that has weights is f; the paper gives them to i, which is the same cell with the sign of
    this gate's weights and peephole turned. ``coupled`` is this without peepholes."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + (1 - f) * g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c")
def np(a, s):
    """The vanilla LSTM without peepholes.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NP).

    It is the cell ``lstm`` by another name, here so that the eight variants are complete."""
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
    """Peephole LSTM with full gate recurrence: each gate also sees all gates of the step before.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (FGR).

    The three gates are fed back through nine further matrices, and g is not among those that see
    them. i, f and o are states, so a call returns five. The columns of ``weight_hh`` that would feed
    them to g are there, are zero and stay so; they are not among the weights counted here."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="r z n")
def gru(a, s):
    """Gated recurrent unit with the reset gate after the recurrent product; as torch.nn.GRU.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", equations 5 to 8, with r moved behind the product as cuDNN has
    it.

    The candidate n has two biases that are not one: its recurrent one stands inside the reset. z
    keeps the old state; in Chung et al. 2014 it takes the new one, and in weights from there the
    sign of z is turned. ``gatewise.GRU`` is a layer of this cell."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="r z n")
def gru_2014(a, s):
    """Gated recurrent unit with the reset gate before the recurrent product; ONNX's default.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", equations 5 to 8.

    Weights of torch's GRU do not fit it: they are those of ``gru``, in which r acts after the
    product. A step has two rounds of products, as the candidate waits for r. z keeps the old state;
    in Chung et al. 2014 it takes the new one. The paper's equations have no biases."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.fed(r * s.h))
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="f n")
def mgu(a, s):
    """Minimal gated unit: one gate that resets and updates.

    Source: Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks", section 3.

    f takes the new state, where z of ``gru`` keeps the old one. A step has two rounds of products, as
    the candidate waits for f."""
    f = sigmoid(a.f)
    n = tanh(a.n.fed(f * s.h))
    return dict(f=f, n=n, h=(1 - f) * s.h + f * n)


@cell(gates="z n")
def mingru(a, s):
    """minGRU: gate and candidate see the input alone, so that all steps can be scanned at once.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.1.

    This is the paper's plain form. Its log-space form, for numbers that would run out of range,
    passes the candidate through a positive function g, which is not here: its weights do not carry
    over. Nothing squashes the candidate, so h is as large as W x gets. z takes the new state, where
    z of ``gru`` keeps the old one. There are no recurrent weights: what a layer keeps depends on its
    inputs alone, never on its state."""
    z, n = sigmoid(a.z.x), a.n.x
    return dict(z=z, n=n, h=(1 - z) * s.h + z * n)


@cell(gates="f i n")
def minlstm(a, s):
    """minLSTM: gates and candidate see the input alone, and the two gates share out one.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.2.

    This is the paper's plain form, with the gates scaled to a sum of one: kept is f / (f + i), of the
    gates' logarithms, so that two gates that are all but shut still share out one. Its log-space form
    passes the candidate through a positive function g, which is not here: its weights do not carry
    over. Unlike an LSTM it has no cell state and no output gate, and nothing squashes h."""
    f, i, n = sigmoid(a.f.x), sigmoid(a.i.x), a.n.x
    kept = sigmoid(softplus(-a.i.x) - softplus(-a.f.x))
    return dict(f=f, i=i, n=n, kept=kept, h=kept * s.h + (1 - kept) * n)


@cell(gates="i f g o", state="h c n m", together="c n m")
def slstm(a, s):
    """sLSTM: exponential input gate, a normaliser n and a stabiliser m.

    Source: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", equations 8 to 17, with the
    sigmoid of the two forget gates that equation 13 allows.

    i and f are the stabilised gates of equations 16 and 17; neither is what its pre-activation alone
    says. -softplus(-a) is the logarithm of sigmoid(a). n is zero before a sequence's first step alone,
    which then counts whole, whatever its input gate: h = o g; that is what greater(n, 0) is for, where
    the paper has m as the greater of the two logarithms. So an initial state with n = 0 is no memory,
    whatever its c and m. The paper's heads are the layer's ``recurrent_blocks``."""
    kept, old = -softplus(-a.f) + s.m, greater(s.n, 0)
    m = maximum(a.i, old * kept + (1 - old) * a.i)
    i, f = exp(a.i - m), old * exp(old * (kept - m))
    g, o = tanh(a.g), sigmoid(a.o)
    c, n = f * s.c + i * g, f * s.n + i
    return dict(i=i, f=f, g=g, o=o, c=c, n=n, m=m, h=o * (c / n))


@cell(gates="d e z y", state="h z")
def lem(a, s):
    """Long expressive memory: two states, each with a learned step of time.

    Source: Rusch et al. 2022, "Long Expressive Memory for Sequence Modeling", equation 3 with a step
    of 1.

    h is the paper's y; d and e are its two time steps; the gate y is what h moves towards. That gate
    is fed with the new z, the others with h, so that a step has two rounds of products."""
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
    if name == "mlstm":
        raise OptionError(
            "mLSTM has a matrix for its memory and is no cell but a layer of its own, gw.MLSTM"
        )
    if name not in CELLS:
        raise unknown("cell", name, CELLS)
    return CELLS[name]
