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
from gatewise.gates.attach import runners
from gatewise.gates.explained import Attribution, Explained, Target
from gatewise.gates.parts import Parts, PartsWalk
from gatewise.gates.tracked import watching
from gatewise.options import flag


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
    features: int | Iterable[int] | None = None,
    target: Target = None,
    **options: Any,
) -> Decomposition:
    """The part of an output that comes from a phrase, and the part that comes from all else.

    Rules (Murdoch et al. 2018, section 3): sums are sums of parts. A function of several parts is split by the
    mean over the orders in which they are added, the biases first. Of a product, β gets what needs no part of
    γ. A gate that multiplies a function of the new state, such as the output gate, is not split; nor are
    exponential gates, divisors, deviations and attention weights. The product of two biases is the phrase's in
    the phrase's steps, as a recurrent layer counts them and a cell of one step counts its calls, and γ's where the
    phrase has some features only.

    Args:
        phrase: one or more steps of the input, counted from 0; for all sequences.
        features: the features of these steps that are the phrase's, counted from 0; all if not given.

    The other arguments are those of :func:`gatewise.gates.gradient_times_input`; the models are those of
    :func:`gatewise.gates.layerwise_relevance`. The model runs in evaluation mode.

    Raises:
        OptionError: a module applies a function that has no rule; the message names both. Or a step or feature
            is not there.
        ShapeError: the outputs do not fit the sequences.
    """
    explained = Explained(model, inputs, options, target)
    steps = _checked_indices("phrase", "step", phrase, explained.steps)
    if features is not None:
        explained.check_features("features=")
        features = _checked_indices("features", "feature", features, explained.x.shape[2])
    beta, gamma = _parts_of(explained.in_double(), steps, features)
    return Decomposition(beta, gamma, explained.output)


def contextual_contributions(
    model: nn.Module,
    *inputs: Any,
    target: Target = None,
    features: bool = False,
    **options: Any,
) -> Attribution:
    """The contribution β of each step on its own, by :func:`contextual_decomposition` with T phrases.

    ``.values`` is B×T. The contributions need not add up to the output, because steps act together.

    Args:
        features: whether each feature of a step is a phrase on its own. ``.values`` is B×T×I then, from T·I
            phrases.

    The other arguments and errors are those of :func:`contextual_decomposition`.
    """
    explained = Explained(model, inputs, options, target)
    exact = explained.in_double()
    time = 1 if explained.batch_first else 0
    if flag("features", features):
        explained.check_features("features=True")
        width = explained.x.shape[2]
        each = [
            torch.stack([_parts_of(exact, [t], [k])[0] for k in range(width)], -1)
            for t in range(explained.steps)
        ]
    else:
        each = [_parts_of(exact, [t])[0] for t in range(explained.steps)]
    return Attribution(
        torch.stack(each, time),
        explained.output,
        torch.zeros_like(explained.output),
        "contextual decomposition",
        batch_first=explained.batch_first,
    )


@torch.no_grad()
def _parts_of(
    exact: Explained, phrase: list[int], features: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """β and γ of the explained output, B each."""
    model, x = exact.model, exact.x
    steps = torch.zeros(exact.steps, dtype=torch.bool, device=x.device)
    steps[phrase] = True
    inside = exact.at_steps(steps)
    if features is not None:
        chosen = torch.zeros(x.shape[2], dtype=torch.bool, device=x.device)
        chosen[features] = True
        inside = inside & chosen
        steps = steps & chosen.all()
    walk = PartsWalk(steps)
    parts = Parts.of(
        torch.where(inside, x, 0), torch.where(inside, 0, x), torch.zeros_like(x), walk
    )
    with watching(walk, model), runners(model, walk.runner):
        found = exact(parts)
    if not isinstance(found, Parts):
        raise walk.no_rule("a conversion to an ordinary tensor")
    return found.beta, found.gamma + found.bias


def _checked_indices(name: str, kind: str, given: int | Iterable[int], count: int) -> list[int]:
    each = [given] if isinstance(given, int) else given
    if isinstance(each, str) or not isinstance(each, Iterable):
        raise OptionError(f"{name} must be one or more {kind}s, not {given!r}")
    found = list(each)
    if not found:
        raise OptionError(f"{name} has no {kind}; give at least one")
    for index in found:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise OptionError(
                f"no {kind} {index!r} for {name}: the input has {count} {kind}s, from 0"
            )
    return found
