// Packing of weights into the layout that the products read; see product.h.
#pragma once

#include "memory.h"
#include "pool.h"
#include "problem.h"
#include "packed.h"
#include "rows.h"

namespace gw {

// Stores V columns at one k; in bfloat16 interleaved with those at the next k, and their second parts at `second`.
template <class P>
GW_INLINE void put_group(P* to, const vec<compute<P>>* at_k, int parts, int64_t second) {
    if constexpr (group<P> == 2) {
        store_pairs(to, at_k[0], at_k[1]);
        if (parts == 2) store_pairs(to + second, second_part(at_k[0]), second_part(at_k[1]));
    } else {
        store(to, at_k[0]);
    }
}

// Clears a panel beyond its k numbers.
template <class P>
void clear_beyond(P* panel, int64_t k, int parts) {
    constexpr int V = width<compute<P>>, G = group<P>;
    const int64_t length = packed_length<P>(k);
    for (int part = 0; part < parts; ++part) std::fill(panel + (part * length + (k + G - 1) / G * G) * V, panel + (part + 1) * length * V, P{});
}

// Packs one panel of a matrix whose columns are rows of weights: V rows of k numbers; a null row is zero.
template <class P, class S>
void pack_rows(P* panel, const S* const* rows, int64_t k, int parts) {
    constexpr int V = width<compute<P>>, G = group<P>;
    const int64_t second = packed_length<P>(k) * V;
    for (int64_t at = 0; at < k; at += V) {
        const int n = int(std::min<int64_t>(V, k - at));
        vec<compute<P>> x[V];
#pragma GCC unroll 16
        for (int r = 0; r < V; ++r) x[r] = rows[r] == nullptr ? vec<compute<P>>{} : n == V ? load(rows[r] + at) : load(rows[r] + at, n);
        transpose<compute<P>>(x);
#pragma GCC unroll 16
        for (int r = 0; r < V; r += G)
            if (r < n) put_group(panel + (at + r) * V, x + r, parts, second);
    }
    clear_beyond(panel, k, parts);
}

// Packs one panel of a matrix in row order: n <= V columns of k rows, from `column`; a null row is zero.
template <class P, class S>
void pack_columns(P* panel, const S* const* rows, int64_t k, int parts, int64_t column, int n) {
    constexpr int V = width<compute<P>>, G = group<P>;
    const int64_t second = packed_length<P>(k) * V;
    for (int64_t at = 0; at < k; at += G) {
        vec<compute<P>> x[G];
        for (int g = 0; g < G; ++g) {
            const S* row = at + g < k ? rows[at + g] : nullptr;
            x[g] = row == nullptr ? vec<compute<P>>{} : n == V ? load(row + column) : load(row + column, n);
        }
        put_group(panel + at * V, x, parts, second);
    }
    clear_beyond(panel, k, parts);
}

// Pointers to a gate matrix's rows for the accumulators [first, first + count); null in the padding.
template <class S>
const S** accumulator_rows(const Problem& p, int64_t padded_units, int first, int count, const void* weights,
                           int64_t columns, Arena& arena) {
    const S** rows = arena.take<const S*>(count * padded_units);
    for (int a = 0; a < count; ++a)
        for (int64_t u = 0; u < padded_units; ++u) {
            const int64_t row = p.cell->gate[first + a] * p.units + u;
            rows[a * padded_units + u] = u < p.units ? static_cast<const S*>(weights) + row * columns : nullptr;
        }
    return rows;
}

inline constexpr int64_t panels_at_once = 16;

// Packs `count` rows (a multiple of V) of k numbers, the matrix of the forward products. After each panel
// there is room for `beside` more numbers of each of its columns.
template <class P, class S>
void pack_transposed(P* to, const S* const* rows, int64_t count, int64_t k, int parts, int64_t beside, int threads) {
    constexpr int V = width<compute<P>>;
    const int64_t stride = (packed_length<P>(k) * parts + beside) * V;
    const int64_t all = count / V, items = (all + panels_at_once - 1) / panels_at_once;
    Pool::get().run(int(items), count * k < 65536 ? 1 : threads, [=](int item) {
        for (int64_t p = item * panels_at_once; p < std::min(all, (item + 1) * panels_at_once); ++p)
            pack_rows<P>(to + p * stride, rows + p * V, k, parts);
    });
}

template <class P, class S>
P* pack_transposed(const S* const* rows, int64_t count, int64_t k, int parts, int threads, Arena& arena) {
    P* packed = arena.take<P>(count * packed_length<P>(k) * parts);
    pack_transposed(packed, rows, count, k, parts, 0, threads);
    return packed;
}

// Packs columns [column, column + n) of k rows, the matrix of the backward products.
template <class P, class S>
P* pack_straight(const S* const* rows, int64_t k, int parts, int64_t column, int64_t n, int threads, Arena& arena) {
    constexpr int V = width<compute<P>>;
    const int64_t all = panels<compute<P>>(n), stride = packed_length<P>(k) * parts * V;
    P* packed = arena.take<P>(all * stride);
    Pool::get().run(int(all), all * stride < 65536 ? 1 : threads, [=](int p) {
        pack_columns<P>(packed + p * stride, rows, k, parts, column + p * V, int(std::min<int64_t>(V, n - p * V)));
    });
    return packed;
}

}  // namespace gw
