"""One step of every built-in cell in NumPy, written from the papers: what the catalogue is compared with.

Nothing here knows how gatewise states or runs a cell; what the two have in common is the layout of the
weights. All functions take complex numbers too, so that their derivatives can be had without a
formula: see :func:`gradients`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy import exp, log, maximum, tanh

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + exp(-x))


class Gate(NamedTuple):
    """A gate's own rows of the weights: input H×I, recurrent H×F, the biases H or zero."""

    input: Array
    recurrent: Array
    input_bias: Array | float
    recurrent_bias: Array | float

    def of_input(self, x: Array) -> Array:
        return x @ self.input.T + self.input_bias

    def of_state(self, *fed: Array) -> Array:
        q = np.concatenate(fed, axis=-1)
        return q @ self.recurrent[:, : q.shape[-1]].T + self.recurrent_bias

    def __call__(self, x: Array, *fed: Array) -> Array:
        """W x + U q + b, with q the fed-back values side by side. A gate that takes fewer of them than
        others has columns that nothing is multiplied with; they come last."""
        return self.of_input(x) + self.of_state(*fed)


class Paper(NamedTuple):
    """gates, states and per-unit parameters by name, in order; ``step(x, s, w)`` gives the new states."""

    gates: tuple[str, ...]
    state: tuple[str, ...]
    params: tuple[str, ...]
    step: Callable[..., tuple[Array, ...]]


PAPERS: dict[str, Paper] = {}


def paper(gates: str, state: str, params: str = "") -> Callable:
    def register(step):
        name = step.__name__.removesuffix("_")
        PAPERS[name] = Paper(*(tuple(text.split()) for text in (gates, state, params)), step)
        return step

    return register


@paper("h", "h")
def rnn_tanh(x, s, w):
    """Elman 1990, as torch.nn.RNN states it."""
    return (tanh(w.h(x, s.h)),)


@paper("h", "h")
def rnn_relu(x, s, w):
    """Le et al. 2015, as torch.nn.RNN states it."""
    return (maximum(w.h(x, s.h), 0),)


@paper("i f g o", "h c")
def lstm(x, s, w):
    """Gers et al. 2000, as torch.nn.LSTM states it."""
    i, f, o = sigmoid(w.i(x, s.h)), sigmoid(w.f(x, s.h)), sigmoid(w.o(x, s.h))
    c = f * s.c + i * tanh(w.g(x, s.h))
    return o * tanh(c), c


@paper("i g o", "h c")
def lstm_1997(x, s, w):
    """Hochreiter & Schmidhuber 1997, equations 3 to 9 of the appendix."""
    i, o = sigmoid(w.i(x, s.h)), sigmoid(w.o(x, s.h))
    c = s.c + i * (4 / (1 + exp(-w.g(x, s.h))) - 2)
    return o * (2 / (1 + exp(-c)) - 1), c


def cut(x):
    """The value, from which no derivative comes back: the complex step travels in the imaginary part."""
    return x.real.astype(x.dtype)


@paper("i g o", "h c y y_i y_o")
def lstm_1997_truncated(x, s, w):
    """The same, with all gates fed back as in its experiments, and errors that flow back through the
    cell state alone: appendix A.1, "truncated backprop"."""
    seen = s.y, s.y_i, s.y_o
    i, o = sigmoid(w.i(x, *seen)), sigmoid(w.o(x, *seen))
    c = s.c + i * (4 / (1 + exp(-w.g(x, *seen))) - 2)
    h = o * (2 / (1 + exp(-c)) - 1)
    return h, c, cut(h), cut(i), cut(o)


@paper("i f g o", "h c", "pi pf po")
def peephole(x, s, w):
    """Gers, Schraudolph & Schmidhuber 2002, as section II of Greff et al. 2017 states it."""
    i = sigmoid(w.i(x, s.h) + w.pi * s.c)
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) * i + s.c * f
    o = sigmoid(w.o(x, s.h) + w.po * c)
    return tanh(c) * o, c


@paper("f g o", "h c")
def coupled(x, s, w):
    """Greff et al. 2017, coupled gates, without peepholes: one gate divides between old and new."""
    f, o = sigmoid(w.f(x, s.h)), sigmoid(w.o(x, s.h))
    c = (1 - f) * tanh(w.g(x, s.h)) + f * s.c
    return o * tanh(c), c


