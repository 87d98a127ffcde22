"""Cells that the tests run beside the catalogue's: each has something that those have not."""

from gatewise import (
    cell,
    detach,
    exp,
    greater,
    log,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    tanh,
)
from gatewise.cells.language import constant


@cell(gates="i f g o", state="h c", params="p_i p_f p_o")
def own_peephole(a, s, p):
    i, f = sigmoid(a.i + p.p_i * s.c), sigmoid(a.f + p.p_f * s.c)
    c = f * s.c + i * tanh(a.g)
    o = sigmoid(a.o + p.p_o * c)
    return dict(i=i, f=f, o=o, c=c, h=o * tanh(0.9 * c))


@cell(gates="f g o", state="h c", feedback="h c")
def both_fed_back(a, s):
    f = sigmoid(a.f)
    c = f * s.c + (1 - f) * tanh(a.g)
    return dict(f=f, c=c, h=sigmoid(a.o) * tanh(c))


@cell(gates="z i f o", state="h c n m")
def stabilised(a, s):
    log_f = -softplus(-a.f)
    m = maximum(log_f + s.m, a.i)
    i, f = exp(a.i - m), exp(log_f + s.m - m)
    c, n = f * s.c + i * tanh(a.z), f * s.n + i
    return dict(i=i, f=f, c=c, n=n, m=m, h=sigmoid(a.o) * c / maximum(n, 0.3))


@cell(gates="i f g o", state="h c")
def truncated(a, s):
    i, f, o = (sigmoid(gate.x + detach(gate.h)) for gate in (a.i, a.f, a.o))
    c = f * s.c + i * tanh(a.g)
    return dict(c=c, h=o * tanh(detach(c)) + 0.1 * c)


@cell(gates="u v", state="h c")
def whole_and_parts(a, s):
    """The gate u as a sum, and its two parts apart."""
    f = sigmoid(a.u)
    c = f * s.c + (1 - f) * tanh(a.u.x + 0.5 * f * a.u.h)
    return dict(f=f, c=c, h=tanh(a.v - c))


@cell(gates="x h both", state="h")
def halves(a, s):
    """A gate of the input alone, one of the fed-back state alone, and one of both."""
    f = sigmoid(a.x.x)
    return dict(f=f, h=f * s.h + (1 - f) * tanh(a.h.h + a.both))


@cell(gates="f g", state="h")
def of_input_alone(a, s):
    """Nothing goes through the recurrent weights (Feng et al. 2024, minGRU)."""
    f = sigmoid(a.f.x)
    return dict(f=f, h=f * s.h + (1 - f) * a.g.x)


@cell(gates="i f g o", state="h c n", params="w")
def every_operation(a, s, p):
    i, f = exp(minimum(a.i, 1.0)), sigmoid(a.f)
    n = f * s.n + i
    c = f * s.c - i * relu(a.g) * p.w
    on = greater(a.o, s.c)
    h = (0.5 + on) * log(1 + c * c) / maximum(1 + n * n, detach(softplus(-a.o))) + tanh(a.g)
    return dict(i=i, f=f, n=n, c=c, on=on, h=h)


@cell(gates="u", state="h last before", params="w")
def delayed(a, s, p):
    """States that are handed on as they are, and values without a batch of their own."""
    h = tanh(a.u + p.w * s.before)
    return dict(last=s.h, before=s.last, scale=2 * p.w, one=constant(1), h=h)


@cell(gates="r z n", state="h")
def fed_late(a, s):
    """A gate that is fed with a value of the step itself (Cho et al. 2014)."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    q = r * s.h
    n = tanh(a.n.recurrent(q))
    return dict(r=r, z=z, q=q, n=n, h=(1 - z) * n + z * s.h)


@cell(gates="d u v y", state="h z", params="w")
def two_fed_late(a, s, p):
    """Two late gates, fed with a new state that the equations use elsewhere too."""
    d = sigmoid(a.d)
    z = (1 - d) * s.z + d * tanh(a.u + p.w * s.h)
    y = tanh(a.y.recurrent(z))
    return dict(d=d, z=z, y=y, h=sigmoid(a.v.recurrent(z)) * y + 0.3 * z * s.h)


OWN_CELLS = {
    c.name: c
    for c in (
        own_peephole,
        both_fed_back,
        stabilised,
        truncated,
        whole_and_parts,
        halves,
        of_input_alone,
        every_operation,
        delayed,
        fed_late,
        two_fed_late,
    )
}
# The cells that torch has too.
TORCHS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
PROJECTABLE = (
    "rnn_tanh",
    "rnn_relu",
    "lstm",
    "peephole",
    "own_peephole",
    "both_fed_back",
    "stabilised",
    "truncated",
    "whole_and_parts",
    "every_operation",
)
