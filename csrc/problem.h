// What the core is asked to do: one cell, one direction, all steps. Plain pointers, sizes and strides,
// in elements; nothing here is checked again.
#pragma once

#include <cstdint>

#include "cell.h"

namespace gw {

// A T×B×width array whose last dimension is contiguous; null where there is none.
struct Steps {
    void* base = nullptr;
    int64_t step = 0, row = 0;
};

// A B×width array likewise.
struct Rows {
    void* base = nullptr;
    int64_t row = 0;
};

// Contiguous; the layouts are torch's.
struct Weights {
    void* input = nullptr;           // G·H×I
    void* recurrent = nullptr;       // G·H×F
    void* input_bias = nullptr;      // G·H or null, as are those below
    void* recurrent_bias = nullptr;
    void* projection = nullptr;      // P×H
    void* norm_input = nullptr;
    void* norm_recurrent = nullptr;
    void* per_unit[max_params] = {};
};

struct Problem {
    const Cell* cell = nullptr;
    int64_t steps = 0, batch = 0, inputs = 0, units = 0, projection = 0;  // T, B, I, H, P or 0
    bool reverse = false;
    int threads = 1;

    Steps x, output;
    Rows state[max_states], final_state[max_states];  // null initial states are zero
    Weights weights;
    const int64_t* lengths = nullptr;
    Steps reset;       // bytes
    Rows recurrent_factor;   // B×F
    Steps zoneout[max_states];
    void* trace = nullptr;  // values×T×B×padded H, of the type computed in, in the order of `order`
    void* activations = nullptr;   // what backward needs; of activations_bytes()

    // backward: the loss's gradients that are given, and those that are wanted (null: not)
    Steps grad_output, grad_x;
    Rows grad_final[max_states], grad_state[max_states];
    Weights grad_weights;

    int64_t output_size() const { return projection ? projection : units; }
    int64_t state_size(int k) const { return k == 0 ? output_size() : units; }
    int64_t recurrent_size() const { return recurrent_column(cell->feedbacks); }

    // Where the columns of a fed-back state begin among those of all.
    int64_t recurrent_column(int feedback) const {
        int64_t sum = 0;
        for (int k = 0; k < feedback; ++k) sum += state_size(cell->feedback[k]);
        return sum;
    }
};

}  // namespace gw
