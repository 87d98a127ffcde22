"""Contributions of each step and feature to a model's output, from outputs and gradients: for any model.

Gradient times input, integrated gradients and occlusion. :mod:`gatewise.gates.relevance` and
:mod:`gatewise.gates.decomposition` have the methods that follow the cells' equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.errors import OptionError, caution
from gatewise.gates.explained import Attribution, Explained, Target, checked_baseline

_MOST_HALVINGS = 9


def gradient_times_input(
    model: nn.Module, *inputs: Any, target: Target = None, **options: Any
) -> Attribution:
    """The gradient of an output with respect to the input, times the input (Shrikumar et al. 2016).

    It is the contribution of each value in a linear model. Elsewhere the contributions need not add up to the
    output, and ``.gap`` says what they lack. The model runs in evaluation mode.

    Args:
        model: any module, or a Keras model on the torch backend.
        inputs: its positional arguments; for a Keras model they may be arrays of NumPy. The first is attributed:
            B×T×… (T×B×… if the model has an attribute ``batch_first`` that is false). Integers are indices of an
            embedding, and contributions are those of the embedding's outputs, B×T×E.
        target: the explained output. An index of the model's outputs, B×C; a tuple of indices, such as
            (step, class), where a sequence has more dimensions of outputs; B indices; or a function that
            takes what the model returns and returns B numbers. The default is the only output, or else
            each sequence's greatest. Explain logits: probabilities saturate.
        options: the model's keyword arguments, such as ``lengths``.

    Raises:
        OptionError: the model, its input or the target cannot be explained.
        ShapeError: the outputs do not fit the sequences.
        DataError: the explained output is infinite or NaN.
    """
    explained = Explained(model, inputs, options, target)
    gradient = _gradient(explained, explained.x)
    return _attribution(explained, explained.x * gradient, "gradient times input")


def integrated_gradients(
    model: nn.Module,
    *inputs: Any,
    target: Target = None,
    baseline: float | Tensor | None = None,
    tolerance: float = 1e-3,
    **options: Any,
) -> Attribution:
    """The gradient's mean on the way from a baseline to the input, times their difference.

    The contributions add up to the difference of the two outputs (Sundararajan et al. 2017, "Axiomatic
    Attribution for Deep Networks", equation 1). The way is divided into parts, each with 8 points of
    Gauss-Legendre quadrature. What a part adds is compared with the difference of the outputs at its ends; a
    part whose gap is too great is halved, up to 9 times.

    Args:
        baseline: the input that stands for "nothing": a number, or a tensor that broadcasts to the input (to
            the embedding's output for indices). The default is zero.
        tolerance: the greatest gap for each sequence. If it is not reached, there is a warning.

    The other arguments and errors are those of :func:`gradient_times_input`.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:
        raise OptionError(f"tolerance must be a number above 0, not {tolerance!r}")
    explained = Explained(model, inputs, options, target)
    from_ = checked_baseline(baseline, explained.x)
    difference = explained.x - from_
    with torch.no_grad():
        start = explained(from_)
    mean = torch.zeros_like(difference)
    for gradient, length in _parts(explained, from_, difference, float(tolerance)):
        mean += length * gradient
    found = _attribution(explained, mean * difference, "integrated gradients", start)
    gap = float(found.gap.abs().max()) if len(found.gap) else 0.0
    if gap > tolerance:
        caution(
            f"integrated gradients have a gap of {gap:.2g}, above the tolerance of {tolerance:g}: the "
            f"contributions do not add up to the output. Give a baseline that is nearer to the input, or a "
            f"greater tolerance"
        )
    return found


def _parts(
    explained: Explained, from_: Tensor, difference: Tensor, tolerance: float
) -> Iterator[tuple[Tensor, float]]:
    """The mean gradient and the length of each part of the way, which has the length 1."""
    places, weights = _quadrature(8)

    def output(place: float) -> Tensor:
        with torch.no_grad():
            return explained(from_ + place * difference)

    ahead = [(0.0, 1.0, output(0.0), output(1.0), 0)]
    while ahead:
        first, last, before, after, halvings = ahead.pop()
        length, mean = last - first, torch.zeros_like(difference)
        for place, weight in zip(places, weights, strict=True):
            mean += weight * _gradient(explained, from_ + (first + length * place) * difference)
        added = _by_sequence(explained, mean * difference) * length
        gap = (after - before - added).abs()
        rounding = 8 * torch.finfo(after.dtype).eps * after.abs().clamp(min=1.0)
        if halvings == _MOST_HALVINGS or (gap <= rounding.clamp(min=tolerance * length)).all():
            yield mean, length
            continue
        middle = (first + last) / 2
        half = output(middle)
        ahead += [
            (middle, last, half, after, halvings + 1),
            (first, middle, before, half, halvings + 1),
        ]


def _by_sequence(explained: Explained, values: Tensor) -> Tensor:
    """B: the sum of the values of each sequence."""
    return (values if explained.batch_first else values.transpose(0, 1)).flatten(1).sum(1)


def occlusion(
    model: nn.Module,
    *inputs: Any,
    target: Target = None,
    baseline: float | Tensor | None = None,
    window: int = 1,
    features: bool | None = None,
    **options: Any,
) -> Attribution:
    """What the output loses if a part of the input is replaced by the baseline (Zeiler & Fergus 2014).

    Each part takes a run of the model, under ``torch.no_grad``.

    Args:
        baseline: what takes the part's place, as in :func:`integrated_gradients`.
        window: the number of steps that are replaced together. They share the loss.
        features: whether each feature is replaced on its own. The default is true for numbers and false for
            indices. If false, ``.values`` is B×T.

    The other arguments and errors are those of :func:`gradient_times_input`.
    """
    explained = Explained(model, inputs, options, target)
    if (
        isinstance(window, bool)
        or not isinstance(window, int)
        or not 1 <= window <= explained.steps
    ):
        raise OptionError(f"window must be from 1 to {explained.steps} steps, not {window!r}")
    x, from_ = explained.x, checked_baseline(baseline, explained.x)
    per_feature = explained.of_numbers if features is None else features
    if per_feature:
        explained.check_features("features=True")
    found = torch.zeros_like(x)
    order = torch.arange(explained.steps, device=x.device)
    with torch.no_grad():
        for first in range(0, explained.steps, window):
            last = min(first + window, explained.steps)
            part = explained.at_steps((order >= first) & (order < last)).expand_as(x)
            for feature in range(x.shape[2]) if per_feature else (slice(None),):
                where = torch.zeros_like(part)
                where[:, :, feature] = part[:, :, feature]
                loss = explained.output - explained(torch.where(where, from_, x))
                shared = loss.view(-1, 1) if explained.batch_first else loss.view(1, -1)
                found += where * (shared / (last - first))[(..., *[None] * (x.dim() - 2))]
    values = found if per_feature else found.flatten(2)[..., 0]
    return _attribution(explained, values, "occlusion")


def _gradient(explained: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the sum of the explained outputs, which is that of each sequence's own output."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = explained(leaf)
        if not output.requires_grad:
            raise OptionError(
                "the explained output does not depend on the input by a gradient; the model may compute it "
                "under torch.no_grad or from integers"
            )
        return torch.autograd.grad(output.sum(), leaf)[0]


def _quadrature(points: int) -> tuple[list[float], list[float]]:
    """The places in 0…1 and the weights of Gauss-Legendre quadrature."""
    places, weights = np.polynomial.legendre.leggauss(points)
    return ((places + 1) / 2).tolist(), (weights / 2).tolist()


def _attribution(
    explained: Explained, values: Tensor, method: str, baseline: Tensor | None = None
) -> Attribution:
    output = explained.output
    start = torch.zeros_like(output) if baseline is None else baseline
    return Attribution(values, output, start, method, batch_first=explained.batch_first)
