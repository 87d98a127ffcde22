// The time loops in CUDA C++, for weights that Triton cannot keep on chip: clusters of programs that
// divide a product along the numbers fed back.
//
// A program has a slice of US units for a tile of BT sequences; PARTS of them, whose slices follow each
// other, are a cluster. A product has ROWS rows of weights for the cluster's units, along K numbers that
// were fed back. Each program of the cluster keeps its share of K for all ROWS in shared memory, reads its
// share alone of what is fed back, and takes from the others' shared memory what they have added up for its
// own units. All programs of a tile meet once a step by a counter, as in backends/gpu/loops.py, whose tensors
// and order of sums these are: see there for NX, NW, NH, and the history of a state.
//
// A *piece* is sixteen bytes; a *block* four pieces along K, which is what the threads of a warp hold of a
// row; a *chunk* CHUNK blocks, which are copied at once, STAGES - 1 chunks ahead of the product. The warps
// are MEMBERS that divide the rows by GROUPS that divide the blocks of a chunk.
//
// Before this come, printed for a cell, its sizes and options: Equations, Number, EXACT and the constants
// in capitals.
#pragma once

#include "maths.h"

namespace gw {

constexpr int WARP = 32;
constexpr int PIECE = 16 / sizeof(Number);  // numbers
constexpr int BLOCK = 4 * PIECE;
constexpr int ROW_TILES = (ROWS + 15) / 16, COLUMN_TILES = BT / 8;
constexpr int BLOCKS = (K + BLOCK * PARTS - 1) / (BLOCK * PARTS);  // of a part
constexpr int CHUNKS = (BLOCKS + CHUNK - 1) / CHUNK;
constexpr int MEMBERS = THREADS / WARP / GROUPS;
constexpr int MINE = (ROW_TILES + MEMBERS - 1) / MEMBERS;  // tiles of rows of a warp
constexpr int ITEMS = (BT * US + THREADS - 1) / THREADS;   // numbers of each kind that a thread has of a step

constexpr int STATES = Equations::states, PARAMS = Equations::params, SAVED = Equations::saved;
constexpr int VALUES = Equations::values, SUMS = Equations::accumulators;
constexpr int INPUTS = Equations::from_input, ALONE = SUMS - Equations::from_state;  // see NX in loops.py

// A row of sums is as long as ROWS and so much more that the threads of a warp write to banks of their own.
constexpr int PITCH = ROW_TILES * 16 + 4;
constexpr int AREA = BT * PITCH;  // of sums, in numbers
constexpr int AREAS = GROUPS > 2 ? GROUPS / 2 : 1;

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Shared memory: the weights, then the chunks that are multiplied, which give way to the sums, then the tile.
constexpr int OF_WEIGHTS = BLOCKS * ROW_TILES * 2 * WARP;                                  // pieces
constexpr int OF_CHUNK = CHUNK * COLUMN_TILES * WARP;                                      // pieces
constexpr int WORKING = larger(smaller(STAGES, CHUNKS) * OF_CHUNK * 16, AREAS * AREA * 4);  // bytes

// The sequences of a tile: where each is, its length, and whether something is fed back to it in this step.
struct Tile {
    int row[BT], length[BT];
    bool fed[BT];
};
static_assert(SHARED == OF_WEIGHTS * 16 + WORKING + BT * 16, "the plan has other ideas of shared memory");
static_assert(STAGES > 1 && BT % 8 == 0 && MEMBERS * GROUPS * WARP == THREADS, "not a plan");

GW_INLINE Piece* weights() { return reinterpret_cast<Piece*>(memory()); }
GW_INLINE Piece* chunks() { return weights() + OF_WEIGHTS; }
GW_INLINE float* sums() { return reinterpret_cast<float*>(chunks()); }
GW_INLINE Tile& sequences() { return *reinterpret_cast<Tile*>(memory() + OF_WEIGHTS * 16 + WORKING); }

GW_INLINE int part() { return slice() % PARTS; }

// One of a thread's ITEMS: a unit of a sequence, and the sequence's length; below zero where there is none.
struct Item {
    int sequence, column, unit, row, length;

