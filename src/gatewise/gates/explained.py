"""The call of a model that is explained: one number for each sequence, as a function of an attributed input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.errors import DataError, OptionError, ShapeError
from gatewise.gates.find import evaluating, is_keras, named_modules
from gatewise.gates.tracked import mapped

Target = int | tuple[int, ...] | Tensor | Sequence[int] | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Attribution:
    """How much each step and feature of the input contributed to the explained output.

    Attributes:
        values: of the shape of the input, of its embedding (B×T×E), or B×T for methods that attribute to
            steps only.
        output: B, the explained output of each sequence.
        baseline: B, the output of the baseline input; zero for methods without one.
        apart: B each, what the method gives to other sources than the input, by their names: biases,
            initial states.
        batch_first: whether ``values`` are B×T×… and not T×B×….
        method: the method's name.
    """

    values: Tensor
    output: Tensor
    baseline: Tensor
    method: str
    apart: Mapping[str, Tensor] = field(default_factory=dict)
    batch_first: bool = True

    @property
    def steps(self) -> Tensor:
        """B×T: the sum over the features of each step."""
        found = self.values if self.batch_first else self.values.transpose(0, 1)
        return found if found.dim() == 2 else found.flatten(2).sum(2)

    @property
    def gap(self) -> Tensor:
        """B: output - baseline - the sum of all contributions. Complete methods have a gap near zero."""
        given = self.steps.sum(1) + sum(self.apart.values(), torch.zeros_like(self.output))
        return self.output - self.baseline - given

    def top(self, k: int = 1) -> Tensor:
        """B×k: the steps with the greatest contributions, in absolute value, the greatest first.

        Raises:
            OptionError: there are fewer than ``k`` steps.
        """
        steps = self.steps.abs()
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= steps.shape[1]:
            raise OptionError(
                f"k must be from 1 to {steps.shape[1]}, the number of steps, not {k!r}"
            )
        return steps.topk(k, 1).indices

    def __repr__(self) -> str:
        shape, gap = "×".join(map(str, self.values.shape)), float(self.gap.abs().max())
        return f"<{self.method}: {shape}, gap {gap:.2g}>"


class Explained:
    """A model's call as a function of its attributed input.

    Integers as the input are indices of an embedding: what is attributed is the embedding's output.

    Args:
        inputs: the positional arguments of the model. The first is attributed.
        options: the keyword arguments of the model.
        target: which output is explained: see :func:`gatewise.gates.gradient_times_input`.

    Attributes:
        x: the attributed input.
        batch_first: whether it is B×T×… and not T×B×….
        output: B, the explained output.

    Raises:
        OptionError: the model, its input or the target cannot be explained.
        DataError: the explained output is infinite or NaN.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Any],
        options: Mapping[str, Any],
        target: Target,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise OptionError(f"expected a torch.nn.Module, not {type(model).__name__}")
        self.model, self.target = model, target
        if is_keras(model):
            from gatewise.keras.model import as_tensor  # it loads Keras

            inputs = tuple(map(as_tensor, inputs))
        if not inputs or not isinstance(inputs[0], Tensor):
            given = type(inputs[0]).__name__ if inputs else "nothing"
            raise OptionError(
                f"the model's first input must be a tensor to attribute to, not {given}"
            )
        self._inputs, self._options = inputs, dict(options)
        self.batch_first = bool(getattr(model, "batch_first", True))
        self._embedding: nn.Module | None = None
        with torch.no_grad():
            if inputs[0].is_floating_point():
                self.x = inputs[0].detach()
                output = self._run(self.x)
            else:
                self._embedding, self.x, output = self._embedded()
            self.target = _resolved(target, output)
            self.output = self.select(output)
        if self.x.dim() < 2 or self.x.shape[self._batch] != len(self.output):
            raise ShapeError(
                f"the input has the shape {tuple(self.x.shape)}, and {len(self.output)} outputs are explained: "
                f"expected one for each sequence. Give target= as a function that returns one number for "
                f"each, and batches of sequences"
            )
        self._check_finite()

    def _check_finite(self) -> None:
        """Raises DataError if an explained output is infinite or NaN."""
        wrong = (~self.output.isfinite()).nonzero()
        if len(wrong):
            sequence = int(wrong[0, 0])
            x = self.x.select(self._batch, sequence).flatten(1)
            steps = (~x.isfinite()).any(1).nonzero()
            cause = (
                f"its input is at step {int(steps[0, 0])}: fill it"
                if len(steps) and self.of_numbers
                else "look at the weights"
            )
            raise DataError(f"the output of sequence {sequence} is infinite or NaN; {cause}")

    def in_double(self) -> Explained:
        """The same call of a copy of the model in double precision.

        Raises:
            OptionError: the model cannot be copied.
        """
        try:
            model = _in_double(self.model)
        # Keras's copies are made by the classes' own methods
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise OptionError(
                f"this {type(self.model).__name__} cannot be copied: {error}"
            ) from error

        def double(value: Tensor) -> Tensor:
            return value.double() if value.is_floating_point() else value

        inputs = mapped(double, tuple(self._inputs))
        options = mapped(double, self._options)
        return Explained(model, inputs, options, self.target)

    @property
    def of_numbers(self) -> bool:
        """Whether the model's own input is attributed, and not the output of its embedding."""
        return self._embedding is None

    @property
    def _batch(self) -> int:
        return 0 if self.batch_first else 1

    @property
    def steps(self) -> int:
        return self.x.shape[1 - self._batch]

    def check_features(self, option: str) -> None:
        """Raises OptionError unless the input has features of its own at each step."""
        if self.x.dim() != 3:
            raise OptionError(f"{option} needs an input of 3 dimensions, not {tuple(self.x.shape)}")

    def at_steps(self, chosen: Tensor) -> Tensor:
        """``chosen``, T, in a shape that broadcasts to the input."""
        shape = [1] * self.x.dim()
        shape[1 - self._batch] = self.steps
        return chosen.view(shape)

    def __call__(self, x: Tensor) -> Tensor:
        """B: the explained output for another input of the same shape."""
        return self.select(self._run(x))

    def _run(self, x: Tensor) -> Any:
        first = self._inputs[0] if self._embedding is not None else x
        handle = None
        if self._embedding is not None:
            handle = self._embedding.register_forward_hook(lambda *_: x)
        try:
            with evaluating(self.model), _differentiable(self.model, x):
                return self.model(first, *self._inputs[1:], **self._options)
        finally:
            if handle is not None:
                handle.remove()

    def _embedded(self) -> tuple[nn.Module, Tensor, Any]:
        """The embedding, its output and the model's output for an input of indices."""
        calls: list[tuple[str, nn.Module, Tensor]] = []
        handles = [
            module.register_forward_hook(
                lambda module, args, out, name=name: calls.append((name, module, out))
            )
            for name, module in named_modules(self.model)
            if isinstance(module, _embeddings(self.model))
        ]
        try:
            with evaluating(self.model):
                output = self.model(*self._inputs, **self._options)
        finally:
            for handle in handles:
                handle.remove()
        if len(calls) != 1:
            names = ", ".join(dict.fromkeys(name for name, _, _ in calls)) or "none"
            raise OptionError(
                f"the input is {self._inputs[0].dtype}, so contributions are those of the outputs of an embedding "
                f"that the model calls once; it has {len(calls)} such calls ({names}). Give a "
                f"module that takes the embedded input"
            )
        return calls[0][1], calls[0][2].detach(), output

    def select(self, output: Any) -> Tensor:
        """B: the explained output, from all that the model returns."""
        return selected(output, self.target)


