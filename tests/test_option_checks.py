"""Options in every form that callers write them."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from gatewise.errors import OptionError
from gatewise.options import choice, flag, probability, real, whole


@pytest.mark.parametrize(
    "value", [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7)], ids=repr
)
def test_whole_numbers_of_every_kind(value):
    found = whole("n", value)
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
        2**63,
    ],
    ids=repr,
)
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(OptionError, match=r"n must be a whole number from 1 on, not") as caught:
        whole("n", value)
    assert repr(value) in str(caught.value)


def test_a_whole_number_has_an_upper_bound():
    assert whole("n", 3, least=0, most=3) == 3
    with pytest.raises(OptionError, match="from 0 to 3, not 4"):
        whole("n", 4, least=0, most=3)


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)],
    ids=repr,
)
def test_real_numbers_of_every_kind(value):
    found = real("x", value)
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "0.5", None, True, np.array([0.5]), Decimal("0.5"), 10**400]
)
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(OptionError, match="x must be a finite number, not"):
        real("x", value)


def test_bounds_of_a_real_number():
    assert real("x", 1, least=1) == 1.0
    for bounds in (dict(above=1), dict(below=1), dict(least=1.5), dict(most=0.5)):
        with pytest.raises(OptionError):
            real("x", 1, **bounds)


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