    GW_INLINE bool there() const { return length >= 0; }
    GW_INLINE bool at(int t) const { return t < length; }
};

// Of each state the share of its old value that stays, T×B×width; its strides over steps and sequences.
struct Zoneout {
    const Number* share[STATES];
    long long of_step[STATES], of_sequence[STATES];

    GW_INLINE float of(int k, int t, const Item& item) const {
        return wide(share[k][t * of_step[k] + item.row * of_sequence[k] + item.unit]);
    }
};

// What both ways are given of a batch. What a call does without is null; everything is of eight bytes.
struct Batch {
    const long long *lengths, *order;
    const unsigned char* reset;
    Zoneout zoneout;
    const Number* factor;
    unsigned* counters;
    long long steps, batch, first;

    // Whether a sequence starts afresh with a step.
    GW_INLINE bool afresh(int t, int row) const { return reset && reset[t * batch + row]; }
};

// Finds the tile's sequences, of which those that are not there have a length below zero; gives the longest.
GW_INLINE int find_sequences(const Batch& of) {
    Tile& tile = sequences();
    if (const int s = thread(); s < BT) {
        const int place = int(of.first) + gw::tile() * BT + s;
        const bool there = place < of.batch;
        tile.row[s] = there && of.order ? int(of.order[place]) : place;
        tile.length[s] = !there ? -1 : of.lengths ? int(of.lengths[tile.row[s]]) : int(of.steps);
    }
    sync();
    int longest = 0;
    for (int s = 0; s < BT; ++s) longest = larger(longest, tile.length[s]);
    return longest;
}

// A thread's items, when the sequences are found.
GW_INLINE void find_items(Item (&items)[ITEMS]) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        Item& item = items[i];
        const int place = thread() + i * THREADS;
        item.sequence = place < BT * US ? place / US : 0;
        item.column = place % US, item.unit = slice() * US + item.column;
        item.length = place < BT * US && item.unit < H ? sequences().length[item.sequence] : -1;
        item.row = item.there() ? sequences().row[item.sequence] : 0;
    }
}

// Notes for which sequences a product of this step is to be made, for whoever waits at the counter next: not for
// those that start afresh with it.
GW_INLINE void note_fed(int t, const Batch& of) {
    Tile& tile = sequences();
    if (const int s = thread(); s < BT)
        tile.fed[s] = t >= 0 && t < tile.length[s] && !of.afresh(t, tile.row[s]);
}

// Products -------------------------------------------------------------------------------------------

// A thread's shares of its warp's sums: tiles of rows by tiles of columns.
using Shares = float[MINE][COLUMN_TILES][4];

GW_INLINE Number zero() {
    Number found;
    narrow(0.0f, found);
    return found;
}

// Keeps this part's weights: `weight(row, k)` is the one of a row for the k-th number fed back. For each block
// and tile of rows, each thread's four words for the first half of the block's numbers, then for the second.
template <class Weight>
GW_INLINE void keep_weights(Weight weight) {
    constexpr int WORD = PIECE / 4;  // numbers
#pragma unroll 4
    for (int place = thread(); place < OF_WEIGHTS; place += THREADS) {
        const int lane = place % WARP, second = place / WARP % 2, tile = place / WARP / 2 % ROW_TILES;
        const int block = part() * BLOCKS + place / WARP / 2 / ROW_TILES;
        alignas(16) Number piece[PIECE];
        for (int n = 0; n < PIECE; ++n) {
            const int word = n / WORD, row = tile * 16 + word % 2 * 8 + lane / 4;
            const int k = block * BLOCK + lane % 4 * PIECE + (second * 2 + word / 2) * WORD + n % WORD;
            piece[n] = row < ROWS && k < K ? weight(row, k) : zero();
        }
        weights()[place] = *reinterpret_cast<Piece*>(piece);
    }
}

// What a thread copies of a step is all of one sequence: its row of what is fed back, from this part's share and
// the thread's own place in a block on.
struct Fed {
    const Number* from;
    int numbers;  // of the row from there on; none where nothing is fed back

