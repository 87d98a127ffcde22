"""Options in every form that callers write them."""

import math
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.errors import OptionError
from gatewise.options import choice, flag, integer, number, probability
from gatewise.tasks.kinds import members_in, size_in
from gatewise.tasks.sequences.training import drawn
from gatewise.tasks.text.pairs import split


@pytest.mark.parametrize(
    "value", [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7)], ids=repr
)
def test_whole_numbers_of_every_kind(value):
    found = integer("n", value)
    assert found == 7
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        7.0,
        np.float64(7),
        True,
        np.True_,
        np.array(True),
        "7",
        None,
        [7],
        np.array([7]),
    ],
    ids=repr,
)
def test_what_is_no_positive_integer_is_named(value):
    with pytest.raises(OptionError, match="n must be a positive integer, not") as caught:
        integer("n", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("bounds", "value", "said"),
    [
        (dict(), 0, "n must be a positive integer, not 0"),
        (dict(least=0), -1, "n must be a non-negative integer, not -1"),
        (dict(least=2), 1, "n must be an integer of at least 2, not 1"),
        (dict(least=0, most=3), 4, "n must be an integer from 0 to 3, not 4"),
        (dict(), 2**63, f"n must be an integer from 1 to {2**63 - 1}, not {2**63}"),
    ],
)
def test_a_message_says_the_range(bounds, value, said):
    assert integer("n", 3, **bounds) == 3
    with pytest.raises(OptionError) as caught:
        integer("n", value, **bounds)
    assert str(caught.value) == said


LONG = {
    "list": list(range(10**5)),
    "text": "x" * 10**5,
    "array": np.arange(900.0),
    "tensor": torch.zeros(10**3),
    "integer": 10**4000,
}
CHECKS = {
    "integer": integer,
    "number": number,
    "probability": probability,
    "flag": flag,
    "choice": lambda name, value: choice(name, value, ("error", "mask")),
    "size of a layer": lambda _, value: gw.LSTM(3, value),
    "torch's flag": lambda _, value: gw.LSTM(3, 4, bias=value),
    "projection": lambda _, value: gw.LSTM(3, 4, proj_size=value),
    "kernel": lambda _, value: gw.ConvLSTM(3, 4, value),
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_message_shortens_what_is_long(check, value):
    with pytest.raises(OptionError, match=r"not .*\.\.\.") as caught:
        check("n", value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)],
    ids=repr,
)
def test_real_numbers_of_every_kind(value):
    found = number("x", value)
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "0.5", None, True, np.array([0.5]), Decimal("0.5"), 10**400]
)
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(OptionError, match="x must be a finite number, not"):
        number("x", value)


def test_bounds_of_a_real_number():
    assert number("x", 1, least=1) == 1.0
    for bounds in (dict(above=1), dict(below=1), dict(least=1.5), dict(most=0.5)):
        with pytest.raises(OptionError):
            number("x", 1, **bounds)


def test_a_probability():
    assert probability("p", 0) == 0.0
    assert probability("p", 1) == 1.0
    with pytest.raises(OptionError, match=r"p must be a probability from 0 to 1, not 1\.5"):
        probability("p", 1.5)


@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(True), 1, np.int64(1), torch.tensor(True)]
)
def test_flags_of_every_kind(value):
    assert flag("f", value) is True


@pytest.mark.parametrize("value", [2, 1.0, "yes", None, np.array([True])], ids=repr)
def test_what_is_no_flag_is_named(value):
    with pytest.raises(OptionError, match="f must be True or False, not"):
        flag("f", value)


def test_a_choice():
    assert choice("gaps", np.str_("mask"), ("error", "mask")) == "mask"
    with pytest.raises(OptionError, match=r"must be one of 'error', 'mask', not 'msk'.*mask"):
        choice("gaps", "msk", ("error", "mask"))
    with pytest.raises(OptionError, match="not 3"):
        choice("gaps", 3, ("error", "mask"))


# The same in every layer -----------------------------------------------------------------------------

