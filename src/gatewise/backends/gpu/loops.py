"""The time loops, written once for every cell and option. One program has a tile of sequences and a slice
of units, and runs all steps in one launch.

A program keeps its slice of the recurrent weights on chip. If one slice has all units, the recurrent input
stays on chip too, and programs are independent. Otherwise the slices of a tile exchange the recurrent input
through global memory (in practice the L2 cache). They meet at a barrier before the first step and after each
step, and once more for each further round of products in a step. Such programs must all run at once.

Accumulators are float32. So is every state but the output, which is rounded to the type it is stored in.

An *accumulator* is a gate's pre-activation, or the input or recurrent part of one where the cell's equations
use the two parts apart. Names:

* accumulators stand in the order of ``emit.steps.Layout``: ``NX`` input parts, ``NW`` whole pre-activations,
  ``NH`` recurrent parts, ``NL`` pre-activations of the second stage, whose recurrent input is a value of the step;
* ``FEEDBACK`` are the positions of the states that are fed back, ``FROM`` the columns at which their weights begin,
  of ``F`` columns in all;
* a block has ``BT`` sequences and ``US`` units; ``ROOM`` is the number of slices rounded up to a power of two;
* one product gives the columns of ``INTERLEAVED`` gates, a unit's beside each other, if that is more than one;
* a product over K numbers is computed in ``CHUNKS`` of ``KC``; the weights are ``RESIDENT`` on chip, or read again;
* if ``TRANSPOSED``, the product is transposed: weights are the left operand, and sequences are the columns. From
  64 columns of weights on, Hopper's tensor cores then read both operands from shared memory;
* in the backward pass the gradient of the recurrent input is the sum of one product for each accumulator.
  ``PARTS`` consecutive slices form a group (split-K): each slice computes its share of the sum for all units
  of the group, and the slices of a group exchange the shares;
* a state's history has one entry more than there are steps: the value after step t is at t + 1, or at t if
  the steps are taken in reverse. If ``RING``, it has two entries that are used in turn.

An option that a call does not have (lengths, resets, …) is None, and its code is left out.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Blocks --------------------------------------------------------------------------------------------


@triton.jit
def sequences(first, batch, steps, lengths, order, BT: tl.constexpr):
    """The rows of a tile's sequences, which of them exist, their lengths, and the longest length."""
    position = first + tl.arange(0, BT)
    there = position < batch
    row = position
    count = tl.where(there, steps, 0)
    if lengths is not None:
        if order is not None:
            row = tl.load(order + position, mask=there, other=0)
        count = tl.load(lengths + row, mask=there, other=0).to(tl.int32)
        steps = tl.max(count, axis=0)
    return row.to(tl.int64), there, count, steps


@triton.jit
def zeros_of(N: tl.constexpr, BT: tl.constexpr, US: tl.constexpr, TRANSPOSED: tl.constexpr = False):
    """N accumulators of zeros."""
    zeros = ()
    for _ in tl.static_range(N):
        zeros = zeros + (tl.zeros((US, BT) if TRANSPOSED else (BT, US), tl.float32),)
    return zeros


@triton.jit
def with_sequences_first(acc, N: tl.constexpr, TRANSPOSED: tl.constexpr):
    """The accumulators with a sequence in each row."""
    if TRANSPOSED:
        found = ()
        for k in tl.static_range(N):
            found = found + (tl.trans(acc[k]),)
        acc = found
    return acc


@triton.jit
def vectors(of, N: tl.constexpr, H: tl.constexpr, unit):
    """N vectors with a number for each unit, stored one after the other; the same for all sequences."""
    read = ()
    for k in tl.static_range(N):
        value = tl.load(of + k * H + unit, mask=unit < H, other=0.0)
        read = read + (value.to(tl.float32)[None, :],)
    return read


@triton.jit
def parameters(of, N: tl.constexpr, H: tl.constexpr, unit):
    """The same, of N tensors."""
    read = ()
    for k in tl.static_range(N):
        read = read + vectors(of[k], 1, H, unit)
    return read


@triton.jit
def biases_of(of_x, of_h, OF_X: tl.constexpr, OF_H: tl.constexpr, NX: tl.constexpr, NW: tl.constexpr,
              NH: tl.constexpr, NL: tl.constexpr, H: tl.constexpr, unit):  # fmt: skip
    """Each accumulator's bias: of a part its own, of a whole pre-activation both. ``OF_X`` and ``OF_H`` are
    the gates of the accumulators with an input part and of those with a recurrent part."""
    found = ()
    for k in tl.static_range(NX + NW + NH + NL):
        bias = tl.zeros_like(unit).to(tl.float32)[None, :]
        if of_x is not None:
            if k < NX + NW:
                bias += vectors(of_x + OF_X[k] * H, 1, H, unit)[0]
            elif k >= NX + NW + NH:
                bias += vectors(of_x + OF_X[k - NH] * H, 1, H, unit)[0]
        if of_h is not None and k >= NX:
            bias += vectors(of_h + OF_H[k - NX] * H, 1, H, unit)[0]
        found = found + (bias,)
    return found


