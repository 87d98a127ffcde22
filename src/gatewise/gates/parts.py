"""The parts β, γ and biases of tensors, and the rules by which functions of torch split them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.backends.contract import Outcome
from gatewise.backends.reference import through_time
from gatewise.gates.tracked import (
    GATES,
    UNARY,
    Tracked,
    Walk,
    all_tracked,
    as_operand,
    batch_norm_line,
    first_tracked,
    mapped,
    plain,
    stays_gate,
)
from gatewise.nn.runs import LayerRun


class PartsWalk(Walk):
    """A pass with parts. ``moment`` counts the steps of layers that have run.

    Args:
        inside: T booleans, the steps of the input that are the phrase's as a whole.
    """

    def __init__(self, inside: Tensor) -> None:
        super().__init__("contextual decomposition")
        self.inside, self.moment = inside, 0

    def runner(self, name: str) -> Callable[[LayerRun], Outcome]:
        """The runner of a recurrent module: the reference on parts."""
        calls: Counter[tuple[int, bool]] = Counter()

        def run(given: LayerRun) -> Outcome:
            direction = given.layer, given.reverse
            of_steps = self._inside(given, calls[direction])
            calls[direction] += 1

            def changes(t: int) -> Mapping[str, Callable[[Tensor], Tensor]]:
                self.moment += 1
                return dict.fromkeys(
                    given.cell.state, lambda value: self.merged(value, of_steps[t])
                )

            x = given.x
            state = tuple(s if isinstance(s, Parts) else _constant(s, self) for s in given.state)
            arguments = (given.cell, x, state, given.weights, given.masks, given.product)
            return through_time(
                *arguments, reverse=given.reverse, trace=given.trace, changes=changes
            )

        return run

    def _inside(self, given: LayerRun, call: int) -> Tensor:
        """T×B, or T×1: whether each step of a run is the phrase's. A run of one step is the step of its call."""
        if given.places is not None:
            return self.inside[given.places]
        steps = len(given.x)
        first = call if steps == 1 else 0
        more = max(first + steps - len(self.inside), 0)
        return F.pad(self.inside, (0, more))[first : first + steps, None]

    def merged(self, value: Tensor, in_phrase: Tensor) -> Tensor:
        """A new state: its part of the biases is β's in the phrase's steps, else γ's.

        Args:
            in_phrase: B booleans, or one.
        """
        if not isinstance(value, Parts):
            return value
        nothing = torch.zeros_like(value.bias)
        of_phrase = in_phrase[(..., *[None] * (value.dim() - 1))]
        added = torch.where(of_phrase, value.bias, 0)
        parts = (value.beta + added, value.gamma + (value.bias - added), nothing)
        return Parts.of(*parts, self, value.is_gate, self.moment)


