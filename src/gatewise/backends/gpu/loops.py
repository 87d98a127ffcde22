"""The time loops, written once for every cell and option: one program a tile of sequences and a slice
of units, all steps in one launch.

A program keeps its slice of the recurrent weights on chip. Where one slice has all units, what is fed
back stays on chip too, and programs know nothing of each other. Else the slices of a tile exchange it
through memory (in fact the second-level cache) and meet before the first step and after each, and once more for
each further round of products: such programs must all run at once.

Sums are float32, and so is every state but the output, which is rounded to what it is stored as. Names:

* sums stand in the order of ``emit.steps.Layout``: ``NX`` of input parts alone, ``NW`` of whole gates,
  ``NH`` of recurrent parts alone, ``NL`` of late gates;
* ``FED`` are the places of the states fed back, ``FROM`` the columns at which their weights begin, of
  ``F`` in all;
* a block has ``BT`` sequences and ``US`` units; ``ROOM`` is the power of two with room for the slices;
* the columns of ``SIDE`` gates stand side by side in one product, where that is more than one;
* a product over K numbers is formed in ``CHUNKS`` of ``KC``; the weights are ``KEPT``, or read again;
* where ``TURNED``, weights stand on the left, a row for each column of before, and sequences are the
  columns: from 64 such rows on, Hopper's tensor cores read both sides from shared memory;
* on the way back a sum is of as many products as there are sums on the way forward. ``PARTS`` slices
  that follow each other form a group, which divides these chunks: each slice adds up its share for all
  units of the group, and the slices of a group exchange what they have;
* a state's history has one place more than there are steps: what is after step t is at t + 1, or at t
  where the steps are taken in reverse; where ``RING``, it has two places that are used in turns.

What a call does without (lengths, resets, …) is None and its code is left out.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Blocks --------------------------------------------------------------------------------------------


@triton.jit
def sequences(first, batch, steps, lengths, order, BT: tl.constexpr):
    """The places of a tile's sequences, which of them there are, their lengths, and the longest."""
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
def zeros_of(N: tl.constexpr, BT: tl.constexpr, US: tl.constexpr, TURNED: tl.constexpr = False):
    """N sums to begin with."""
    zeros = ()
    for _ in tl.static_range(N):
        zeros = zeros + (tl.zeros((US, BT) if TURNED else (BT, US), tl.float32),)
    return zeros


@triton.jit
def turned_back(sums, N: tl.constexpr, TURNED: tl.constexpr):
    """The sums with a sequence in each row."""
    if TURNED:
        found = ()
        for k in tl.static_range(N):
            found = found + (tl.trans(sums[k]),)
        sums = found
    return sums


@triton.jit
def vectors(of, N: tl.constexpr, H: tl.constexpr, unit):
    """N numbers of each unit, one after the other in memory, for all sequences."""
    read = ()
    for k in tl.static_range(N):
        value = tl.load(of + k * H + unit, mask=unit < H, other=0.0)
        read = read + (value.to(tl.float32)[None, :],)
    return read


@triton.jit
def parameters(of, N: tl.constexpr, H: tl.constexpr, unit):
    """The same of N tensors."""
    read = ()
    for k in tl.static_range(N):
        read = read + vectors(of[k], 1, H, unit)
    return read


@triton.jit
def biases_of(of_x, of_h, OF_X: tl.constexpr, OF_H: tl.constexpr, NX: tl.constexpr, NW: tl.constexpr,
              NH: tl.constexpr, NL: tl.constexpr, H: tl.constexpr, unit):  # fmt: skip
    """Each sum's: that of each part, and both for a whole gate. ``OF_X`` and ``OF_H`` are the gates of
    the sums with an input part and of those with a recurrent part."""
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
    """Each state of these sequences and units; zero where there is none."""
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
def columns(slice_, US: tl.constexpr, SIDE: tl.constexpr, M: tl.constexpr, step_m, units, step_u):
    """Where the columns of a product begin in memory and which there are: a unit each, or SIDE for
    each unit, of which the first M are those of M matrices."""
    column = tl.arange(0, US * SIDE)
    unit = slice_ * US + column // SIDE
    matrix = column % SIDE
    return matrix * step_m + unit * step_u, (unit < units) & (matrix < M)