@triton.jit
def states(of, STATES: tl.constexpr, WIDTHS: tl.constexpr, row, there, unit):
    """Each state of these sequences and units; zero for those that do not exist."""
    read = ()
    for k in tl.static_range(STATES):
        inside = there[:, None] & (unit < WIDTHS[k])[None, :]
        at = row[:, None] * WIDTHS[k] + unit[None, :]
        if of[k] is None:
            read = read + (tl.zeros_like(at).to(tl.float32),)
        else:
            read = read + (tl.load(of[k] + at, mask=inside, other=0.0).to(tl.float32),)
    return read


# Products ------------------------------------------------------------------------------------------


@triton.jit
def columns(
    slice_, US: tl.constexpr, INTERLEAVED: tl.constexpr, M: tl.constexpr, step_m, units, step_u
):
    """Where the columns of a product begin in memory, and which exist. There is one column for each unit, or
    INTERLEAVED columns for each, of which the first M are those of M matrices."""
    column = tl.arange(0, US * INTERLEAVED)
    unit = slice_ * US + column // INTERLEAVED
    matrix = column % INTERLEAVED
    return matrix * step_m + unit * step_u, (unit < units) & (matrix < M)


@triton.jit
def weight_tile(weights, k, K, step_k, column, there, KC: tl.constexpr, TRANSPOSED: tl.constexpr):
    """A chunk of the weights of a program's units."""
    along: tl.constexpr = 0 if TRANSPOSED else 1
    numbers = tl.expand_dims(k + tl.arange(0, KC), along)
    inside = (numbers < K) & tl.expand_dims(there, 1 - along)
    places = numbers * step_k + tl.expand_dims(column, 1 - along)
    return tl.load(weights + places, mask=inside, other=0.0)


@triton.jit
def weight_tiles(weights, M: tl.constexpr, step_m, K, CHUNKS: tl.constexpr, step_k, column, there,
                 KC: tl.constexpr, RESIDENT: tl.constexpr, TRANSPOSED: tl.constexpr):  # fmt: skip
    """All chunks of M matrices, if they are kept on chip."""
    tiles = ()
    if RESIDENT:
        for m in tl.static_range(M):
            for c in tl.static_range(CHUNKS):
                of = weights + m * step_m
                tile = weight_tile(of, c * KC, K, step_k, column, there, KC, TRANSPOSED)
                tiles = tiles + (tile,)
    return tiles