    GW_INLINE Fed(const Number* rows, long long pitch) {
        const int sequence = thread() / WARP % COLUMN_TILES * 8 + thread() % WARP / 4;
        const int first = part() * BLOCKS * BLOCK + thread() % 4 * PIECE;
        numbers = sequences().fed[sequence] ? K - first : 0;
        from = numbers > 0 ? rows + sequences().row[sequence] * pitch + first : rows;
    }
};

// Begins to copy a chunk of this part's share.
GW_INLINE void stage(int chunk, const Fed& fed) {
    Piece* to = chunks() + chunk % STAGES * OF_CHUNK + thread();
    constexpr int STRIDE = THREADS / WARP / COLUMN_TILES;  // between a thread's blocks
#pragma unroll
    for (int n = 0; n < (CHUNK + STRIDE - 1) / STRIDE; ++n) {
        const int b = thread() / WARP / COLUMN_TILES + n * STRIDE, block = chunk * CHUNK + b;
        if (b < CHUNK) {
            const bool there = block < BLOCKS && block * BLOCK < fed.numbers;
            copy(to + n * THREADS, there ? fed.from + block * BLOCK : fed.from, there);
        }
    }
}

// float32 in TF32, or EXACT: of each number what TF32 holds and the rest, in three products.
GW_INLINE void multiply(float, float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned a_most[4], a_rest[4], b_most[2], b_rest[2];
    for (int n = 0; n < 4; ++n) {
        a_most[n] = tf32(as_float(a[n]));
        a_rest[n] = tf32(as_float(a[n]) - as_float(a_most[n]));
    }
    for (int n = 0; n < 2; ++n) {
        b_most[n] = tf32(as_float(b[n]));
        b_rest[n] = tf32(as_float(b[n]) - as_float(b_most[n]));
    }
    if (EXACT) {
        multiply_tf32(sum, a_rest, b_most);
        multiply_tf32(sum, a_most, b_rest);
    }
    multiply_tf32(sum, a_most, b_most);
}

// Adds to a warp's shares the products of its blocks of a chunk.
GW_INLINE void multiply_chunk(int chunk, int member, int group, Shares& shares) {
    const int lane = thread() % WARP;
    const Piece* staged = chunks() + chunk % STAGES * OF_CHUNK + lane;
    for (int b = group; b < CHUNK; b += GROUPS) {
        const int block = chunk * CHUNK + b;
        if (block >= BLOCKS) break;
        Piece columns[COLUMN_TILES];
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n) columns[n] = staged[(b * COLUMN_TILES + n) * WARP];
#pragma unroll
        for (int m = 0; m < MINE; ++m) {
            const int tile = member * MINE + m;
            if (tile >= ROW_TILES) break;
            const Piece* kept = weights() + (block * ROW_TILES + tile) * 2 * WARP + lane;
#pragma unroll
            for (int second = 0; second < 2; ++second) {
                const Piece rows = kept[second * WARP];
#pragma unroll
                for (int n = 0; n < COLUMN_TILES; ++n) {
                    const unsigned b[2] = {columns[n].word[2 * second], columns[n].word[2 * second + 1]};
                    multiply(Number{}, shares[m][n], rows.word, b);
                }
            }
        }
    }
}

// Calls `with` for each of a warp's sums and its place in an area.
template <class With>
GW_INLINE void each_share(int member, Shares& shares, float* area, With with) {
    const int lane = thread() % WARP;
    float* own = area + lane % 4 * 2 * PITCH + member * MINE * 16 + lane / 4;
#pragma unroll
    for (int m = 0; m < MINE; ++m) {
        if (member * MINE + m >= ROW_TILES) break;
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) with(shares[m][n][k], own[(n * 8 + k % 2) * PITCH + m * 16 + k / 2 * 8]);
    }
}

// This part's share of the product with what is fed back, in rows that are `pitch` numbers apart; in sums(), where
// the cluster reads it from here on. It may be written over when all programs of the cluster have arrived at the
// counter.
GW_INLINE void multiply_all(const Number* rows, long long pitch) {
    const Fed fed(rows, pitch);
    const int warp = thread() / WARP, member = warp % MEMBERS, group = warp / MEMBERS;
    Shares shares = {};
#pragma unroll
    for (int chunk = 0; chunk < STAGES - 1; ++chunk) {
        if (chunk < CHUNKS) stage(chunk, fed);
        gw::group();
    }
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        copied<STAGES - 2>();
        sync();  // everybody's copies are there, and nobody reads what was multiplied last
        if (chunk + STAGES - 1 < CHUNKS) stage(chunk + STAGES - 1, fed);
        gw::group();
        multiply_chunk(chunk, member, group, shares);
    }
    sync();
    // the groups' sums are added up in the same order each time
    const auto keep = [](float& share, float& place) { place = share; };
