"""Tensors that carry a decomposition through a model: each function of torch that is applied to one has a rule.

:class:`Tracked` is a tensor with the value that the model computes. Its subclasses, in
:mod:`gatewise.gates.relevance` and :mod:`gatewise.gates.decomposition`, have the rules of their methods. A
model's recurrent modules are run by the reference on these tensors, so a cell's equations are its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import resolve_name

from gatewise.errors import OptionError
from gatewise.gates.find import named_modules

# Linear functions of one tensor, and functions that choose among its values by their order. They keep the
# decomposition of each value: they are applied to each part.
_STRUCTURAL = """
    __getitem__ T mT alpha_dropout broadcast_to chunk clone contiguous cpu cuda detach diagonal
    dropout dropout1d dropout2d double expand expand_as feature_dropout flatten flip float gather
    index_select masked_select mean movedim moveaxis narrow nansum neg permute pad_sequence repeat
    repeat_interleave reshape reshape_as roll select split split_with_sizes squeeze sum swapaxes
    swapdims t tensor_split to transpose type type_as unbind unflatten unfold unsqueeze view
    view_as avg_pool1d adaptive_avg_pool1d _pack_padded_sequence _pad_packed_sequence pad
"""
STRUCTURAL = frozenset(_STRUCTURAL.split())
# Sums of tensors, and functions that join tensors: untracked ones are constants among the parts.
JOINING = frozenset(
    [
        "add",
        "sub",
        "cat",
        "concat",
        "concatenate",
        "stack",
        "hstack",
        "vstack",
        "where",
        "masked_fill",
    ]
)
# Functions whose result is no part of the decomposition: shapes, comparisons, constants.
_INFORMATIVE = """
    argmax argmin argsort allclose any all bool data_ptr dim eq equal ge get_device greater gt
    isfinite is_complex is_contiguous is_floating_point is_neg is_conj isinf isnan item le less
    long lt ndimension ne nelement not_equal new_empty new_full new_ones new_tensor new_zeros numel
    ones_like empty_like full_like zeros_like int shape size stride storage_offset tolist
    untyped_storage __len__ __repr__ __bool__ __format__ __hash__ __index__ __int__ __float__
    element_size register_hook
"""
INFORMATIVE = frozenset(_INFORMATIVE.split())
# Functions that change their first argument, and those without this effect.
IN_PLACE: dict[str, Callable[..., Any]] = {
    "add_": torch.add,
    "sub_": torch.sub,
    "mul_": torch.mul,
    "div_": torch.div,
}
# Functions of one value, with f(x) - f(0), accurate near zero, and f(0).
UNARY: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], float]] = {
    "tanh": (torch.tanh, torch.tanh, 0.0),
    "sigmoid": (torch.sigmoid, lambda x: torch.tanh(x / 2) / 2, 0.5),
    "relu": (torch.relu, torch.relu, 0.0),
    "leaky_relu": (F.leaky_relu, F.leaky_relu, 0.0),
    "elu": (F.elu, F.elu, 0.0),
    "gelu": (F.gelu, F.gelu, 0.0),
    "silu": (F.silu, F.silu, 0.0),
    "mish": (F.mish, F.mish, 0.0),
    "hardtanh": (F.hardtanh, F.hardtanh, 0.0),
    "exp": (torch.exp, torch.expm1, 1.0),
    "softplus": (F.softplus, lambda x, *a, **k: F.softplus(x, *a, **k) - F.softplus(x * 0, *a, **k),
                 0.6931471805599453),
}  # fmt: skip
# Those of UNARY, and softmax, whose results are gates: in a product with another value they are a factor and
# not a signal.
GATES = frozenset({"sigmoid", "exp", "softmax"})


def batch_norm_line(
    dimensions: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The factor and the constant of batch normalisation with stored statistics, for an input B×C×… of so many
    dimensions."""
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean * scale + (0 if bias is None else bias)
    shape = (1, -1, *[1] * (dimensions - 2))
    return scale.view(shape), shift.view(shape)