@triton.jit
def separated(wide, N: tl.constexpr, INTERLEAVED: tl.constexpr, BT: tl.constexpr, US: tl.constexpr):
    """The first N columns of each unit, as separate blocks, of a block with INTERLEAVED columns for each unit."""
    blocks = (tl.reshape(wide, (BT, US, INTERLEAVED)),)
    # each round separates the even columns of a block from the odd ones
    if INTERLEAVED == 2:
        blocks = tl.split(blocks[0])
    elif INTERLEAVED == 4:
        even, odd = tl.split(tl.reshape(wide, (BT, US, 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        blocks = (first, second, third, fourth)
    found = ()
    for k in tl.static_range(N):
        found = found + (blocks[k],)
    return found


@triton.jit
def read_chunk(rows, valid, k, K, factor, cleared, KC: tl.constexpr, DT: tl.constexpr):
    """A chunk of each sequence's row in memory, as an operand of a product."""
    column = (k + tl.arange(0, KC))[None, :]
    inside = valid[:, None] & (column < K)
    # other programs have written it, so it must not come from this multiprocessor's L1 cache
    values = tl.load(rows[:, None] + column, mask=inside, other=0.0, cache_modifier=".cg")
    if factor is not None:
        factors = tl.load(factor[:, None] + column, mask=inside, other=0.0)
        values = values.to(tl.float32) * factors.to(tl.float32)
    if cleared is not None:
        values = tl.where(cleared[:, None], 0.0, values)
    return values.to(DT)


@triton.jit
def added(total, values, weights, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """The total plus the product of a chunk."""
    if TRANSPOSED:
        total = tl.dot(weights, tl.trans(values), total, input_precision=PRECISION)
    else:
        total = tl.dot(values, weights, total, input_precision=PRECISION)
    return total


@triton.jit
def multiplied(acc, M: tl.constexpr, at, rows, valid, K, CHUNKS: tl.constexpr, factor, cleared,
               tiles, weights, step_m, step_k, column, there, RESIDENT: tl.constexpr, KC: tl.constexpr,
               DT: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """M accumulators plus the products of the rows that ``rows`` points at with M matrices, whose tiles begin
    at position ``at``."""
    if RESIDENT:
        for c in tl.static_range(CHUNKS):
            values = read_chunk(rows, valid, c * KC, K, factor, cleared, KC, DT)
            more = ()
            for m in tl.static_range(M):
                tile = tiles[at + m * CHUNKS + c]
                more = more + (added(acc[m], values, tile, TRANSPOSED, PRECISION),)
            acc = more
    else:
        for c in range(CHUNKS):
            read = read_chunk(rows, valid, c * KC, K, factor, cleared, KC, DT)
            further = ()
            for m in tl.static_range(M):
                of = weights + m * step_m
                w = weight_tile(of, c * KC, K, step_k, column, there, KC, TRANSPOSED)
                further = further + (added(acc[m], read, w, TRANSPOSED, PRECISION),)
            acc = further
    return acc


# Programs that wait for each other -----------------------------------------------------------------


@triton.jit
def arrive(counter):
    """Tells the other programs that all that was written so far can be read."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, times, NUMBER: tl.constexpr):
    """Returns when each of ``NUMBER`` programs has arrived ``times`` times."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < times * NUMBER:
        pass


@triton.jit
def barrier(counter, times, NUMBER: tl.constexpr):
    """Arrives, and returns when all programs have."""
    arrive(counter)
    wait(counter, times, NUMBER)


@triton.jit
def publish(first, second, place, row, valid, batch, slice_):
    """Writes two numbers of this slice for each sequence, for the other slices to read."""
    mine = place + (slice_ * batch + row) * 2
    tl.store(mine, first, mask=valid)
    tl.store(mine + 1, second, mask=valid)


@triton.jit
def units_of(slice_, H: tl.constexpr, US: tl.constexpr):
    """The number of units of a slice."""
    return tl.maximum(tl.minimum(H - slice_ * US, US), 0).to(tl.float32)


@triton.jit
def published(place, row, valid, batch, SLICES: tl.constexpr, ROOM: tl.constexpr):
    """The two numbers of all slices, each sequences × ROOM."""
    k = tl.arange(0, ROOM)
    theirs = place + (k[None, :] * batch + row[:, None]) * 2
    inside = valid[:, None] & (k < SLICES)[None, :]
    first = tl.load(theirs, mask=inside, other=0.0, cache_modifier=".cg")
    return first, tl.load(theirs + 1, mask=inside, other=0.0, cache_modifier=".cg")


# Split-K: products that a group of slices computes together ------------------------------------------


@triton.jit
def chunk_of(part, n, M: tl.constexpr, CHUNKS: tl.constexpr, KC: tl.constexpr, EACH: tl.constexpr):
    """The n-th chunk of a part, where the chunks of M products are divided into parts of ``EACH``: its product,
    where it begins in that, and whether it exists."""
    chunk = part * EACH + n
    return tl.cast(chunk // CHUNKS, tl.int64), chunk % CHUNKS * KC, chunk < M * CHUNKS


@triton.jit
def split_tiles(weights, M: tl.constexpr, step_m, K, CHUNKS: tl.constexpr, step_k, column, there,
                 part, PARTS: tl.constexpr, KC: tl.constexpr, RESIDENT: tl.constexpr,
                 TRANSPOSED: tl.constexpr):  # fmt: skip
    """A part's chunks of M matrices, if they are kept on chip."""
    EACH: tl.constexpr = (M * CHUNKS + PARTS - 1) // PARTS
    tiles = ()
    if RESIDENT:
        for n in tl.static_range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            of = weights + m * step_m
            tile = weight_tile(of, k, K, step_k, column, there & is_one, KC, TRANSPOSED)
            tiles = tiles + (tile,)
    return tiles


@triton.jit
def split_product(rows, step_row, M: tl.constexpr, K, CHUNKS: tl.constexpr, valid, at, tiles, weights,
               step_m, step_k, column, there, unit, part, partial, plane, row, batch, counter, times,
               SLICES: tl.constexpr, PARTS: tl.constexpr, RESIDENT: tl.constexpr, KC: tl.constexpr,
               BT: tl.constexpr, US: tl.constexpr, DT: tl.constexpr, TRANSPOSED: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """For a slice's units, the sum of M products of the rows that ``rows`` points at, each ``step_row`` after
    the last. The tiles of this part begin at position ``at``. Two such sums without a barrier of all slices
    between them need different planes, so that none is overwritten while another slice reads it."""
    EACH: tl.constexpr = (M * CHUNKS + PARTS - 1) // PARTS
    total = zeros_of(1, BT, US * PARTS, TRANSPOSED)[0]
    if RESIDENT:
        for n in tl.static_range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            values = read_chunk(rows + m * step_row, valid & is_one, k, K, None, None, KC, DT)
            total = added(total, values, tiles[at + n], TRANSPOSED, PRECISION)
    else:
        for n in range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            read = read_chunk(rows + m * step_row, valid & is_one, k, K, None, None, KC, DT)
            of = weights + m * step_m
            w = weight_tile(of, k, K, step_k, column, there & is_one, KC, TRANSPOSED)
            total = added(total, read, w, TRANSPOSED, PRECISION)
    total = with_sequences_first((total,), 1, TRANSPOSED)[0]
    if PARTS == 1:
        own = total
    else:
        place = partial + ((plane * PARTS + part) * batch + row)[:, None] * (SLICES * US)
        tl.store(place + column[None, :], total, mask=valid[:, None])
        barrier(counter, times, PARTS)
        own = tl.zeros((BT, US), tl.float32)
        for k in tl.static_range(PARTS):
            place = partial + ((plane * PARTS + k) * batch + row)[:, None] * (SLICES * US)
            own += tl.load(
                place + unit[None, :], mask=valid[:, None], other=0.0, cache_modifier=".cg"
            )
    return own


# Layer normalisation -------------------------------------------------------------------------------


@triton.jit
def normalised(acc, N: tl.constexpr, inside, place, row, valid, batch, slice_, counter, times, epsilon,
               H: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
               BT: tl.constexpr):  # fmt: skip
    """The accumulators, normalised over all N * H of a sequence; and one over their standard deviation."""
    total = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        total += tl.sum(tl.where(inside, acc[k], 0.0), axis=1)
    own = total / tl.maximum(N * units_of(slice_, H, US), 1.0)
    squares = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        off = tl.where(inside, acc[k] - own[:, None], 0.0)
        squares += tl.sum(off * off, axis=1)
    mean = own
    if SLICES > 1:
        publish(total, squares, place, row, valid, batch, slice_)
        barrier(counter, times, SLICES)
        first, second = published(place, row, valid, batch, SLICES, ROOM)
        mean = tl.sum(first, axis=1) / (N * H)
        number = (N * units_of(tl.arange(0, ROOM), H, US))[None, :]
        apart = first / tl.maximum(number, 1.0) - mean[:, None]
        squares = tl.sum(second + number * apart * apart, axis=1)
    scale = 1.0 / tl.sqrt(squares / (N * H) + epsilon)
    done = ()
    for k in tl.static_range(N):
        done = done + ((acc[k] - mean[:, None]) * scale[:, None],)
    return done, scale


@triton.jit
def before_norm(grads, normal, norm_weight, scale, N: tl.constexpr, inside, place, row, valid, batch, slice_,
                counter, times, H: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
                BT: tl.constexpr):  # fmt: skip
    """From the gradients of norm_weight * n(product) to those of the product."""
    along = tl.zeros((BT,), tl.float32)
    total = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        scaled = tl.where(inside, grads[k] * norm_weight[k], 0.0)
        total += tl.sum(scaled, axis=1)
        along += tl.sum(scaled * normal[k], axis=1)
    if SLICES > 1:
        publish(total, along, place, row, valid, batch, slice_)
        barrier(counter, times, SLICES)
        first, second = published(place, row, valid, batch, SLICES, ROOM)
        total = tl.sum(first, axis=1)
        along = tl.sum(second, axis=1)
    total = (total / (N * H))[:, None]
    along = (along / (N * H))[:, None]
    back = ()
    for k in tl.static_range(N):
        value = (grads[k] * norm_weight[k] - total - normal[k] * along) * scale[:, None]
        back = back + (tl.where(inside, value, 0.0),)
    return back


# What a step reads ---------------------------------------------------------------------------------


@triton.jit
def resets_at(t64, valid, reset, row, batch):
    cleared = valid & False
    if reset is not None:
        cleared = tl.load(reset + t64 * batch + row, mask=valid, other=0) != 0
    return cleared


@triton.jit
def inputs(t, valid, gx, reset, row, batch, unit, N: tl.constexpr, H: tl.constexpr):
    """The input part of N accumulators, and which sequences are reset."""
    t64 = tl.cast(t, tl.int64)
    start = (t64 * batch + row)[:, None] * (N * H) + unit[None, :]
    here = valid[:, None] & (unit < H)[None, :]
    shares = ()
    for k in tl.static_range(N):
        shares = shares + (tl.load(gx + start + k * H, mask=here, other=0.0).to(tl.float32),)
    return shares, resets_at(t64, valid, reset, row, batch)


@triton.jit
def saved_step(t, valid, hist, saved, grad_output, reset, row, batch, unit, USES: tl.constexpr,
               STATES: tl.constexpr, WIDTHS: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
               REVERSE: tl.constexpr, BT: tl.constexpr, US: tl.constexpr):  # fmt: skip
    """Of the forward pass, the states before the step and the saved activations; the gradient of the output;
    and which sequences were reset."""
    t64 = tl.cast(t, tl.int64)
    cleared = resets_at(t64, valid, reset, row, batch)
    before = t64 + 1 if REVERSE else t64
    old = ()
    for k in tl.static_range(STATES):
        value = tl.zeros((BT, US), tl.float32)
        has = valid[:, None] & (unit < WIDTHS[k])[None, :]
        if USES[k]:
            own = (before * batch + row)[:, None] * WIDTHS[k] + unit[None, :]
            if reset is not None:
                has = has & (cleared == 0)[:, None]
            value = tl.load(hist[k] + own, mask=has, other=0.0).to(tl.float32)
        old = old + (value,)
    at = (t64 * batch + row)[:, None]
    here = valid[:, None] & (unit < H)[None, :]
    activations = ()
    for k in tl.static_range(SAVED):
        own = saved + at * (SAVED * H) + k * H + unit[None, :]
        activations = activations + (tl.load(own, mask=here, other=0.0),)
    output = tl.zeros((BT, US), tl.float32)
    if grad_output is not None:
        own = grad_output + at * WIDTHS[0] + unit[None, :]
        has = valid[:, None] & (unit < WIDTHS[0])[None, :]
        output = tl.load(own, mask=has, other=0.0).to(tl.float32)
    return old, activations, output, cleared


# The forward pass ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["steps", "batch", "first_row"])
def forward(
    gx, bias_x, bias_h, weights, projection, norm_weight, per_unit, initial, hist, final, saved, late_input,
    unprojected, normal, scales, values, lengths, order, reset, factor, zoneout, zone_steps, epsilon, places,
    counters, steps, batch, first_row,
    STEP: tl.constexpr, EARLY: tl.constexpr, OF_X: tl.constexpr, OF_H: tl.constexpr,
    NX: tl.constexpr, NW: tl.constexpr, NH: tl.constexpr,
    NL: tl.constexpr, STATES: tl.constexpr, PARAMS: tl.constexpr, SAVED: tl.constexpr,
    VALUES: tl.constexpr, FEEDBACK: tl.constexpr, FEEDBACKS: tl.constexpr, FROM: tl.constexpr, F: tl.constexpr,
    H: tl.constexpr, P: tl.constexpr, WIDTHS: tl.constexpr, STORE: tl.constexpr, RING: tl.constexpr,
    REVERSE: tl.constexpr, BT: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
    INTERLEAVED: tl.constexpr, KC: tl.constexpr, CHUNKS: tl.constexpr, RESIDENT: tl.constexpr,
    TRANSPOSED: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Every step of a tile of sequences, for a slice of the units."""
    tile = tl.program_id(0)
    slice_ = tl.program_id(1)
    NS: tl.constexpr = NW + NH
    NG: tl.constexpr = NX + NW + NL
    counter = counters
    if SLICES > 1:
        counter += tile
    row, there, count, steps = sequences(first_row + tile * BT, batch, steps, lengths, order, BT)
    last = tl.zeros((BT,), tl.int32) if REVERSE else count - 1
    unit = slice_ * US + tl.arange(0, US)
    zero = tl.zeros((BT, US), tl.float32)

    state = states(initial, STATES, WIDTHS, row, there, unit)
    biases = biases_of(bias_x, bias_h, OF_X, OF_H, NX, NW, NH, NL, H, unit)
    p = parameters(per_unit, PARAMS, H, unit)
    norm_weights = ()
    if norm_weight is not None:
        norm_weights = vectors(norm_weight, NS, H, unit)

    MATRICES: tl.constexpr = NS if INTERLEAVED == 1 else 1
    column, column_there = columns(slice_, US, INTERLEAVED, NS, H * F, H, F)
    early_tiles = ()
    for f in tl.static_range(FEEDBACKS):
        early_tiles = early_tiles + weight_tiles(
            weights + FROM[f], MATRICES, H * F, WIDTHS[FEEDBACK[f]], CHUNKS, 1, column, column_there,
            KC, RESIDENT, TRANSPOSED,
        )  # fmt: skip
    late_column, late_there = columns(slice_, US, 1, 1, 0, H, F)
    late_weights = weights + NS * H * F
    late_tiles = weight_tiles(
        late_weights, NL, H * F, H, CHUNKS, 1, late_column, late_there, KC, RESIDENT, False
    )
    out_column, out_there = columns(slice_, US, 1, 1, 0, P, H)
    out_tiles = ()
    if projection is not None:
        out_tiles = weight_tiles(
            projection, 1, 0, H, CHUNKS, 1, out_column, out_there, KC, RESIDENT, False
        )

    met = 0
    for k in tl.static_range(STATES):
        if STORE[k]:
            start = count if REVERSE else count * 0
            start = start % 2 if RING[k] else start
            has = there[:, None] & (unit < WIDTHS[k])[None, :]
            own = (start.to(tl.int64) * batch + row)[:, None] * WIDTHS[k] + unit[None, :]
            tl.store(hist[k] + own, state[k], mask=has)
    t = steps - 1 if REVERSE else tile * 0
    xs, resets = inputs(t, (t >= 0) & (t < count), gx, reset, row, batch, unit, NG, H)
    if SLICES > 1:
        met += 1
        barrier(counter, met, SLICES)
    for j in range(0, steps):
        t64 = tl.cast(t, tl.int64)
        before = t + 1 if REVERSE else t
        after = t if REVERSE else t + 1
        valid = t < count
        here = valid[:, None] & (unit < H)[None, :]
        at = (t64 * batch + row)[:, None]
        cleared = None
        old = state
        if reset is not None:
            cleared = resets
            old = ()
            for k in tl.static_range(STATES):
                old = old + (tl.where(cleared[:, None], 0.0, state[k]),)

        acc = zeros_of(MATRICES, BT, US * INTERLEAVED, TRANSPOSED)
        for f in tl.static_range(FEEDBACKS):
            factors = None
            if factor is not None:
                factors = factor + row * F + FROM[f]
            if SLICES == 1:
                recurrent_input = old[FEEDBACK[f]]
                if factor is not None:
                    has = there[:, None] & (unit < WIDTHS[FEEDBACK[f]])[None, :]
                    recurrent_input = recurrent_input * tl.load(
                        factors[:, None] + unit[None, :], mask=has, other=0.0
                    )
                more = ()
                for m in tl.static_range(MATRICES):
                    w = early_tiles[f * MATRICES + m]
                    more = more + (
                        tl.dot(recurrent_input.to(DT), w, acc[m], input_precision=PRECISION),
                    )
                acc = more
            else:
                place = tl.cast(before % 2 if RING[FEEDBACK[f]] else before, tl.int64)
                rows = hist[FEEDBACK[f]] + (place * batch + row) * WIDTHS[FEEDBACK[f]]
                acc = multiplied(
                    acc, MATRICES, f * MATRICES * CHUNKS, rows, valid, WIDTHS[FEEDBACK[f]], CHUNKS,
                    factors, cleared, early_tiles, weights + FROM[f], H * F, 1, column, column_there,
                    RESIDENT, KC, DT, TRANSPOSED, PRECISION,
                )  # fmt: skip
        acc = with_sequences_first(acc, MATRICES, TRANSPOSED)
        if INTERLEAVED > 1:
            acc = separated(acc[0], NS, INTERLEAVED, BT, US)
        if norm_weight is not None:
            met += 1
            acc, scale = normalised(
                acc, NS, here, places, row, valid, batch, slice_, counter, met, epsilon, H, US,
                SLICES, ROOM, BT,
            )  # fmt: skip
            if normal is not None:
                for k in tl.static_range(NS):
                    tl.store(normal + at * (NS * H) + k * H + unit[None, :], acc[k], mask=here)
                if slice_ == 0:
                    tl.store(scales + t64 * batch + row, scale, mask=valid)
            done = ()
            for k in tl.static_range(NS):
                done = done + (acc[k] * norm_weights[k],)
            acc = done
        a = ()
        for k in tl.static_range(NX + NW + NH):
            value = biases[k] + zero
            if k < NX + NW:
                value += xs[k]
            if k >= NX:
                value += acc[k - NX]
            a = a + (value,)
        if NL > 0:
            (recurrent_input,) = EARLY(a, old, p, zero)
            recurrent_input = tl.where(here, recurrent_input, 0.0)
            if factor is not None:
                recurrent_input = recurrent_input * tl.load(
                    factor + row[:, None] * F + unit[None, :], mask=here, other=0.0
                )
            late_at = at * H + unit[None, :]
            if late_input is not None:
                tl.store(late_input + late_at, recurrent_input.to(DT), mask=here)
            late = zeros_of(NL, BT, US)
            if SLICES == 1:
                more = ()
                for m in tl.static_range(NL):
                    w = late_tiles[m]
                    more = more + (
                        tl.dot(recurrent_input.to(DT), w, late[m], input_precision=PRECISION),
                    )
                late = more
            else:
                met += 1
                barrier(counter, met, SLICES)
                rows = late_input + (t64 * batch + row) * H
                late = multiplied(
                    late, NL, 0, rows, valid, H, CHUNKS, None, None, late_tiles,
                    late_weights, H * F, 1, late_column, late_there, RESIDENT, KC, DT, False, PRECISION,
                )  # fmt: skip
            for k in tl.static_range(NL):
                a = a + (biases[NX + NW + NH + k] + xs[NX + NW + k] + late[k],)

        new, activations, named = STEP(a, old, p, zero)
        output = new[0]
        if projection is not None:
            inner = tl.where(here, output, 0.0).to(DT)
            if unprojected is not None:
                tl.store(unprojected + at * H + unit[None, :], inner, mask=here)
            out = zeros_of(1, BT, US)
            if SLICES == 1:
                out = (tl.dot(inner, out_tiles[0], out[0], input_precision=PRECISION),)
            else:
                met += 1
                barrier(counter, met, SLICES)
                rows = unprojected + (t64 * batch + row) * H
                out = multiplied(
                    out, 1, 0, rows, valid, H, CHUNKS, None, None, out_tiles, projection, 0, 1,
                    out_column, out_there, RESIDENT, KC, DT, False, PRECISION,
                )  # fmt: skip
            output = out[0]

        ahead = ()
        for k in tl.static_range(STATES):
            has = valid[:, None] & (unit < WIDTHS[k])[None, :]
            value = output if k == 0 else new[k]
            if zoneout is not None:
                share = zoneout[k] + t64 * zone_steps[2 * k] + row * zone_steps[2 * k + 1]
                share = tl.load(share[:, None] + unit[None, :], mask=has, other=0.0).to(tl.float32)
                value = share * old[k] + (1.0 - share) * value
            if k == 0:
                value = value.to(DT).to(tl.float32)
            place = tl.cast(after % 2 if RING[k] else after, tl.int64)
            own = row[:, None] * WIDTHS[k] + unit[None, :]
            if STORE[k]:
                tl.store(hist[k] + place * batch * WIDTHS[k] + own, value, mask=has)
            tl.store(final[k] + own, value, mask=has & (t == last)[:, None])
            # no number of a unit that does not exist may reach a product
            ahead = ahead + (tl.where(has, value, state[k]),)
        state = ahead
        if SLICES > 1:
            arrive(counter)
        # no program waits for what is saved here, nor for what the next step needs
        if saved is not None:
            for k in tl.static_range(SAVED):
                tl.store(
                    saved + at * (SAVED * H) + k * H + unit[None, :], activations[k], mask=here
                )
        if values is not None:
            for k in tl.static_range(VALUES):
                tl.store(values + at * (VALUES * H) + k * H + unit[None, :], named[k], mask=here)
        t = t - 1 if REVERSE else t + 1
        coming = (t < count) & (j + 1 < steps)
        xs, resets = inputs(t, coming, gx, reset, row, batch, unit, NG, H)
        if SLICES > 1:
            met += 1
            wait(counter, met, SLICES)


# The backward pass ---------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["steps", "batch", "first_row"])
def backward(
    weights, projection, norm_weight, per_unit, hist, saved, normal, scales, grad_output, grad_final, da,
    before_normal, grad_projected, grad_initial, grad_params, partial, lengths, order, reset, factor, zoneout,
    zone_steps, places, counters, steps, batch, first_row,
    BACK: tl.constexpr, BACK_LATE: tl.constexpr, NX: tl.constexpr, NW: tl.constexpr,
    NH: tl.constexpr, NL: tl.constexpr, STATES: tl.constexpr, PARAMS: tl.constexpr,
    SAVED: tl.constexpr, USES: tl.constexpr, FEEDBACK: tl.constexpr, FEEDBACKS: tl.constexpr,
    FROM: tl.constexpr, F: tl.constexpr, H: tl.constexpr, P: tl.constexpr, WIDTHS: tl.constexpr, REVERSE: tl.constexpr,
    BT: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
    PARTS: tl.constexpr, KC: tl.constexpr, CHUNKS: tl.constexpr, RESIDENT: tl.constexpr,
    TRANSPOSED: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of sequences, for a slice of the units, from the last step to the first.

    Those of all accumulators go to ``da``, for the large products after the loop. The gradient of a state that
    is fed back is the product of the accumulators' gradients with the transposed weights.
    """
    tile = tl.program_id(0)
    slice_ = tl.program_id(1)
    NS: tl.constexpr = NW + NH
    A: tl.constexpr = NX + NW + NH + NL
    counter = counters
    group = slice_ // PARTS
    part = slice_ % PARTS
    of_group = group * US * PARTS + tl.arange(0, US * PARTS)
    group_counter = counters
    if SLICES > 1:
        counter += tile
        group_counter += tl.num_programs(0) + tile * (SLICES // PARTS) + group
    row, there, count, steps = sequences(first_row + tile * BT, batch, steps, lengths, order, BT)
    unit = slice_ * US + tl.arange(0, US)
    inside = there[:, None] & (unit < H)[None, :]
    zero = tl.zeros((BT, US), tl.float32)

    grads = states(grad_final, STATES, WIDTHS, row, there, unit)
    p = parameters(per_unit, PARAMS, H, unit)
    param_grads = zeros_of(PARAMS, BT, US)
    norm_weights = ()
    if norm_weight is not None:
        norm_weights = vectors(norm_weight, NS, H, unit)

    tiles = ()
    for f in tl.static_range(FEEDBACKS):
        tiles = tiles + split_tiles(
            weights + FROM[f], NS, H * F, H, CHUNKS, F, of_group, of_group < WIDTHS[FEEDBACK[f]], part, PARTS,
            KC, RESIDENT, TRANSPOSED,
        )  # fmt: skip
    OF_FEEDBACK: tl.constexpr = (NS * CHUNKS + PARTS - 1) // PARTS
    late_weights = weights + NS * H * F
    late_tiles = split_tiles(
        late_weights,
        NL,
        H * F,
        H,
        CHUNKS,
        F,
        of_group,
        of_group < H,
        part,
        PARTS,
        KC,
        RESIDENT,
        TRANSPOSED,
    )
    in_tiles = ()
    if projection is not None:
        in_tiles = split_tiles(
            projection,
            1,
            0,
            P,
            CHUNKS,
            H,
            of_group,
            of_group < H,
            part,
            PARTS,
            KC,
            RESIDENT,
            TRANSPOSED,
        )

    t = tile * 0 if REVERSE else steps - 1
    old, activations, grad_output_now, resets = saved_step(
        t, (t >= 0) & (t < count), hist, saved, grad_output, reset, row, batch, unit, USES, STATES, WIDTHS, SAVED, H,
        REVERSE, BT, US,
    )  # fmt: skip
    met = 0
    met_group = 0
    for j in range(0, steps):
        t64 = tl.cast(t, tl.int64)
        valid = t < count
        here = valid[:, None] & (unit < H)[None, :]
        at = (t64 * batch + row)[:, None]
        cleared = resets
        seeds = ()
        skipped = ()
        for k in tl.static_range(STATES):
            has = valid[:, None] & (unit < WIDTHS[k])[None, :]
            seed = grads[k]
            if k == 0:
                seed += grad_output_now
            passed = zero
            if zoneout is not None:
                share = zoneout[k] + t64 * zone_steps[2 * k] + row * zone_steps[2 * k + 1]
                share = tl.load(share[:, None] + unit[None, :], mask=has, other=0.0).to(tl.float32)
                passed = share * seed
            seeds = seeds + (seed - passed,)
            skipped = skipped + (passed,)
        if projection is not None:
            has = valid[:, None] & (unit < P)[None, :]
            inner = seeds[0].to(DT)
            tl.store(grad_projected + at * P + unit[None, :], inner, mask=has)
            if SLICES == 1:
                more = (tl.dot(inner, in_tiles[0], zero, input_precision=PRECISION),)
            else:
                met += 1
                met_group += 1
                barrier(counter, met, SLICES)
                rows = grad_projected + (t64 * batch + row) * P
                out = split_product(
                    rows, 0, 1, P, CHUNKS, valid, 0, in_tiles, projection, 0, H, of_group, of_group < H,
                    unit, part, partial, 0, row, batch, group_counter, met_group, SLICES, PARTS, RESIDENT,
                    KC, BT, US, DT, TRANSPOSED, PRECISION,
                )  # fmt: skip
                more = (out,)
            for k in tl.static_range(1, STATES):
                more = more + (seeds[k],)
            seeds = more
        if NL > 0:
            grad_late = BACK_LATE(activations, old, p, seeds, zero)
            late_seed = zero
            for k in tl.static_range(NL):
                late_at = at * (A * H) + (NX + NW + NH + k) * H
                value = tl.where(here, grad_late[k], 0.0).to(DT)
                if SLICES == 1:
                    late_seed = tl.dot(value, late_tiles[k], late_seed, input_precision=PRECISION)
                else:
                    tl.store(da + late_at + unit[None, :], value, mask=here)
            if SLICES > 1:
                met += 1
                met_group += 1
                barrier(counter, met, SLICES)
                rows = da + (t64 * batch + row) * (A * H) + (NX + NW + NH) * H
                late_seed = split_product(
                    rows, H, NL, H, CHUNKS, valid, 0, late_tiles, late_weights, H * F, F, of_group,
                    of_group < H, unit, part, partial, 0, row, batch, group_counter, met_group, SLICES,
                    PARTS, RESIDENT, KC, BT, US, DT, TRANSPOSED, PRECISION,
                )  # fmt: skip
            if factor is not None:
                own = factor + row[:, None] * F + unit[None, :]
                late_seed = late_seed * tl.load(own, mask=inside, other=0.0)
            seeds = seeds + (late_seed,)

        grad_acc, grad_old, grad_param = BACK(activations, old, p, seeds, zero)
        more = ()
        for k in tl.static_range(PARAMS):
            more = more + (param_grads[k] + tl.where(here, grad_param[k], 0.0),)
        param_grads = more
        # those of the second stage are written already, and other programs may be reading them
        for k in tl.static_range(A if SLICES == 1 else A - NL):
            own = da + at * (A * H) + k * H + unit[None, :]
            tl.store(own, grad_acc[k].to(DT), mask=here)
        into = ()
        for k in tl.static_range(NS):
            into = into + (tl.where(here, grad_acc[NX + k], 0.0),)
        if norm_weight is not None:
            normals = ()
            for k in tl.static_range(NS):
                own = normal + at * (NS * H) + k * H + unit[None, :]
                normals = normals + (tl.load(own, mask=here, other=0.0),)
            scale = tl.load(scales + t64 * batch + row, mask=valid, other=0.0)
            met += 1
            into = before_norm(
                into, normals, norm_weights, scale, NS, here, places, row, valid, batch, slice_, counter,
                met, H, SLICES, ROOM, BT,
            )  # fmt: skip
            for k in tl.static_range(NS):
                own = before_normal + at * (NS * H) + k * H + unit[None, :]
                tl.store(own, into[k].to(DT), mask=here)
        if SLICES > 1:
            arrive(counter)
        t = t + 1 if REVERSE else t - 1
        coming = (t < count) & (j + 1 < steps)
        old, activations, grad_output_now, resets = saved_step(
            t, coming, hist, saved, grad_output, reset, row, batch, unit, USES, STATES, WIDTHS, SAVED,
            H, REVERSE, BT, US,
        )  # fmt: skip
        if SLICES > 1:
            met += 1
            wait(counter, met, SLICES)

        ahead = ()
        for k in tl.static_range(STATES):
            value = grad_old[k] + skipped[k]
            for f in tl.static_range(FEEDBACKS):
                if FEEDBACK[f] == k:
                    through = zero
                    if SLICES == 1:
                        for m in tl.static_range(NS):
                            w = tiles[f * NS + m]
                            through = tl.dot(into[m].to(DT), w, through, input_precision=PRECISION)
                    else:
                        if norm_weight is not None:
                            rows = before_normal + (t64 * batch + row) * (NS * H)
                        else:
                            rows = da + (t64 * batch + row) * (A * H) + NX * H
                        met_group += 1
                        through = split_product(
                            rows, H, NS, H, CHUNKS, valid, f * OF_FEEDBACK, tiles, weights + FROM[f], H * F,
                            F, of_group, of_group < WIDTHS[k], unit, part, partial, f, row, batch,
                            group_counter, met_group, SLICES, PARTS, RESIDENT, KC, BT, US, DT, TRANSPOSED,
                            PRECISION,
                        )  # fmt: skip
                    if factor is not None:
                        has = there[:, None] & (unit < WIDTHS[k])[None, :]
                        own = factor + row[:, None] * F + FROM[f] + unit[None, :]
                        through = through * tl.load(own, mask=has, other=0.0)
                    value += through
            if reset is not None:
                value = tl.where(cleared[:, None], 0.0, value)
            has = valid[:, None] & (unit < WIDTHS[k])[None, :]
            ahead = ahead + (tl.where(has, value, grads[k]),)
        grads = ahead

    for k in tl.static_range(STATES):
        has = there[:, None] & (unit < WIDTHS[k])[None, :]
        tl.store(grad_initial[k] + row[:, None] * WIDTHS[k] + unit[None, :], grads[k], mask=has)
    for k in tl.static_range(PARAMS):
        total = tl.sum(param_grads[k], axis=0)
        tl.store(grad_params[k] + (first_row // BT + tile) * H + unit, total, mask=unit < H)