@paper("f g o", "h c", "pf po")
def nig(x, s, w):
    """Greff et al. 2017, appendix: no input gate, i = 1."""
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) + s.c * f
    return tanh(c) * sigmoid(w.o(x, s.h) + w.po * c), c


@paper("i g o", "h c", "pi po")
def nfg(x, s, w):
    """Greff et al. 2017, appendix: no forget gate, f = 1."""
    i = sigmoid(w.i(x, s.h) + w.pi * s.c)
    c = tanh(w.g(x, s.h)) * i + s.c
    return tanh(c) * sigmoid(w.o(x, s.h) + w.po * c), c


@paper("i f g", "h c", "pi pf")
def nog(x, s, w):
    """Greff et al. 2017, appendix: no output gate, o = 1."""
    i = sigmoid(w.i(x, s.h) + w.pi * s.c)
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) * i + s.c * f
    return tanh(c), c


@paper("i f g o", "h c", "pi pf po")
def niaf(x, s, w):
    """Greff et al. 2017, appendix: no input activation function, g(x) = x."""
    i = sigmoid(w.i(x, s.h) + w.pi * s.c)
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = w.g(x, s.h) * i + s.c * f
    return tanh(c) * sigmoid(w.o(x, s.h) + w.po * c), c


@paper("i f g o", "h c", "pi pf po")
def noaf(x, s, w):
    """Greff et al. 2017, appendix: no output activation function, h(x) = x."""
    i = sigmoid(w.i(x, s.h) + w.pi * s.c)
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) * i + s.c * f
    return c * sigmoid(w.o(x, s.h) + w.po * c), c


@paper("f g o", "h c", "pf po")
def cifg(x, s, w):
    """Greff et al. 2017, appendix: coupled input and forget gate, f = 1 - i, so i = 1 - f."""
    f = sigmoid(w.f(x, s.h) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) * (1 - f) + s.c * f
    return tanh(c) * sigmoid(w.o(x, s.h) + w.po * c), c


@paper("i f g o", "h c")
def np_(x, s, w):
    """Greff et al. 2017, appendix: no peepholes."""
    i, f, o = sigmoid(w.i(x, s.h)), sigmoid(w.f(x, s.h)), sigmoid(w.o(x, s.h))
    c = tanh(w.g(x, s.h)) * i + s.c * f
    return tanh(c) * o, c


@paper("i f g o", "h c i f o", "pi pf po")
def fgr(x, s, w):
    """Greff et al. 2017, appendix: full gate recurrence; the three gates see the last step's three."""
    seen = s.h, s.i, s.f, s.o
    i = sigmoid(w.i(x, *seen) + w.pi * s.c)
    f = sigmoid(w.f(x, *seen) + w.pf * s.c)
    c = tanh(w.g(x, s.h)) * i + s.c * f
    o = sigmoid(w.o(x, *seen) + w.po * c)
    return tanh(c) * o, c, i, f, o


@paper("r z n", "h")
def gru(x, s, w):
    """Cho et al. 2014 with the reset after the product, as torch.nn.GRU states it."""
    r, z = sigmoid(w.r(x, s.h)), sigmoid(w.z(x, s.h))
    n = tanh(w.n.of_input(x) + r * w.n.of_state(s.h))
    return ((1 - z) * n + z * s.h,)


@paper("r z n", "h")
def gru_2014(x, s, w):
    """Cho et al. 2014, equations 5 to 8."""
    r, z = sigmoid(w.r(x, s.h)), sigmoid(w.z(x, s.h))
    return (z * s.h + (1 - z) * tanh(w.n(x, r * s.h)),)


@paper("f n", "h")
def mgu(x, s, w):
    """Zhou et al. 2016, the minimal gated unit: f both resets and updates."""
    f = sigmoid(w.f(x, s.h))
    return ((1 - f) * s.h + f * tanh(w.n(x, f * s.h)),)


@paper("z n", "h")
def mingru(x, s, w):
    """Feng et al. 2024, section 3.1: the gate and the candidate are of the input alone."""
    z = sigmoid(w.z.of_input(x))
    return ((1 - z) * s.h + z * w.n.of_input(x),)


@paper("f i n", "h")
def minlstm(x, s, w):
    """Feng et al. 2024, section 3.2: the two gates are scaled to a sum of one."""
    f, i = sigmoid(w.f.of_input(x)), sigmoid(w.i.of_input(x))
    return (f / (f + i) * s.h + i / (f + i) * w.n.of_input(x),)


