"""The mLSTM: an LSTM with a matrix for its memory and no recurrent weights (Beck et al. 2024,
"xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, equations 19 to 27).

Nothing of a step but its memory waits for the step before, so that a sequence can be worked out
many steps at once. There are two forms of the same mathematics: :func:`recurrent`, a step at a time,
is the specification; :func:`chunkwise`, with matrix products over a chunk of steps, is for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import check_tensor, valid_steps
from gatewise.backends.tracing import check_unrecorded
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype, cast
from gatewise.nn.checks import check_input, checked_size
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.overrides import by_override
from gatewise.nn.sequences import as_time_major, check_width
from gatewise.nn.trace import Trace
from gatewise.options import choice, flag, whole

# The logarithm of the forget gate of its pre-activation (equation 26).
_LOG_FORGET: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": F.logsigmoid,
    "exp": lambda pre: pre,
}


class MLSTMState(NamedTuple):
    """What the mLSTM remembers. The paper's memory and normaliser are exp(m) C and exp(m) n.

    C: B×heads×d×d, the matrix memory, a row for each component of a value v and a column for each
    of a key k. n: B×heads×d, the normaliser. m: B×heads, the stabiliser. d is hidden_size / heads.
    """

    C: Tensor
    n: Tensor
    m: Tensor


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, state: MLSTMState
) -> tuple[Tensor, MLSTMState]:
    """Equations 19 to 21, stabilised by equations 15 to 17: the specification.

    Args:
        q, k, v: B×heads×T×d, queries, keys and values.
        i: B×heads×T, the logarithm of the input gate, -inf to let nothing in.
        log_f: B×heads×T, the logarithm of the forget gate.
        state: what is remembered before the first step.

    Returns:
        B×heads×T×d, what is read before the output gate, and the state after the last step.
    """
    C, n, m = state
    q, scale = _scaled(q)
    read = []
    for t in range(q.shape[-2]):
        log_kept = log_f[..., t] + m
        m = torch.maximum(log_kept, i[..., t])
        kept, let_in = torch.exp(log_kept - m)[..., None], torch.exp(i[..., t] - m)[..., None]
        k_in = let_in * k[..., t, :]
        C = kept[..., None] * C + v[..., t, :, None] * k_in[..., None, :]
        n = kept * n + k_in
        q_t = q[..., t, :, None]
        read.append(
            _normalised((C @ q_t)[..., 0], (n[..., None, :] @ q_t)[..., 0], m, scale[..., t, :])
        )
    return torch.stack(read, -2) if read else torch.zeros_like(v), MLSTMState(C, n, m)


def chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, state: MLSTMState, chunk: int
) -> tuple[Tensor, MLSTMState]:
    """The same for chunks of ``chunk`` steps: within a chunk each step looks back at all those before
    it, as attention does, and what is older it reads from the memory at the chunk's beginning.

    Only that memory is carried from chunk to chunk; all else is done for all of them at once. Takes
    and returns what :func:`recurrent` does, with T from 1 on.
    """
    steps = q.shape[-2]
    q, k, v, i, log_f = _in_chunks((q, k, v, i, log_f), chunk)
    q, scale = _scaled(q)
    # the normaliser is the memory of a value that is always 1 (equation 20 beside 19)
    v = F.pad(v, (0, 1), value=1.0)
    within = _log_weights(i, log_f)
    log_decay = log_f.cumsum(-1)
    m = _stabiliser_at_edges(log_decay[..., -1], within[..., -1, :].amax(-1), state.m)
    memory = _memory_at_edges(k, v, within[..., -1, :], log_decay[..., -1], m, state)

    log_kept = log_decay + m[..., :-1, None]
    m_t = torch.maximum(log_kept, within.amax(-1))
    scores = q @ k.mT * torch.exp(within - m_t[..., None])
    older = torch.exp(log_kept - m_t)[..., None] * (q @ memory[..., :-1, :, :].mT)
    found = scores @ v + older
    read = _normalised(found[..., :-1], found[..., -1:], m_t, scale)
    C, n = memory[..., -1, :-1, :], memory[..., -1, -1, :]
    return read.flatten(-3, -2)[..., :steps, :], MLSTMState(C, n, m[..., -1])


def _scaled(q: Tensor) -> tuple[Tensor, Tensor]:
    """The queries with no component above 1, and the power of two by which each was multiplied: what is
    read is of third order in a large input, and would be infinite long before its quotient is."""
    largest = q.detach().abs().amax(-1, keepdim=True).clamp(min=1)
    scale = torch.exp2(-largest.log2().ceil())
    return q * scale, scale


def _normalised(read: Tensor, normaliser: Tensor, m: Tensor, scale: Tensor) -> Tensor:
    """Equation 21's quotient; its max{|n q|, 1} has been divided by exp(m) like C and n, and multiplied
    by the queries' scale."""
    # exp(-m) may be too small for a number, and 0 / 0 is not what the paper's 0 / 1 is, or too large
    far = -math.log(torch.finfo(m.dtype).tiny) / 2
    return read / torch.maximum(
        normaliser.abs(), scale * torch.exp((-m).clamp(-far, far))[..., None]
    )