#pragma unroll
    for (int rest = GROUPS / 2; rest > 0; rest /= 2) {
        float* area = sums() + group % rest * AREA;
        if (rest <= group && group < 2 * rest) each_share(member, shares, area, keep);
        sync();
        if (group < rest) each_share(member, shares, area, [](float& share, float& place) { share += place; });
        sync();
    }
    if (group == 0) each_share(member, shares, sums(), keep);
    meet();
}

// A row's sum for a sequence, of what all parts have added up: first this one, then those that follow, so that
// they don't all read from the same.
struct Peers {
    const float* at[PARTS];

    GW_INLINE Peers() {
#pragma unroll
        for (int n = 0; n < PARTS; ++n) at[n] = n == 0 ? sums() : of_peer(sums(), (part() + n) % PARTS);
    }
    GW_INLINE float sum(int sequence, int row) const {
        float found = 0;
#pragma unroll
        for (int n = 0; n < PARTS; ++n) found += at[n][sequence * PITCH + row];
        return found;
    }
};

// Histories ----------------------------------------------------------------------------------------------

// Where a history has what was before or after a step.
GW_INLINE long long before(int t) { return REVERSE ? t + 1 : t; }
GW_INLINE long long after(int t) { return REVERSE ? t : t + 1; }

// The place of item's number among k·H of a step, of `of` in all.
GW_INLINE long long place(long long t, int batch, const Item& item, int of, int k) {
    return (t * batch + item.row) * (of * H) + k * H + item.unit;
}

// A state's history: the output's as it is stored, others in float32.
GW_INLINE float remembered(const void* history, int k, long long place) {
    return k == 0 ? wide(static_cast<const Number*>(history)[place]) : static_cast<const float*>(history)[place];
}
GW_INLINE void remember(void* history, int k, long long place, float value) {
    if (k == 0)
        narrow(value, static_cast<Number*>(history)[place]);
    else
        static_cast<float*>(history)[place] = value;
}

// The way forward ----------------------------------------------------------------------------------------

// As forward in backends/gpu/loops.py takes them.
struct Forward {
    const Number *inputs, *input_bias, *recurrent_bias, *recurrent, *params[PARAMS + 1], *initial[STATES];
    void* history[STATES];
    Number* last[STATES];
    float *saved, *values;
    Number* fed;  // where there are factors, the output times these, after even and odd steps
    Batch of;
};

