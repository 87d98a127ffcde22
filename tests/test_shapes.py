"""The shapes in the annotations of public functions, against calls with tensors."""

import jaxtyping
import pytest
import torch
from torch import Tensor

from shape_checks import checked, names


def test_a_wrong_shape_is_seen():
    Float = names()["Float"]

    def product(x: Float[Tensor, "T B"], y: Float[Tensor, " B"]) -> Float[Tensor, " T"]:
        return x @ y

    x, y = torch.randn(3, 2), torch.randn(2)
    assert checked(product)(x, y).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(product)(x, torch.randn(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(product)(x.long(), y.long())
