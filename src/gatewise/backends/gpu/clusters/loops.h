// The time loops in CUDA C++, for weights that do not fit on chip in Triton: clusters of programs divide a
// product along the recurrent input.
//
// A program has a slice of US units for a tile of BT sequences. PARTS programs with consecutive slices are a
// cluster. A product has ROWS rows of weights for the cluster's units, along K numbers of the recurrent input.
// Each program of the cluster keeps its share of K for all ROWS in shared memory, and reads only its share of the
// recurrent input. It then reads the partial sums of its own units from the shared memory of the others. All
// programs of a tile meet once a step, at a counter, as in backends/gpu/loops.py. Tensors and the order of the
// accumulators are those of that file: see there for NX, NW, NH, and the history of a state.
//
// A *piece* is sixteen bytes. A *block* is four pieces along K: what the threads of a warp hold of a row. A
// *chunk* is CHUNK blocks, which are copied together, STAGES - 1 chunks ahead of the product. The warps are
// MEMBERS that divide the rows, by GROUPS that divide the blocks of a chunk.
//
// Before this file comes text that is printed for a cell, its sizes and options: Equations, Number, EXACT and the
// constants in capitals.
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
constexpr int VALUES = Equations::values, ACCUMULATORS = Equations::accumulators;
constexpr int INPUTS = Equations::from_input, ALONE = ACCUMULATORS - Equations::from_state;  // see NX in loops.py

// A row of partial sums is longer than ROWS, so that the threads of a warp write to different banks.
constexpr int PITCH = ROW_TILES * 16 + 4;
constexpr int AREA = BT * PITCH;  // of partial sums, in numbers
constexpr int AREAS = GROUPS > 2 ? GROUPS / 2 : 1;

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Shared memory: the weights; then the chunks, and in their place later the partial sums; then the tile.
constexpr int OF_WEIGHTS = BLOCKS * ROW_TILES * 2 * WARP;                                  // pieces
constexpr int OF_CHUNK = CHUNK * COLUMN_TILES * WARP;                                      // pieces
constexpr int WORKING = larger(smaller(STAGES, CHUNKS) * OF_CHUNK * 16, AREAS * AREA * 4);  // bytes

// The sequences of a tile: the row of each, its length, and whether it has a recurrent input in this step.
struct Tile {
    int row[BT], length[BT];
    bool fed[BT];
};
static_assert(SHARED == OF_WEIGHTS * 16 + WORKING + BT * 16, "the plan counts another size of shared memory");
static_assert(STAGES > 1 && BT % 8 == 0 && MEMBERS * GROUPS * WARP == THREADS, "not a plan");

GW_INLINE Piece* weights() { return reinterpret_cast<Piece*>(memory()); }
GW_INLINE Piece* chunks() { return weights() + OF_WEIGHTS; }
GW_INLINE float* partial_sums() { return reinterpret_cast<float*>(chunks()); }
GW_INLINE Tile& sequences() { return *reinterpret_cast<Tile*>(memory() + OF_WEIGHTS * 16 + WORKING); }

GW_INLINE int part() { return slice() % PARTS; }

// One of a thread's ITEMS: a unit of a sequence, and the sequence's length, which is negative if there is none.
struct Item {
    int sequence, column, unit, row, length;

    GW_INLINE bool there() const { return length >= 0; }
    GW_INLINE bool at(int t) const { return t < length; }
};

// For each state the share of its old value that it keeps, T×B×width; its strides over steps and sequences.
struct Zoneout {
    const Number* share[STATES];
    long long of_step[STATES], of_sequence[STATES];

    GW_INLINE float of(int k, int t, const Item& item) const {
        return wide(share[k][t * of_step[k] + item.row * of_sequence[k] + item.unit]);
    }
};

// The arguments that the forward and the backward pass share. An option that a call does not have is null; each
// member has eight bytes.
struct Batch {
    const long long *lengths, *order;
    const unsigned char* reset;
    Zoneout zoneout;
    const Number* factor;
    unsigned* counters;
    long long steps, batch, first;

    // Whether a sequence is reset before a step.
    GW_INLINE bool is_reset(int t, int row) const { return reset && reset[t * batch + row]; }
};

