"""The printed equations are the cell's."""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Mapping
from fractions import Fraction

import pytest

import gatewise as gw
from gatewise.cells.language import OPERATIONS, Value, operate
from gatewise.emit.equations import gate_inputs, latex, text

LSTM = """\
i[t] = σ(W_i x[t] + U_i h[t-1] + b_i)
f[t] = σ(W_f x[t] + U_f h[t-1] + b_f)
g[t] = tanh(W_g x[t] + U_g h[t-1] + b_g)
o[t] = σ(W_o x[t] + U_o h[t-1] + b_o)
c[t] = f[t] ⊙ c[t-1] + i[t] ⊙ g[t]
h[t] = o[t] ⊙ tanh(c[t])"""
GRU = """\
r[t] = σ(W_r x[t] + U_r h[t-1] + b_r)
z[t] = σ(W_z x[t] + U_z h[t-1] + b_z)
n[t] = tanh(W_n x[t] + b_n + r[t] ⊙ (U_n h[t-1] + d_n))
h[t] = (1 - z[t]) ⊙ n[t] + z[t] ⊙ h[t-1]"""


@pytest.mark.quick
def test_text():
    assert text(gw.CELLS["lstm"]) == LSTM
    assert text(gw.CELLS["gru"]) == GRU
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


def test_signs_and_numbers():
    @gw.cell(gates="i", state="h c", params="peep")
    def signs(a, s, p):
        u = s.c * -s.h - -2.5 * (s.c + (s.h - 0.123456789))
        return dict(u=u, c=-(-1 * s.c) + 1e-8 * p.peep, h=-s.c / s.h + (-s.h + a.i))

    assert text(signs).splitlines() == [
        "u[t] = c[t-1] ⊙ (-h[t-1]) - (-2.5 · (c[t-1] + h[t-1] - 0.123456789))",
        "c[t] = -(-1 · c[t-1]) + 1e-08 · peep",
        "h[t] = -c[t-1] / h[t-1] + (-h[t-1] + W_i x[t] + U_i h[t-1] + b_i)",
    ]
    printed = latex(signs)
    assert r"+ 10^{-8} \cdot \mathrm{peep}" in printed
    assert r"h_t &= \frac{-c_{t-1}}{h_{t-1}} + \left(-h_{t-1} + W_{i} x_t" in printed


def test_large_round_numbers_are_powers_of_ten():
    @gw.cell(gates="i")
    def large(a, s):
        u = 1e9 * a.i
        return dict(u=u, v=-2e6 * s.h, w=100000.0 * s.h, h=u + 1234567.0)

    assert text(large).splitlines() == [
        "u[t] = 1e+09 · (W_i x[t] + U_i h[t-1] + b_i)",
        "v[t] = -2e+06 · h[t-1]",
        "w[t] = 100000 · h[t-1]",
        "h[t] = u[t] + 1234567",
    ]
    assert r"-2 \cdot 10^{6} \cdot h_{t-1}" in latex(large)


def test_what_a_gate_sees():
    seen = {
        ("lstm", "i"): "x[t], h[t-1]",
        ("lstm_1997_truncated", "g"): "x[t], y[t-1], y_i[t-1], y_o[t-1]",
        ("fgr", "g"): "x[t], h[t-1]",
        ("fgr", "o"): "x[t], h[t-1], i[t-1], f[t-1], o[t-1]",
        ("gru", "n"): "x[t], h[t-1]",
        ("gru_2014", "n"): "x[t], r[t] ⊙ h[t-1]",
        ("mingru", "z"): "x[t]",
        ("lem", "y"): "x[t], z[t]",
        ("lem", "z"): "x[t], h[t-1]",
    }
    assert {key: gate_inputs(gw.CELLS[key[0]], key[1]) for key in seen} == seen

    @gw.cell(gates="i j")
    def apart(a, s):
        return dict(h=a.i.x + a.j.h)

    assert (gate_inputs(apart, "i"), gate_inputs(apart, "j")) == ("x[t]", "h[t-1]")


LEAVES = ("x_now", "h_before", "c_before", "p", *("W_i", "U_i", "b_i", "W_j", "U_j", "b_j", "d_j"))

# What a formula may hold that brackets can change, in exact arithmetic.
EXACT = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "maximum": max,
    "minimum": min,
    "relu": lambda x: max(x, Fraction(0)),
    "greater": lambda x, y: Fraction(x > y),
    "detach": lambda x: x,
}


def exactly(value: Value, leaves: Mapping[str, Fraction]) -> Fraction:
    """The graph's value where every size is 1, with ``leaves`` by their names in the text."""
    w_x = leaves.get(f"W_{value.name}", 0) * leaves["x_now"]
    u_h = leaves.get(f"U_{value.name}", 0) * leaves["h_before"]
    match value.op:
        case "constant":
            return Fraction(repr(value.number))
        case "state":
            return leaves[f"{value.name}_before"]
        case "parameter":
            return leaves[value.name]
        case "gate":
            return w_x + u_h + leaves[f"b_{value.name}"]
        case "gate.x":
            return w_x + leaves[f"b_{value.name}"]
        case "gate.h":
            return u_h + leaves[f"d_{value.name}"]
    return EXACT[value.op](*(exactly(arg, leaves) for arg in value.args))


def as_python(formula: str) -> str:
    """A printed formula as a Python expression on fractions."""
    formula = formula.replace("[t-1]", "_before").replace("[t]", "_now")
    formula = formula.replace("⊙", "*").replace("·", "*")
    formula = re.sub(r"\b([WU]_\w+) ", r"\1 * ", formula)
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]\d+)?", r"Fraction('\g<0>')", formula)


def random_cell(draw: random.Random) -> gw.Cell:
    @gw.cell(gates="i j", state="h c", params="p")
    def drawn(a, s, p):
        leaves = [s.h, s.c, p.p, a.i, a.j.x, a.j.h]
        numbers = (-2.5, -1.0, 0.3, 1e-8, 123456789.5, 1e9, -3e12, 12e5)
        pool = [*leaves, *(s.h - n for n in numbers), *(n * s.c for n in numbers)]
        for _ in range(12):
            op = draw.choice([*EXACT, "add", "sub", "mul", "div", "neg"])
            pool.append(operate(op, *draw.choices(pool, k=OPERATIONS[op])))
        return dict(u=draw.choice(pool[-9:-3]), c=pool[-2] + a.i, h=pool[-1] - a.j)

    return drawn


@pytest.mark.parametrize("seed", range(4))
def test_what_is_printed_has_the_graphs_value(seed):
    draw, compared = random.Random(seed), 0
    for _ in range(100):
        cell = random_cell(draw)
        leaves = {name: Fraction(draw.randint(-999, 999), 1000) for name in LEAVES}
        known = {**leaves, "max": max, "min": min, "Fraction": Fraction, "__builtins__": {}}
        known.update({op: EXACT[op] for op in ("relu", "greater", "detach")})
        for line in text(cell).splitlines():
            name, formula = line.split("[t] = ")
            try:
                expected = exactly(cell.values[name], leaves)
            except ZeroDivisionError:
                break
            known[f"{name}_now"] = eval(as_python(formula), known)
            assert known[f"{name}_now"] == expected, line
            compared += 1
    assert compared > 200
