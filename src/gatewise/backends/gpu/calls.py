"""A call of the time loops on tensors: what they are given, and the large products before and after.

What is passed has been checked by the layer. Whatever is laid out or typed otherwise than the loops
take it is brought to that here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gatewise.backends.contract import NORM_EPSILON, Masks
from gatewise.backends.gpu import loops
from gatewise.backends.gpu import plan as plans
from gatewise.backends.gpu.cells import functions
from gatewise.backends.gpu.plan import Chip, Plan
from gatewise.backends.native.calls import Job, hidden_size
from gatewise.cells.language import Cell, topological
from gatewise.emit.steps import Layout, layout

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Shape:
    """A cell's sums and states, as the loops count them; see loops.py."""

    NX: int
    NW: int
    NH: int
    NL: int
    STATES: int
    PARAMS: int
    SAVED: int
    FED: tuple[int, ...]
    uses: tuple[bool, ...]
    values: int
    of_input: tuple[int, ...]  # the gate of each sum that has an input part
    of_state: tuple[int, ...]  # and of each that has a recurrent part


@cache
def shape_of(cell: Cell) -> Shape:
    sums = layout(cell).accumulators
    parts = [a.part for a in sums]
    gates = [cell.gates.index(a.gate) for a in sums]
    read = {node.name for node in topological(cell.values.values()) if node.op == "state"}
    return Shape(
        *(parts.count(part) for part in ("gate.x", "gate", "gate.h", "late")),
        STATES=len(cell.state),
        PARAMS=len(cell.params),
        SAVED=len(layout(cell).saved),
        FED=tuple(cell.state.index(name) for name in cell.feedback),
        uses=tuple(name in read for name in cell.state),
        values=len(cell.values),
        of_input=tuple(g for g, part in zip(gates, parts, strict=True) if part != "gate.h"),
        of_state=tuple(g for g, part in zip(gates, parts, strict=True) if part != "gate.x"),
    )


