"""The printed equations are the cell's."""

from __future__ import annotations

import gatewise as gw
from gatewise.emit.equations import latex, text

LSTM = """\
i[t] = σ(W_i x[t] + U_i h[t-1] + b_i)
f[t] = σ(W_f x[t] + U_f h[t-1] + b_f)
g[t] = tanh(W_g x[t] + U_g h[t-1] + b_g)
c[t] = f[t] ⊙ c[t-1] + i[t] ⊙ g[t]
o[t] = σ(W_o x[t] + U_o h[t-1] + b_o)
h[t] = o[t] ⊙ tanh(c[t])"""
GRU = """\
r[t] = σ(W_r x[t] + U_r h[t-1] + b_r)
n[t] = tanh(W_n x[t] + b_n + r[t] ⊙ (U_n h[t-1] + d_n))
z[t] = σ(W_z x[t] + U_z h[t-1] + b_z)
h[t] = (1 - z[t]) ⊙ n[t] + z[t] ⊙ h[t-1]"""


def test_text():
    assert sorted(text(gw.CELLS["lstm"]).splitlines()) == sorted(LSTM.splitlines())
    assert sorted(text(gw.CELLS["gru"]).splitlines()) == sorted(GRU.splitlines())
    assert text(gw.CELLS["rnn_relu"]) == "h[t] = relu(W_h x[t] + U_h h[t-1] + b_h)"


def test_every_line_follows_those_it_rests_on():
    for cell in gw.CELLS.values():
        defined: set[str] = set()
        for line in text(cell).splitlines():
            name, formula = line.split(" = ")
            assert {v for v in cell.values if f"{v}[t]" in formula} <= defined
            defined.add(name.removesuffix("[t]"))


def test_latex():
    printed = latex(gw.CELLS["lstm"])
    assert r"  c_t &= f_t \odot c_{t-1} + i_t \odot g_t" in printed
    assert r"\sigma\left(W_{i} x_t + U_{i} h_{t-1} + b_{i}\right)" in printed
    assert printed.startswith(r"\begin{aligned}")
    assert printed.endswith(r"\end{aligned}")


def test_brackets_stand_where_they_change_the_value_and_states_fed_back_are_all_named():
    @gw.cell(gates="i", state="h c", params="p", feedback="h c")
    def odd(a, s, p):
        c = (s.c - (s.h - p.p)) * (a.i + p.p) / (s.c * s.h)
        return dict(c=c, h=-(s.h + c) * gw.maximum(s.c, 0.5))

    first, second = text(odd).splitlines()
    product = "(c[t-1] - (h[t-1] - p)) ⊙ (W_i x[t] + U_i [h[t-1]; c[t-1]] + b_i + p)"
    assert first == f"c[t] = {product} / (c[t-1] ⊙ h[t-1])"
    assert second == "h[t] = -(h[t-1] + c[t]) ⊙ max(c[t-1], 0.5)"