def _in_chunks(parts: Sequence[Tensor], chunk: int) -> list[Tensor]:
    """…×T×… as …×chunks×steps×…, filled up with steps that keep all (log f = 0) and let in nothing."""
    q, k, v, i, log_f = parts
    missing = -i.shape[-1] % chunk
    vectors = [F.pad(part, (0, 0, 0, missing)) for part in (q, k, v)]
    gates = [F.pad(i, (0, missing), value=-torch.inf), F.pad(log_f, (0, missing))]
    split = (-1, chunk)
    return [each.unflatten(-2, split) for each in vectors] + [g.unflatten(-1, split) for g in gates]


def _log_weights(i: Tensor, log_f: Tensor) -> Tensor:
    """…×steps×steps: the logarithm of what is left at step t of what step s let in, f_t … f_{s+1} i_s.

    Each is summed by itself: the difference of two long sums would lose the digits of a short one.
    """
    steps = i.shape[-1]
    by_now = torch.ones(steps, steps, dtype=torch.bool, device=i.device).tril()
    decay = torch.where(by_now.tril(-1), log_f[..., None], 0).cumsum(-2)
    return torch.where(by_now, decay + i[..., None, :], -torch.inf)


def _stabiliser_at_edges(log_decay: Tensor, log_in: Tensor, m: Tensor) -> Tensor:
    """B×heads×(chunks + 1): equation 15 over a chunk at once, of each chunk's whole decay and of the
    largest that it let in."""
    edges = [m]
    for decay, let_in in zip(log_decay.unbind(-1), log_in.unbind(-1), strict=True):
        edges.append(torch.maximum(decay + edges[-1], let_in))
    return torch.stack(edges, -1)


def _memory_at_edges(
    k: Tensor, v: Tensor, log_in: Tensor, log_decay: Tensor, m: Tensor, state: MLSTMState
) -> Tensor:
    """B×heads×(chunks + 1)×(d + 1)×d: C, and n below it, at every chunk's beginning and the end."""
    let_in = torch.exp(log_in - m[..., 1:, None])[..., None]
    learned = (let_in * v).mT @ k
    kept = torch.exp(log_decay + m[..., :-1] - m[..., 1:])[..., None, None]
    edges = [torch.cat([state.C, state.n[..., None, :]], -2)]
    for old, new in zip(kept.unbind(-3), learned.unbind(-3), strict=True):
        edges.append(torch.addcmul(new, old, edges[-1]))
    return torch.stack(edges, -3)


def _real(value: Tensor, valid: Tensor | None) -> Tensor:
    """T×B×…, zero beyond the lengths."""
    return value if valid is None else torch.where(valid, value, 0)


