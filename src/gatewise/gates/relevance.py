"""Layer-wise relevance propagation through recurrent models, derived from the cells' equations.

The output is written as a sum of contributions: each function f is replaced by f(0) and x times the factor
(f(x) - f(0)) / x, and each product of a gate and a signal by the signal times a factor. With the factors held
fixed the model is linear, so that the contribution of a value is the value times its gradient. The gate gets
none of a product's relevance and the signal gets all (Arras et al. 2017, "Explaining Recurrent Neural Network
Predictions in Sentiment Analysis"; Arras et al. 2019, "Explaining and Interpreting LSTMs", LRP-all).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import Outcome
from gatewise.backends.reference import through_time
from gatewise.gates.attach import runners
from gatewise.gates.explained import Attribution, Explained, Target
from gatewise.gates.tracked import (
    GATES,
    UNARY,
    Tracked,
    Walk,
    all_tracked,
    batch_norm_line,
    first_tracked,
    mapped,
    plain,
    stays_gate,
    watching,
)
from gatewise.nn.runs import LayerRun


def layerwise_relevance(
    model: nn.Module, *inputs: Any, target: Target = None, **options: Any
) -> Attribution:
    """Layer-wise relevance propagation: contributions that add up to the output.

    The contributions of the biases and of the initial states are in ``.apart``, by the names of their
    modules. ``.gap`` says how far the sum is from the output; it is rounding alone. The contributions are
    computed in double precision, on a copy of the model, because large ones may cancel.

    Rules: a linear function gives each addend its own value (LRP-0). A function of one value passes its
    relevance on; f(0), where it is not 0, counts as a bias. Of a product of a gate and a signal the signal
    gets all. Two signals get one half each. A divisor, the deviation of a layer normalisation and the weights
    of an attention get none. The greater of two values gets all.

    The model may have recurrent layers and stacks of any cell (of torch.nn and Keras too), linear layers, convolutions,
    pooling, attention pooling, residual and highway connections.

    The arguments are those of :func:`gatewise.gates.gradient_times_input`. The model runs in evaluation mode.

    Raises:
        OptionError: a module applies a function that has no rule; the message names both.
        ShapeError: the outputs do not fit the sequences.
    """
    explained = Explained(model, inputs, options, target)
    exact = explained.in_double()
    walk = RelevanceWalk()
    with torch.enable_grad(), watching(walk, exact.model), runners(exact.model, walk.runner):
        leaf = exact.x.requires_grad_()
        found = exact(Signal.of(leaf, walk))
        if not isinstance(found, Signal):
            raise walk.no_rule("a conversion to an ordinary tensor")
        contributions, apart = walk.contributions(found.plain, leaf)
    return Attribution(
        contributions,
        explained.output,
        torch.zeros_like(explained.output),
        "layer-wise relevance",
        apart,
        explained.batch_first,
    )


class RelevanceWalk(Walk):
    """A pass that linearises the model. ``ones`` has a factor 1 for each other source than the input."""

    def __init__(self) -> None:
        super().__init__("relevance")
        self.ones: dict[str, Tensor] = {}

    def apart(self, constant: Tensor | float, like: Tensor, source: str = "") -> Tensor:
        """A constant, whose contribution is that of a source; by default the module that runs."""
        name = source or self.where
        if name not in self.ones:
            self.ones[name] = torch.ones(
                (), dtype=like.dtype, device=like.device, requires_grad=True
            )
        value = torch.as_tensor(constant, dtype=like.dtype, device=like.device).detach()
        # an infinity, such as a mask's, is chosen or not; times the gradient 0 it would be NaN
        return torch.where(value.isfinite(), value, 0) * self.ones[name] + torch.where(
            value.isfinite(), 0, value
        )

    def runner(self, name: str) -> Callable[[LayerRun], Outcome]:
        """The runner of a recurrent module: the reference on signals."""

        def run(given: LayerRun) -> Outcome:
            state = tuple(
                s
                if isinstance(s, Signal)
                else Signal.of(self.apart(s, s, f"{name}: initial state"), self)
                for s in given.state
            )
            arguments = (given.cell, given.x, state, given.weights, given.masks, given.product)
            return through_time(*arguments, reverse=given.reverse, trace=given.trace)

        return run

    def contributions(self, output: Tensor, leaf: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The contributions of the input, and those of the other sources for each sequence."""
        each = torch.ones_like(output, requires_grad=True)
        sources = (leaf, *self.ones.values())
        of_input, *of_ones = torch.autograd.grad(
            output, sources, each, create_graph=True, allow_unused=True, materialize_grads=True
        )
        # sum(each * output) is linear in each: its gradient by a factor, derived again, is by sequence
        by_sequence = [
            torch.autograd.grad(
                total, each, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            if total.requires_grad
            else torch.zeros_like(output)
            for total in of_ones
        ]
        apart = dict(zip(self.ones, (found.detach() for found in by_sequence), strict=True))
        return (leaf * of_input).detach(), apart


class Signal(Tracked):
    """A tensor of the linearised model."""

    walk: RelevanceWalk

    @classmethod
    def of(cls, value: Tensor, walk: RelevanceWalk, is_gate: bool = False) -> Signal:
        return cls._of(value, walk, is_gate)

    @classmethod
    def structural(cls, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        first = first_tracked((args, kwargs))
        return _wrapped(function(*plain(args), **plain(kwargs)), first)

    @classmethod
    def joined(cls, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tracked = all_tracked((args, kwargs))
        walk, like = tracked[0].walk, tracked[0].plain

        def each(value: Any) -> Any:
            if isinstance(value, Tracked):
                return value.plain
            return walk.apart(value, like) if value.is_floating_point() else value

        constants = [one for one in _flat(args) if not isinstance(one, Tracked)]
        keeps = name == "add" and all(stays_gate(one) for one in constants)
        gate = keeps and len(tracked) == 1 and tracked[0].is_gate
        result = function(*mapped(each, args), **mapped(each, kwargs))
        return Signal.of(result, walk, gate)


def _flat(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(found.append, args)
    return found


def _wrapped(result: Any, like: Tracked) -> Any:
    """The floating-point tensors of a result as signals."""
    return mapped(
        lambda each: Signal.of(each, like.walk, like.is_gate) if each.is_floating_point() else each,
        result,
    )


def _unary(name: str) -> Callable[..., Signal]:
    _, centred, at_zero = UNARY[name]

    def rule(x: Signal, *args: Any, **kwargs: Any) -> Signal:
        kwargs.pop("inplace", None)
        with torch.no_grad():
            there = torch.where(x.plain == 0, 1e-6, x.plain)
            factor = centred(there, *args, **kwargs) / there
        value = x.plain * factor
        if at_zero:
            value = value + x.walk.apart(at_zero, value)
        return Signal.of(value, x.walk, name in GATES)

    return rule


def _softplus_of(x: Any, zero: Any) -> Signal:
    """logaddexp(x, 0), which is softplus."""
    if isinstance(zero, Tracked) or bool((torch.as_tensor(zero) != 0).any()):
        raise first_tracked((x, zero)).walk.no_rule("logaddexp")
    return _unary("softplus")(x)


def _in_proportion(function: Callable[[Tensor], Tensor]) -> Callable[[Signal], Signal]:
    """The rule of a function that has no value at 0, or no slope there: f(x) is x times f(x) / x."""

    def rule(x: Signal) -> Signal:
        there = torch.where(x.plain == 0, 1, x.plain)
        factor = torch.where(x.plain == 0, 0, function(x.plain) / there).detach()
        return Signal.of(x.plain * factor, x.walk)

    return rule


def _product(multiply: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Signal]:
    def rule(a: Any, b: Any) -> Signal:
        if not (isinstance(a, Signal) and isinstance(b, Signal)):
            signal, other = (a, b) if isinstance(a, Signal) else (b, a)
            return Signal.of(
                multiply(*_detached(a, b)), signal.walk, signal.is_gate and stays_gate(other)
            )
        if a.is_gate != b.is_gate:
            first, second = (
                (a.plain.detach(), b.plain) if a.is_gate else (a.plain, b.plain.detach())
            )
            return Signal.of(multiply(first, second), a.walk)
        halves = multiply(a.plain.detach(), b.plain) + multiply(a.plain, b.plain.detach())
        return Signal.of(halves / 2, a.walk, a.is_gate)

    return rule


def _detached(*values: Any) -> list[Any]:
    """The values of signals, and untracked tensors without a gradient."""
    return [
        v.plain if isinstance(v, Signal) else v.detach() if isinstance(v, Tensor) else v
        for v in values
    ]


def _div(a: Any, b: Any) -> Signal:
    if isinstance(b, Signal):
        divisor = b.plain.detach()
        if isinstance(a, Signal):
            return Signal.of(a.plain / divisor, a.walk)
        return Signal.of(b.walk.apart(a / divisor, divisor), b.walk)
    return Signal.of(
        a.plain / _detached(b)[0], a.walk, a.is_gate and not isinstance(b, Tensor) and b >= 1
    )


def _affine(function: Callable[..., Tensor]) -> Callable[..., Signal]:
    """The rule of ``function(x, weight, bias, …)`` that is linear in x but for the bias."""

    def rule(
        x: Any, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Signal:
        walk = first_tracked((x, weight, bias)).walk
        if not isinstance(x, Signal) or isinstance(weight, Tracked):
            raise walk.no_rule(function.__name__)
        of = None if bias is None else walk.apart(bias, x.plain)
        return Signal.of(function(x.plain, weight.detach(), of, *args, **kwargs), walk)

    return rule


def _layer_norm(
    x: Signal,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Signal:
    dims = list(range(-len(shape), 0))
    centred = x.plain - x.plain.mean(dims, keepdim=True)
    deviation = (x.plain.var(dims, keepdim=True, unbiased=False) + eps).sqrt().detach()
    found = centred / deviation
    found = found if weight is None else found * weight.detach()
    return Signal.of(found if bias is None else found + x.walk.apart(bias, found), x.walk)


def _batch_norm(
    x: Signal,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    if training:
        raise x.walk.no_rule("batch_norm with the statistics of the batch")
    line = batch_norm_line(x.plain.dim(), mean, variance, weight, bias, eps)
    scale, shift = (each.detach() for each in line)
    return Signal.of(x.plain * scale + x.walk.apart(shift, x.plain), x.walk)


def _softmax(x: Signal, *args: Any, **kwargs: Any) -> Signal:
    kwargs.pop("_stacklevel", None)
    weights = torch.softmax(x.plain, *args, **kwargs)
    return Signal.of(x.walk.apart(weights, weights), x.walk, True)


def _chosen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of a function that chooses values of tensors."""

    def rule(*args: Any, **kwargs: Any) -> Any:
        first = first_tracked((args, kwargs))

        def each(value: Tensor) -> Tensor:
            if isinstance(value, Tracked):
                return value.plain
            return first.walk.apart(value, first.plain) if value.is_floating_point() else value

        return _wrapped(function(*mapped(each, args), **mapped(each, kwargs)), first)

    return rule


_CHOOSING = ("max", "min", "amax", "amin", "maximum", "minimum", "topk", "sort", "max_pool1d")
Signal.rules = {
    **{name: _unary(name) for name in UNARY},
    **{
        name: _chosen(getattr(torch, name, None) or getattr(F, name))
        for name in (*_CHOOSING, "adaptive_max_pool1d")
    },
    **{name: _affine(getattr(F, name)) for name in ("linear", "conv1d", "conv2d", "conv3d")},
    "mul": _product(torch.mul),
    "matmul": _product(torch.matmul),
    "rmatmul": lambda a, b: _product(torch.matmul)(b, a),
    "div": _div,
    "rdiv": lambda a, b: _div(b, a),
    "square": lambda x: _product(torch.mul)(x, x),
    **{name: _in_proportion(getattr(torch, name)) for name in ("log", "log1p", "sqrt", "abs")},
    "logaddexp": _softplus_of,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "softmax": _softmax,
}
