"""The large products before and after the time loops: single ones over all steps, torch's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gatewise.backends.contract import NAMED_WEIGHTS, NORM_EPSILON
from gatewise.backends.gpu.prepared import Prepared
from gatewise.backends.gpu.sums import in_gates, rows


def input_sums(call: Prepared) -> Tensor:
    """T×B×(sums with an input part)·H, normalised where that is asked for; without biases. What stands
    beyond a sequence's length comes of anything, and the loop does not read it."""
    of_input, H = call.shape.of_input, call.sizes.H
    sums = linear(call.x, rows(call.weights.input, of_input, H))
    if (gain := call.weights.norm_input) is not None:
        gain = rows(gain, of_input, H)
        sums = layer_norm(sums, gain.shape, gain, None, NORM_EPSILON)
    return sums.contiguous()


def gradients(
    call: Prepared,
    tape: Mapping[str, Tensor],
    of_sums: Tensor,
    before_norm: Tensor | None,
    projected: Tensor | None,
    initial: Sequence[Tensor],
    per_unit: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """From the gradients of every step's sums (T×B×(sums)·H), and of what the recurrent product's
    normalisation and the projection were given, to those of x, the states and the weights."""
    shape, H, w, x = call.shape, call.sizes.H, call.weights, call.real(call.x)
    of_x = of_sums[..., : len(shape.of_input) * H]
    of_h = of_sums[..., shape.NX * H :]
    names = NAMED_WEIGHTS
    want_x, want = wanted[0], dict(zip(names, wanted[1 + shape.STATES :], strict=False))
    matrix = rows(w.input, shape.of_input, H)
    found: dict[str, Tensor | None] = {}
    into = of_x
    if w.norm_input is not None:
        gain = rows(w.norm_input, shape.of_input, H)
        into, found["norm_input"] = _before_norm(of_x, linear(x, matrix), gain)
    if want["input"]:
        found["input"] = _flat(into).T @ _flat(x)
    if want["input_bias"] or want["recurrent_bias"]:
        of_biases = of_sums.sum((0, 1), dtype=torch.float32)
        found["input_bias"] = of_biases[: len(shape.of_input) * H]
        found["recurrent_bias"] = of_biases[shape.NX * H :].clone()  # a gradient has its own memory
    if want["recurrent"]:
        found["recurrent"] = _of_recurrent(call, tape, of_h if before_norm is None else before_norm)
    if want["norm_recurrent"] and before_norm is not None:
        found["norm_recurrent"] = (of_h.float() * tape["normal"]).sum((0, 1))
    if want["projection"] and projected is not None:
        found["projection"] = _flat(projected).T @ _flat(tape["unprojected"])
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


def _of_recurrent(call: Prepared, tape: Mapping[str, Tensor], into: Tensor) -> Tensor:
    """(sums with a recurrent part)·H×F: each step's gradients by what was fed back to it."""
    shape, x = call.shape, call.x
    early = (shape.NW + shape.NH) * call.sizes.H
    fed = [_fed_back(call, tape[f"state {k}"]) for k in shape.FED]
    beside = fed[0] if len(fed) == 1 else torch.cat([x.new_empty(*x.shape[:2], 0), *fed], -1)
    if call.reset is not None:
        beside = torch.where(call.reset[..., None] != 0, 0, beside)
    if call.factor is not None:
        beside = beside * call.factor
    found = _flat(into[..., :early]).T @ _flat(beside)
    if shape.NL:
        found = torch.cat([found, _flat(into[..., early:]).T @ _flat(tape["late"])])
    return found


def _fed_back(call: Prepared, history: Tensor) -> Tensor:
    """Each step's old state, as a product takes it."""
    return (history[1:] if call.reverse else history[:-1]).to(call.x.dtype)


def _before_norm(grads: Tensor, product: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of gain * n(product) to those of the product and of the gain."""
    shape = gain.shape
    _, mean, scale = torch.native_layer_norm(product, shape, gain, None, NORM_EPSILON)
    given = (grads.contiguous(), product, shape, mean, scale, gain, None, [True, True, False])
    of_product, of_gain, _ = torch.ops.aten.native_layer_norm_backward(*given)
    return of_product, of_gain