@triton.jit
def weight_tile(weights, k, K, step_k, column, there, KC: tl.constexpr, TURNED: tl.constexpr):
    """A chunk of weights on their way to a program's units."""
    along: tl.constexpr = 0 if TURNED else 1
    numbers = tl.expand_dims(k + tl.arange(0, KC), along)
    inside = (numbers < K) & tl.expand_dims(there, 1 - along)
    places = numbers * step_k + tl.expand_dims(column, 1 - along)
    return tl.load(weights + places, mask=inside, other=0.0)


@triton.jit
def weight_tiles(weights, M: tl.constexpr, step_m, K, CHUNKS: tl.constexpr, step_k, column, there,
                 KC: tl.constexpr, KEPT: tl.constexpr, TURNED: tl.constexpr):  # fmt: skip
    """All chunks of M matrices, if they are to be kept on chip."""
    tiles = ()
    if KEPT:
        for m in tl.static_range(M):
            for c in tl.static_range(CHUNKS):
                of = weights + m * step_m
                tile = weight_tile(of, c * KC, K, step_k, column, there, KC, TURNED)
                tiles = tiles + (tile,)
    return tiles


@triton.jit
def separated(wide, N: tl.constexpr, SIDE: tl.constexpr, BT: tl.constexpr, US: tl.constexpr):
    """Of a block with SIDE columns a unit, the first N of each as blocks of their own."""
    blocks = (tl.reshape(wide, (BT, US, SIDE)),)
    # each round halves the columns of a block: first those of odd places from those of even ones
    if SIDE == 2:
        blocks = tl.split(blocks[0])
    elif SIDE == 4:
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
    """A chunk of what each sequence's row in memory holds, as a product takes it."""
    column = (k + tl.arange(0, KC))[None, :]
    inside = valid[:, None] & (column < K)
    # other programs have written it: not to be had from this multiprocessor's own cache
    values = tl.load(rows[:, None] + column, mask=inside, other=0.0, cache_modifier=".cg")
    if factor is not None:
        factors = tl.load(factor[:, None] + column, mask=inside, other=0.0)
        values = values.to(tl.float32) * factors.to(tl.float32)
    if cleared is not None:
        values = tl.where(cleared[:, None], 0.0, values)
    return values.to(DT)


@triton.jit
def added(total, values, weights, TURNED: tl.constexpr, PRECISION: tl.constexpr):
    """The total and the product of a chunk."""
    if TURNED:
        total = tl.dot(weights, tl.trans(values), total, input_precision=PRECISION)
    else:
        total = tl.dot(values, weights, total, input_precision=PRECISION)
    return total


