// Matrix products with packed weights: C = C0 + A B.
//
// B is packed in panels; see packed.h. C and C0 are padded to whole panels, so no load or store is masked. A tile has up to `tile_rows` rows and two panels, with its sums in
// registers. Tiles of few rows keep several partial sums over k, because one would wait for each addition.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "amx_product.h"
#include "memory.h"
#include "packed.h"
#include "rows.h"
#include "vec.h"

namespace gw {

#if GW_VECTOR_BYTES == 64 || defined(__aarch64__)
inline constexpr int tile_rows = 12;  // of 32 registers
#else
inline constexpr int tile_rows = 6;  // of 16 registers
#endif

// A stretch of k whose two panels stay in the first-level cache for all rows.
inline constexpr int64_t k_block = 256;

template <class P>
struct TileArgs {
    using T = compute<P>;
    int64_t groups[2];          // groups of a first stretch of k, and of a second one with other rows of A, or 0
    const P* a[2][tile_rows];
    const P* b;  // the first panel at this tile's first k; the panel has both stretches
    int64_t panel_stride;
    const T* c0;
    int64_t c0_stride;
    T* c;
    int64_t c_stride;
    const char* soon = nullptr;  // this tile's part of the next panels, which it prefetches
    int64_t soon_step;
};

// One group of k: sum + a * b, lane by lane.
template <class P>
GW_INLINE vec<compute<P>> multiply_add(vec<compute<P>> sum, const P* a, const P* b) {
    if constexpr (group<P> == 2) {
        uint32_t two;
        __builtin_memcpy(&two, a, sizeof two);
        return dot_pair(sum, load_raw<vec<uint32_t>>(b), two);
    } else {
        return sum + splat(*a) * load(b);
    }
}

// A matrix of this many bytes does not fit in a core's own cache. While the tiles of two panels are computed,
// the next two are prefetched, a little at each k. The hardware prefetcher restarts at each stretch of k and is
// fast enough only for tiles of few rows.
inline constexpr int64_t far_bytes = 1 << 20;
inline constexpr int far_rows = 4;

template <class P, int rows, int vectors, bool far>
[[gnu::noinline]] void tile(const TileArgs<P>& t) {
    using T = compute<P>;
    constexpr int V = width<T>, G = group<P>;
    // partial sums over k; their number depends only on the rows, so a column's bits don't depend on its neighbour
    constexpr int parts = rows >= 4 ? 1 : rows >= 2 ? 2 : 4;
    vec<T> sum[parts][rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            sum[0][r][v] = load(t.c0 + r * t.c0_stride + v * V);
#pragma GCC unroll 4
            for (int p = 1; p < parts; ++p) sum[p][r][v] = vec<T>{};
        }
    }
    const P* b = t.b;
    const char* soon = t.soon;
    const int64_t beside = t.panel_stride * int64_t(sizeof(P));
    for (int stretch = 0; stretch < 2; ++stretch) {
        const int64_t groups = t.groups[stretch];
        const P* a[rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) a[r] = t.a[stretch][r];
        int64_t k = 0;
        for (; k + parts <= groups; k += parts) {
            if constexpr (far) {
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v) __builtin_prefetch(soon + v * beside);
                soon += t.soon_step;
            }
#pragma GCC unroll 4
            for (int p = 0; p < parts; ++p)
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; ++v)
                        sum[p][r][v] = multiply_add(sum[p][r][v], a[r] + (k + p) * G, b + v * t.panel_stride + p * V * G);
            b += parts * V * G;
        }
        if constexpr (parts > 1) {
            for (; k < groups; ++k, b += V * G)
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; ++v)
                        sum[0][r][v] = multiply_add(sum[0][r][v], a[r] + k * G, b + v * t.panel_stride);
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

template <class P>
using Tile = void (*)(const TileArgs<P>&);

template <class P, int... r>
constexpr auto tile_table(std::integer_sequence<int, r...>) {
    struct Table {
        Tile<P> of[tile_rows][2][2];
    };
    return Table{{{{tile<P, r + 1, 1, false>, tile<P, r + 1, 1, (r + 1 >= far_rows)>},
                   {tile<P, r + 1, 2, false>, tile<P, r + 1, 2, (r + 1 >= far_rows)>}}...}};
}

template <class P>
inline constexpr auto tiles = tile_table<P>(std::make_integer_sequence<int, tile_rows>{});

// The number of rows that are multiplied with all panels before the next rows.
inline constexpr int64_t row_block = 96;

