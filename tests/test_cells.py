"""The cell language and the gradient derived from it."""

import copy
import pickle

import pytest
import torch

import gatewise as gw
from derived_backward import backward
from gatewise import (
    CELLS,
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
from gatewise.backends import reference
from gatewise.backends.contract import Masks, Spec, Weights
from gatewise.cells.catalogue import find
from gatewise.cells.gradient import derive
from gatewise.cells.language import OPERATIONS, constant, operate, topological
from gatewise.errors import CellError, OptionError

pytestmark = pytest.mark.usefixtures("one_thread")


def define(function, gates="u v", **options):
    return gw.cell(gates=gates, name="test", **options)(function)


def lstm_again(a, s):
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * s.c + i * g
    return dict(i=i, f=f, g=g, o=o, c=c, h=o * tanh(c))


LSTM_NAMES = dict(gates="i f g o", state="h c")


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (
            lambda a, s: dict(h=a.forgot),
            dict(gates="forget"),
            r"cell 'test': the cell has no gate 'forgot' \(did you mean 'forget'\?\); it has: forget",
        ),
        (lambda a, s: dict(h=a.u * s.q), dict(gates="u"), "no state 'q'; it has: h"),
        (
            lambda a, s, p: dict(h=a.u * p.peak),
            dict(gates="u", params="peek"),
            r"no parameter 'peak' \(did you mean 'peek'\?\)",
        ),
        (lambda a, s: dict(c=a.u), dict(gates="u"), "cell 'test' does not return its state 'h'"),
        (
            lambda a, s: dict(h=a.u if a.u else s.h),
            dict(gates="u"),
            "cannot branch on a value.*use maximum, minimum or greater",
        ),
        (lambda a, s: dict(h=a.u), {}, "declares the gate 'v' but does not use it"),
        (lambda a, s: dict(h=a.u), dict(gates="u u"), "gates 'u' is repeated"),
        (lambda a, s: dict(h=a.u), dict(gates="u", state="h h"), "state 'h' is repeated"),
        (lambda a, s: dict(h=a.u), dict(gates="1u"), "'1u' is repeated or not an identifier"),
        (lambda a, s: dict(h=a.u), dict(gates=""), "at least one gate and one state"),
        (lambda a, s: dict(h=a.u), dict(gates="u", feedback="c"), "feedback 'c' is not one of"),
        (lambda a, s: dict(h=3.0), dict(gates="u"), "'h' is float, not a value"),
        (
            lambda a, s: dict(h=a.u + "1"),
            dict(gates="u"),
            "'add' takes values of the cell.*not str",
        ),
        (lambda a, s: dict(h=a.u * s.h.x), dict(gates="u"), "only a gate's pre-activation has .x"),
    ],
)
def test_a_definition_that_does_not_hold_says_where(function, options, message):
    with pytest.raises(CellError, match=message):
        define(function, **options)


def test_an_unknown_cell_names_its_nearest():
    with pytest.raises(
        OptionError, match=r"no cell 'lst' \(did you mean 'lstm'\?\); there are: rnn_"
    ):
        find("lst")
    assert all(find(name) is cell for name, cell in CELLS.items())


def test_equality_is_of_structure():
    again = define(lstm_again, **LSTM_NAMES)
    assert again == CELLS["lstm"]
    assert hash(again) == hash(CELLS["lstm"])
    swapped = gw.cell(gates="f i g o", state="h c")(lstm_again)
    fed = gw.cell(**LSTM_NAMES, feedback="h c")(lstm_again)
    assert CELLS["np"] == CELLS["lstm"]  # Greff's name for it
    assert len({*CELLS.values(), again, swapped, fed}) == len(CELLS) - 1 + 2
    assert CELLS["lstm"] != "lstm"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_copy_is_equal(cell, copied):
    assert copied(cell) == cell
    assert repr(copied(cell)) == repr(cell)
    assert copied(cell).doc == cell.doc != ""


def test_values_come_after_those_they_rest_on():
    cell = define(lambda a, s: dict(h=tanh(a.u) * s.h, u=tanh(a.u), k=exp(a.u) + 1), gates="u")
    order = topological(cell.values.values())
    place = [order.index(value) for value in cell.values.values()]
    assert place == sorted(place)


X = operate("exp", constant(2))