def _in_double(model: nn.Module) -> nn.Module:
    """A copy of the model in double precision."""
    if is_keras(model):
        from gatewise.keras.model import in_double  # it loads Keras

        found: nn.Module = in_double(model)
        return found
    return copy.deepcopy(model).double()


def _embeddings(model: nn.Module) -> tuple[type, ...]:
    """The classes of embeddings that the model may have."""
    if not is_keras(model):
        return (nn.Embedding,)
    from gatewise.keras.model import EMBEDDING  # it loads Keras

    return (nn.Embedding, EMBEDDING)


def selected(output: Any, target: Target) -> Any:
    """B: the explained output, from all that the model returns. ``target`` is a resolved one."""
    if callable(target):
        found = target(output)
        if not isinstance(found, Tensor) or found.dim() != 1 or not found.is_floating_point():
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OptionError(f"target= must return one number for each sequence, B, not {what}")
        return found
    if isinstance(target, Tensor):
        return output.gather(1, target.to(output.device)[:, None])[:, 0]
    if target is None:
        return output if output.dim() == 1 else output[:, 0]
    return output[(slice(None), *target)]  # type: ignore[misc]


def _resolved(target: Target, output: Any) -> Target:
    """The target with what depends on the output: its greatest class, if none is given."""
    if callable(target):
        return target
    if not isinstance(output, Tensor):
        raise OptionError(
            f"the model returns a {type(output).__name__}; give target= as a function that takes it and returns "
            f"one number for each sequence"
        )
    if isinstance(target, bool):
        raise OptionError(f"target= must be an index, not {target!r}")
    if isinstance(target, int):
        target = (target,)
    if isinstance(target, tuple):
        sizes = tuple(output.shape[1:])
        valid = len(target) == len(sizes) and all(
            -size <= index < size for index, size in zip(target, sizes, strict=True)
        )
        if not valid:
            raise OptionError(f"target={target}: the outputs of a sequence have the shape {sizes}")
        return target
    if target is not None:
        try:
            chosen = torch.as_tensor(target)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"target= must be an index, a tuple of indices, B indices or a function, not {target!r}"
            ) from error
        if output.dim() != 2 or chosen.shape != output.shape[:1] or chosen.is_floating_point():
            raise OptionError(
                f"target= has the shape {tuple(chosen.shape)}, expected an index for each sequence of the outputs "
                f"{tuple(output.shape)}"
            )
        if ((chosen < 0) | (chosen >= output.shape[1])).any():
            raise OptionError(f"target= has an index that is not in 0…{output.shape[1] - 1}")
        return chosen.long()
    if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
        return None
    if output.dim() == 2:
        return output.argmax(1)
    raise OptionError(
        f"the model returns {tuple(output.shape)}: give target= as the indices of one number of a sequence, such as "
        f"(step, class), or as a function"
    )


def _differentiable(model: nn.Module, x: Tensor) -> Any:
    """cuDNN has no backward pass in evaluation mode, so it is not used by torch's layers on a GPU."""
    torchs = any(isinstance(module, nn.RNNBase) for module in model.modules())
    if x.is_cuda and torchs and torch.is_grad_enabled():
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def checked_baseline(baseline: float | Tensor | None, x: Tensor) -> Tensor:
    """The baseline in the shape of the input; zeros for None.

    Raises:
        OptionError: it is neither a number nor a tensor.
        ShapeError: it does not broadcast to the input, or is not finite.
    """
    try:
        found = torch.as_tensor(
            0.0 if baseline is None else baseline, dtype=x.dtype, device=x.device
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"baseline must be a number or a tensor, not {baseline!r}") from error
    try:
        found = found.expand_as(x)
    except RuntimeError:
        raise ShapeError(
            f"the baseline has the shape {tuple(found.shape)}, which does not broadcast to the input's "
            f"{tuple(x.shape)}"
        ) from None
    if not found.isfinite().all():
        raise ShapeError("the baseline has a number that is not finite (NaN or infinity)")
    return found
