"""The built-in cells. Each is a few lines that read like its paper.

Gates are in torch's order where torch has the cell, else i, f, g, o. ``a`` are the pre-activations
W x + U h + b, and ``s`` are the states of the previous step. ``gatewise cells`` and the cell's page in
docs/cells show its docstring: a summary in one line, a paragraph "Source: …", then notes.
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

    Elman's units are logistic; later networks, and torch, use tanh. ``gatewise.RNN`` is a layer of
    this cell."""
    return dict(h=tanh(a.h))


@cell(gates="h")
def rnn_relu(a, s):
    """Simple recurrent network with rectified units; as torch.nn.RNN.

    Source: Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units".

    The state is not bounded. The paper initialises the recurrent weights with the identity and the
    biases with zero; a layer draws both at random, as torch does. ``gatewise.RNN`` with
    ``nonlinearity="relu"`` is a layer of this cell."""
    return dict(h=relu(a.h))


def squash(x):
    """The 1997 paper's g: a logistic function with the range from -2 to 2 (appendix A.1)."""
    return 4 * sigmoid(x) - 2


def squash_state(x):
    """The 1997 paper's h: a logistic function with the range from -1 to 1 (appendix A.1)."""
    return 2 * sigmoid(x) - 1


@cell(gates="i g o", state="h c", shared_gates="i o")
def lstm_1997(a, s):
    """Long short-term memory as first published: no forget gate, no peepholes.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", section 4 and appendix A.1.

    The squashing functions are those of the paper's experiments, so g lies between -2 and 2. There is
    no forget gate: c keeps everything that was added to it, and is not bounded. The gradient is the
    full gradient; ``lstm_1997_truncated`` is the network of the paper's experiments. Where the layer
    has a ``block_size``, all cells of a block share one input gate and one output gate."""
    i, g, o = sigmoid(a.i), squash(a.g), sigmoid(a.o)
    c = s.c + i * g
    return dict(i=i, g=g, o=o, c=c, h=o * squash_state(c))


@cell(gates="i g o", state="h c y y_i y_o", feedback="y y_i y_o", shared_gates="i o")
def lstm_1997_truncated(a, s):
    """The 1997 cell as in its experiments: recurrent gates and a truncated gradient.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", appendix A.1.

    The recurrent input of every cell and every gate is all outputs and all gates of the previous step.
    No gradient passes through this recurrent input ("d net / d y := 0" in the paper); it passes through
    the cell state only. So the gradient differs from finite differences, as intended. y, y_i and y_o
    are h, i and o without their gradient (detach). The output h has its gradient."""
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

    Both papers use scaled logistic functions; this cell uses tanh, as is usual today.
    ``gatewise.LSTM`` is a layer of this cell. With ``forget_bias=1`` the layer remembers from the
    start of training."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def peephole(a, s, p):
    """LSTM with peepholes: the gates read the cell state, and the output gate reads the new one.

    Source: Gers, Schraudolph & Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent
    Networks"; the equations are the vanilla LSTM's of Greff et al. 2017, "LSTM: A Search Space
    Odyssey", section II-A.

    A peephole is one weight per unit, not a matrix: a unit's gates read only the unit's own state. In
    2002 no gradient passed through the peepholes; here, as in 2017, the gradient is complete."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="f g o", state="h c")
def coupled(a, s):
    """LSTM with its input gate coupled to its forget gate, i = 1 - f, without peepholes.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (CIFG, here without
    peepholes).

    Here f has the weights. In the paper, and in ONNX's LSTM with input_forget=1, i has the weights:
    the same cell, with the opposite sign of this gate's weights."""
    f, g, o = sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + (1 - f) * g
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


# The eight variants of the peephole LSTM in Greff et al. 2017, "LSTM: A Search Space Odyssey", section
# III. Each removes or adds one component.


@cell(gates="f g o", state="h c", params="pf po")
def nig(a, s, p):
    """Peephole LSTM without an input gate: i = 1.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NIG).

    The candidate is always added in full; only the forget gate reduces the state."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i g o", state="h c", params="pi po")
def nfg(a, s, p):
    """Peephole LSTM without a forget gate: f = 1.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NFG).

    c keeps everything that was added to it, and is not bounded."""
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

    g is the pre-activation itself, so it has no name and cannot be traced. The values that are added
    to c are not bounded."""
    i, f = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c)
    c = f * s.c + i * a.g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c", params="pi pf po")
def noaf(a, s, p):
    """Peephole LSTM without an output activation function: h = o c.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NOAF).

    h is not bounded: it is as large as c."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * c)


@cell(gates="f g o", state="h c", params="pf po")
def cifg(a, s, p):
    """Peephole LSTM with its input gate coupled to its forget gate: i = 1 - f.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (CIFG).

    Here f has the weights. In the paper i has them: the same cell, with the opposite sign of this
    gate's weights and peephole. ``coupled`` is this cell without peepholes."""
    f, g = sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + (1 - f) * g
    o = sigmoid(a.o + p.po * c)
    return dict(f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="i f g o", state="h c")