class Walk:
    """One pass of a model over tracked tensors: the method, and the module that runs."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.modules: list[tuple[str, str]] = []

    @property
    def where(self) -> str:
        """The name of the module that runs; "model" for the root."""
        return self.modules[-1][0] if self.modules else "model"

    def no_rule(self, name: str) -> OptionError:
        module, kind = self.modules[-1] if self.modules else ("model", "module")
        return OptionError(
            f"{self.method} has no rule for '{name}' of tensors that depend on the input, which the module "
            f"'{module}' ({kind}) calls. Use gradient_times_input, integrated_gradients or occlusion, "
            f"which need no rules"
        )


@contextmanager
def watching(walk: Walk, model: nn.Module) -> Iterator[None]:
    """Within the block, ``walk`` knows which module of the model runs."""

    with ExitStack() as stack:
        for name, module in named_modules(model):
            entry = (name or "model", type(module).__name__)

            def before(*_: Any, entry: tuple[str, str] = entry) -> None:
                walk.modules.append(entry)

            def after(*_: Any) -> None:
                walk.modules.pop()

            handle = module.register_forward_pre_hook(before, prepend=True)
            stack.callback(handle.remove)
            handle = module.register_forward_hook(after, always_call=True)
            stack.callback(handle.remove)
        yield


class Tracked(Tensor):
    """A tensor with a decomposition. ``plain`` is its value, an ordinary tensor.

    ``is_gate`` says whether it is a factor with values from 0 to 1 (or an exponential) and not a signal.
    """

    plain: Tensor
    walk: Any  # of the method's own kind
    is_gate: bool
    may_be_view: bool = False  # of another tensor, which a change in place would reach
    rules: ClassVar[dict[str, Callable[..., Any]]] = {}

    @classmethod
    def _of(cls, plain: Tensor, walk: Walk, is_gate: bool = False) -> Self:
        made: Self = plain.detach().as_subclass(cls)
        made.plain, made.walk, made.is_gate = plain, walk, is_gate
        return made

    @classmethod
    def structural(cls, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of a function of STRUCTURAL."""
        raise NotImplementedError

    @classmethod
    def joined(cls, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of a function of JOINING."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, function_name(func)
        if name in INFORMATIVE or (is_getter(func) and name not in STRUCTURAL):
            return func(*plain(args), **plain(kwargs))
        if name in ("detach", "float"):  # the value goes on, in double precision
            return args[0]
        if name in STRUCTURAL:
            found = cls.structural(func, args, kwargs)
            for each in all_tracked(found):
                each.may_be_view = True
            return found
        if name in IN_PLACE and isinstance(args[0], Tracked) and not args[0].may_be_view:
            found = cls.__torch_function__(IN_PLACE[name], types, args, kwargs)
            args[0].__dict__.update(found.__dict__)
            return args[0]
        if name in ("rsub", "__rsub__"):
            name, func, args = "sub", torch.sub, (args[1], args[0], *args[2:])
        if name == "sub" and not kwargs:  # a - b as a + (-b)
            name, func, args = "add", torch.add, (args[0], -as_operand(args[1], args[0]))
        if name == "add":
            args = (as_operand(args[0], args[1]), as_operand(args[1], args[0]), *args[2:])
        if name in JOINING:
            return cls.joined(name, func, args, kwargs)
        if name in cls.rules:
            return cls.rules[name](*args, **kwargs)
        raise first_tracked((args, kwargs)).walk.no_rule(name)


def function_name(func: Callable[..., Any]) -> str:
    """The name of a function or method of torch without its module; of operators, that of the function."""
    name = (resolve_name(func) or getattr(func, "__name__", str(func))).removesuffix(".__get__")
    last = name.rpartition(".")[2]
    same = {
        "__radd__": "add",
        "__add__": "add",
        "__sub__": "sub",
        "__mul__": "mul",
        "__rmul__": "mul",
    }
    same |= {
        "__truediv__": "div",
        "true_divide": "div",
        "__matmul__": "matmul",
        "__rmatmul__": "rmatmul",
    }
    same |= {"divide": "div", "multiply": "mul", "subtract": "sub", "mm": "matmul", "bmm": "matmul"}
    same |= {"__neg__": "neg", "negative": "neg", "__rtruediv__": "rdiv", "__rdiv__": "rdiv"}
    return same.get(last, last)


def is_getter(func: Callable[..., Any]) -> bool:
    return getattr(func, "__name__", "") == "__get__"


def as_operand(value: Any, like: Any) -> Any:
    """A number as a tensor of the dtype of ``like``; any other value as it is."""
    if isinstance(value, int | float):
        return torch.tensor(value, dtype=like.dtype, device=like.device)
    return value


def mapped(function: Callable[[Any], Any], nested: Any) -> Any:
    """``nested`` with the function applied to each tensor in its tuples, lists and mappings."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(mapped(function, each) for each in nested))
    if isinstance(nested, tuple | list):
        return type(nested)(mapped(function, each) for each in nested)
    if isinstance(nested, dict):
        return {key: mapped(function, each) for key, each in nested.items()}
    return nested


def plain(nested: Any) -> Any:
    """``nested`` with the values of its tracked tensors."""
    return mapped(lambda each: each.plain if isinstance(each, Tracked) else each, nested)


def all_tracked(nested: Any) -> list[Tracked]:
    """The tracked tensors in ``nested``."""
    found: list[Tracked] = []
    mapped(lambda each: found.append(each) if isinstance(each, Tracked) else None, nested)
    return found


def first_tracked(nested: Any) -> Tracked:
    return all_tracked(nested)[0]


def stays_gate(value: Any) -> bool:
    """Whether the product with an untracked value, or 1 minus it, leaves a gate a gate: it is from 0 to 1."""
    if isinstance(value, Tensor):
        return bool(((value >= 0) & (value <= 1)).all())
    return isinstance(value, int | float) and 0 <= value <= 1
