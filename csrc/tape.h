// What a forward run leaves for the backward one, and how wide everything is.
#pragma once

#include "memory.h"
#include "problem.h"
#include "product.h"

namespace gw {

template <class T>
struct Sizes {
    int64_t units;           // H, padded to whole vectors
    int64_t sums;            // a row of all accumulators
    int64_t from_input;      // of those that take the input's product: the first
    int64_t from_state;      // of those that take the recurrent one: the last
    int64_t late;            // of those among them that take it with a value of the step itself: the very last
    int64_t saved;
    int64_t output;          // P or H, padded
    int64_t inputs;          // I, padded

    explicit Sizes(const Problem& p)
        : units(padded<T>(p.units)),
          sums(p.cell->accumulators * units),
          from_input(p.cell->from_input * units),
          from_state(p.cell->from_state * units),
          late(p.cell->late * units),
          saved(p.cell->saved * units),
          output(padded<T>(p.output_size())),
          inputs(padded<T>(p.inputs)) {}

    int64_t state(int k) const { return k == 0 ? output : units; }
    int64_t first_from_state() const { return sums - from_state; }
    int64_t early() const { return from_state - late; }
};

// Steps × rows × width, for what each state was before a step and is after it.
template <class T>
struct History {
    T* base = nullptr;
    int64_t width = 0, rows = 0;
    bool whole = false;  // all steps, else the last two

    T* at(int64_t slot, int64_t row) const { return base + ((whole ? slot : slot & 1) * rows + row) * width; }
};

template <class T>
struct Tape {
    History<T> state[most_states];  // T + 1 slots: what it is before each step, and after the last
    History<T> fed[most_states];    // by feedback: the same array, or the state times its factor
    T* saved = nullptr;             // T×B×saved
    T* late = nullptr;              // T×B×H, what the late gates were fed with
    T* unprojected = nullptr;       // T×B×H, the first state before its projection
    T* normal_input = nullptr;      // T×B×from_input: normalised, before the gain
    T* normal_state = nullptr;      // T×B×from_state
    T* spread_input = nullptr;      // T×B: one over the standard deviation
    T* spread_state = nullptr;

    // Numbers for each sequence and step that a whole tape takes; and those beside, for alignment.
    static int64_t row(const Problem& p, const Sizes<T>& size) {
        int64_t numbers = size.saved;
        for (int k = 0; k < p.cell->states; ++k) numbers += size.state(k);
        for (int f = 0; p.fed_factor.base && f < p.cell->feedbacks; ++f) numbers += size.state(p.cell->feedback[f]);
        if (p.projection) numbers += size.units;
        if (p.cell->late) numbers += size.units;
        if (p.weights.norm_input) numbers += size.from_input + size.from_state + 2;
        return numbers;
    }
    static constexpr int64_t beside = (2 * most_states + 7) * 2 * alignment / int64_t(sizeof(T));

    // Lays a tape out in `block`, or without one only says how large it is; returns the bytes.
    size_t lay(const Problem& p, const Sizes<T>& size, void* block, bool whole) {
        Carver carver(block);
        const int64_t slots = whole ? p.steps + 1 : 2, all = p.steps * p.batch;
        for (int k = 0; k < p.cell->states; ++k)
            state[k] = {carver.take<T>(slots * p.batch * size.state(k)), size.state(k), p.batch, whole};
        for (int f = 0; f < p.cell->feedbacks; ++f) {
            fed[f] = state[p.cell->feedback[f]];
            if (p.fed_factor.base) fed[f].base = carver.take<T>(slots * p.batch * fed[f].width);
        }
        const int64_t rows = whole ? all : p.batch;  // what isn't kept is written over at each step
        if (whole) saved = carver.take<T>(all * size.saved);
        if (p.projection) unprojected = carver.take<T>(rows * size.units);
        if (p.cell->late) late = carver.take<T>(rows * size.units);
        if (p.weights.norm_input) {
            normal_state = carver.take<T>(rows * size.from_state);
            spread_state = carver.take<T>(rows);
            if (whole) normal_input = carver.take<T>(all * size.from_input);
            if (whole) spread_input = carver.take<T>(all);
        }
        return carver.used();
    }
};

}  // namespace gw
