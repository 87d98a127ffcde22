// The arguments of a run: one cell in one direction over all steps. Pointers, sizes and strides in elements.
// The caller has checked them; the core does not.
#pragma once

#include <cstdint>

#include "cell.h"

namespace gw {

// A T×B×width array whose last dimension is contiguous; null where there is none.
struct Steps {
    void* base = nullptr;
    int64_t step = 0, row = 0;
};

// A B×width array whose last dimension is contiguous; null where there is none.
struct Rows {
    void* base = nullptr;
    int64_t row = 0;
};

// Contiguous arrays in torch's layouts.
struct Weights {
    void* input = nullptr;           // G·H×I
    void* recurrent = nullptr;       // G·H×F
    void* input_bias = nullptr;      // G·H or null, as are the next ones
    void* recurrent_bias = nullptr;
    void* projection = nullptr;      // P×H
    void* norm_input = nullptr;
    void* norm_recurrent = nullptr;
    void* per_unit[max_params] = {};
};

// What products of float32 numbers multiply: the numbers, the numbers rounded to bfloat16, or their two bfloat16 parts.
enum class Factors { as_stored, bf16, bf16_parts };

struct Problem {
    const Cell* cell = nullptr;
    int64_t steps = 0, batch = 0, inputs = 0, units = 0, projection = 0;  // T, B, I, H, P or 0
    bool reverse = false;
    int threads = 1;
    Factors factors = Factors::as_stored;  // others are for levels with matrix tiles and float32

    Steps x, output;
    Rows state[max_states], final_state[max_states];  // null initial states are zero
    Weights weights;
    const int64_t* lengths = nullptr;
    Steps reset;       // bytes
    Rows recurrent_factor;   // B×F
    Steps recurrent_input;   // T×B×F, in the compute type: the recurrent input of each step where it is known before; for
                             // cells with one feedback and one stage, without layer normalisation and recurrent_factor
    Steps zoneout[max_states];
    void* trace = nullptr;  // values×T×B×padded H in the compute type; the rows have the order of `order`
    void* activations = nullptr;   // the saved activations, which backward reads; null without training
    Steps history[max_states];     // the states after each step; the first is null, because it is the output
    Steps pre_activations[max_accumulators];  // in the compute type, as the equations read them

    // backward: the given gradients of the loss, and the wanted ones (null: not wanted)
    Steps grad_output, grad_x;
    Steps grad_history[max_states];   // given, as `history`
    Steps grad_pre_activations[max_accumulators];  // given, as `pre_activations`
    Steps grad_after[max_states];     // wanted: the whole gradient of each state after each step
    Rows grad_final[max_states], grad_state[max_states];
    Weights grad_weights;

    int64_t output_size() const { return projection ? projection : units; }
    int64_t state_size(int k) const { return k == 0 ? output_size() : units; }
    int64_t recurrent_size() const { return recurrent_column(cell->feedbacks); }

    // The first column of a feedback state's recurrent weights.
    int64_t recurrent_column(int feedback) const {
        int64_t sum = 0;
        for (int k = 0; k < feedback; ++k) sum += state_size(cell->feedback[k]);
        return sum;
    }
};

}  // namespace gw
