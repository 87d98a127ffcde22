// Matrix products on packed weights: C = C0 + A B, and the sum over rows that weight gradients are.
//
// B is packed in panels of one vector's width: [columns / V][K][V]. C and C0 are padded to whole
// panels, so nothing here is masked. A tile is up to `tile_rows` rows by two panels, its sums held in
// registers; where rows are few, several sums over k are kept, or the adds' latency would set the pace.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "vec.h"

namespace gw {

#if GW_VECTOR_BYTES == 64 || defined(__aarch64__)
inline constexpr int tile_rows = 12;  // of 32 registers
#else
inline constexpr int tile_rows = 6;  // of 16 registers
#endif

// A stretch of k whose two panels stay in the first-level cache while all rows go by.
inline constexpr int64_t k_block = 256;

template <class T>
int64_t panels(int64_t columns) {
    return (columns + width<T> - 1) / width<T>;
}

template <class T>
int64_t padded(int64_t columns) {
    return panels<T>(columns) * width<T>;
}

// Rows of A that lie apart by one stride, and rows that lie anywhere.
template <class T>
struct Strided {
    const T* base;
    int64_t stride;
    GW_INLINE const T* operator()(int64_t row) const { return base + row * stride; }
};

template <class T>
struct Gathered {
    const T* const* rows;
    GW_INLINE const T* operator()(int64_t row) const { return rows[row]; }
};

template <class T>
struct Block {  // rows of a matrix
    T* base;
    int64_t stride;
};

template <class T>
struct TileArgs {
    int64_t k;
    const T* a[tile_rows];
    const T* b;  // the first panel, at this tile's first k
    int64_t panel_stride;
    const T* c0;
    int64_t c0_stride;
    T* c;
    int64_t c_stride;
};

template <class T, int rows, int vectors>
[[gnu::noinline]] void tile(const TileArgs<T>& t) {
    constexpr int V = width<T>;
    // sums over k; by the rows alone, so that a column's bits don't depend on its neighbour
    constexpr int parts = rows >= 4 ? 1 : rows >= 2 ? 2 : 4;
    vec<T> sum[parts][rows][vectors];
    const T* a[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        a[r] = t.a[r];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            sum[0][r][v] = load(t.c0 + r * t.c0_stride + v * V);
#pragma GCC unroll 4
            for (int p = 1; p < parts; ++p) sum[p][r][v] = vec<T>{};
        }
    }
    const T* b = t.b;
    int64_t k = 0;
    for (; k + parts <= t.k; k += parts) {
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
            vec<T> w[vectors];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) w[v] = load(b + v * t.panel_stride + p * V);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const vec<T> x = splat(a[r][k + p]);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v) sum[p][r][v] += x * w[v];
            }
        }
        b += parts * V;
    }
    if constexpr (parts > 1) {
        for (; k < t.k; ++k, b += V) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const vec<T> x = splat(a[r][k]);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v) sum[0][r][v] += x * load(b + v * t.panel_stride);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            vec<T> total = sum[0][r][v];
#pragma GCC unroll 4
            for (int p = 1; p < parts; ++p) total += sum[p][r][v];
            store(t.c + r * t.c_stride + v * V, total);
        }
    }
}

template <class T>
using Tile = void (*)(const TileArgs<T>&);

template <class T, int... r>
constexpr auto tile_table(std::integer_sequence<int, r...>) {
    struct Table {
        Tile<T> of[tile_rows][2];
    };
    return Table{{{tile<T, r + 1, 1>, tile<T, r + 1, 2>}...}};
}

template <class T>
inline constexpr auto tiles = tile_table<T>(std::make_integer_sequence<int, tile_rows>{});

// So many rows go through all panels together; they are gathered first, side by side, or rows that lie
// a multiple of a page apart would push each other out of the cache.
inline constexpr int64_t row_block = 96;
inline constexpr int64_t fewest_gathered = 4;  // rows, and panels: below, it costs more than it saves