GW_INLINE void forward(const Forward& given) {
    const int batch = int(given.of.batch), steps = find_sequences(given.of);
    unsigned* const counter = given.of.counters + tile();
    keep_weights([&](int row, int k) {
        const int unit = slice() / PARTS * PARTS * US + row % (US * PARTS);
        return unit < H ? given.recurrent[((long long)(row / (US * PARTS)) * H + unit) * H + k] : zero();
    });

    Item items[ITEMS];
    find_items(items);
    // of each state its value; of a step's sums the input's share and the biases
    float state[ITEMS][STATES], share[ITEMS][SUMS], params[ITEMS][PARAMS + 1];
    bool fresh[ITEMS];
    auto feed = [&](int steps, const Item& item, float output) {
        const float factor = wide(given.of.factor[place(0, batch, item, 1, 0)]);
        narrow(output * factor, given.fed[place(steps % 2, batch, item, 1, 0)]);
    };
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Item& item = items[i];
        for (int k = 0; k < STATES; ++k) {
            state[i][k] = item.there() ? wide(given.initial[k][place(0, batch, item, 1, 0)]) : 0.0f;
            const int start = REVERSE ? item.length : 0;
            if (item.there() && given.history[k])
                remember(given.history[k], k, place(start, batch, item, 1, 0), state[i][k]);
        }
        // in reverse a shorter sequence begins later
        if (given.of.factor && item.there()) feed(REVERSE ? steps - item.length : 0, item, state[i][0]);
        for (int k = 0; k < PARAMS; ++k) params[i][k] = item.there() ? wide(given.params[k][item.unit]) : 0.0f;
    }

    auto look_ahead = [&](int t, bool coming) {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            const bool here = coming && item.at(t);
            for (int k = 0; k < SUMS; ++k) {
                // by gates: the bias of each part, and both for a whole gate
                const int from = Equations::gate[k] * H + item.unit;
                share[i][k] = here && k < INPUTS ? wide(given.inputs[place(t, batch, item, INPUTS, k)]) : 0.0f;
                if (here && k < INPUTS && given.input_bias) share[i][k] += wide(given.input_bias[from]);
                if (here && k >= ALONE && given.recurrent_bias) share[i][k] += wide(given.recurrent_bias[from]);
            }
            fresh[i] = here && given.of.afresh(t, item.row);
        }
        note_fed(coming ? t : -1, given.of);
    };

    int t = REVERSE ? steps - 1 : 0;
    unsigned met = SLICES;
    look_ahead(t, steps > 0);
    arrive(counter);
    wait(counter, met);
    const Peers peers;
    for (int j = 0; j < steps; ++j) {
        const Number* output = static_cast<const Number*>(given.history[0]) + before(t) * batch * H;
        multiply_all(given.of.factor ? given.fed + (long long)(j % 2) * batch * H : output, H);
        // all at once, so that the other programs' memory is waited for once
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
#pragma unroll
            for (int k = ALONE; k < SUMS; ++k)
                share[i][k] += peers.sum(items[i].sequence, ((k - ALONE) * PARTS + part()) * US + items[i].column);
        float saved[ITEMS][SAVED + 1], values[ITEMS][VALUES];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            if (!item.at(t)) continue;
            float old[STATES], next[STATES];
            for (int k = 0; k < STATES; ++k) old[k] = fresh[i] ? 0.0f : state[i][k];
            Equations::step(share[i], old, params[i], next, saved[i], values[i]);
            for (int k = 0; k < STATES; ++k) {
                float value = next[k];
                if (ZONEOUT) {
                    const float stays = given.of.zoneout.of(k, t, item);
                    value = stays * old[k] + (1.0f - stays) * value;
                }
                if (k == 0) {  // the output is what is stored of it
                    Number rounded;
                    narrow(value, rounded);
                    value = wide(rounded);
                    if (given.of.factor) feed(j + 1, item, value);
                }
                if (given.history[k]) remember(given.history[k], k, place(after(t), batch, item, 1, 0), value);
                if (t == (REVERSE ? 0 : item.length - 1))
                    narrow(value, given.last[k][place(0, batch, item, 1, 0)]);
                state[i][k] = value;
            }
        }
        arrive(counter);
        // what is kept, and what the next step needs: nobody has to wait for these
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            if (!item.at(t)) continue;
            if (given.saved)
                for (int k = 0; k < SAVED; ++k) given.saved[place(t, batch, item, SAVED, k)] = saved[i][k];
            if (given.values)
                for (int k = 0; k < VALUES; ++k) given.values[place(t, batch, item, VALUES, k)] = values[i][k];
        }
        t += REVERSE ? -1 : 1;
        look_ahead(t, j + 1 < steps);
        met += SLICES;
        wait(counter, met);
    }
}

// The way back -------------------------------------------------------------------------------------------

// As backward in backends/gpu/loops.py takes them.
struct Backward {
    const Number *recurrent, *params[PARAMS + 1];
    const void* history[STATES];
    const float* saved;
    const Number *of_output, *of_last[STATES];
    Number *of_sums, *of_initial[STATES];
    float* of_params[PARAMS + 1];
    Batch of;
};