WHOLE = {"np.int64": np.int64, "np.uint8": np.uint8, "array": np.array, "tensor": torch.tensor}
TRUE = {"1": 1, "np.True_": np.True_, "np.int64": np.int64(1), "array": np.array(True)}
HALF = {"np.float32": np.float32(0.5), "array": np.array(0.5), "tensor": torch.tensor(0.5)}
# What makes a layer, of a whole number, something true and a half; and the same in plain Python.
LAYERS = {
    "LSTM": lambda n, t, p: gw.LSTM(n(3), n(4), n(2), dropout=p, bidirectional=t, proj_size=n(2)),
    "options": lambda n, t, p: gw.Recurrent(
        "lstm_1997", n(3), n(4), layer_norm=t, recurrent_dropout=p, zoneout=p, weight_drop=p,
        locked_dropout=t, learn_initial=t, block_size=n(2), recurrent_blocks=n(1),
    ),
    "zoneout of each": lambda n, t, p: gw.LSTM(n(3), n(4), zoneout=(p, p)),
    "forget_bias": lambda n, t, p: gw.LSTM(n(3), n(4), forget_bias=p),
    "GRUCell": lambda n, t, p: gw.GRUCell(n(3), n(4), t, layer_norm=t),
    "ConvLSTM": lambda n, t, p: gw.ConvLSTM(
        n(3), n(4), (n(3), n(1)), n(2), t, t, p, t, peephole=t, size=(n(5), n(5))
    ),
    "square ConvLSTM": lambda n, t, p: gw.ConvLSTM(n(3), n(4), n(3)),
    "MLSTM": lambda n, t, p: gw.MLSTM(n(3), n(4), n(2), t, n(8), t),
    "SelfAttention": lambda n, t, p: gw.SelfAttention(n(4), n(2), t, p, t),
    "HybridBlock": lambda n, t, p: gw.HybridBlock(
        n(4), n(2), causal=t, dropout=p, feed_forward=n(8), batch_first=t
    ),
    "Stack": lambda n, t, p: gw.Stack(gw.LSTM(4, 4), gw.LSTM(4, 4), residual=t, dropout=p),
    "Reversed": lambda n, t, p: gw.Reversed(gw.GRU(3, 4), as_read=t),
    "AdditiveAttention": lambda n, t, p: gw.AdditiveAttention(n(3), n(4), n(5)),
    "MultiplicativeAttention": lambda n, t, p: gw.MultiplicativeAttention(n(3), n(4)),
    "AttentionPooling": lambda n, t, p: gw.AttentionPooling(n(3), n(4), t),
}  # fmt: skip
PLAIN_TYPES = (int, float, bool, str, type(None), tuple)


def options_of(module):
    """The module's own attributes that are no modules, tensors or machinery."""
    own = dict(vars(module))
    if config := own.pop("config", None):
        own |= {of.name: getattr(config, of.name) for of in fields(config) if of.init}
    return {k: v for k, v in own.items() if not k.startswith("_") and k not in ("cell", "training")}


