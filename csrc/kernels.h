// What a library of kernels (one for each level of the processor) gives out.
#pragma once

#include <cstddef>

#include "problem.h"

namespace gw {

enum class Storage { f32, f64, bf16 };

struct Kernels {
    const char* level;
    int vector_bytes;
    void (*begin)(bool forked);  // before all else; whether this process is a fork of one that had used torch
    int64_t (*activations_row)(const Problem&, Storage);  // a activations is of (T + 1) * B * row + beside numbers
    int64_t (*activations_extra)(Storage);
    void (*forward)(const Problem&, Storage);
    void (*backward)(const Problem&, Storage);
    void (*order)(const Problem&, int64_t* order);  // in which a trace's rows lie

    // A run with its weights packed once and kept, for one step at a time: x is B×I, output B×(P or H),
    // the state stays where the problem's final_state is.
    void* (*open_stream)(const Problem&, Storage);
    void (*step_stream)(void* stream, const void* x, void* output);
    void (*close_stream)(void* stream);
};

}  // namespace gw