template <class T>
struct Gather {
    alignas(64) T rows[row_block * k_block];
};

// C = C0 + A B over panels [first, last) of B. C0 may be C, or a single row with stride 0.
template <class T, class Rows>
void product(int64_t rows, const Rows& a, int64_t k, const T* b, int64_t first, int64_t last, Block<const T> c0,
             Block<T> c) {
    constexpr int V = width<T>;
    thread_local Gather<T> gather;
    if (first == last) return;
    TileArgs<T> t;
    t.panel_stride = k * V;
    t.c_stride = c.stride;
    for (int64_t top = 0; top < rows; top += row_block) {
        const int64_t high = std::min(row_block, rows - top), count = (high + tile_rows - 1) / tile_rows;
        const bool gathered = high >= fewest_gathered && last - first >= fewest_gathered;
        for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
            t.k = std::min(k_block, k - k0);
            const Block<const T> from = k0 == 0 ? c0 : Block<const T>{c.base, c.stride};
            t.c0_stride = from.stride;
            if (gathered)
                for (int64_t r = 0; r < high; ++r) std::copy_n(a(top + r) + k0, t.k, gather.rows + r * k_block);
            for (int64_t p = first; p < last; p += 2) {
                const int vectors = p + 1 < last ? 2 : 1;
                t.b = b + p * t.panel_stride + k0 * V;
                // tiles of equal height: a last one of a row or two would take the time of a whole one
                for (int64_t i = 0, row = 0; i < count; ++i) {
                    const int64_t height = high * (i + 1) / count - row;
                    for (int64_t r = 0; r < height; ++r)
                        t.a[r] = gathered ? gather.rows + (row + r) * k_block : a(top + row + r) + k0;
                    t.c0 = from.base + (top + row) * from.stride + p * V;
                    t.c = c.base + (top + row) * c.stride + p * V;
                    tiles<T>.of[height - 1][vectors - 1](t);
                    row += height;
                }
            }
        }
    }
}

// The sums of V vectors' lanes, in their order.
template <class T>
GW_INLINE vec<T> lane_sums(vec<T> (&x)[width<T>]) {
    constexpr int V = width<T>;
#pragma GCC unroll 8
    for (int left = V / 2; left > 0; left /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < left; ++i)
            [&]<int... lane>(std::integer_sequence<int, lane...>) {
                x[i] = __builtin_shufflevector(x[2 * i], x[2 * i + 1], (2 * lane)...) +
                       __builtin_shufflevector(x[2 * i], x[2 * i + 1], (2 * lane + 1)...);
            }(std::make_integer_sequence<int, V>{});
    return x[0];
}

// The same on weights as they lie: column j of B is the row weights[j], k numbers; null ones stand for
// padding and give any number. For so few rows that packing would take longer than the product.
template <class T, class S, class Rows>
void product_unpacked(int64_t rows, const Rows& a, int64_t k, const S* const* weights, int64_t columns, Block<const T> c0,
                      Block<T> c) {
    constexpr int V = width<T>;
    for (int64_t j = 0; j < columns; j += V)
        for (int64_t r = 0; r < rows; ++r) {
            const T* x = a(r);
            const S* w[V];
            vec<T> sum[V];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) {
                w[v] = weights[j + v] ? weights[j + v] : weights[0];
                sum[v] = vec<T>{};
            }
            int64_t at = 0;
            for (; at + V <= k; at += V) {
                const vec<T> part = load(x + at);
#pragma GCC unroll 16
                for (int v = 0; v < V; ++v) sum[v] += part * load(w[v] + at);
            }
            if (at < k) {
                const int left = int(k - at);
                const vec<T> part = load(x + at, left);
#pragma GCC unroll 16
                for (int v = 0; v < V; ++v) sum[v] += part * load(w[v] + at, left);
            }
            store(c.base + r * c.stride + j, load(c0.base + r * c0.stride + j) + lane_sums<T>(sum));
        }
}

}  // namespace gw
