// The activations that the forward pass saves for the backward pass, and the sizes of their rows.
#pragma once

#include "memory.h"
#include "problem.h"
#include "product.h"

namespace gw {

template <class T>
struct Sizes {
    int64_t units;               // H, padded to whole vectors
    int64_t pre_activations;     // of all accumulators
    int64_t from_input;          // the first of these: they have the input's product
    int64_t from_state;          // the last of these: they have the recurrent product
    int64_t second_stage;        // the last of those: their recurrent input is a value of the same step
    int64_t saved;
    int64_t output;              // P or H, padded
    int64_t inputs;              // I, padded

    explicit Sizes(const Problem& p)
        : units(padded<T>(p.units)),
          pre_activations(p.cell->accumulators * units),
          from_input(p.cell->from_input * units),
          from_state(p.cell->from_state * units),
          second_stage(p.cell->second_stage * units),
          saved(p.cell->saved * units),
          output(padded<T>(p.output_size())),
          inputs(padded<T>(p.inputs)) {}

    int64_t state(int k) const { return k == 0 ? output : units; }
    int64_t first_from_state() const { return pre_activations - from_state; }
    int64_t first_stage() const { return from_state - second_stage; }
};

// Slots × rows × width: a state before the first step and after each step.
template <class T>
struct History {
    T* base = nullptr;
    int64_t width = 0, rows = 0;
    bool whole = false;  // whether there is a slot for every step; else there are two, used in turn

    T* at(int64_t slot, int64_t row) const { return base + ((whole ? slot : slot & 1) * rows + row) * width; }
};

template <class T>
struct Activations {
    T* threads = nullptr;                      // one number: the threads that the forward pass was planned for
    History<T> state[max_states];              // T + 1 slots
    History<T> recurrent_input[max_states];    // by feedback: the state itself, or the state times recurrent_factor
    T* saved = nullptr;                        // T×B×saved
    T* second_stage_input = nullptr;           // T×B×H, the recurrent input of the second stage
    T* unprojected = nullptr;                  // T×B×H, the first state before its projection
    T* normalised_input = nullptr;             // T×B×from_input: the normalised products, before the norm weight
    T* normalised_recurrent = nullptr;         // T×B×from_state
    T* inverse_std_input = nullptr;            // T×B: one over the standard deviation
    T* inverse_std_recurrent = nullptr;

    // The numbers that training saves for each sequence and step; `extra` more are for alignment.
    static int64_t row(const Problem& p, const Sizes<T>& size) {
        int64_t numbers = size.saved;
        for (int k = 0; k < p.cell->states; ++k) numbers += size.state(k);
        for (int f = 0; p.recurrent_factor.base && f < p.cell->feedbacks; ++f) numbers += size.state(p.cell->feedback[f]);
        if (p.projection) numbers += size.units;
        if (p.cell->second_stage) numbers += size.units;
        if (p.weights.norm_input) numbers += size.from_input + size.from_state + 2;
        return numbers;
    }
    static constexpr int64_t extra = (2 * max_states + 7) * 2 * alignment / int64_t(sizeof(T));

    // The problem of the backward pass: planned for as many threads as the forward pass, because the order of a batch's
    // rows depends on their number. torch's number belongs to a thread and may change at any time.
    static Problem planned_as_forward(Problem p) {
        Activations there;
        there.place(p, Sizes<T>(p), p.activations, true);
        p.threads = int(*there.threads);
        return p;
    }

    // Places the arrays in `block`. Returns the bytes they need; a null block only counts them.
    size_t place(const Problem& p, const Sizes<T>& size, void* block, bool whole) {
        Carver carver(block);
        const int64_t slots = whole ? p.steps + 1 : 2, all = p.steps * p.batch;
        for (int k = 0; k < p.cell->states; ++k)
            state[k] = {carver.take<T>(slots * p.batch * size.state(k)), size.state(k), p.batch, whole};
        // behind the first array, in the room that loads may read, so that graphs compiled for this size stay right
        if (block) threads = state[0].base + rounded(size_t(slots * p.batch * size.state(0)) * sizeof(T)) / sizeof(T);
        for (int f = 0; f < p.cell->feedbacks; ++f) {
            recurrent_input[f] = state[p.cell->feedback[f]];
            if (p.recurrent_factor.base) recurrent_input[f].base = carver.take<T>(slots * p.batch * recurrent_input[f].width);
        }
        const int64_t rows = whole ? all : p.batch;  // without training each step overwrites the last
        if (whole) saved = carver.take<T>(all * size.saved);
        if (p.projection) unprojected = carver.take<T>(rows * size.units);
        if (p.cell->second_stage) second_stage_input = carver.take<T>(rows * size.units);
        if (p.weights.norm_input) {
            normalised_recurrent = carver.take<T>(rows * size.from_state);
            inverse_std_recurrent = carver.take<T>(rows);
            if (whole) normalised_input = carver.take<T>(all * size.from_input);
            if (whole) inverse_std_input = carver.take<T>(all);
        }
        return carver.used();
    }
};

}  // namespace gw