// Rows at distances that are a multiple of half a page would evict each other from the first-level cache.
template <class Rows>
bool apart_by_half_pages(const Rows& a, int64_t rows) {
    return rows > 2 && (a(1) - a(0)) * int64_t(sizeof *a(0)) % 2048 == 0;
}

// The tiles of rows [top, top + high) and one or two panels. of(row, r, t) sets the rows of A for the tile's
// row r. All tiles have about the same height, because a last tile of one row would take as long as a full one.
template <class P, class RowsOf>
GW_INLINE void tiles_of_panels(TileArgs<P>& t, int64_t top, int64_t high, int vectors, Block<const compute<P>> c0,
                               Block<compute<P>> c, bool far, const RowsOf& of) {
    constexpr int V = width<compute<P>>;
    const int64_t count = (high + tile_rows - 1) / tile_rows;
    t.c0_stride = c0.stride;
    t.c_stride = c.stride;
    for (int64_t i = 0, row = 0; i < count; ++i) {
        const int64_t height = high * (i + 1) / count - row;
        for (int64_t r = 0; r < height; ++r) of(row + r, r, t);
        t.c0 = c0.base + (top + row) * c0.stride;
        t.c = c.base + (top + row) * c.stride;
        if (far) {
            t.soon_step = V * group<P> * int64_t(sizeof(P)) / count;
            t.soon = reinterpret_cast<const char*>(t.b + 2 * t.panel_stride) + i * t.soon_step * t.groups[0];
        }
        tiles<P>.of[height - 1][vectors - 1][far](t);
        row += height;
    }
}

// A product on matrix tiles takes as long for 16 rows as the product of pairs takes for one.
inline constexpr int64_t least_tile_rows = 2;

// C = C0 + A B over panels [first, last) of B, whose numbers have `parts` parts. C0 may be C, or a single row with
// stride 0.
template <class P, class Rows>
void product(int64_t rows, const Rows& a, int64_t k, const P* b, int parts, int64_t first, int64_t last,
             Block<const compute<P>> c0, Block<compute<P>> c) {
    constexpr int V = width<compute<P>>, G = group<P>;
    const bool far = (last - first) * packed_length<P>(k) * parts * V * int64_t(sizeof(P)) > far_bytes;
#if GW_AMX
    if constexpr (std::is_same_v<P, bf16>)
        if (rows >= least_tile_rows || parts > 1) return amx::product(rows, a, k, b, parts, first, last, far, c0, c);
#endif
    constexpr bool as_it_lies = std::is_same_v<decltype(a(0)), const P*> && G == 1;
    P* const side_by_side = scratch<P, row_block * k_block>();
    const bool gathered = !as_it_lies || apart_by_half_pages(a, rows);
    TileArgs<P> t;
    t.panel_stride = packed_length<P>(k) * V;
    t.groups[1] = 0;
    for (int64_t top = 0; top < rows; top += row_block) {
        const int64_t high = std::min(row_block, rows - top);
        for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
            const int64_t length = std::min(k_block, k - k0);
            t.groups[0] = packed_length<P>(length) / G;
            const Block<const compute<P>> from = k0 == 0 ? c0 : Block<const compute<P>>{c.base, c.stride};
            for (int64_t r = 0; gathered && r < high; ++r) {
                copy_row(side_by_side + r * k_block, a(top + r) + k0, length);
                std::fill(side_by_side + r * k_block + length, side_by_side + r * k_block + t.groups[0] * G, P{});
            }
            for (int64_t p = first; p < last; p += 2) {
                t.b = b + p * t.panel_stride + k0 * V;
                tiles_of_panels<P>(t, top, high, p + 1 < last ? 2 : 1, {from.base + p * V, from.stride}, {c.base + p * V, c.stride}, far,
                                   [&](int64_t row, int64_t r, TileArgs<P>& t) {
                                       if constexpr (as_it_lies)
                                           t.a[0][r] = gathered ? side_by_side + row * k_block : a(top + row) + k0;
                                       else
                                           t.a[0][r] = side_by_side + row * k_block;
                                   });
            }
        }
    }
}