@pytest.mark.pairwise
@pytest.mark.parametrize("half", HALF.values(), ids=HALF)
@pytest.mark.parametrize("true", TRUE.values(), ids=TRUE)
@pytest.mark.parametrize("whole_of", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_them_all_and_keep_plain_values(name, whole_of, true, half):
    plain = LAYERS[name](int, True, 0.5)
    found = LAYERS[name](whole_of, true, half)
    assert repr(found) == repr(plain)
    assert options_of(found) == options_of(plain)
    for value in options_of(found).values():
        for each in value if isinstance(value, tuple) else (value,):
            assert type(each) in PLAIN_TYPES
    shapes = [{n: p.shape for n, p in m.state_dict().items()} for m in (found, plain)]
    assert shapes[0] == shapes[1]


def test_torchs_flags_take_no_numbers():
    """As torch has it: a number there was meant for another argument."""
    for name in ("bias", "batch_first"):
        with pytest.raises(TypeError, match=f"{name} should be of type bool, got: int"):
            gw.LSTM(3, 4, **{name: 1})
    assert gw.LSTM(3, 4, bias=np.False_).bias is False


def test_other_numbers_from_callers():
    assert gw.GRU(3, 4).stream(np.int64(2)).step(np.zeros((2, 3), np.float32)).shape == (2, 4)
    assert gw.init.forget_bias_(gw.LSTM(3, 4), np.float64(2)).bias_ih_l0[4:8].tolist() == [2.0] * 4
    gw.init.chrono_(gw.LSTM(3, 4), np.int64(8))
    sizes = dict(input_size=np.int64(1), hidden_size=np.int64(1), num_layers=torch.tensor(1))
    layer = gw.from_cudnn(np.zeros(4 * 2 + 8, np.float32), "LSTM", **sizes)
    assert (type(layer.input_size), layer.num_layers) == (int, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: gw.LSTM(3, bad),
        lambda bad: gw.LSTM(3, 4, num_layers=bad),
        lambda bad: gw.LSTM(3, 4, 2, dropout=bad),
        lambda bad: gw.LSTM(3, 4, bidirectional=bad),
        lambda bad: gw.LSTM(3, 4, proj_size=bad),
        lambda bad: gw.LSTM(3, 4, backend=bad),
        lambda bad: gw.LSTM(3, 4, zoneout=bad),
        lambda bad: gw.LSTM(3, 4, connect=bad),
        lambda bad: gw.Recurrent(bad, 3, 4),
        lambda bad: gw.RNN(3, 4, nonlinearity=bad),
        lambda bad: gw.GRUCell(3, bad),
        lambda bad: gw.ConvLSTM(3, 4, bad),
        lambda bad: gw.ConvLSTM(3, 4, 3, peephole=True, size=bad),
        lambda bad: gw.MLSTM(3, 4, bad),
        lambda bad: gw.MLSTM(3, 4, forget=bad),
        lambda bad: gw.SelfAttention(4, bad),
        lambda bad: gw.HybridBlock(4, 2, order=bad),
        lambda bad: gw.HybridBlock(4, 2, feed_forward=bad),
        lambda bad: gw.Bidirectional(gw.GRU(3, 4), merge=bad),
        lambda bad: gw.Stack(gw.GRU(3, 4), dropout=bad),
        lambda bad: gw.GRU(3, 4).stream(bad),
        lambda bad: gw.AttentionPooling(3, bad),
        lambda bad: gw.MultiplicativeAttention(3, 3, bad),
    ],
)
@pytest.mark.parametrize(
    "bad", [math.nan, -1, "no", [], NotImplemented, 2**63, 1 + 1j, {}], ids=repr
)
def test_whatever_else_is_refused_by_name(make, bad):
    """As torch's are: whoever catches a TypeError, ValueError or RuntimeError has it."""
    with pytest.raises(OptionError) as error:
        make(bad)
    assert isinstance(error.value, TypeError)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, RuntimeError)


@pytest.mark.parametrize(
    ("part", "total", "members"),
    [
        (0, 9, 0), (4, 9, 4), (12, 9, 9),
        (0.0, 9, 0), (0.15, 100, 15), (0.15, 9, 1), (0.5, 5, 2), (0.99, 9, 9), (0.99, 1, 1), (0.01, 9, 1),
        ("file", 9, 0), ((["a"], ["b"]), 9, 0),
    ],
)  # fmt: skip
def test_a_share_of_the_data_is_the_same_number_of_members_in_every_task(part, total, members):
    assert members_in(part, total) == members
    left, held = split(np.arange(total), part, total)
    assert (len(left), len(held)) == (total - members, members)
    if not isinstance(part, (str, tuple)):
        assert len(drawn(np.zeros(total), np.arange(total), part, 0)) == members


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("0", 0),
        ("0.1", 0.1),
        ("1e-1", 0.1),
        ("nan", None),
        ("inf", None),
        ("a.csv", None),
    ],
)
def test_sizes_on_the_command_line(text, size):
    assert size_in(text) == size
    assert type(size_in(text)) is type(size)