@paper("i f g o", "h c n m")
def slstm(x, s, w):
    """Beck et al. 2024, equations 8 to 14, with the sigmoid as the forget gate, and not stabilised.

    By equations 15 to 17 the states that are kept are the plain ones over exp(m), so the plain ones
    are had back first. Where n is still zero there is nothing yet that m must be above.
    """
    i, f, o = exp(w.i(x, s.h)), sigmoid(w.f(x, s.h)), sigmoid(w.o(x, s.h))
    c = f * (s.c * exp(s.m)) + i * tanh(w.g(x, s.h))
    n = f * (s.n * exp(s.m)) + i
    m = maximum(log(f) + np.where(s.n == 0, -np.inf, s.m), log(i))
    return o * c / n, c / exp(m), n / exp(m), m


@paper("d e z y", "h z")
def lem(x, s, w):
    """Rusch et al. 2022, equation 3, with a step of one; the paper's y is h."""
    d, e = sigmoid(w.d(x, s.h)), sigmoid(w.e(x, s.h))
    z = (1 - d) * s.z + d * tanh(w.z(x, s.h))
    return (1 - e) * s.h + e * tanh(w.y(x, z)), z


def gates_of(name, weights, suffix):
    """A cell's gates and per-unit parameters by name, from a layer's stacked weights."""
    gates, _, params, _ = PAPERS[name]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    stacked = [weights.get(kind + suffix) for kind in kinds]
    rows = [[0.0] * len(gates) if w is None else np.split(w, len(gates)) for w in stacked]
    apart = {gate: Gate(*own) for gate, *own in zip(gates, *rows, strict=True)}
    return SimpleNamespace(**apart, **{param: weights[param + suffix] for param in params})


def sequence(name, weights, suffix, x, initial):
    """One sequence in one direction: the output T×P and the final states of ``x`` T×I from the
    ``initial`` states. With a projection (Sak et al. 2014) h is P wide, without as wide as the rest."""
    w = gates_of(name, weights, suffix)
    projection = weights.get("weight_hr" + suffix)
    states, outputs = tuple(initial), [np.zeros((0, len(initial[0])))]
    for row in x:
        by_name = dict(zip(PAPERS[name].state, states, strict=True))
        h, *others = PAPERS[name].step(row, SimpleNamespace(**by_name), w)
        states = (h if projection is None else h @ projection.T, *others)
        outputs.append(states[0][None])
    return np.concatenate(outputs), states


def network(name, weights, x, initial, lengths=None):
    """All layers and directions that the names of the ``weights`` tell of: the output T×B×D·P of ``x``
    T×B×I, zero beyond each sequence's length, and the final states, each L·D×B×P or H."""
    suffixes = [key.removeprefix("weight_ih") for key in weights if key.startswith("weight_ih")]
    directions = 1 + any(suffix.endswith("_reverse") for suffix in suffixes)
    final = [np.zeros(s.shape, np.result_type(*weights.values(), x, *initial)) for s in initial]
    for layer in range(len(suffixes) // directions):
        sides = []
        for k in range(layer * directions, (layer + 1) * directions):
            side = np.zeros((*x.shape[:2], initial[0].shape[-1]), final[0].dtype)
            turn = slice(None, None, -1 if suffixes[k].endswith("_reverse") else 1)
            for b in range(x.shape[1]):
                n = len(x) if lengths is None else lengths[b]
                start = [s[k, b] for s in initial]
                output, ends = sequence(name, weights, suffixes[k], x[:n, b][turn], start)
                side[:n, b] = output[turn]
                for all_, end in zip(final, ends, strict=True):
                    all_[k, b] = end
            sides.append(side)
        x = np.concatenate(sides, axis=-1)
    return x, *final


def gradients(loss, at):
    """The derivative of ``loss`` to every number of the arrays ``at``, by the complex step (Squire &
    Trapp 1998): f(x + ih) / h in its imaginary part. It takes no difference, so that it is exact to
    rounding; it holds as long as no two arguments of ``maximum`` are equal."""
    small = 1e-100
    found = {name: np.zeros(value.shape) for name, value in at.items()}
    for name, value in at.items():
        for place in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[place] += 1j * small
            found[name][place] = np.imag(loss({**at, name: moved})) / small
    return found
