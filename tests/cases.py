"""What a backend is given and what must come out of it: fixed arguments, options, comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from gatewise.backends.contract import NAMED_WEIGHTS, Masks, Spec, Weights
from gatewise.backends.engine import Arguments
from gatewise.cells.language import topological

ALL = dict(reset=True, layer_norm=True, recurrent_dropout=True, zoneout=True)


@dataclass
class Case:
    """A backend's arguments, with every differentiable one by name.

    ``dtype`` is what the loss's gradients are rounded to, whatever the case is computed in.
    """

    spec: Spec
    tensors: dict[str, torch.Tensor]
    masks: Masks
    dtype: torch.dtype = field(default=torch.float64)

    def arguments(self, *values):
        given = dict(zip(self.tensors, values or self.tensors.values(), strict=True))
        cell = self.spec.cell
        state = tuple(given["0" + name] for name in cell.state)
        per_unit = {name: given[name] for name in cell.params}
        return given["x"], state, Weights(*map(given.get, NAMED_WEIGHTS), per_unit), self.masks

    def asked(self, *values):
        """The same as an engine is given it."""
        x, state, weights, masks = self.arguments(*values)
        return Arguments(self.spec.cell, self.spec.reverse, x, state, weights, masks)

    def forward(self, backend, *values):
        """Output and final states of ``backend``, as a function of every tensor."""
        outcome = backend.forward(self.spec, *self.arguments(*values))
        return outcome.output, *outcome.state

    def leaves(self):
        """Every tensor anew, laid out as it is."""
        return [v.detach().requires_grad_() for v in self.tensors.values()]

    def seeds(self, out):
        """One fixed gradient for each result."""
        generator = torch.Generator().manual_seed(7)
        drawn = [torch.randn(o.shape, generator=generator, dtype=torch.float64) for o in out]
        return [seed.to(self.dtype).to(o) for seed, o in zip(drawn, out, strict=True)]

    def gradients(self, backend):
        """What comes out, and the gradient of every tensor for one fixed loss."""
        leaves = self.leaves()
        out = self.forward(backend, *leaves)
        pairs = [(o, seed) for o, seed in zip(out, self.seeds(out), strict=True) if o.requires_grad]
        ends, seeds = zip(*pairs, strict=True)
        grads = torch.autograd.grad(ends, leaves, seeds, allow_unused=True, materialize_grads=True)
        return [o.detach() for o in out], dict(zip(self.tensors, grads, strict=True))

    def in_double(self):
        """The same numbers, computed in double precision."""
        masks = self.masks
        doubled = masks._replace(
            recurrent=None if masks.recurrent is None else masks.recurrent.double(),
            zoneout=masks.zoneout and tuple(share.double() for share in masks.zoneout),
        )
        tensors = {name: value.double() for name, value in self.tensors.items()}
        spec = replace(self.spec, dtype=torch.float64)
        return replace(self, spec=spec, tensors=tensors, masks=doubled)

    def nearby(self, seed):
        """In double precision, with every number moved by no more than a rounding in ``dtype``."""
        generator, exact = torch.Generator().manual_seed(seed), self.in_double()
        moved = {}
        for name, value in exact.tensors.items():
            by = torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5
            moved[name] = value * (1 + torch.finfo(self.dtype).eps * by)
        return replace(exact, tensors=moved)


def case(
    cell,
    T=4,
    B=3,
    inputs=2,
    H=3,
    P=0,
    reverse=False,
    bias=True,
    lengths=None,
    dtype=torch.float64,
    reset=False,
    layer_norm=False,
    recurrent_dropout=False,
    zoneout=False,
    seed=3,
):
    """Fixed random arguments. ``zoneout``: True, or the two leading sizes that the shares have;
    they are fractions, so that the old value and the candidate are both in every result. ``reset``:
    True for some steps, or "all" of them. Weights shrink as layers grow: gates stay open."""
    kinds = dict(reset=reset, recurrent=recurrent_dropout, zoneout=zoneout)
    spec = Spec(
        cell=cell,
        input_size=inputs,
        hidden_size=H,
        proj_size=P,
        reverse=reverse,
        dtype=dtype,
        layer_norm=layer_norm,
        masks=tuple(kind for kind, there in kinds.items() if there),
    )
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def draw(*shape, over=1):
        return ((uniform(*shape) * 1.6 - 0.8) * min(1, 2 / over**0.5)).to(dtype)

    G = len(cell.gates) * H
    fed = sum(spec.state_size(cell.state.index(name)) for name in cell.feedback)
    tensors = {"x": 2 * draw(T, B, inputs)}
    tensors |= {"0" + name: draw(B, spec.state_size(k)) for k, name in enumerate(cell.state)}
    tensors |= {"input": draw(G, inputs, over=inputs), "recurrent": draw(G, fed, over=max(fed, 1))}
    tensors |= {"input_bias": draw(G), "recurrent_bias": draw(G)} if bias else {}
    tensors |= {"projection": draw(P, H, over=H)} if P else {}
    tensors |= {"norm_input": 1 + draw(G), "norm_recurrent": 1 + draw(G)} if layer_norm else {}
    tensors |= {name: draw(H) for name in cell.params}
    leading = (T, B) if zoneout is True else zoneout
    sizes = [spec.state_size(k) for k in range(len(cell.state))]
    masks = Masks(
        None if lengths is None else torch.tensor(lengths, dtype=torch.int64),
        uniform(T, B) < (2 if reset == "all" else 0.4) if reset else None,
        ((uniform(B, fed) < 0.6) / 0.6).to(dtype) if recurrent_dropout else None,
        tuple(uniform(*leading, size).to(dtype) for size in sizes) if zoneout else None,
    )
    return Case(spec, tensors, masks, dtype)


def uses_every_part(cell):
    """Whether each gate's input part and recurrent part are used: else none may be normalised."""
    used = {(v.op, v.name) for v in topological(cell.values.values())}
    return all(("gate", g) in used or {("gate.x", g), ("gate.h", g)} <= used for g in cell.gates)