// C = C0 + A1 B1 + A2 B2 in one product, for two short stretches of k: B's panels have B1's rows, then B2's.
template <class P, class Rows1, class Rows2>
void product_of_two(int64_t rows, const Rows1& a1, int64_t k1, const Rows2& a2, int64_t k2, const P* b, int64_t first,
                    int64_t last, Block<const P> c0, Block<P> c) {
    static_assert(group<P> == 1);
    constexpr int V = width<P>;
    TileArgs<P> t;
    t.panel_stride = (k1 + k2) * V;
    t.groups[0] = k1;
    t.groups[1] = k2;
    for (int64_t top = 0; top < rows; top += row_block)
        for (int64_t p = first; p < last; p += 2) {
            t.b = b + p * t.panel_stride;
            tiles_of_panels<P>(t, top, std::min(row_block, rows - top), p + 1 < last ? 2 : 1, {c0.base + p * V, c0.stride},
                               {c.base + p * V, c.stride}, false, [&](int64_t row, int64_t r, TileArgs<P>& t) {
                                   t.a[0][r] = a1(top + row);
                                   t.a[1][r] = a2(top + row);
                               });
        }
}

// The sum of the lanes of each of V vectors, in order.
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

// C = C0 + A B with unpacked weights, for so few rows that packing would take longer than the product. Column j
// of B is the row weights[j] of k numbers; null is padding, whose result may be any number.
template <class T, class S, class Rows>
void product_unpacked(int64_t rows, const Rows& a, int64_t k, const S* const* weights, int64_t columns, Block<const T> c0,
                      Block<T> c) {
    constexpr int V = width<T>;
    for (int64_t j = 0; j < columns; j += V)
        for (int64_t r = 0; r < rows; ++r) {
            const auto* x = a(r);
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

// Rows [top, top + rows) of the product below, one or two.
template <int rows, class T, class S, class Rows>
void rows_straight_unpacked(int64_t top, const Rows& a, int64_t k, const S* const* weights, int64_t column, int64_t n,
                            int64_t first, int64_t last, Block<const T> c0, Block<T> c) {
    constexpr int V = width<T>, at_once = 4, parts = 2 / rows;  // eight sums hide the latency of an addition
    const T* x[rows];
    for (int r = 0; r < rows; ++r) x[r] = a(top + r);
    c0.base += top * c0.stride;
    c.base += top * c.stride;
    for (int64_t panel = first; panel < last; panel += at_once) {
        const int vectors = int(std::min<int64_t>(at_once, last - panel));
        const int64_t from = panel * V, left = std::min(n, last * V) - from;
        vec<T> sum[parts][rows][at_once] = {};
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v) sum[0][r][v] = load(c0.base + r * c0.stride + from + v * V);
        if (left >= at_once * V) {
            int64_t j = 0;
            for (; j + parts <= k; j += parts)
#pragma GCC unroll 2
                for (int part = 0; part < parts; ++part) {
                    if (weights[j + part] == nullptr) continue;
                    const S* w = weights[j + part] + column + from;
#pragma GCC unroll 2
                    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
                        for (int v = 0; v < at_once; ++v) sum[part][r][v] += splat(x[r][j + part]) * load(w + v * V);
                }
            for (; j < k; ++j) {
                if (weights[j] == nullptr) continue;
                for (int r = 0; r < rows; ++r)
                    for (int v = 0; v < at_once; ++v) sum[0][r][v] += splat(x[r][j]) * load(weights[j] + column + from + v * V);
            }
        } else {
            for (int64_t j = 0; j < k; ++j) {
                if (weights[j] == nullptr) continue;
                const S* w = weights[j] + column + from;
                for (int64_t v = 0; v * V < left; ++v) {
                    const vec<T> part = load(w + v * V, int(std::min<int64_t>(V, left - v * V)));
                    for (int r = 0; r < rows; ++r) sum[0][r][v] += splat(x[r][j]) * part;
                }
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v) {
                vec<T> total = sum[0][r][v];
                if constexpr (parts > 1) total += sum[1][r][v];
                store(c.base + r * c.stride + from + v * V, total);
            }
    }
}

// C = C0 + A B with unpacked weights in row order, for so few rows that packing would take longer than the product. Row j of
// B is the n numbers from weights[j] + column on; null is padding, whose factor may be any number. Only panels
// [first, last) of C are computed.
template <class T, class S, class Rows>
void product_straight_unpacked(int64_t rows, const Rows& a, int64_t k, const S* const* weights, int64_t column, int64_t n,
                               int64_t first, int64_t last, Block<const T> c0, Block<T> c) {
    int64_t top = 0;
    for (; top + 2 <= rows; top += 2) rows_straight_unpacked<2, T>(top, a, k, weights, column, n, first, last, c0, c);
    if (top < rows) rows_straight_unpacked<1, T>(top, a, k, weights, column, n, first, last, c0, c);
}

}  // namespace gw