// Finds the tile's sequences and returns the longest length. Sequences that do not exist have a negative length.
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

// Finds a thread's items, after find_sequences.
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

// Notes which sequences have a recurrent input in this step, for those who read it after the next wait: those that
// are reset before it have none.
GW_INLINE void note_recurrent_inputs(int t, const Batch& of) {
    Tile& tile = sequences();
    if (const int s = thread(); s < BT)
        tile.fed[s] = t >= 0 && t < tile.length[s] && !of.is_reset(t, tile.row[s]);
}

// Products -------------------------------------------------------------------------------------------

// A thread's accumulators, of its warp's: tiles of rows by tiles of columns.
using Accumulators = float[MINE][COLUMN_TILES][4];

GW_INLINE Number zero() {
    Number found;
    narrow(0.0f, found);
    return found;
}

// Copies this part's weights to shared memory: `weight(row, k)` is that of a row for the k-th number of the
// recurrent input. For each block and tile of rows come each thread's four words for the first half of the block's
// numbers, then those for the second half.
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

// What a thread copies in a step belongs to one sequence: its row of the recurrent input, from the beginning of this
// part's share plus the thread's own position in a block.
struct RecurrentInput {
    const Number* from;
    int numbers;  // of the row from there on; not positive if the sequence has no recurrent input

    GW_INLINE RecurrentInput(const Number* rows, long long pitch) {
        const int sequence = thread() / WARP % COLUMN_TILES * 8 + thread() % WARP / 4;
        const int first = part() * BLOCKS * BLOCK + thread() % 4 * PIECE;
        numbers = sequences().fed[sequence] ? K - first : 0;
        from = numbers > 0 ? rows + sequences().row[sequence] * pitch + first : rows;
    }
};

// Begins to copy a chunk of this part's share.
GW_INLINE void stage(int chunk, const RecurrentInput& fed) {
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

// float32 in TF32; or, if EXACT, each number split into its nearest TF32 number and the rest, in three products.
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

// Adds the products of a warp's blocks of a chunk to its accumulators.
GW_INLINE void multiply_chunk(int chunk, int member, int group, Accumulators& accumulators) {
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
                    multiply(Number{}, accumulators[m][n], rows.word, b);
                }
            }
        }
    }
}

// Calls `with` for each accumulator of a warp and its position in an area.
template <class With>
GW_INLINE void each_accumulator(int member, Accumulators& accumulators, float* area, With with) {
    const int lane = thread() % WARP;
    float* own = area + lane % 4 * 2 * PITCH + member * MINE * 16 + lane / 4;
#pragma unroll
    for (int m = 0; m < MINE; ++m) {
        if (member * MINE + m >= ROW_TILES) break;
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; ++n)
#pragma unroll
            for (int k = 0; k < 4; ++k) with(accumulators[m][n][k], own[(n * 8 + k % 2) * PITCH + m * 16 + k / 2 * 8]);
    }
}

// Computes this part's share of the product with the recurrent input, whose rows are `pitch` numbers apart. The
// partial sums are in partial_sums(), where the cluster may read them after this call. They may be overwritten when
// all programs of the cluster have arrived at the counter.
GW_INLINE void multiply_all(const Number* rows, long long pitch) {
    const RecurrentInput fed(rows, pitch);
    const int warp = thread() / WARP, member = warp % MEMBERS, group = warp / MEMBERS;
    Accumulators accumulators = {};
#pragma unroll
    for (int chunk = 0; chunk < STAGES - 1; ++chunk) {
        if (chunk < CHUNKS) stage(chunk, fed);
        gw::group();
    }
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        copied<STAGES - 2>();
        sync();  // all threads' copies are complete, and no thread reads the last chunk any more
        if (chunk + STAGES - 1 < CHUNKS) stage(chunk + STAGES - 1, fed);
        gw::group();
        multiply_chunk(chunk, member, group, accumulators);
    }
    sync();
    // the groups' partial sums are added in the same order each time
    const auto keep = [](float& accumulator, float& place) { place = accumulator; };
    const auto add = [](float& accumulator, float& place) { accumulator += place; };
