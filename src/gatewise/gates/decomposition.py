"""Contextual decomposition of recurrent models, derived from the cells' equations.

Every value is written as β + γ: β comes from a phrase, some steps of the input, and γ from all else (Murdoch et
al. 2018, "Beyond Word Importance: Contextual Decomposition to Extract Interactions from LSTMs"). Within a step
there is a third part, of the biases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import OptionError
from gatewise.gates.attach import modules_or_none, runners
from gatewise.gates.explained import Attribution, Explained, Target
from gatewise.gates.parts import Parts, PartsWalk
from gatewise.gates.tracked import watching


@dataclass(frozen=True)
class Decomposition:
    """The two parts of an output.

    Attributes:
        beta: B, the part of the phrase.
        gamma: B, the part of the other steps, the initial states and the biases.
        output: B, the explained output.
    """

    beta: Tensor
    gamma: Tensor
    output: Tensor

    @property
    def gap(self) -> Tensor:
        """B: output - beta - gamma. It is rounding alone."""
        return self.output - self.beta - self.gamma


def contextual_decomposition(
    model: nn.Module,
    *inputs: Any,
    phrase: int | Iterable[int],
    target: Target = None,
    **options: Any,
) -> Decomposition:
    """The part of an output that comes from a phrase, and the part that comes from all else.

    Rules (Murdoch et al. 2018, section 3): sums are sums of parts. A function of several parts is split by the
    mean over the orders in which they are added, the biases first. Of a product, β gets what needs no part of
    γ. A gate that multiplies a function of the new state, such as the output gate, is not split; nor are
    exponential gates, divisors, deviations and attention weights. The product of two biases is the phrase's in
    the phrase's steps, as a recurrent layer counts them (in a cell of one step, it is γ's).

    Args:
        phrase: one or more steps of the input, counted from 0; for all sequences.

    The other arguments are those of :func:`gatewise.gates.gradient_times_input`; the models are those of
    :func:`gatewise.gates.layerwise_relevance`. The model runs in evaluation mode.

    Raises:
        OptionError: a module applies a function that has no rule; the message names both. Or a step is not
            there.
        ShapeError: the outputs do not fit the sequences.
    """
    explained = Explained(model, inputs, options, target)
    beta, gamma = _parts_of(explained.in_double(), _checked_phrase(phrase, explained.steps))
    return Decomposition(beta, gamma, explained.output)


def contextual_contributions(
    model: nn.Module, *inputs: Any, target: Target = None, **options: Any
) -> Attribution:
    """The contribution β of each step on its own, by :func:`contextual_decomposition` with T phrases.

    ``.values`` is B×T. The contributions need not add up to the output, because steps act together.
    """
    explained = Explained(model, inputs, options, target)
    exact = explained.in_double()
    each = [_parts_of(exact, [t])[0] for t in range(explained.steps)]
    values = torch.stack(each, 1 if explained.batch_first else 0)
    start = torch.zeros_like(explained.output)
    return Attribution(
        values,
        explained.output,
        start,
        "contextual decomposition",
        batch_first=explained.batch_first,
    )


@torch.no_grad()
def _parts_of(exact: Explained, phrase: list[int]) -> tuple[Tensor, Tensor]:
    """β and γ of the explained output, B each."""
    model, x = exact.model, exact.x
    walk = PartsWalk(frozenset(phrase))
    inside = torch.zeros(exact.steps, dtype=torch.bool, device=x.device)
    inside[phrase] = True
    inside = exact.at_steps(inside)
    parts = Parts.of(
        torch.where(inside, x, 0), torch.where(inside, 0, x), torch.zeros_like(x), walk
    )
    of = dict.fromkeys(modules_or_none(model), walk.run)
    with watching(walk, model), runners(model, of):
        found = exact(parts)
    if not isinstance(found, Parts):
        raise walk.no_rule("a conversion to an ordinary tensor")
    return found.beta, found.gamma + found.bias


def _checked_phrase(phrase: int | Iterable[int], steps: int) -> list[int]:
    each = [phrase] if isinstance(phrase, int) else phrase
    if isinstance(each, str) or not isinstance(each, Iterable):
        raise OptionError(f"phrase must be one or more steps, not {phrase!r}")
    found = list(each)
    if not found:
        raise OptionError("the phrase has no step; give at least one")
    for step in found:
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < steps:
            raise OptionError(
                f"no step {step!r} for the phrase: the input has {steps} steps, from 0"
            )
    return found
