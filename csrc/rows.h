// Rows of numbers: conversion between the storage type and the compute type, updates, transposition.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vec.h"

namespace gw {

template <class To, class From>
GW_INLINE void copy_row(To* to, const From* from, int64_t n) {
    if constexpr (std::is_same_v<To, From>) {
        std::memcpy(to, from, size_t(n) * sizeof(To));
    } else {
        constexpr int V = width<compute<From>>;
        int64_t k = 0;
        for (; k + V <= n; k += V) store(to + k, load(from + k));
        if (k < n) store(to + k, load(from + k, int(n - k)), int(n - k));
    }
}

// to = f(to, from...) over one row of n numbers; `to` has the compute type.
template <class T, class F, class... From>
GW_INLINE void update_row(T* to, int64_t n, const F& f, const From*... from) {
    constexpr int V = width<T>;
    int64_t k = 0;
    for (; k + V <= n; k += V) store(to + k, f(load(to + k), load(from + k)...));
    if (k < n) {
        const int left = int(n - k);
        store(to + k, f(load(to + k, left), load(from + k, left)...), left);
    }
}

// Transposes V rows of V numbers.
template <class T>
GW_INLINE void transpose(vec<T> (&x)[width<T>]) {
    constexpr int V = width<T>;
    // each round interleaves the two halves of the rows, as a card shuffle does; log2 V rounds transpose
#pragma GCC unroll 8
    for (int round = 1; round < V; round *= 2) {
        vec<T> y[V];
#pragma GCC unroll 16
        for (int r = 0; r < V / 2; ++r) {
            [&]<int... lane>(std::integer_sequence<int, lane...>) {
                y[2 * r] = __builtin_shufflevector(x[r], x[r + V / 2], (lane / 2 + lane % 2 * V)...);
                y[2 * r + 1] = __builtin_shufflevector(x[r], x[r + V / 2], (V / 2 + lane / 2 + lane % 2 * V)...);
            }(std::make_integer_sequence<int, V>{});
        }
#pragma GCC unroll 16
        for (int r = 0; r < V; ++r) x[r] = y[r];
    }
}

}  // namespace gw