def assert_within(found, expected, tolerance, beside=(), most=math.inf):
    """Every number within ``tolerance`` of the largest of its tensor, or of a thousandth if that is
    less (what should be zero may be rounding alone): results and gradients. Where a run of ``beside``
    is further off in a tensor, this one may be off by twice as much, at ``most`` by this share of the
    largest."""
    found, expected = _by_name(*found), _by_name(*expected)
    others = [_by_name(*run) for run in beside]
    assert found.keys() == expected.keys()
    for what, true in expected.items():
        assert found[what].shape == true.shape, what
        if true.numel():
            wrong = (found[what].double() - true).abs().max()
            largest = true.abs().max().clamp(min=1e-3)
            allowed = tolerance * largest
            for other in others:
                off = 2 * (other[what].double() - true).abs().max()
                allowed = torch.maximum(allowed, off.clamp(max=most * largest))
            assert wrong <= allowed, f"{what}: {wrong:.2g} of {largest:.2g}"  # a NaN is not


def _by_name(results, gradients):
    return {f"result {k}": value for k, value in enumerate(results)} | {
        f"gradient of {name}": value for name, value in gradients.items()
    }


def part(masks, steps, b):
    """The masks of some steps of one sequence, all of them real."""
    reset, zoneout = masks.reset, masks.zoneout
    return Masks(
        None,
        None if reset is None else reset[steps, b : b + 1],
        None if masks.recurrent is None else masks.recurrent[b : b + 1],
        None if zoneout is None else tuple(share[steps, b : b + 1] for share in zoneout),
    )


def assert_alone_and_chunked_as_whole(backend, given, b, length, ends):
    """The same comes out for sequence ``b`` of a case by itself and in chunks as beside the others."""
    whole = given.forward(backend)
    alone, chunked = alone_and_chunked(backend, given, b, length, ends)
    for b_alone, b_chunked, w in zip(alone, chunked, whole, strict=True):
        of_whole = w[:length, b : b + 1] if w.dim() == 3 else w[b : b + 1]
        torch.testing.assert_close(b_alone, of_whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b_chunked, of_whole, rtol=1e-5, atol=1e-6)


def alone_and_chunked(backend, given, b, length, ends):
    """Sequence ``b`` of a case run by itself, and in chunks that end at ``ends``: two outcomes, each
    an output and the final states."""
    x, initial, weights, masks = given.arguments()
    start = tuple(s[b : b + 1] for s in initial)

    def run(steps, state):
        return backend.forward(
            given.spec, x[steps, b : b + 1], state, weights, part(masks, steps, b)
        )

    alone = run(slice(length), start)
    pieces, state = [], start
    cuts = [0, *(min(end, length) for end in ends), length]
    chunks = [slice(*pair) for pair in pairwise(cuts)]
    for chunk in reversed(chunks) if given.spec.reverse else chunks:
        outcome = run(chunk, state)
        pieces.append(outcome.output)
        state = outcome.state
    chunked = torch.cat(pieces[::-1] if given.spec.reverse else pieces)
    return (alone.output, *alone.state), (chunked, *state)
