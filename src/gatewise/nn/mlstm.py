"""The mLSTM: an LSTM whose memory is a matrix, without recurrent weights.

Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, equations 19 to 27. Only
the memory of a step depends on the previous step, so many steps can be computed at once. There are two
forms of the same mathematics. :func:`recurrent` computes one step after another; it is the
specification. :func:`chunkwise` uses matrix products over a chunk of steps; training uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
from gatewise.options import choice, flag, integer

if TYPE_CHECKING:
    from gatewise.nn.call_types import LayerCall
    from gatewise.nn.shapes import Float, Input, Lengths, Reset

# From the forget gate's pre-activation to the logarithm of the gate (equation 26).
_LOG_FORGET: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": F.logsigmoid,
    "exp": lambda pre: pre,
}


class MLSTMState(NamedTuple):
    """The state of an mLSTM. The paper's memory and normaliser are exp(m) C and exp(m) n.

    C: B×heads×d×d, the matrix memory; rows are the components of a value v, columns those of a key k.
    n: B×heads×d, the normaliser. m: B×heads, the stabiliser. d is hidden_size / heads.
    """

    C: Tensor
    n: Tensor
    m: Tensor


def recurrent(
    q: Float[Tensor, "B heads T d"],
    k: Float[Tensor, "B heads T d"],
    v: Float[Tensor, "B heads T d"],
    i: Float[Tensor, "B heads T"],
    log_f: Float[Tensor, "B heads T"],
    state: MLSTMState,
) -> tuple[Float[Tensor, "B heads T d"], MLSTMState]:
    """The specification: equations 19 to 21, stabilised by equations 15 to 17.

    Args:
        q, k, v: B×heads×T×d, queries, keys and values.
        i: B×heads×T, the logarithm of the input gate; -inf for a closed gate.
        log_f: B×heads×T, the logarithm of the forget gate.
        state: the state before the first step.

    Returns:
        The values read from the memory, B×heads×T×d, before the output gate; the state after the last
        step.
    """
    C, n, m = state
    q, scale = _scaled(q)
    read = []
    for t in range(q.shape[-2]):
        log_kept = log_f[..., t] + m
        m = torch.maximum(log_kept, i[..., t])
        f, input_gate = torch.exp(log_kept - m)[..., None], torch.exp(i[..., t] - m)[..., None]
        k_in = input_gate * k[..., t, :]
        C = f[..., None] * C + v[..., t, :, None] * k_in[..., None, :]
        n = f * n + k_in
        q_t = q[..., t, :, None]
        read.append(
            _normalised((C @ q_t)[..., 0], (n[..., None, :] @ q_t)[..., 0], m, scale[..., t, :])
        )
    return torch.stack(read, -2) if read else torch.zeros_like(v), MLSTMState(C, n, m)


def chunkwise(
    q: Float[Tensor, "B heads T d"],
    k: Float[Tensor, "B heads T d"],
    v: Float[Tensor, "B heads T d"],
    i: Float[Tensor, "B heads T"],
    log_f: Float[Tensor, "B heads T"],
    state: MLSTMState,
    chunk: int,
) -> tuple[Float[Tensor, "B heads T d"], MLSTMState]:
    """The result of :func:`recurrent`, computed in chunks of ``chunk`` steps. T must be positive.

    A step reads earlier steps of its chunk as attention does. It reads older steps from the memory at
    the start of the chunk. That memory passes from chunk to chunk; all other work is done for all
    chunks at once.
    """
    steps = q.shape[-2]
    q, k, v, i, log_f = _in_chunks((q, k, v, i, log_f), chunk)
    q, scale = _scaled(q)
    # the normaliser is the memory of a value that is always 1: compare equations 19 and 20
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
    """The queries, scaled to components of at most 1, and the scales, which are powers of two.

    The values read from the memory grow with the third power of the input. Without the scales they
    would overflow for inputs whose normalised value is still finite.
    """
    largest = q.detach().abs().amax(-1, keepdim=True).clamp(min=1)
    scale = torch.exp2(-largest.log2().ceil())
    return q * scale, scale


def _normalised(read: Tensor, normaliser: Tensor, m: Tensor, scale: Tensor) -> Tensor:
    """The quotient of equation 21. Its max{|n q|, 1} is divided by exp(m), as C and n are, and
    multiplied by the scale of the query."""
    # without the clamp exp(-m) could underflow, and give 0 / 0 for the paper's 0 / 1, or overflow
    far = -math.log(torch.finfo(m.dtype).tiny) / 2
    return read / torch.maximum(
        normaliser.abs(), scale * torch.exp((-m).clamp(-far, far))[..., None]
    )


def _in_chunks(parts: Sequence[Tensor], chunk: int) -> list[Tensor]:
    """…×T×… as …×chunks×steps×…, padded with steps that keep the memory (log f = 0, i = 0)."""
    q, k, v, i, log_f = parts
    missing = -i.shape[-1] % chunk
    vectors = [F.pad(part, (0, 0, 0, missing)) for part in (q, k, v)]
    gates = [F.pad(i, (0, missing), value=-torch.inf), F.pad(log_f, (0, missing))]
    split = (-1, chunk)
    return [each.unflatten(-2, split) for each in vectors] + [g.unflatten(-1, split) for g in gates]


def _log_weights(i: Tensor, log_f: Tensor) -> Tensor:
    """…×steps×steps: the logarithm of f_t … f_{s+1} i_s, the weight of step s at step t.

    Each is a sum of its own. The difference of two long sums would lose the digits of a short one.
    """
    steps = i.shape[-1]
    earlier = torch.ones(steps, steps, dtype=torch.bool, device=i.device).tril()
    decay = torch.where(earlier.tril(-1), log_f[..., None], 0).cumsum(-2)
    return torch.where(earlier, decay + i[..., None, :], -torch.inf)


def _stabiliser_at_edges(log_decay: Tensor, log_in: Tensor, m: Tensor) -> Tensor:
    """B×heads×(chunks + 1): the stabiliser at each chunk's start and at the end.

    It is equation 15 for a whole chunk: from the chunk's total decay and its largest input weight.
    """
    edges = [m]
    for decay, largest in zip(log_decay.unbind(-1), log_in.unbind(-1), strict=True):
        edges.append(torch.maximum(decay + edges[-1], largest))
    return torch.stack(edges, -1)


def _memory_at_edges(
    k: Tensor, v: Tensor, log_in: Tensor, log_decay: Tensor, m: Tensor, state: MLSTMState
) -> Tensor:
    """B×heads×(chunks + 1)×(d + 1)×d: C, with n as its last row, at each chunk's start and at the end."""
    input_weights = torch.exp(log_in - m[..., 1:, None])[..., None]
    added = (input_weights * v).mT @ k
    kept = torch.exp(log_decay + m[..., :-1] - m[..., 1:])[..., None, None]
    edges = [torch.cat([state.C, state.n[..., None, :]], -2)]
    for old, new in zip(kept.unbind(-3), added.unbind(-3), strict=True):
        edges.append(torch.addcmul(new, old, edges[-1]))
    return torch.stack(edges, -3)