GW_INLINE void backward(const Backward& given) {
    const int batch = int(given.of.batch), steps = find_sequences(given.of);
    unsigned* const counter = given.of.counters + tile();
    keep_weights([&](int row, int k) {
        const int unit = slice() / PARTS * PARTS * US + row;
        return unit < H ? given.recurrent[(long long)k * H + unit] : zero();
    });

    Item items[ITEMS];
    find_items(items);
    // of each state its gradient; of what a step is given: the old states, what was saved, the output's gradient
    float grads[ITEMS][STATES], params[ITEMS][PARAMS + 1], of_params[ITEMS][PARAMS + 1] = {};
    float old[ITEMS][STATES], saved[ITEMS][SAVED + 1], of_output[ITEMS];
    bool fresh[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Item& item = items[i];
        for (int k = 0; k < STATES; ++k)
            grads[i][k] = item.there() && given.of_last[k] ? wide(given.of_last[k][place(0, batch, item, 1, 0)]) : 0.0f;
        for (int k = 0; k < PARAMS; ++k) params[i][k] = item.there() ? wide(given.params[k][item.unit]) : 0.0f;
    }

    auto look_ahead = [&](int t, bool coming) {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            const bool here = coming && item.at(t);
            fresh[i] = here && given.of.afresh(t, item.row);
            for (int k = 0; k < STATES; ++k) {
                old[i][k] = 0;
                if (Equations::uses_state[k] && here && !fresh[i])
                    old[i][k] = remembered(given.history[k], k, place(before(t), batch, item, 1, 0));
            }
            for (int k = 0; k < SAVED; ++k) saved[i][k] = here ? given.saved[place(t, batch, item, SAVED, k)] : 0.0f;
            of_output[i] = here && given.of_output ? wide(given.of_output[place(t, batch, item, 1, 0)]) : 0.0f;
        }
    };

    int t = REVERSE ? 0 : steps - 1;
    unsigned met = 0;
    look_ahead(t, steps > 0);
    const Peers peers;
    for (int j = 0; j < steps; ++j) {
        float of_old[ITEMS][STATES];
        bool cleared[ITEMS];
        note_fed(t, given.of);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            cleared[i] = fresh[i];
            if (!item.at(t)) continue;
            float seed[STATES], passed[STATES], of_sum[SUMS], of_param[PARAMS + 1];
            for (int k = 0; k < STATES; ++k) {
                seed[k] = grads[i][k] + (k == 0 ? of_output[i] : 0.0f);
                passed[k] = ZONEOUT ? given.of.zoneout.of(k, t, item) * seed[k] : 0.0f;
                seed[k] -= passed[k];
            }
            Equations::backward(saved[i], old[i], params[i], seed, of_sum, of_old[i], of_param);
            for (int k = 0; k < SUMS; ++k) narrow(of_sum[k], given.of_sums[place(t, batch, item, SUMS, k)]);
            for (int k = 0; k < PARAMS; ++k) of_params[i][k] += of_param[k];
            for (int k = 0; k < STATES; ++k) of_old[i][k] += passed[k];
        }
        arrive(counter);
        const int now = t;
        t += REVERSE ? 1 : -1;
        look_ahead(t, j + 1 < steps);
        met += SLICES;
        wait(counter, met);
        multiply_all(given.of_sums + ((long long)now * batch * SUMS + ALONE) * H, SUMS * H);
        float through[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) through[i] = peers.sum(items[i].sequence, part() * US + items[i].column);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            if (!item.at(now)) continue;
            if (given.of.factor) through[i] *= wide(given.of.factor[place(0, batch, item, 1, 0)]);
            of_old[i][0] += through[i];
            for (int k = 0; k < STATES; ++k) grads[i][k] = cleared[i] ? 0.0f : of_old[i][k];
        }
    }

    meet();  // nobody reads from this program any more
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Item& item = items[i];
        if (item.there())
            for (int k = 0; k < STATES; ++k) narrow(grads[i][k], given.of_initial[k][place(0, batch, item, 1, 0)]);
    }
    for (int k = 0; k < PARAMS; ++k) {
        sync();
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            if (thread() + i * THREADS < BT * US) sums()[thread() + i * THREADS] = of_params[i][k];
        sync();
        const int unit = slice() * US + thread();
        if (thread() < US && unit < H) {
            float total = 0;
            for (int s = 0; s < BT; ++s) total += sums()[s * US + thread()];
            given.of_params[k][(given.of.first / BT + tile()) * H + unit] = total;
        }
    }
}

}  // namespace gw