class _Call:
    """What both directions of a call are given."""

    def __init__(
        self, job: Job, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None], masks: Masks,
        divide: Callable[[plans.Job, Chip], Plan],
    ) -> None:
        self.job, self.cell, self.shape = job, job.cell, shape_of(job.cell)
        self.x, self.state = x, state
        self.steps, self.batch, _ = x.shape
        self.H = hidden_size(weights, job.cell)
        self.P = state[0].shape[1]
        names = ("input", "recurrent", "input_bias", "recurrent_bias", "projection", "norm_input", "gain")
        self.w = dict(zip(names, weights, strict=False))
        self.params = tuple(w.contiguous() for w in weights[7:] if w is not None)
        self.recurrent = _rows(self.w["recurrent"], self.shape.of_state, self.H)
        self.projection = None if self.w["projection"] is None else self.w["projection"].contiguous()
        gain = self.w["gain"]
        self.gain = None if gain is None else _rows(gain, self.shape.of_state, self.H)
        self.F = self.recurrent.shape[1]
        self.plan = self._plan(divide)
        self.lengths = self.order = None
        if masks.lengths is not None:
            self.lengths = masks.lengths.to(x.device)
            self.order = self.lengths.argsort(descending=True).to(torch.int32)
            self.valid = torch.arange(self.steps, device=x.device)[:, None] < self.lengths
        self.reset = None if masks.reset is None else masks.reset.contiguous().view(torch.uint8)
        self.factor = None if masks.recurrent is None else masks.recurrent.contiguous()
        self.zoneout = None
        self.zone_steps: tuple[int, ...] = ()
        if masks.zoneout is not None:
            whole = [z.contiguous().expand(*x.shape[:2], z.shape[-1]) for z in masks.zoneout]
            self.zoneout = tuple(whole)
            self.zone_steps = tuple(step for z in whole for step in z.stride()[:2])

    def _plan(self, divide: Callable[[plans.Job, Chip], Plan]) -> Plan:
        s = self.shape
        beside = s.NL + (self.projection is not None)
        sizes = (max(self.H, self.P), self.batch, self.x.element_size())
        return divide(plans.Job(*sizes, len(s.FED), s.NW + s.NH, beside), chip(self.x.device))

    @property
    def sums(self) -> int:
        s = self.shape
        return s.NX + s.NW + s.NH + s.NL

    def widths(self) -> list[int]:
        return [self.P, *[self.H] * (self.shape.STATES - 1)]

    def constants(self) -> dict[str, Any]:
        """What both loops are compiled for."""
        s, plan = self.shape, self.plan
        widths = self.widths()
        starts = [sum(widths[k] for k in s.FED[:f]) for f in range(len(s.FED))]
        counts = {name: getattr(s, name) for name in ("NX", "NW", "NH", "NL", "STATES", "PARAMS", "SAVED")}
        return dict(
            **counts,
            **plan.blocks(),
            FED=s.FED,
            FEDS=len(s.FED),
            FROM=tuple(starts),
            F=self.F,
            H=self.H,
            P=self.P,
            WIDTHS=tuple(widths),
            REVERSE=self.job.reverse,
            DT=DTYPES[self.x.dtype],
            PRECISION=precision(),
            num_warps=plan.warps,
        )

    def launches(self) -> Iterator[tuple[int, tuple[int, int], Tensor]]:
        """For each launch its first sequence, its grid, and the counters that its slices meet by."""
        per_launch = self.plan.tiles * self.plan.BT
        for first in range(0, self.batch if self.steps else 0, max(per_launch, 1)):
            tiles = min(self.plan.tiles, -(-(self.batch - first) // self.plan.BT))
            counters = torch.zeros(tiles, dtype=torch.int32, device=self.x.device)
            yield first, (tiles, self.plan.SLICES), counters

    def places(self) -> Tensor | None:
        """Where slices tell each other two numbers of each sequence."""
        if self.gain is None or self.plan.SLICES == 1:
            return None
        return self.x.new_empty(self.plan.SLICES, self.batch, 2, dtype=torch.float32)

    def history(self, tape: Mapping[str, Tensor], k: int) -> Tensor:
        return tape[f"state {k}"]


@cache
def chip(device: torch.device) -> Chip:
    given = torch.cuda.get_device_properties(device)
    return Chip(given.multi_processor_count, given.shared_memory_per_block_optin)


def precision() -> str:
    """How float32 numbers are multiplied: as torch is told to, in one part (TF32) or in three."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def _rows(of: Tensor, gates: tuple[int, ...], H: int) -> Tensor:
    """The rows of some gates, in their order."""
    if gates == tuple(range(of.shape[0] // H)):
        return of.contiguous()
    chunks = of.split(H)
    return torch.cat([chunks[g] for g in gates]) if gates else of[:0]


def _input_sums(call: _Call) -> Tensor:
    """T×B×(sums with an input part)·H, normalised where that is asked for; biases come later."""
    x = call.x
    if call.lengths is not None:  # or a NaN in the padding would reach the weights' gradient
        x = torch.where(call.valid[..., None], x, 0)
    gx = linear(x, _rows(call.w["input"], call.shape.of_input, call.H))
    if (gain := call.w["norm_input"]) is not None:
        gain = _rows(gain, call.shape.of_input, call.H)
        gx = layer_norm(gx, gain.shape, gain, None, NORM_EPSILON)
    return gx.contiguous()


def _biases(call: _Call) -> Tensor:
    """(sums)·H in float32: each part's own, both for a whole gate."""
    total = torch.zeros(call.sums, call.H, dtype=torch.float32, device=call.x.device)
    for name, first, gates in (
        ("input_bias", 0, call.shape.of_input),
        ("recurrent_bias", call.shape.NX, call.shape.of_state),
    ):
        bias = call.w[name]
        if bias is not None and gates:
            total[first : first + len(gates)] += _rows(bias, gates, call.H).view(-1, call.H)
    return total


def _kept(call: _Call) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What training keeps beside the output, by name: shape and type."""
    T, B, H, s = call.steps, call.batch, call.H, call.shape
    like = call.x.dtype
    parts: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for k, width in enumerate(call.widths()):
        if k == 0 or s.uses[k] or k in s.FED:
            parts[f"state {k}"] = (T + 1, B, width), like if k == 0 else torch.float32
    parts["saved"] = (T, B, s.SAVED * H), torch.float32
    if s.NL:
        parts["late"] = (T, B, H), like
    if call.projection is not None:
        parts["unprojected"] = (T, B, H), like
    if call.gain is not None:
        parts["normal"] = (T, B, len(s.of_state) * H), torch.float32
        parts["scales"] = (T, B), torch.float32
    return parts


_ALIGNED = 256


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    number = 1
    for n in shape:
        number *= n
    return -(-number * dtype.itemsize // _ALIGNED) * _ALIGNED


def _views(call: _Call, tape: Tensor) -> dict[str, Tensor]:
    """A tape's parts, each as the tensor that it is."""
    views, at = {}, 0
    for name, (shape, dtype) in _kept(call).items():
        number = 1
        for n in shape:
            number *= n
        flat = tape[at : at + number * dtype.itemsize].view(dtype)
        views[name] = flat.view(shape)
        at += _size(shape, dtype)
    return views


def forward(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
    taped: bool = False,
    traced: bool = False,
) -> tuple[list[Tensor], Tensor | None, dict[str, Tensor]]:
    """The output and each state at its end; the tape; every named value, T×B×(its width)."""
    call = _Call(job, x, state, weights, masks, plans.forward)
    tape = None
    views: dict[str, Tensor] = {}
    if taped:
        size = sum(_size(*part) for part in _kept(call).values())
        # beyond a sequence's length nothing is written, and all of it goes into the large products
        make = torch.empty if call.lengths is None else torch.zeros
        tape = make(size, dtype=torch.uint8, device=x.device)
        views = _views(call, tape)
    s, plan, T, B = call.shape, call.plan, call.steps, call.batch
    hist, store, ring = [], [], []
    final = []
    for k, width in enumerate(call.widths()):
        dtype = x.dtype if k == 0 else torch.float32
        initial = state[k].to(dtype)
        whole = views.get(f"state {k}")
        needed = k == 0 or traced or (plan.SLICES > 1 and k in s.FED)
        ring.append(whole is None and needed and k > 0 and not traced)
        if whole is None and needed:
            make = torch.empty if call.lengths is None else torch.zeros
            whole = make(2 if ring[k] else T + 1, B, width, dtype=dtype, device=x.device)
        store.append(whole is not None)
        if whole is not None:
            _start(call, whole, initial, ring[k])
        hist.append(whole)
        final.append(initial.clone(memory_format=torch.contiguous_format))
    initial = [f.clone() for f in final]
    hist = [f if h is None else h for h, f in zip(hist, final, strict=True)]
    values = None
    if traced:
        make = torch.empty if call.lengths is None else torch.zeros
        values = make(T, B, s.values * call.H, dtype=torch.float32, device=x.device)
    late, unprojected = views.get("late"), views.get("unprojected")
    if plan.SLICES > 1:  # the slices exchange these too
        if s.NL and late is None:
            late = x.new_empty(T, B, call.H)
        if call.projection is not None and unprojected is None:
            unprojected = x.new_empty(T, B, call.H)
    gx, bias, place = _input_sums(call), _biases(call), call.places()
    own = functions(call.cell)
    for first, grid, counters in call.launches():
        loops.forward[grid](
            *(gx, bias, call.recurrent, call.projection, call.gain, call.params, tuple(initial)),
            *(tuple(hist), tuple(final), views.get("saved"), late, unprojected, views.get("normal")),
            *(views.get("scales"), values, call.lengths, call.order, call.reset, call.factor),
            *(call.zoneout, call.zone_steps, place, counters, T, B, first, NORM_EPSILON),
            STEP=own.step,
            EARLY=own.early,
            VALUES=s.values,
            STORE=tuple(store),
            RING=tuple(ring),
            **call.constants(),
            SIDE=plan.SIDE,
            **_cooperative(plan),
        )
    output = _through_time(call, hist[0])
    trace: dict[str, Tensor] = {}
    if values is not None:
        each = values.view(T, B, s.values, call.H).unbind(2)
        trace = dict(zip(call.cell.values, each, strict=True))
        for k, name in enumerate(call.cell.state):
            trace[name] = _through_time(call, hist[k])
        trace = {name: value.to(x.dtype) for name, value in trace.items()}
    return [output, *(f.to(x.dtype) for f in final)], tape, trace


def _start(call: _Call, history: Tensor, initial: Tensor, ring: bool) -> None:
    """Puts the initial state where each sequence's first step looks for it."""
    if not call.job.reverse:
        history[0] = initial
    elif call.lengths is None:
        history[call.steps % 2 if ring else call.steps] = initial
    else:
        places = call.lengths % 2 if ring else call.lengths
        history[places, torch.arange(call.batch, device=initial.device)] = initial


def _through_time(call: _Call, history: Tensor) -> Tensor:
    """The states after each step, zero beyond a sequence's length."""
    if not call.job.reverse:
        return history[1:]
    if call.lengths is None:
        return history[:-1]
    return torch.where(call.valid[..., None], history[:-1], 0)  # initial states stand at the lengths


def _cooperative(plan: Plan) -> dict[str, bool]:
    """Programs that wait for each other must all run at once, which such a launch sees to."""
    return {"launch_cooperative_grid": True} if plan.SLICES > 1 else {}


def backward(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
    tape: Tensor,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None where not ``wanted``."""
    call = _Call(job, x, state, weights, masks, plans.backward)
    views = _views(call, tape)
    s, plan, T, B, H = call.shape, call.plan, call.steps, call.batch, call.H
    like = dict(device=x.device)
    make = torch.empty if call.lengths is None else torch.zeros
    da = make(T, B, call.sums * H, dtype=x.dtype, **like)
    normal, projected = None, None
    if call.gain is not None:
        normal = make(T, B, len(s.of_state) * H, dtype=x.dtype, **like)
    if call.projection is not None:
        projected = make(T, B, call.P, dtype=x.dtype, **like)
    final = [
        torch.zeros_like(one) if g is None else g.contiguous()
        for g, one in zip(grads[1:], state, strict=True)
    ]
    initial = [torch.empty(B, w, dtype=torch.float32, **like) for w in call.widths()]
    tiles = -(-B // plan.BT)
    of_params = [torch.zeros(tiles, H, dtype=torch.float32, **like) for _ in call.params]
    hist = [views.get(f"state {k}", initial[k]) for k in range(s.STATES)]
    output = None if grads[0] is None else grads[0].contiguous()
    own, place = functions(call.cell), call.places()
    for first, grid, counters in call.launches():
        loops.backward[grid](
            *(call.recurrent, call.projection, call.gain, call.params, tuple(hist), views["saved"]),
            *(views.get("normal"), views.get("scales"), output, tuple(final), da, normal, projected),
            *(tuple(initial), tuple(of_params), call.lengths, call.order, call.reset, call.factor),
            *(call.zoneout, call.zone_steps, place, counters, T, B, first),
            BACK=own.back,
            BACK_LATE=own.back_late,
            USES=s.uses,
            **call.constants(),
            **_cooperative(plan),
        )
    if not T:
        initial = final
    return _products(call, views, da, normal, projected, initial, of_params, wanted)


def _products(
    call: _Call,
    views: Mapping[str, Tensor],
    da: Tensor,
    normal: Tensor | None,
    projected: Tensor | None,
    initial: Sequence[Tensor],
    of_params: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """From the gradients of every step's sums to those of what the call was given."""
    s, H, x, w = call.shape, call.H, call.x, call.w
    of_x = da[..., : len(s.of_input) * H]
    of_state = da[..., s.NX * H :]
    if call.lengths is not None:
        x = torch.where(call.valid[..., None], x, 0)
    want = dict(zip(("x", *(f"s{k}" for k in range(s.STATES)), *w), wanted, strict=False))
    rows = _rows(w["input"], s.of_input, H)
    found: dict[str, Tensor | None] = {}
    inner = of_x
    if w["norm_input"] is not None:
        inner, found["norm_input"] = _before_norm(of_x, linear(x, rows), _rows(w["norm_input"], s.of_input, H))
    if want["x"]:
        found["x"] = _flat(inner) @ rows
        found["x"] = found["x"].view(x.shape)
    if want["input"]:
        found["input"] = _flat(inner).T @ _flat(x)
    if want["input_bias"] and w["input_bias"] is not None:
        found["input_bias"] = _over_steps(of_x)
    if want["recurrent_bias"] and w["recurrent_bias"] is not None:
        found["recurrent_bias"] = _over_steps(of_state)
    into = of_state if normal is None else normal
    if want["recurrent"]:
        found["recurrent"] = _of_recurrent(call, views, into)
    if want["gain"] and call.gain is not None:
        found["gain"] = (of_state.float() * views["normal"]).sum((0, 1))
    if want["projection"] and projected is not None:
        found["projection"] = _flat(projected).T @ _flat(views["unprojected"])
    for name in ("input", "input_bias", "norm_input"):
        found[name] = _in_gates(call, found.get(name), s.of_input, w[name])
    for name in ("recurrent", "recurrent_bias", "gain"):
        found[name] = _in_gates(call, found.get(name), s.of_state, w[name])
    results = [found.get("x"), *initial, *(found.get(name) for name in w), *(p.sum(0) for p in of_params)]
    inputs = [call.x, *call.state, *w.values(), *call.params]
    return [
        None if r is None or not asked else r.to(given.dtype)
        for r, asked, given in zip(results, wanted, inputs, strict=True)
    ]


def _flat(of: Tensor) -> Tensor:
    return of.flatten(0, 1)


def _over_steps(of: Tensor) -> Tensor:
    return of.sum((0, 1), dtype=torch.float32)


def _of_recurrent(call: _Call, views: Mapping[str, Tensor], into: Tensor) -> Tensor:
    """(sums with a recurrent part)·H×F: each step's gradients by what was fed back to it."""
    s, H = call.shape, call.H
    early = (s.NW + s.NH) * H
    parts = []
    for k in s.FED:
        before = views[f"state {k}"]
        before = before[1:] if call.job.reverse else before[:-1]
        parts.append(before.to(call.x.dtype))
    fed = parts[0] if len(parts) == 1 else torch.cat(parts, -1) if parts else call.x.new_empty(*call.x.shape[:2], 0)
    if call.reset is not None:
        fed = torch.where(call.reset[..., None] != 0, 0, fed)
    if call.factor is not None:
        fed = (fed * call.factor).to(fed.dtype)
    found = _flat(into[..., :early]).T @ _flat(fed)
    if s.NL:
        found = torch.cat([found, _flat(into[..., early:]).T @ _flat(views["late"])])
    return found


def _in_gates(call: _Call, found: Tensor | None, gates: tuple[int, ...], weight: Tensor | None) -> Tensor | None:
    """Rows in the order of sums brought to that of gates; zero where a gate has none."""
    if found is None or weight is None or gates == tuple(range(len(call.cell.gates))):
        return found
    whole = found.new_zeros(weight.shape)
    for place, g in enumerate(gates):
        whole[g * call.H : (g + 1) * call.H] = found[place * call.H : (place + 1) * call.H]
    return whole


def _before_norm(grads: Tensor, product: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of gain * n(product) to those of the product and of the gain."""
    product, scaled = product.float(), grads.float() * gain.float()
    centred = product - product.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + NORM_EPSILON).sqrt()
    n = centred / deviation
    along = (scaled * n).mean(-1, keepdim=True)
    back = (scaled - scaled.mean(-1, keepdim=True) - n * along) / deviation
    return back.to(grads.dtype), (grads.float() * n).sum((0, 1))