def _without_padding(value: Tensor, valid: Tensor | None) -> Tensor:
    """T×B×…, with zeros beyond the lengths."""
    return value if valid is None else torch.where(valid, value, 0)


class MLSTM(nn.Module):
    """A layer of mLSTM cells: matrix memory, exponential input gate, no recurrent weights.

    Each head has one memory, d×d with d = hidden_size / heads, one input gate and one forget gate.
    ``weight``, (4·H + 2·heads)×I, and ``bias`` have the rows of W_q, W_k, W_v and W_o (equations 22 to 24
    and 27; the d rows of a head are contiguous), then those of w_i and w_f (equations 25 and 26). The
    memory has at least single precision, because ``m`` can be in the hundreds.

    Args:
        input_size: I, the number of input features.
        hidden_size: H, the width of the output, a multiple of ``heads``.
        heads: the number of memories.
        batch_first: input and output are B×T×… instead of T×B×…; the state is not affected.
        chunk: the number of steps that are computed at once. It changes the time: a longer chunk costs
            more per step, a shorter one means more chunks. The result is the same.
        bias: whether the layer has a bias.
        forget: "sigmoid" or "exp", the forget gate's function (equation 26).

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[tuple[Tensor, Tensor, Tensor], MLSTMState, Trace]

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
        self.heads = heads = integer("heads", heads)
        self.batch_first = flag("batch_first", batch_first)
        self.chunk = integer("chunk", chunk)
        self.forget = choice("forget", forget, _LOG_FORGET)
        biased = flag("bias", bias)
        if hidden_size % heads:
            raise OptionError(
                f"hidden_size={hidden_size} must be a multiple of heads={heads}, because each head has "
                f"hidden_size / heads units"
            )
        rows = 4 * hidden_size + 2 * heads
        self.weight = nn.Parameter(torch.empty(rows, input_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if biased else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the rows of q, k, v and o from U(-1/√H, 1/√H). As in the paper's code the weights of
        i and f are zero, i has biases from N(0, 0.1) and f has biases evenly spaced from 3 to 6."""
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
        input: Input,
        hx: tuple[Tensor, Tensor, Tensor] | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> (
        tuple[Float[Tensor, "*steps H"], MLSTMState]
        | tuple[Float[Tensor, "*steps H"], MLSTMState, Trace]
    ):
        """Runs the layer over a batch of sequences.

        Args:
            input: T×B×I (B×T×I if ``batch_first``), or T×I for a single sequence.
            hx: the initial C, n and m, with the shapes of :class:`MLSTMState` (without B for a single
                sequence); the default is zero.
            lengths: B integers from 0 to T in any order, the length of each sequence. Padding is not
                read, its output is zero, and the final state is that after the last real step.
            reset: booleans T×B (B×T if ``batch_first``), or T: true where the state is set to zero
                before the step. A NaN before it stays in the state.
            trace: also return the values of every step, except the memory.

        Returns:
            ``output, state``, and with ``trace`` a :class:`gatewise.Trace`. The output is T×B×H, in the
            layout of the input; the state is the final :class:`MLSTMState`. The trace has one layer
            and direction: ``q``, ``k``, ``v``, the output gate ``o``, the values ``read`` from the memory
            before the output gate, and the output ``h``, all B×T×H; the forget gate ``f`` and the
            logarithm of the input gate ``log_i``, both B×T×heads. The input gate is not bounded.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(MLSTM.forward, self, input, hx, **options)
        check_unrecorded("an MLSTM")
        if (dtype := autocast_dtype(input)) is None:
            return self._forward(input, self.weight, self.bias, hx, lengths, reset, trace)
        with torch.autocast(
            input.device.type, enabled=False
        ):  # 8 bits are not enough for the exponents
            bias = None if self.bias is None else cast(self.bias, dtype)
            weight = cast(self.weight, dtype)
            return self._forward(cast(input, dtype), weight, bias, hx, lengths, reset, trace)

    def _forward(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        hx: tuple[Tensor, Tensor, Tensor] | None,
        lengths: Lengths | None,
        reset: Tensor | None,
        trace: bool,
    ) -> tuple[Tensor, MLSTMState] | tuple[Tensor, MLSTMState, Trace]:
        check_width(input, self.input_size, layer="MLSTM")
        x = as_time_major(input, self.batch_first)
        check_input(x, weight)
        given = checked_lengths(lengths, x)
        resets = checked_reset(reset, input, not self.batch_first)
        state = self._initial_state(hx, x, batched=input.dim() == 3)
        valid = None if given is None else valid_steps(len(x), given)[..., None]
        values, state = self._run(x, weight, bias, state, valid, resets)
        output = _without_padding(values["h"], valid)
        if input.dim() == 2:
            output = output.squeeze(1)
        elif self.batch_first:
            output = output.transpose(0, 1)
        # copies: these are views of the memory at all chunks, or the caller's own tensors
        unbatched = state if input.dim() == 3 else MLSTMState(*(s.squeeze(0) for s in state))
        state = MLSTMState(*(s.clone() for s in unbatched))
        if not trace:
            return output, state
        traced = {
            name: [[_without_padding(value, valid).transpose(0, 1)]]
            for name, value in values.items()
        }
        return output, state, Trace(traced, given)

    def _run(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: MLSTMState,
        valid: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[dict[str, Tensor], MLSTMState]:
        """The values of :meth:`forward`'s trace, each T×B×…, and the final state."""
        x = _without_padding(x, valid)  # a NaN in the padding would reach the weight's gradient
        q, k, v, o, i, f = self._projections(x, weight, bias)
        i, log_f = i.to(state.m.dtype), _LOG_FORGET[self.forget](f.to(state.m.dtype))
        if reset is not None:  # the forget gate is 0
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
        """The pre-activations of equations 22 to 27: q, k, v and o, each T×B×H; i and f, T×B×heads."""
        sizes = [self.hidden_size] * 4 + [self.heads] * 2
        q, k, v, o, i, f = F.linear(x, weight).split(sizes, -1)
        k = k / math.sqrt(self.hidden_size // self.heads)  # but not its bias: equation 23
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
                f"hx is a {type(hx).__name__}{many}, expected a tuple of the three states C, n and m"
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