#pragma unroll
    for (int rest = GROUPS / 2; rest > 0; rest /= 2) {
        float* area = partial_sums() + group % rest * AREA;
        if (rest <= group && group < 2 * rest) each_accumulator(member, accumulators, area, keep);
        sync();
        if (group < rest) each_accumulator(member, accumulators, area, add);
        sync();
    }
    if (group == 0) each_accumulator(member, accumulators, partial_sums(), keep);
    meet();
}

// The sum of all parts' partial sums, of a row and a sequence. Each part begins with its own and goes on with those
// that follow, so that not all read from the same one.
struct Peers {
    const float* at[PARTS];

    GW_INLINE Peers() {
#pragma unroll
        for (int n = 0; n < PARTS; ++n) at[n] = n == 0 ? partial_sums() : of_peer(partial_sums(), (part() + n) % PARTS);
    }
    GW_INLINE float sum(int sequence, int row) const {
        float found = 0;
#pragma unroll
        for (int n = 0; n < PARTS; ++n) found += at[n][sequence * PITCH + row];
        return found;
    }
};

// Histories ----------------------------------------------------------------------------------------------

// The position in a history of the value before or after a step.
GW_INLINE long long before(int t) { return REVERSE ? t + 1 : t; }
GW_INLINE long long after(int t) { return REVERSE ? t : t + 1; }

// The position of an item's number in a tensor T×B×of·H, in its k-th H.
GW_INLINE long long place(long long t, int batch, const Item& item, int of, int k) {
    return (t * batch + item.row) * (of * H) + k * H + item.unit;
}

// A number of a state's history. The output's history is in the type it is stored in, the others are float32.
GW_INLINE float read_history(const void* history, int k, long long place) {
    return k == 0 ? wide(static_cast<const Number*>(history)[place]) : static_cast<const float*>(history)[place];
}
GW_INLINE void write_history(void* history, int k, long long place, float value) {
    if (k == 0)
        narrow(value, static_cast<Number*>(history)[place]);
    else
        static_cast<float*>(history)[place] = value;
}

// The forward pass ---------------------------------------------------------------------------------------

// The arguments of `forward` in backends/gpu/loops.py.
struct Forward {
    const Number *inputs, *input_bias, *recurrent_bias, *recurrent, *params[PARAMS + 1], *initial[STATES];
    void* history[STATES];
    Number* last[STATES];
    float *saved, *values;
    Number* fed;  // if there are factors: the output times these, after even and after odd steps
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
    // each state's value; the input part and the biases of each accumulator of a step
    float state[ITEMS][STATES], share[ITEMS][ACCUMULATORS], params[ITEMS][PARAMS + 1];
    bool reset[ITEMS];
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
                write_history(given.history[k], k, place(start, batch, item, 1, 0), state[i][k]);
        }
        // in reverse, a shorter sequence begins later
        if (given.of.factor && item.there()) feed(REVERSE ? steps - item.length : 0, item, state[i][0]);
        for (int k = 0; k < PARAMS; ++k) params[i][k] = item.there() ? wide(given.params[k][item.unit]) : 0.0f;
    }

    auto look_ahead = [&](int t, bool coming) {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            const bool here = coming && item.at(t);
            for (int k = 0; k < ACCUMULATORS; ++k) {
                // in the order of gates: of a part its own bias, of a whole pre-activation both
                const int from = Equations::gate[k] * H + item.unit;
                share[i][k] = here && k < INPUTS ? wide(given.inputs[place(t, batch, item, INPUTS, k)]) : 0.0f;
                if (here && k < INPUTS && given.input_bias) share[i][k] += wide(given.input_bias[from]);
                if (here && k >= ALONE && given.recurrent_bias) share[i][k] += wide(given.recurrent_bias[from]);
            }
            reset[i] = here && given.of.is_reset(t, item.row);
        }
        note_recurrent_inputs(coming ? t : -1, given.of);
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
        // all together, so that the latency of the other programs' memory is paid once
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
#pragma unroll
            for (int k = ALONE; k < ACCUMULATORS; ++k)
                share[i][k] += peers.sum(items[i].sequence, ((k - ALONE) * PARTS + part()) * US + items[i].column);
        float saved[ITEMS][SAVED + 1], values[ITEMS][VALUES];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            if (!item.at(t)) continue;
            float old[STATES], next[STATES];
            for (int k = 0; k < STATES; ++k) old[k] = reset[i] ? 0.0f : state[i][k];
            Equations::step(share[i], old, params[i], next, saved[i], values[i]);
            for (int k = 0; k < STATES; ++k) {
                float value = next[k];
                if (ZONEOUT) {
                    const float stays = given.of.zoneout.of(k, t, item);
                    value = stays * old[k] + (1.0f - stays) * value;
                }
                if (k == 0) {  // the output is rounded as it is stored
                    Number rounded;
                    narrow(value, rounded);
                    value = wide(rounded);
                    if (given.of.factor) feed(j + 1, item, value);
                }
                if (given.history[k]) write_history(given.history[k], k, place(after(t), batch, item, 1, 0), value);
                if (t == (REVERSE ? 0 : item.length - 1))
                    narrow(value, given.last[k][place(0, batch, item, 1, 0)]);
                state[i][k] = value;
            }
        }
        arrive(counter);
        // no program waits for what is saved here, nor for what the next step needs
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

