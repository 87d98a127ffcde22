// Rows of numbers between the type they are stored in and the type they are computed in.
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

// f(vector of to, vector of each other) over one row of n numbers; `to` is the type computed in.
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

// Turns V rows of V numbers into columns.
template <class T>
GW_INLINE void transpose(vec<T> (&x)[width<T>]) {
    constexpr int V = width<T>;
    // each round deals the rows' halves out as one deals cards; V rounds of log2 make columns of rows
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