class Parts(Tracked):
    """A tensor as the sum of three parts.

    ``moment`` is that of the latest new state it is a function of. ``is_whole`` says that it is a gate that is
    not split in a product with a signal.
    """

    walk: PartsWalk
    beta: Tensor
    gamma: Tensor
    bias: Tensor
    moment: int
    is_whole: bool

    @classmethod
    def of(
        cls,
        beta: Tensor,
        gamma: Tensor,
        bias: Tensor,
        walk: PartsWalk,
        is_gate: bool = False,
        moment: int = 0,
        is_whole: bool = False,
    ) -> Parts:
        made = cls._of(beta + gamma + bias, walk, is_gate)
        made.beta, made.gamma, made.bias = beta, gamma, bias
        made.moment, made.is_whole = moment, is_whole
        return made

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.beta, self.gamma, self.bias

    @classmethod
    def structural(cls, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tracked = all_tracked((args, kwargs))
        each = [function(*_part(k, args), **_part(k, kwargs)) for k in range(3)]
        return _assembled(each, tracked, all(one.is_gate for one in tracked))

    @classmethod
    def joined(cls, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tracked = all_tracked((args, kwargs))
        each = [function(*_part(k, args), **_part(k, kwargs)) for k in range(3)]
        constants = [one for one in _flat(args) if not isinstance(one, Tracked)]
        keeps = name == "add" and len(tracked) == 1 and all(stays_gate(one) for one in constants)
        return _assembled(each, tracked, keeps and tracked[0].is_gate)


def _flat(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(found.append, args)
    return found


def _part(k: int, nested: Any) -> Any:
    """The k-th part of each tensor: untracked numbers are constants, which the biases' part has."""

    def of(value: Tensor) -> Tensor:
        if isinstance(value, Parts):
            return value.parts[k]
        if not value.is_floating_point():
            return value
        return value if k == 2 else torch.zeros_like(value)

    return mapped(of, nested)


def _assembled(each: list[Any], tracked: list[Any], gate: bool = False) -> Any:
    """The tensors of parts from the results for the three parts, in their tuples or lists."""
    first, moment = tracked[0], max(one.moment for one in tracked)
    if isinstance(each[0], Tensor):
        if not each[0].is_floating_point():
            return each[0]
        return Parts.of(each[0], each[1], each[2], first.walk, gate, moment)
    if isinstance(each[0], tuple | list):
        items = [_assembled(list(of), tracked, gate) for of in zip(*each, strict=True)]
        return items if isinstance(each[0], list) else tuple(items)
    return each[0]


def _constant(value: Tensor, walk: PartsWalk) -> Parts:
    """A value that does not come from the phrase."""
    nothing = torch.zeros_like(value)
    return Parts.of(nothing, value, nothing, walk)


def _unary(name: str) -> Callable[..., Parts]:
    function = UNARY[name][0]

    def rule(x: Parts, *args: Any, **kwargs: Any) -> Parts:
        kwargs.pop("inplace", None)

        def f(value: Tensor) -> Tensor:
            return function(value, *args, **kwargs)

        of_bias, of_all = f(x.bias), f(x.beta + x.gamma + x.bias)
        with_beta, with_gamma = f(x.beta + x.bias), f(x.gamma + x.bias)
        beta = (with_beta - of_bias + of_all - with_gamma) / 2
        gamma = (with_gamma - of_bias + of_all - with_beta) / 2
        return Parts.of(beta, gamma, of_bias, x.walk, name in GATES, x.moment)

    return rule


def _exp(x: Parts) -> Parts:
    """1, and what is added to it in proportion to the parts.

    Sums of some parts may be large where that of all is not, and have no exponential."""
    there = torch.where(x.plain == 0, 1, x.plain)
    factor = torch.where(x.plain == 0, 1, torch.expm1(x.plain) / there)
    found = _scaled(x, lambda part: part * factor, True)
    return Parts.of(found.beta, found.gamma, found.bias + 1, x.walk, True, x.moment, True)


def _softplus_of(x: Any, zero: Any) -> Parts:
    """logaddexp(x, 0), which is softplus."""
    if isinstance(zero, Tracked) or bool((torch.as_tensor(zero) != 0).any()):
        raise first_tracked((x, zero)).walk.no_rule("logaddexp")
    return _unary("softplus")(x)


def _in_proportion(function: Callable[[Tensor], Tensor]) -> Callable[[Parts], Parts]:
    """The rule of a function that is not split: each part gets the share that it has of the argument."""

    def rule(x: Parts) -> Parts:
        there = torch.where(x.plain == 0, 1, x.plain)
        factor = torch.where(x.plain == 0, 0, function(x.plain) / there)
        return _scaled(x, lambda part: part * factor)

    return rule


def _scaled(x: Parts, function: Callable[[Tensor], Tensor], is_gate: bool = False) -> Parts:
    """The parts after a function that is linear."""
    beta, gamma, bias = (function(part) for part in x.parts)
    return Parts.of(beta, gamma, bias, x.walk, is_gate, x.moment, is_gate and x.is_whole)


def _product(multiply: Callable[[Any, Any], Tensor]) -> Callable[..., Parts]:
    def rule(a: Any, b: Any) -> Parts:
        if not isinstance(a, Parts):
            return _scaled(b, lambda part: multiply(a, part), b.is_gate and stays_gate(a))
        if not isinstance(b, Parts):
            return _scaled(a, lambda part: multiply(part, b), a.is_gate and stays_gate(b))
        if _is_whole(a, b):
            return _scaled(b, lambda part: multiply(a.plain, part))
        if _is_whole(b, a):
            return _scaled(a, lambda part: multiply(part, b.plain))
        beta = multiply(a.beta, b.beta + b.bias) + multiply(a.bias, b.beta)
        gamma = multiply(a.gamma, b.plain) + multiply(a.beta + a.bias, b.gamma)
        gate, moment = a.is_gate and b.is_gate, max(a.moment, b.moment)
        return Parts.of(beta, gamma, multiply(a.bias, b.bias), a.walk, gate, moment)

    return rule


def _is_whole(gate: Parts, signal: Parts) -> bool:
    """Whether a product's factor is a gate that is not split: an exponential, or a gate of a function of the new
    state."""
    if signal.is_gate or not gate.is_gate:
        return False
    return gate.is_whole or signal.moment == signal.walk.moment > 0


def _div(a: Any, b: Any) -> Parts:
    if not isinstance(b, Parts):
        divisor = as_operand(b, a.plain)
        return _scaled(a, lambda part: part / divisor)
    if isinstance(a, Parts):
        return _scaled(a, lambda part: part / b.plain)
    return _constant(a / b.plain, b.walk)


def _affine(function: Callable[..., Tensor]) -> Callable[..., Parts]:
    """The rule of ``function(x, weight, bias, …)`` that is linear in x but for the bias."""

    def rule(
        x: Any, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Parts:
        if not isinstance(x, Parts) or isinstance(weight, Tracked):
            raise first_tracked((x, weight, bias)).walk.no_rule(function.__name__)
        beta, gamma = (function(part, weight, None, *args, **kwargs) for part in x.parts[:2])
        of_bias = function(x.bias, weight, bias, *args, **kwargs)
        return Parts.of(beta, gamma, of_bias, x.walk)

    return rule


def _layer_norm(
    x: Parts,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Parts:
    dims = list(range(-len(shape), 0))
    deviation = (x.plain.var(dims, keepdim=True, unbiased=False) + eps).sqrt()
    scale = (1 if weight is None else weight) / deviation
    found = _scaled(x, lambda part: (part - part.mean(dims, keepdim=True)) * scale)
    if bias is None:
        return found
    return Parts.of(found.beta, found.gamma, found.bias + bias, x.walk, moment=x.moment)


def _batch_norm(
    x: Parts,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Parts:
    if training:
        raise x.walk.no_rule("batch_norm with the statistics of the batch")
    scale, shift = batch_norm_line(x.plain.dim(), mean, variance, weight, bias, eps)
    found = _scaled(x, lambda part: part * scale)
    return Parts.of(found.beta, found.gamma, found.bias + shift, x.walk)


def _softmax(x: Parts, *args: Any, **kwargs: Any) -> Parts:
    """Weights that are not split: a product with them is one with constants."""
    kwargs.pop("_stacklevel", None)
    return torch.softmax(x.plain, *args, **kwargs)  # type: ignore[return-value]


def _chosen_by_index(name: str) -> Callable[..., Any]:
    """The rule of the greatest or least value over one dimension: the parts of the chosen value."""
    arg = torch.argmax if "max" in name else torch.argmin

    def rule(x: Parts, dim: Any = None, keepdim: bool = False) -> Any:
        dims = [dim] if isinstance(dim, int) else list(dim or ())
        if len(dims) != 1:
            raise x.walk.no_rule(f"{name} over several dimensions")
        index = arg(x.plain, dims[0], keepdim=True)

        def chosen(part: Tensor) -> Tensor:
            found = part.gather(dims[0], index)
            return found if keepdim else found.squeeze(dims[0])

        values = _scaled(x, chosen)
        if name.startswith("a"):
            return values
        return values, index if keepdim else index.squeeze(dims[0])

    return rule


def _chosen_of_two(greatest: bool) -> Callable[..., Any]:
    def rule(a: Any, b: Any) -> Any:
        first = plain(a) >= plain(b) if greatest else plain(a) <= plain(b)
        each = [torch.where(first, _part(k, a), _part(k, b)) for k in range(3)]
        return _assembled(each, all_tracked((a, b)))

    return rule


Parts.rules = {
    **{name: _unary(name) for name in UNARY},
    "exp": _exp,
    **{name: _chosen_by_index(name) for name in ("max", "min", "amax", "amin")},
    **{name: _affine(getattr(F, name)) for name in ("linear", "conv1d", "conv2d", "conv3d")},
    "maximum": _chosen_of_two(True),
    "minimum": _chosen_of_two(False),
    "square": lambda x: _product(torch.mul)(x, x),
    **{name: _in_proportion(getattr(torch, name)) for name in ("log", "log1p", "sqrt", "abs")},
    "mul": _product(torch.mul),
    "matmul": _product(torch.matmul),
    "rmatmul": lambda a, b: _product(torch.matmul)(b, a),
    "div": _div,
    "rdiv": lambda a, b: _div(b, a),
    "logaddexp": _softplus_of,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "softmax": _softmax,
}