// The backward pass --------------------------------------------------------------------------------------

// The arguments of `backward` in backends/gpu/loops.py.
struct Backward {
    const Number *recurrent, *params[PARAMS + 1];
    const void* history[STATES];
    const float* saved;
    const Number *of_output, *of_last[STATES];
    Number *grad_accumulators, *of_initial[STATES];
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
    // each state's gradient; what a step reads: the old states, the saved activations, the output's gradient
    float grads[ITEMS][STATES], params[ITEMS][PARAMS + 1], of_params[ITEMS][PARAMS + 1] = {};
    float old[ITEMS][STATES], saved[ITEMS][SAVED + 1], of_output[ITEMS];
    bool reset[ITEMS];
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
            reset[i] = here && given.of.is_reset(t, item.row);
            for (int k = 0; k < STATES; ++k) {
                old[i][k] = 0;
                if (Equations::uses_state[k] && here && !reset[i])
                    old[i][k] = read_history(given.history[k], k, place(before(t), batch, item, 1, 0));
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
        note_recurrent_inputs(t, given.of);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            cleared[i] = reset[i];
            if (!item.at(t)) continue;
            float seed[STATES], passed[STATES], grad_accumulator[ACCUMULATORS], of_param[PARAMS + 1];
            for (int k = 0; k < STATES; ++k) {
                seed[k] = grads[i][k] + (k == 0 ? of_output[i] : 0.0f);
                passed[k] = ZONEOUT ? given.of.zoneout.of(k, t, item) * seed[k] : 0.0f;
                seed[k] -= passed[k];
            }
            Equations::backward(saved[i], old[i], params[i], seed, grad_accumulator, of_old[i], of_param);
            for (int k = 0; k < ACCUMULATORS; ++k)
                narrow(grad_accumulator[k], given.grad_accumulators[place(t, batch, item, ACCUMULATORS, k)]);
            for (int k = 0; k < PARAMS; ++k) of_params[i][k] += of_param[k];
            for (int k = 0; k < STATES; ++k) of_old[i][k] += passed[k];
        }
        arrive(counter);
        const int now = t;
        t += REVERSE ? 1 : -1;
        look_ahead(t, j + 1 < steps);
        met += SLICES;
        wait(counter, met);
        multiply_all(given.grad_accumulators + ((long long)now * batch * ACCUMULATORS + ALONE) * H, ACCUMULATORS * H);
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

    meet();  // no program reads from this one any more
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
            if (thread() + i * THREADS < BT * US) partial_sums()[thread() + i * THREADS] = of_params[i][k];
        sync();
        const int unit = slice() * US + thread();
        if (thread() < US && unit < H) {
            float total = 0;
            for (int s = 0; s < BT; ++s) total += partial_sums()[s * US + thread()];
            given.of_params[k][(given.of.first / BT + tile()) * H + unit] = total;
        }
    }
}

}  // namespace gw