def np(a, s):
    """The vanilla LSTM without peepholes.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (NP).

    It equals the cell ``lstm``. It is here so that the eight variants are complete."""
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
    """Peephole LSTM with full gate recurrence: each gate also reads all gates of the previous step.

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey" (FGR).

    The three gates are recurrent input of the three gates, through nine further matrices, but not of g.
    i, f and o are states, so a call returns five states. The columns of ``weight_hh`` that connect
    them to g exist, are zero and stay zero; the weights counted here do not include them."""
    i, f, g = sigmoid(a.i + p.pi * s.c), sigmoid(a.f + p.pf * s.c), tanh(a.g)
    c = f * s.c + i * g
    o = sigmoid(a.o + p.po * c)
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


@cell(gates="r z n")
def gru(a, s):
    """Gated recurrent unit with the reset gate after the recurrent product; as torch.nn.GRU.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", equations 5 to 8, with r after the product, as in cuDNN.

    The two biases of the candidate n cannot be merged, because r multiplies the recurrent one. A large
    z keeps the old state; in Chung et al. 2014 a large z takes the new state, so weights from there
    need the opposite sign for z. ``gatewise.GRU`` is a layer of this cell."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="r z n")
def gru_2014(a, s):
    """Gated recurrent unit with the reset gate before the recurrent product; ONNX's default.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", equations 5 to 8.

    Weights of torch's GRU do not fit this cell. They fit ``gru``, which applies r after the product. A
    step has two stages of products, because the candidate's recurrent input needs r. A large z keeps
    the old state; in Chung et al. 2014 it takes the new state. The paper's equations have no biases."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.recurrent(r * s.h))
    return dict(r=r, z=z, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="f n")
def mgu(a, s):
    """Minimal gated unit: one gate that resets and updates.

    Source: Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks", section 3.

    A large f takes the new state; a large z of ``gru`` keeps the old one. A step has two stages of
    products, because the candidate's recurrent input needs f."""
    f = sigmoid(a.f)
    n = tanh(a.n.recurrent(f * s.h))
    return dict(f=f, n=n, h=(1 - f) * s.h + f * n)


@cell(gates="z n")
def mingru(a, s):
    """minGRU: gate and candidate read only the input, so that a parallel scan computes all steps.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.1.

    This is the paper's plain form. Its log-space form, which avoids overflow, applies a positive function
    g to the candidate; this cell does not, so weights of that form do not fit. The candidate is not
    squashed, so h is as large as W x. A large z takes the new state; a large z of ``gru`` keeps the old
    one. There are no recurrent weights: the gate depends on the input only, not on the state."""
    z, n = sigmoid(a.z.x), a.n.x
    return dict(z=z, n=n, h=(1 - z) * s.h + z * n)


@cell(gates="f i n")
def minlstm(a, s):
    """minLSTM: gates and candidate read only the input, and the two gates are scaled to a sum of one.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", section 3.2.

    This is the paper's plain form. kept is f / (f + i), computed from the logarithms of the gates, so
    that it is accurate for two gates near zero. The paper's log-space form applies a positive function g
    to the candidate; this cell does not, so weights of that form do not fit. Unlike the LSTM, this cell
    has no cell state and no output gate, and h is not squashed."""
    f, i, n = sigmoid(a.f.x), sigmoid(a.i.x), a.n.x
    kept = sigmoid(softplus(-a.i.x) - softplus(-a.f.x))
    return dict(f=f, i=i, n=n, kept=kept, h=kept * s.h + (1 - kept) * n)


@cell(gates="i f g o", state="h c n m", coupled_states="c n m")
def slstm(a, s):
    """sLSTM: exponential input gate, a normaliser n and a stabiliser m.

    Source: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", equations 8 to 17, with the
    sigmoid of the two forget gates that equation 13 allows.

    i and f are the stabilised gates of equations 16 and 17, so they depend on m as well as on their
    pre-activations. -softplus(-a) is the logarithm of sigmoid(a). n is zero only before the first step
    of a sequence. greater(n, 0) detects that step: there m is the input gate's logarithm alone, where
    the paper takes the greater of two, and so h = o g for any input gate. An initial state with n = 0 is
    no memory, whatever its c and m. The paper's heads are the layer's ``recurrent_blocks``."""
    kept, old = -softplus(-a.f) + s.m, greater(s.n, 0)
    m = maximum(a.i, old * kept + (1 - old) * a.i)
    i, f = exp(a.i - m), old * exp(old * (kept - m))
    g, o = tanh(a.g), sigmoid(a.o)
    c, n = f * s.c + i * g, f * s.n + i
    return dict(i=i, f=f, g=g, o=o, c=c, n=n, m=m, h=o * (c / n))


@cell(gates="d e z y", state="h z")
def lem(a, s):
    """Long expressive memory: two states, each with a learned time step.

    Source: Rusch et al. 2022, "Long Expressive Memory for Sequence Modeling", equation 3 with a step
    of 1.

    h is the paper's y, and d and e are its two time steps. h moves towards tanh of the gate y. The
    recurrent input of that gate is the new z; that of the others is h. So a step has two stages of
    products."""
    d, e = sigmoid(a.d), sigmoid(a.e)
    z = (1 - d) * s.z + d * tanh(a.z)
    return dict(d=d, e=e, z=z, h=(1 - e) * s.h + e * tanh(a.y.recurrent(z)))


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
        OptionError: no built-in cell has that name. The message lists the names.
    """
    if name == "mlstm":
        raise OptionError(
            "mLSTM is not a cell, because its memory is a matrix; use the layer gw.MLSTM"
        )
    if name not in CELLS:
        raise unknown("cell", name, CELLS)
    return CELLS[name]