@pytest.mark.parametrize(
    ("folded", "left"),
    [
        (X + 0, X), (0 + X, X), (X - 0, X), (X * 1, X), (1 * X, X), (X / 1, X),
        (X * 0, 0.0), (0 * X, 0.0),
    ],
)  # fmt: skip
def test_what_is_trivial_is_folded(folded, left):
    if isinstance(left, float):
        assert (folded.op, folded.number) == ("constant", left)
    else:
        assert folded is left


@pytest.mark.parametrize(
    ("kept", "op"), [(0 - X, "sub"), (1 / X, "div"), (X + 1, "add"), (2 * X, "mul"), (-X, "neg")]
)
def test_what_is_not_trivial_is_kept(kept, op):
    assert kept.op == op


# Each written so that it can be differentiated everywhere, then where torch has to take a side.
EXPRESSIONS = {
    "add": lambda u, v: u + v,
    "sub": lambda u, v: u - 2 * v,
    "mul": lambda u, v: u * v,
    "div": lambda u, v: u / (2 + sigmoid(v)),
    "neg": lambda u, v: -u * v,
    "sigmoid": lambda u, v: sigmoid(u) * v,
    "tanh": lambda u, v: tanh(u) * v,
    "relu": lambda u, v: relu(u) * v,
    "exp": lambda u, v: exp(u) * v,
    "log": lambda u, v: log(1.5 + sigmoid(u)) * v,
    "softplus": lambda u, v: softplus(u) * v,
    "maximum": lambda u, v: maximum(u, 2 * v),
    "minimum": lambda u, v: minimum(u, 2 * v),
    "greater": lambda u, v: greater(u, v) * u + greater(v, u) * v * v,
    "detach": lambda u, v: detach(u) * v + u,
    "maximum of equals": lambda u, v: maximum(u, 2 * relu(u) - relu(u)) + v,
    "minimum of equals": lambda u, v: minimum(relu(u), u) * 3 + v,
    "relu at zero": lambda u, v: relu(u - u) * v + u,
    "softplus far out": lambda u, v: softplus(60 * u) + softplus(-60 * v),
    "the same value twice": lambda u, v: u * u + (u * v) * u,
    "two parts, each taken twice": lambda u, v: sigmoid(u.x) * tanh(u.x + v * u.h) * u.h,
    "a part beside its whole": lambda u, v: tanh(u) * u.x + v.h * v,
}


def test_every_operation_is_among_the_expressions():
    assert set(OPERATIONS) <= set(EXPRESSIONS)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_each_operations_gradient_is_autograds(name):
    cell = define(lambda a, s: dict(h=EXPRESSIONS[name](a.u, a.v)))
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, h, w, u = draw(2, 3, 2), draw(3, 4), draw(8, 2), draw(8, 4)
    spec = Spec(cell=cell, input_size=2, hidden_size=4, dtype=x.dtype, device=x.device)
    outcome = reference.forward(spec, x, (h,), Weights(w, u), Masks())
    seed_y, seed_h = torch.randn_like(outcome.output), torch.randn_like(h)
    expected = torch.autograd.grad(
        (outcome.output * seed_y).sum() + (outcome.state[0] * seed_h).sum(), (x, h, w, u)
    )
    found = backward(spec, x, (h,), Weights(w, u), Masks(), seed_y, (seed_h,))
    given = (found.x, found.state[0], found.weights.input, found.weights.recurrent)
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10)


def test_the_gradient_reaches_the_leaves_it_should():
    leaves = {(v.op, v.name) for v in derive(CELLS["gru"]).leaves}
    parts = {("gate", "r"), ("gate", "z"), ("gate.x", "n"), ("gate.h", "n"), ("state", "h")}
    assert leaves == parts
    cut = define(lambda a, s: dict(h=detach(a.u) + a.v), gates="u v")
    assert {v.name for v in derive(cut).leaves} == {"v"}


class NoFunction:
    pass


@pytest.mark.parametrize(
    ("function", "params", "message"),
    [
        (lambda a, s, p: dict(h=a.z), "", "of 2 arguments, .* name per-unit parameters in params="),
        (lambda a: dict(h=a.z), "", "expected a function of 2 arguments"),
        (lambda a, s: dict(h=a.z), "w", "of 3 arguments, .* the parameters"),
        (NoFunction, "", "a cell is a function of the gates'"),
    ],
)
def test_what_takes_other_arguments_is_no_cell(function, params, message):
    with pytest.raises(gw.GatewiseError, match=message):
        gw.cell(gates="z", params=params)(function)
