"""The large products before and after the time loops: torch's own, each over all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gatewise.backends.contract import NAMED_WEIGHTS, NORM_EPSILON
from gatewise.backends.gpu.accumulators import in_gates, rows
from gatewise.backends.gpu.call import Call


def input_accumulators(call: Call) -> Tensor:
    """The input parts of the accumulators, T×B×(accumulators with an input part)·H: normalised if asked for,
    without biases. Values beyond a sequence's length are undefined; the loop does not read them."""
    of_input, H = call.shape.of_input, call.sizes.H
    products = linear(call.x, rows(call.weights.input, of_input, H))
    if (norm_weight := call.weights.norm_input) is not None:
        norm_weight = rows(norm_weight, of_input, H)
        products = layer_norm(products, norm_weight.shape, norm_weight, None, NORM_EPSILON)
    return products.contiguous()


def gradients(
    call: Call,
    activations: Mapping[str, Tensor],
    grad_accumulators: Tensor,
    before_norm: Tensor | None,
    projected: Tensor | None,
    initial: Sequence[Tensor],
    per_unit: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights.

    Args:
        grad_accumulators: the gradients of all steps' accumulators, T×B×(accumulators)·H.
        before_norm: those of the recurrent product before its normalisation, or None.
        projected: those of the projected output, or None.
    """
    shape, H, w, x = call.shape, call.sizes.H, call.weights, call.real(call.x)
    of_x = grad_accumulators[..., : len(shape.of_input) * H]
    of_h = grad_accumulators[..., shape.NX * H :]
    names = NAMED_WEIGHTS
    want_x, want = wanted[0], dict(zip(names, wanted[1 + shape.STATES :], strict=False))
    matrix = rows(w.input, shape.of_input, H)
    found: dict[str, Tensor | None] = {}
    into = of_x
    if w.norm_input is not None:
        norm_weight = rows(w.norm_input, shape.of_input, H)
        into, found["norm_input"] = _before_norm(of_x, linear(x, matrix), norm_weight)
    if want["input"]:
        found["input"] = _flat(into).T @ _flat(x)
    if want["input_bias"] or want["recurrent_bias"]:
        of_biases = grad_accumulators.sum((0, 1), dtype=torch.float32)
        found["input_bias"] = of_biases[: len(shape.of_input) * H]
        found["recurrent_bias"] = of_biases[shape.NX * H :].clone()  # a gradient has its own memory
    if want["recurrent"]:
        found["recurrent"] = _of_recurrent(
            call, activations, of_h if before_norm is None else before_norm
        )
    if want["norm_recurrent"] and before_norm is not None:
        found["norm_recurrent"] = (of_h.float() * activations["normal"]).sum((0, 1))
    if want["projection"] and projected is not None:
        found["projection"] = _flat(projected).T @ _flat(activations["unprojected"])
    for of_part, gates in (
        (("input", "input_bias", "norm_input"), shape.of_input),
        (("recurrent", "recurrent_bias", "norm_recurrent"), shape.of_state),
    ):
        for name in of_part:
            weight, gradient = getattr(w, name), found.get(name)
            if gradient is not None and weight is not None:
                found[name] = in_gates(gradient, gates, weight, H)
    of_input = (into @ matrix) if want_x else None
    results = [of_input, *initial, *map(found.get, names), *per_unit]
    given = [call.x, *call.state, *(getattr(w, name) for name in names), *call.per_unit]
    each = zip(results, given, wanted, strict=True)
    return [
        r.to(of.dtype) if asked and r is not None and of is not None else None
        for r, of, asked in each
    ]


def _flat(of: Tensor) -> Tensor:
    return of.flatten(0, 1)


def _of_recurrent(call: Call, activations: Mapping[str, Tensor], into: Tensor) -> Tensor:
    """The gradient of the recurrent weights, (accumulators with a recurrent part)·H×F."""
    shape, x = call.shape, call.x
    early = (shape.NW + shape.NH) * call.sizes.H
    fed = [_fed_back(call, activations[f"state {k}"]) for k in shape.FEEDBACK]
    beside = fed[0] if len(fed) == 1 else torch.cat([x.new_empty(*x.shape[:2], 0), *fed], -1)
    if call.reset is not None:
        beside = torch.where(call.reset[..., None] != 0, 0, beside)
    if call.factor is not None:
        beside = beside * call.factor
    found = _flat(into[..., :early]).T @ _flat(beside)
    if shape.NL:
        found = torch.cat([found, _flat(into[..., early:]).T @ _flat(activations["late"])])
    return found


def _fed_back(call: Call, history: Tensor) -> Tensor:
    """The state before each step, as an operand of a product."""
    return (history[1:] if call.reverse else history[:-1]).to(call.x.dtype)


def _before_norm(grads: Tensor, product: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of norm_weight * n(product) to those of the product and of the norm weight."""
    shape = norm_weight.shape
    _, mean, scale = torch.native_layer_norm(product, shape, norm_weight, None, NORM_EPSILON)
    given = (
        grads.contiguous(),
        product,
        shape,
        mean,
        scale,
        norm_weight,
        None,
        [True, True, False],
    )
    of_product, of_gain, _ = torch.ops.aten.native_layer_norm_backward(*given)
    return of_product, of_gain