@triton.jit
def multiplied(sums, M: tl.constexpr, at, rows, valid, K, CHUNKS: tl.constexpr, factor, cleared,
               tiles, weights, step_m, step_k, column, there, KEPT: tl.constexpr, KC: tl.constexpr,
               DT: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """M sums, with the products added of what ``rows`` point at and of M matrices, whose tiles begin
    at the place ``at``."""
    if KEPT:
        for c in tl.static_range(CHUNKS):
            values = read_chunk(rows, valid, c * KC, K, factor, cleared, KC, DT)
            more = ()
            for m in tl.static_range(M):
                tile = tiles[at + m * CHUNKS + c]
                more = more + (added(sums[m], values, tile, TURNED, PRECISION),)
            sums = more
    else:
        for c in range(CHUNKS):
            read = read_chunk(rows, valid, c * KC, K, factor, cleared, KC, DT)
            further = ()
            for m in tl.static_range(M):
                of = weights + m * step_m
                w = weight_tile(of, c * KC, K, step_k, column, there, KC, TURNED)
                further = further + (added(sums[m], read, w, TURNED, PRECISION),)
            sums = further
    return sums


# Programs that wait for each other -----------------------------------------------------------------


@triton.jit
def arrive(counter):
    """Tells the others that what was written so far is there."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, times, NUMBER: tl.constexpr):
    """Returns when each of so many programs has arrived that many times."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < times * NUMBER:
        pass


@triton.jit
def meet(counter, times, NUMBER: tl.constexpr):
    """Arrives, and returns when all have."""
    arrive(counter)
    wait(counter, times, NUMBER)


@triton.jit
def shared_out(first, second, place, row, valid, batch, slice_):
    """Two numbers of each sequence of this slice, for the others."""
    mine = place + (slice_ * batch + row) * 2
    tl.store(mine, first, mask=valid)
    tl.store(mine + 1, second, mask=valid)


@triton.jit
def units_of(slice_, H: tl.constexpr, US: tl.constexpr):
    """How many units a slice has."""
    return tl.maximum(tl.minimum(H - slice_ * US, US), 0).to(tl.float32)


@triton.jit
def of_slices(place, row, valid, batch, SLICES: tl.constexpr, ROOM: tl.constexpr):
    """The two numbers of all slices, each sequences × ROOM."""
    k = tl.arange(0, ROOM)
    theirs = place + (k[None, :] * batch + row[:, None]) * 2
    inside = valid[:, None] & (k < SLICES)[None, :]
    first = tl.load(theirs, mask=inside, other=0.0, cache_modifier=".cg")
    return first, tl.load(theirs + 1, mask=inside, other=0.0, cache_modifier=".cg")


# Sums of which a group of slices has a share each ----------------------------------------------------


@triton.jit
def chunk_of(part, n, M: tl.constexpr, CHUNKS: tl.constexpr, KC: tl.constexpr, EACH: tl.constexpr):
    """Of the chunks of M products, ``EACH`` to a part, the part's n-th: its product, where in that it
    begins, and whether there is such a chunk."""
    chunk = part * EACH + n
    return tl.cast(chunk // CHUNKS, tl.int64), chunk % CHUNKS * KC, chunk < M * CHUNKS


@triton.jit
def shared_tiles(weights, M: tl.constexpr, step_m, K, CHUNKS: tl.constexpr, step_k, column, there,
                 part, PARTS: tl.constexpr, KC: tl.constexpr, KEPT: tl.constexpr,
                 TURNED: tl.constexpr):  # fmt: skip
    """A part's chunks of M matrices, if they are to be kept on chip."""
    EACH: tl.constexpr = (M * CHUNKS + PARTS - 1) // PARTS
    tiles = ()
    if KEPT:
        for n in tl.static_range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            of = weights + m * step_m
            tile = weight_tile(of, k, K, step_k, column, there & is_one, KC, TURNED)
            tiles = tiles + (tile,)
    return tiles


@triton.jit
def shared_sum(rows, step_row, M: tl.constexpr, K, CHUNKS: tl.constexpr, valid, at, tiles, weights,
               step_m, step_k, column, there, unit, part, partial, plane, row, batch, counter, times,
               SLICES: tl.constexpr, PARTS: tl.constexpr, KEPT: tl.constexpr, KC: tl.constexpr,
               BT: tl.constexpr, US: tl.constexpr, DT: tl.constexpr, TURNED: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """For a slice's units, the sum over M products of what ``rows`` and each further ``step_row`` point
    at; the tiles of this part begin at the place ``at``. Sums with nothing between them in which all
    slices meet need planes of their own, so that none is written over while another slice reads it."""
    EACH: tl.constexpr = (M * CHUNKS + PARTS - 1) // PARTS
    total = zeros_of(1, BT, US * PARTS, TURNED)[0]
    if KEPT:
        for n in tl.static_range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            values = read_chunk(rows + m * step_row, valid & is_one, k, K, None, None, KC, DT)
            total = added(total, values, tiles[at + n], TURNED, PRECISION)
    else:
        for n in range(EACH):
            m, k, is_one = chunk_of(part, n, M, CHUNKS, KC, EACH)
            read = read_chunk(rows + m * step_row, valid & is_one, k, K, None, None, KC, DT)
            of = weights + m * step_m
            w = weight_tile(of, k, K, step_k, column, there & is_one, KC, TURNED)
            total = added(total, read, w, TURNED, PRECISION)
    total = turned_back((total,), 1, TURNED)[0]
    if PARTS == 1:
        own = total
    else:
        place = partial + ((plane * PARTS + part) * batch + row)[:, None] * (SLICES * US)
        tl.store(place + column[None, :], total, mask=valid[:, None])
        meet(counter, times, PARTS)
        own = tl.zeros((BT, US), tl.float32)
        for k in tl.static_range(PARTS):
            place = partial + ((plane * PARTS + k) * batch + row)[:, None] * (SLICES * US)
            own += tl.load(
                place + unit[None, :], mask=valid[:, None], other=0.0, cache_modifier=".cg"
            )
    return own


# Layer normalisation -------------------------------------------------------------------------------


@triton.jit
def normalised(sums, N: tl.constexpr, inside, place, row, valid, batch, slice_, counter, times, epsilon,
               H: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
               BT: tl.constexpr):  # fmt: skip
    """The sums less their mean over all N * H of a sequence, by their deviation; and one over that."""
    total = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        total += tl.sum(tl.where(inside, sums[k], 0.0), axis=1)
    own = total / tl.maximum(N * units_of(slice_, H, US), 1.0)
    squares = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        off = tl.where(inside, sums[k] - own[:, None], 0.0)
        squares += tl.sum(off * off, axis=1)
    mean = own
    if SLICES > 1:
        shared_out(total, squares, place, row, valid, batch, slice_)
        meet(counter, times, SLICES)
        first, second = of_slices(place, row, valid, batch, SLICES, ROOM)
        mean = tl.sum(first, axis=1) / (N * H)
        number = (N * units_of(tl.arange(0, ROOM), H, US))[None, :]
        apart = first / tl.maximum(number, 1.0) - mean[:, None]
        squares = tl.sum(second + number * apart * apart, axis=1)
    scale = 1.0 / tl.sqrt(squares / (N * H) + epsilon)
    done = ()
    for k in tl.static_range(N):
        done = done + ((sums[k] - mean[:, None]) * scale[:, None],)
    return done, scale


@triton.jit
def before_norm(grads, normal, gain, scale, N: tl.constexpr, inside, place, row, valid, batch, slice_,
                counter, times, H: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
                BT: tl.constexpr):  # fmt: skip
    """From the gradients of gain * n to those of what was normalised."""
    along = tl.zeros((BT,), tl.float32)
    total = tl.zeros((BT,), tl.float32)
    for k in tl.static_range(N):
        scaled = tl.where(inside, grads[k] * gain[k], 0.0)
        total += tl.sum(scaled, axis=1)
        along += tl.sum(scaled * normal[k], axis=1)
    if SLICES > 1:
        shared_out(total, along, place, row, valid, batch, slice_)
        meet(counter, times, SLICES)
        first, second = of_slices(place, row, valid, batch, SLICES, ROOM)
        total = tl.sum(first, axis=1)
        along = tl.sum(second, axis=1)
    total = (total / (N * H))[:, None]
    along = (along / (N * H))[:, None]
    back = ()
    for k in tl.static_range(N):
        value = (grads[k] * gain[k] - total - normal[k] * along) * scale[:, None]
        back = back + (tl.where(inside, value, 0.0),)
    return back


# What a step is given ------------------------------------------------------------------------------


@triton.jit
def resets_at(t64, valid, reset, row, batch):
    cleared = valid & False
    if reset is not None:
        cleared = tl.load(reset + t64 * batch + row, mask=valid, other=0) != 0
    return cleared


@triton.jit
def inputs(t, valid, gx, reset, row, batch, unit, N: tl.constexpr, H: tl.constexpr):
    """The input's share of N sums, and which sequences start afresh."""
    t64 = tl.cast(t, tl.int64)
    start = (t64 * batch + row)[:, None] * (N * H) + unit[None, :]
    here = valid[:, None] & (unit < H)[None, :]
    shares = ()
    for k in tl.static_range(N):
        shares = shares + (tl.load(gx + start + k * H, mask=here, other=0.0).to(tl.float32),)
    return shares, resets_at(t64, valid, reset, row, batch)


@triton.jit
def remembered(t, valid, hist, saved, grad_output, reset, row, batch, unit, USES: tl.constexpr,
               STATES: tl.constexpr, WIDTHS: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
               REVERSE: tl.constexpr, BT: tl.constexpr, US: tl.constexpr):  # fmt: skip
    """Of the way forward the states before the step and what was saved; the output's own gradient; and
    which sequences started afresh."""
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
    kept = ()
    for k in tl.static_range(SAVED):
        own = saved + at * (SAVED * H) + k * H + unit[None, :]
        kept = kept + (tl.load(own, mask=here, other=0.0),)
    output = tl.zeros((BT, US), tl.float32)
    if grad_output is not None:
        own = grad_output + at * WIDTHS[0] + unit[None, :]
        has = valid[:, None] & (unit < WIDTHS[0])[None, :]
        output = tl.load(own, mask=has, other=0.0).to(tl.float32)
    return old, kept, output, cleared


# The way forward -----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["steps", "batch", "first_row"])
def forward(
    gx, bias_x, bias_h, weights, projection, gain, per_unit, initial, hist, final, saved, late_fed, unprojected,
    normal, scales, values, lengths, order, reset, factor, zoneout, zone_steps, epsilon, places,
    counters, steps, batch, first_row,
    STEP: tl.constexpr, EARLY: tl.constexpr, OF_X: tl.constexpr, OF_H: tl.constexpr,
    NX: tl.constexpr, NW: tl.constexpr, NH: tl.constexpr,
    NL: tl.constexpr, STATES: tl.constexpr, PARAMS: tl.constexpr, SAVED: tl.constexpr,
    VALUES: tl.constexpr, FED: tl.constexpr, FEDS: tl.constexpr, FROM: tl.constexpr, F: tl.constexpr,
    H: tl.constexpr, P: tl.constexpr, WIDTHS: tl.constexpr, STORE: tl.constexpr, RING: tl.constexpr,
    REVERSE: tl.constexpr, BT: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
    SIDE: tl.constexpr, KC: tl.constexpr, CHUNKS: tl.constexpr, KEPT: tl.constexpr,
    TURNED: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
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
    gains = ()
    if gain is not None:
        gains = vectors(gain, NS, H, unit)

    MATRICES: tl.constexpr = NS if SIDE == 1 else 1
    column, column_there = columns(slice_, US, SIDE, NS, H * F, H, F)
    early_tiles = ()
    for f in tl.static_range(FEDS):
        early_tiles = early_tiles + weight_tiles(
            weights + FROM[f], MATRICES, H * F, WIDTHS[FED[f]], CHUNKS, 1, column, column_there,
            KC, KEPT, TURNED,
        )  # fmt: skip
    late_column, late_there = columns(slice_, US, 1, 1, 0, H, F)
    late_weights = weights + NS * H * F
    late_tiles = weight_tiles(
        late_weights, NL, H * F, H, CHUNKS, 1, late_column, late_there, KC, KEPT, False
    )
    out_column, out_there = columns(slice_, US, 1, 1, 0, P, H)
    out_tiles = ()
    if projection is not None:
        out_tiles = weight_tiles(
            projection, 1, 0, H, CHUNKS, 1, out_column, out_there, KC, KEPT, False
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
        meet(counter, met, SLICES)
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

        sums = zeros_of(MATRICES, BT, US * SIDE, TURNED)
        for f in tl.static_range(FEDS):
            factors = None
            if factor is not None:
                factors = factor + row * F + FROM[f]
            if SLICES == 1:
                fed = old[FED[f]]
                if factor is not None:
                    has = there[:, None] & (unit < WIDTHS[FED[f]])[None, :]
                    fed = fed * tl.load(factors[:, None] + unit[None, :], mask=has, other=0.0)
                more = ()
                for m in tl.static_range(MATRICES):
                    w = early_tiles[f * MATRICES + m]
                    more = more + (tl.dot(fed.to(DT), w, sums[m], input_precision=PRECISION),)
                sums = more
            else:
                place = tl.cast(before % 2 if RING[FED[f]] else before, tl.int64)
                rows = hist[FED[f]] + (place * batch + row) * WIDTHS[FED[f]]
                sums = multiplied(
                    sums, MATRICES, f * MATRICES * CHUNKS, rows, valid, WIDTHS[FED[f]], CHUNKS,
                    factors, cleared, early_tiles, weights + FROM[f], H * F, 1, column, column_there,
                    KEPT, KC, DT, TURNED, PRECISION,
                )  # fmt: skip
        sums = turned_back(sums, MATRICES, TURNED)
        if SIDE > 1:
            sums = separated(sums[0], NS, SIDE, BT, US)
        if gain is not None:
            met += 1
            sums, scale = normalised(
                sums, NS, here, places, row, valid, batch, slice_, counter, met, epsilon, H, US,
                SLICES, ROOM, BT,
            )  # fmt: skip
            if normal is not None:
                for k in tl.static_range(NS):
                    tl.store(normal + at * (NS * H) + k * H + unit[None, :], sums[k], mask=here)
                if slice_ == 0:
                    tl.store(scales + t64 * batch + row, scale, mask=valid)
            done = ()
            for k in tl.static_range(NS):
                done = done + (sums[k] * gains[k],)
            sums = done
        a = ()
        for k in tl.static_range(NX + NW + NH):
            value = biases[k] + zero
            if k < NX + NW:
                value += xs[k]
            if k >= NX:
                value += sums[k - NX]
            a = a + (value,)
        if NL > 0:
            (fed,) = EARLY(a, old, p, zero)
            fed = tl.where(here, fed, 0.0)
            if factor is not None:
                fed = fed * tl.load(factor + row[:, None] * F + unit[None, :], mask=here, other=0.0)
            late_at = at * H + unit[None, :]
            if late_fed is not None:
                tl.store(late_fed + late_at, fed.to(DT), mask=here)
            late = zeros_of(NL, BT, US)
            if SLICES == 1:
                more = ()
                for m in tl.static_range(NL):
                    w = late_tiles[m]
                    more = more + (tl.dot(fed.to(DT), w, late[m], input_precision=PRECISION),)
                late = more
            else:
                met += 1
                meet(counter, met, SLICES)
                rows = late_fed + (t64 * batch + row) * H
                late = multiplied(
                    late, NL, 0, rows, valid, H, CHUNKS, None, None, late_tiles,
                    late_weights, H * F, 1, late_column, late_there, KEPT, KC, DT, False, PRECISION,
                )  # fmt: skip
            for k in tl.static_range(NL):
                a = a + (biases[NX + NW + NH + k] + xs[NX + NW + k] + late[k],)

        new, kept, named = STEP(a, old, p, zero)
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
                meet(counter, met, SLICES)
                rows = unprojected + (t64 * batch + row) * H
                out = multiplied(
                    out, 1, 0, rows, valid, H, CHUNKS, None, None, out_tiles, projection, 0, 1,
                    out_column, out_there, KEPT, KC, DT, False, PRECISION,
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
            # no number of a unit that is not there may reach a product
            ahead = ahead + (tl.where(has, value, state[k]),)
        state = ahead
        if SLICES > 1:
            arrive(counter)
        # what is kept, and what the next step needs: nobody has to wait for these
        if saved is not None:
            for k in tl.static_range(SAVED):
                tl.store(saved + at * (SAVED * H) + k * H + unit[None, :], kept[k], mask=here)
        if values is not None:
            for k in tl.static_range(VALUES):
                tl.store(values + at * (VALUES * H) + k * H + unit[None, :], named[k], mask=here)
        t = t - 1 if REVERSE else t + 1
        coming = (t < count) & (j + 1 < steps)
        xs, resets = inputs(t, coming, gx, reset, row, batch, unit, NG, H)
        if SLICES > 1:
            met += 1
            wait(counter, met, SLICES)


# The way back --------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["steps", "batch", "first_row"])
def backward(
    weights, projection, gain, per_unit, hist, saved, normal, scales, grad_output, grad_final, da,
    before_normal, grad_projected, grad_initial, grad_params, partial, lengths, order, reset, factor, zoneout,
    zone_steps, places, counters, steps, batch, first_row,
    BACK: tl.constexpr, BACK_LATE: tl.constexpr, NX: tl.constexpr, NW: tl.constexpr,
    NH: tl.constexpr, NL: tl.constexpr, STATES: tl.constexpr, PARAMS: tl.constexpr,
    SAVED: tl.constexpr, USES: tl.constexpr, FED: tl.constexpr, FEDS: tl.constexpr,
    FROM: tl.constexpr, F: tl.constexpr, H: tl.constexpr, P: tl.constexpr, WIDTHS: tl.constexpr, REVERSE: tl.constexpr,
    BT: tl.constexpr, US: tl.constexpr, SLICES: tl.constexpr, ROOM: tl.constexpr,
    PARTS: tl.constexpr, KC: tl.constexpr, CHUNKS: tl.constexpr, KEPT: tl.constexpr,
    TURNED: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of sequences, for a slice of the units, from the last step to the first.

    Those of all sums go to ``da``, for the large products that come after. Of a fed-back state the
    gradient is the product of the sums' gradients and the weights read the other way.
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
    of_params = zeros_of(PARAMS, BT, US)
    gains = ()
    if gain is not None:
        gains = vectors(gain, NS, H, unit)

    tiles = ()
    for f in tl.static_range(FEDS):
        tiles = tiles + shared_tiles(
            weights + FROM[f], NS, H * F, H, CHUNKS, F, of_group, of_group < WIDTHS[FED[f]], part, PARTS,
            KC, KEPT, TURNED,
        )  # fmt: skip
    OF_FED: tl.constexpr = (NS * CHUNKS + PARTS - 1) // PARTS
    late_weights = weights + NS * H * F
    late_tiles = shared_tiles(
        late_weights, NL, H * F, H, CHUNKS, F, of_group, of_group < H, part, PARTS, KC, KEPT, TURNED
    )
    in_tiles = ()
    if projection is not None:
        in_tiles = shared_tiles(
            projection, 1, 0, P, CHUNKS, H, of_group, of_group < H, part, PARTS, KC, KEPT, TURNED
        )

    t = tile * 0 if REVERSE else steps - 1
    old, kept, of_output, resets = remembered(
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
                seed += of_output
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
                meet(counter, met, SLICES)
                rows = grad_projected + (t64 * batch + row) * P
                out = shared_sum(
                    rows, 0, 1, P, CHUNKS, valid, 0, in_tiles, projection, 0, H, of_group, of_group < H,
                    unit, part, partial, 0, row, batch, group_counter, met_group, SLICES, PARTS, KEPT,
                    KC, BT, US, DT, TURNED, PRECISION,
                )  # fmt: skip
                more = (out,)
            for k in tl.static_range(1, STATES):
                more = more + (seeds[k],)
            seeds = more
        if NL > 0:
            of_late = BACK_LATE(kept, old, p, seeds, zero)
            late_seed = zero
            for k in tl.static_range(NL):
                late_at = at * (A * H) + (NX + NW + NH + k) * H
                value = tl.where(here, of_late[k], 0.0).to(DT)
                if SLICES == 1:
                    late_seed = tl.dot(value, late_tiles[k], late_seed, input_precision=PRECISION)
                else:
                    tl.store(da + late_at + unit[None, :], value, mask=here)
            if SLICES > 1:
                met += 1
                met_group += 1
                meet(counter, met, SLICES)
                rows = da + (t64 * batch + row) * (A * H) + (NX + NW + NH) * H
                late_seed = shared_sum(
                    rows, H, NL, H, CHUNKS, valid, 0, late_tiles, late_weights, H * F, F, of_group,
                    of_group < H, unit, part, partial, 0, row, batch, group_counter, met_group, SLICES,
                    PARTS, KEPT, KC, BT, US, DT, TURNED, PRECISION,
                )  # fmt: skip
            if factor is not None:
                own = factor + row[:, None] * F + unit[None, :]
                late_seed = late_seed * tl.load(own, mask=inside, other=0.0)
            seeds = seeds + (late_seed,)

        of_sums, of_state, of_param = BACK(kept, old, p, seeds, zero)
        more = ()
        for k in tl.static_range(PARAMS):
            more = more + (of_params[k] + tl.where(here, of_param[k], 0.0),)
        of_params = more
        # those of late gates are there already, and others may be reading them
        for k in tl.static_range(A if SLICES == 1 else A - NL):
            own = da + at * (A * H) + k * H + unit[None, :]
            tl.store(own, of_sums[k].to(DT), mask=here)
        into = ()
        for k in tl.static_range(NS):
            into = into + (tl.where(here, of_sums[NX + k], 0.0),)
        if gain is not None:
            normals = ()
            for k in tl.static_range(NS):
                own = normal + at * (NS * H) + k * H + unit[None, :]
                normals = normals + (tl.load(own, mask=here, other=0.0),)
            scale = tl.load(scales + t64 * batch + row, mask=valid, other=0.0)
            met += 1
            into = before_norm(
                into, normals, gains, scale, NS, here, places, row, valid, batch, slice_, counter,
                met, H, SLICES, ROOM, BT,
            )  # fmt: skip
            for k in tl.static_range(NS):
                own = before_normal + at * (NS * H) + k * H + unit[None, :]
                tl.store(own, into[k].to(DT), mask=here)
        if SLICES > 1:
            arrive(counter)
        t = t + 1 if REVERSE else t - 1
        coming = (t < count) & (j + 1 < steps)
        old, kept, of_output, resets = remembered(
            t, coming, hist, saved, grad_output, reset, row, batch, unit, USES, STATES, WIDTHS, SAVED,
            H, REVERSE, BT, US,
        )  # fmt: skip
        if SLICES > 1:
            met += 1
            wait(counter, met, SLICES)

        ahead = ()
        for k in tl.static_range(STATES):
            value = of_state[k] + skipped[k]
            for f in tl.static_range(FEDS):
                if FED[f] == k:
                    through = zero
                    if SLICES == 1:
                        for m in tl.static_range(NS):
                            w = tiles[f * NS + m]
                            through = tl.dot(into[m].to(DT), w, through, input_precision=PRECISION)
                    else:
                        if gain is not None:
                            rows = before_normal + (t64 * batch + row) * (NS * H)
                        else:
                            rows = da + (t64 * batch + row) * (A * H) + NX * H
                        met_group += 1
                        through = shared_sum(
                            rows, H, NS, H, CHUNKS, valid, f * OF_FED, tiles, weights + FROM[f], H * F,
                            F, of_group, of_group < WIDTHS[k], unit, part, partial, f, row, batch,
                            group_counter, met_group, SLICES, PARTS, KEPT, KC, BT, US, DT, TURNED,
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
        total = tl.sum(of_params[k], axis=0)
        tl.store(grad_params[k] + (first_row // BT + tile) * H + unit, total, mask=unit < H)