class MLSTM(nn.Module):
    """A layer of mLSTM cells: matrix memory, exponential input gate, no recurrent weights.

    Each head has a memory of its own, d×d with d = hidden_size / heads, one input gate and one forget
    gate. ``weight`` (4·H + 2·heads)×I and ``bias`` hold the rows of W_q, W_k, W_v and W_o (equations
    22 to 24 and 27; a head's d rows are next to each other), then those of w_i and w_f (25 and 26).

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the width of the output, a multiple of ``heads``.
        heads: how many memories there are.
        batch_first: input and output are B×T×… instead of T×B×…; the state is not affected.
        chunk: how many steps are worked out at once. Time grows with it within a chunk, and with
            the number of chunks; the result is the same.
        bias: whether there is one.
        forget: "sigmoid" or "exp", the forget gate's function (equation 26).

    The memory is in single precision at least, whatever the layer is in: ``m`` counts in hundreds.

    Raises:
        OptionError: an argument is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        heads: int = 1,
        batch_first: bool = False,
        chunk: int = 64,
        bias: bool = True,
        *,
        forget: str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size = checked_size("input_size", input_size)
        self.hidden_size = self.output_size = hidden_size = checked_size("hidden_size", hidden_size)
        self.heads = heads = whole("heads", heads)
        self.batch_first = flag("batch_first", batch_first)
        self.chunk = whole("chunk", chunk)
        self.forget = choice("forget", forget, _LOG_FORGET)
        biased = flag("bias", bias)
        if hidden_size % heads:
            raise OptionError(
                f"hidden_size={hidden_size} is not a multiple of heads={heads}: each head has an "
                f"equal share of it"
            )
        rows = 4 * hidden_size + 2 * heads
        self.weight = nn.Parameter(torch.empty(rows, input_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if biased else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors' rows from U(-1/√H, 1/√H). As in the paper's own code the gates i and f
        begin without regard to the input, with biases from N(0, 0.1) and evenly from 3 to 6."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        gates = 4 * self.hidden_size
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.weight[gates:])
        if self.bias is None:
            return
        nn.init.uniform_(self.bias, -bound, bound)
        nn.init.normal_(self.bias[gates : gates + self.heads], std=0.1)
        with torch.no_grad():
            self.bias[gates + self.heads :] = torch.linspace(3.0, 6.0, self.heads)

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor, Tensor] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Run the layer over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if ``batch_first``), or T×I for a single sequence.
            hx: the initial C, n and m, with the shapes of :class:`MLSTMState` (no B for a single
                sequence). Zero if not given.
            lengths: B integers from 0 to T, in any order: how much of each sequence is real.
                What lies beyond is never looked at, the output there is zero, and the final state
                is that after the real part.
            reset: booleans T×B (B×T if ``batch_first``), or T: where the sequence starts afresh, from
                zero. What isn't a number before it is not forgotten.
            trace: also return every step's values but the memory.

        Returns:
            ``output, state``: T×B×H, laid out as the input was, and the final :class:`MLSTMState`; and a
            :class:`gatewise.Trace` where it was asked for. It has, of one layer and direction, ``q``,
            ``k``, ``v``, the output gate ``o``, what was ``read`` from the memory before it, and the
            output ``h``, all B×T×H; and B×T×heads the forget gate ``f`` and the logarithm of the input
            gate, ``log_i`` (the gate itself has no bound).

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(MLSTM.forward, self, input, hx, **asked)
        check_unrecorded("an MLSTM")
        if (dtype := autocast_dtype(input)) is None:
            return self._forward(input, self.weight, self.bias, hx, lengths, reset, trace)
        with torch.autocast(input.device.type, enabled=False):  # exponents are no matter of 8 bits
            bias = None if self.bias is None else cast(self.bias, dtype)
            weight = cast(self.weight, dtype)
            return self._forward(cast(input, dtype), weight, bias, hx, lengths, reset, trace)

    def _forward(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        hx: tuple[Tensor, Tensor, Tensor] | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        trace: bool,
    ) -> Any:
        check_width(input, self.input_size, layer="MLSTM")
        x = as_time_major(input, self.batch_first)
        check_input(x, weight)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input, not self.batch_first)
        state = self._initial_state(hx, x, batched=input.dim() == 3)
        valid = None if given is None else valid_steps(len(x), given)[..., None]
        values, state = self._run(x, weight, bias, state, valid, resets)
        output = _real(values["h"], valid)
        if input.dim() == 2:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(0, 1)
        # tensors of their own: in the memory at the chunks' edges, or what was given
        own = state if input.dim() == 3 else MLSTMState(*(s.squeeze(0) for s in state))
        state = MLSTMState(*(s.clone() for s in own))
        if not trace:
            return output, state
        real = {name: _real(value, valid).transpose(0, 1) for name, value in values.items()}
        return output, state, Trace({name: [[value]] for name, value in real.items()}, given)

    def _run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: MLSTMState,
        valid: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[dict[str, Tensor], MLSTMState]:
        """Every value of :meth:`forward`'s trace, each T×B×…, and the final state."""
        x = _real(x, valid)  # a NaN in the padding would reach the weight's gradient
        q, k, v, o, i, f = self._projections(x, weight, bias)
        i, log_f = i.to(state.m.dtype), _LOG_FORGET[self.forget](f.to(state.m.dtype))
        if reset is not None:  # nothing before the step is kept
            log_f = log_f.masked_fill(reset[..., None], -torch.inf)
        values = dict(q=q, k=k, v=v, o=torch.sigmoid(o), f=log_f.exp(), log_i=i)
        if valid is not None:
            i, log_f = torch.where(valid, i, -torch.inf), torch.where(valid, log_f, 0)
        q, k, v = (self._by_head(each.to(state.m.dtype)) for each in (q, k, v))
        i, log_f = i.permute(1, 2, 0), log_f.permute(1, 2, 0)
        if len(x) <= 1:
            read, state = recurrent(q, k, v, i, log_f, state)
        else:
            read, state = chunkwise(q, k, v, i, log_f, state, min(self.chunk, len(x)))
        values["read"] = read.permute(2, 0, 1, 3).flatten(-2).to(o.dtype)
        values["h"] = values["o"] * values["read"]
        return values, state

    def _projections(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        """Equations 22 to 27 before their gates: q, k, v and o, each T×B×H; i and f, T×B×heads."""
        sizes = [self.hidden_size] * 4 + [self.heads] * 2
        q, k, v, o, i, f = F.linear(x, weight).split(sizes, -1)
        k = k / math.sqrt(self.hidden_size // self.heads)  # its bias is not divided: equation 23
        if bias is None:
            return q, k, v, o, i, f
        pairs = zip((q, k, v, o, i, f), bias.split(sizes), strict=True)
        return tuple(product + rows for product, rows in pairs)

    def _by_head(self, vectors: Tensor) -> Tensor:
        """T×B×H as B×heads×T×d."""
        return vectors.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)

    def _initial_state(
        self, hx: tuple[Tensor, Tensor, Tensor] | None, x: Tensor, batched: bool
    ) -> MLSTMState:
        d, dtype = self.hidden_size // self.heads, torch.promote_types(x.dtype, torch.float32)
        each = [(self.heads, d, d), (self.heads, d), (self.heads,)]
        if hx is None:
            return MLSTMState(*(x.new_zeros(x.shape[1], *shape, dtype=dtype) for shape in each))
        if not isinstance(hx, tuple | list) or len(hx) != len(each):
            many = f" of {len(hx)}" if isinstance(hx, tuple | list) else ""
            raise ShapeError(
                f"hx is a {type(hx).__name__}{many}, expected the three of MLSTMState: C, n and m"
            )
        like = x.new_empty((), dtype=dtype)
        for name, given, shape in zip(MLSTMState._fields, hx, each, strict=True):
            expected = (x.shape[1], *shape) if batched else shape
            check_tensor(f"the initial {name}", given, expected, like, "the layer's memory")
        return MLSTMState(*hx) if batched else MLSTMState(*(s.unsqueeze(0) for s in hx))

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}, heads={self.heads}"]
        defaults = dict(batch_first=False, chunk=64, forget="sigmoid")
        shown += [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join(shown if self.bias is not None else [*shown, "bias=False"])
