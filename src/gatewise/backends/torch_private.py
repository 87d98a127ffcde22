"""All private parts of torch that gatewise uses, each with its purpose and the torch versions that have it.

Unless a comment says otherwise, torch has them from 2.6 to 2.13. (They were looked up in the sources of 2.6,
2.7, 2.9, 2.10, 2.11 and 2.12. gatewise needs 2.13, with which they are run.) A test runs each part, so that a
torch version without it fails there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

Function = TypeVar("Function", bound=Callable[..., object])

# The context of a call. These are read at every call.

# The state of torch.jit.trace, or None. The public ``torch.jit.is_tracing`` takes longer.
tracing_state = torch._C._get_tracing_state

# The number of modes that see every operation: make_fx, FakeTensorMode and others.
dispatch_modes = torch._C._len_torch_dispatch_stack

# Whether torch.autocast is on for any type of device. The public function is for one type, and slower.
any_autocast = torch._C._is_any_autocast_enabled

# The active transforms of torch.func (vmap, grad, jvp, …), or None.
func_interpreters = torch._C._functorch.peek_interpreter_stack


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, jvp, grad, …) or forward-mode differentiation is active."""
    return forward_ad._current_level >= 0 or func_interpreters() is not None


def watched() -> bool:
    """Whether torch must see each operation, because it compiles, traces, transforms or casts.

    The conditions of ``transformed`` are repeated here, because a call would take a good part of a short call's
    time."""
    return (
        torch.compiler.is_compiling()
        or dispatch_modes() > 0
        or forward_ad._current_level >= 0
        or func_interpreters() is not None
        or tracing_state() is not None
        or any_autocast()
    )


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without its preparation for torch.func, which takes two microseconds: it must not be called
    while a transform is active. The function must not have ``setup_context``."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def public_fp32_precision(backend: str, operation: str) -> str:
    """``fp32_precision`` as torch makes it public, for a torch without the function below."""
    precision: str = getattr(getattr(torch.backends, backend), operation).fp32_precision
    return precision


# The precision of float32 numbers that torch's settings give an operation of a backend: ("mkldnn", "rnn") is
# ``torch.backends.mkldnn.rnn.fp32_precision``, which takes several times as long. From torch 2.9, as that is.
fp32_precision: Callable[[str, str], str] = getattr(
    torch._C, "_get_fp32_precision_getter", public_fp32_precision
)

# Tensors that are not plain arrays.

# Whether torch.func has wrapped a tensor, and the tensor inside, which has the values of all samples.
is_func_tensor = torch._C._functorch.is_functorch_wrapped_tensor
inside_func_tensor = torch._C._functorch.get_unwrapped


def is_batched_or_zero(tensor: Tensor) -> bool:
    """Whether a gradient is a batch of gradients (``is_grads_batched``), or a zero without memory."""
    keys = repr(torch._C._dispatch_keys(tensor))
    return "Batched" in keys or "ZeroTensor" in keys


# Operators and torch.compile.

# Whether oneDNN computes in a dtype on this processor. Only if ``torch.backends.mkldnn.is_available()``.
ONEDNN_HAS = {
    torch.bfloat16: lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    torch.float16: lambda: bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
}


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN computes float32 products faster than the public functions, which call MKL. On a processor of
    AMD it takes less than half their time, because MKL uses 512-bit vectors on Intel's processors alone. On one of
    Intel's it takes a quarter longer."""
    intel = str(torch.cpu.get_capabilities().get("cpu_name")).startswith("Intel")
    return torch.backends.mkldnn.is_available() and not intel


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` without a gradient, for large products: by oneDNN where that is faster."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and onednn_is_faster():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return torch.nn.functional.linear(x, weight, bias)


def expect_unscaled_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Makes a fused optimizer leave the scaling of its gradients in mixed precision to the caller.

    Lightning clips no gradients of an optimizer that may unscale them itself, not even in bfloat16, where nothing is
    scaled."""
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


# A context that calls operators below autograd. An operator's autograd function calls the operator in it.
below_autograd = torch._C._AutoDispatchBelowAutograd


def constant(function: Function) -> Function:
    """Makes the function's result a constant in a graph of torch.compile, as the public
    ``torch.compiler.assume_constant_result`` does, but without importing the compiler."""
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  for mypy
    return function


def nonstrict_trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one call in a graph of torch.compile. Its operations are traced one level below, where
    Python runs as usual. From torch 2.7."""
    traced: Callable[..., Any] = torch._dynamo.nonstrict_trace(function)
    return traced


def mark_length_static(tensor: Tensor) -> None:
    """Makes the first dimension a constant in the graph that is being traced. (The public ``mark_static``
    works only before the tracing starts.)"""
    tensor._dynamo_static_indices = {0}  # type: ignore[attr-defined]


_GRAPH_ARG = {"pass_arg_as_tensor", "fake_tensor", "is_tensor", "example_strong_ref"}


def compiler_parts() -> SimpleNamespace | None:
    """The parts of torch.compile with which a list of integers becomes an input of a graph, see
    nn/lists.py; None if this torch lacks any of them. From torch 2.12: before, ``resolve_source_value``
    is missing.

    ``handlers`` is the table of what torch.compile calls for the functions that it knows.
    """
    try:
        from torch._dynamo.output_graph import OutputGraph
        from torch._dynamo.side_effects import SideEffects
        from torch._dynamo.source import FloatTensorSource
        from torch._dynamo.variables import TensorVariable, UserFunctionVariable
        from torch._dynamo.variables.builder import GraphArg, VariableBuilder
        from torch._dynamo.variables.torch import TorchInGraphFunctionVariable

        handlers = TorchInGraphFunctionVariable._get_handlers()
    except (ImportError, AttributeError):
        return None
    fits = (
        hasattr(OutputGraph, "resolve_source_value")
        and hasattr(SideEffects, "is_modified")
        and inspect.signature(GraphArg).parameters.keys() >= _GRAPH_ARG
    )
    if not fits:
        return None
    return SimpleNamespace(
        handlers=handlers,
        FloatTensorSource=FloatTensorSource,
        TensorVariable=TensorVariable,
        UserFunctionVariable=UserFunctionVariable,
        GraphArg=GraphArg,
        VariableBuilder=VariableBuilder,
    )


# Attributes of torch.nn.Module that a module passes on to its replacement: parameters, buffers, hooks.
MODULE_ATTRIBUTES = (
    *("_parameters", "_buffers", "_non_persistent_buffers_set", "training"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)

# Attributes of torch's recurrent modules that are derived from their parameters.
RNN_CACHES = ("_flat_weight_refs",)
