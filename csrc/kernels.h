// The functions of a kernel library. There is one library for each level of the processor's instructions.
#pragma once

#include <cstddef>

#include "problem.h"

namespace gw {

enum class Storage { f32, f64, bf16 };

struct Kernels {
    const char* level;
    int vector_bytes;
    bool tiles;  // whether it has matrix tiles, and so heeds Problem::factors
    void (*begin)(bool forked);  // called first; whether this process was forked from one that had used torch
    int64_t (*activations_row)(const Problem&, Storage);  // activations have (T + 1) * B * row + extra numbers
    int64_t (*activations_extra)(Storage);
    void (*forward)(const Problem&, Storage);
    void (*backward)(const Problem&, Storage);
    void (*order)(const Problem&, int64_t* order);  // the order of a trace's rows

    // A stream: a run of one step at a time, whose weights are packed once. x is B×I, output B×(P or H); the
    // state stays in the problem's final_state. Its batch is at most the problem's.
    void* (*open_stream)(const Problem&, Storage);
    void (*step_stream)(void* stream, const void* x, void* output);
    void (*resize_stream)(void* stream, int64_t batch);
    void (*close_stream)(void* stream);
};

}  // namespace gw
