// Matrix products on matrix tiles: C = C0 + A B, with B packed in bfloat16; see packed.h.
//
// A block has up to four tiles of sums: of two times 16 rows and two panels, or of 16 rows and four panels, because
// a sum waits for the last one. The rows of A are rounded to bfloat16 and laid out as tiles, which are used for
// all panels.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory.h"
#include "packed.h"
#include "rows.h"

#if GW_AMX

namespace gw::amx {

inline constexpr int64_t tile_rows = 16, tile_k = 32, tile_columns = 16;
inline constexpr int64_t tile_numbers = tile_rows * tile_k;

// The rows and the length of A that are laid out at once: 96 KiB for each part.
inline constexpr int64_t row_block = 96, k_block = 512;

struct Args {
    int64_t tiles;  // along k
    int parts;
    const bf16* a[2];  // by tile of rows
    int64_t a_part;    // from the first part to the second
    const bf16* b;
    int64_t panel_stride, b_part;
    const float* c0[2];
    float* c[2];
    int64_t c0_stride[2], c_stride[2];
    const bf16* soon;  // the next panels; this block prefetches the lines [first, last) of each of their tiles
    int soon_first, soon_last;
};

template <int count, class F>
GW_INLINE void each(const F& f) {
    [&]<int... k>(std::integer_sequence<int, k...>) {
        (f(std::integral_constant<int, k>{}), ...);
    }(std::make_integer_sequence<int, count>{});
}

template <int rows, int panels>
[[gnu::noinline]] void block(const Args& t) {
    constexpr int first_a = rows * panels, first_b = first_a + rows, of_b = 8 - first_b;
    const auto each_sum = [](const auto& f) {
        each<rows * panels>([&](auto sum) { f(sum, sum() / panels, sum() % panels * tile_columns); });
    };
    each_sum([&](auto sum, int r, int64_t column) { load<sum()>(t.c0[r] + column, t.c0_stride[r] * int64_t(sizeof(float))); });
    const bf16* const soon = t.soon;
    const int soon_first = t.soon_first, soon_last = t.soon_last;
    // the products of parts: first and first, first and second, second and first
    for (int pass = 0; pass < (t.parts == 1 ? 1 : 3); ++pass) {
        const int64_t a_at = pass == 2 ? t.a_part : 0, b_at = pass == 1 ? t.b_part : 0;
        for (int64_t k = 0; k < t.tiles; ++k) {
            each<rows>([&](auto r) { load<first_a + r()>(t.a[r()] + a_at + k * tile_numbers, 64); });
            each<panels>([&](auto p) {
                constexpr int b = first_b + p() % of_b;
                load<b>(t.b + p() * t.panel_stride + b_at + k * tile_numbers, 64);
                each<rows>([&](auto r) { multiply_add<r() * panels + decltype(p)::value, first_a + r(), b>(); });
                for (int line = soon_first; line < soon_last; ++line)
                    __builtin_prefetch(soon + p() * t.panel_stride + b_at + k * tile_numbers + line * tile_k);
            });
        }
    }
    each_sum([&](auto sum, int r, int64_t column) { store<sum()>(t.c[r] + column, t.c_stride[r] * int64_t(sizeof(float))); });
}

inline constexpr int most_panels = 4;
using BlockOf = void (*)(const Args&);
inline constexpr BlockOf blocks[2][most_panels] = {{block<1, 1>, block<1, 2>, block<1, 3>, block<1, 4>},
                                                   {block<2, 1>, block<2, 2>, nullptr, nullptr}};

// One row of a tile of A from n <= 32 numbers; the rest is zero.
inline void put_row(bf16* to, int64_t, int, const bf16* from, int64_t n) {
    std::memcpy(to, from, size_t(n) * sizeof(bf16));
    std::fill(to + n, to + tile_k, bf16{});
}
inline void put_row(bf16* to, int64_t second, int parts, const float* from, int64_t n) {
    constexpr int V = width<float>;
    for (int64_t at = 0; at < tile_k; at += V) {
        const vec<float> x = n >= at + V ? gw::load(from + at) : gw::load(from + at, int(std::max<int64_t>(0, n - at)));
        gw::store(to + at, x);
        if (parts == 2) gw::store(to + second + at, second_part(x));
    }
}

// Lays out rows [top, top + high) of A over [k0, k0 + length) as [parts][tiles of rows][tiles of k][16][32]. Rows
// beyond the last stay as they are: each row has its own sums.
template <class Rows>
void lay_out(bf16* to, int64_t part, int parts, const Rows& a, int64_t top, int64_t high, int64_t k0, int64_t length) {
    const int64_t of_tile_row = packed_length<bf16>(length) * tile_rows;
    for (int64_t r = 0; r < high; ++r) {
        bf16* row = to + r / tile_rows * of_tile_row + r % tile_rows * tile_k;
        for (int64_t at = 0; at < length; at += tile_k, row += tile_numbers)
            put_row(row, part, parts, a(top + r) + k0 + at, std::min(tile_k, length - at));
    }
}

// The sums of a tile with fewer than 16 rows, so that no row beyond the last is read or written.
struct Edge {
    static constexpr int64_t stride = most_panels * tile_columns;
    alignas(64) float sums[tile_rows * stride] = {};

    void read(const float* from, int64_t from_stride, int64_t rows, int panels) {
        for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * from_stride, panels * tile_columns, sums + r * stride);
    }
    void write(float* to, int64_t to_stride, int64_t rows, int panels) const {
        for (int64_t r = 0; r < rows; ++r) std::copy_n(sums + r * stride, panels * tile_columns, to + r * to_stride);
    }
};

// far: whether B does not fit in the core's own cache.
template <class Rows>
void product(int64_t rows, const Rows& a, int64_t k, const bf16* b, int parts, int64_t first, int64_t last, bool far,
             Block<const float> c0, Block<float> c) {
    bf16* const factors = scratch<bf16, 2 * row_block * k_block>();
    AmxScope::configure();
    Edge edge;
    Args t;
    t.parts = parts;
    t.b_part = packed_length<bf16>(k) * tile_columns;
    t.panel_stride = t.b_part * parts;
    t.a_part = row_block * k_block;
    for (int64_t top = 0; top < rows; top += row_block) {
        const int64_t high = std::min(row_block, rows - top), high_tiles = (high + tile_rows - 1) / tile_rows;
        const int64_t panels_at_once = high_tiles == 1 ? most_panels : 2;
        for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
            const int64_t length = std::min(k_block, k - k0);
            lay_out(factors, t.a_part, parts, a, top, high, k0, length);
            t.tiles = packed_length<bf16>(length) / tile_k;
            const Block<const float> from = k0 == 0 ? c0 : Block<const float>{c.base, c.stride};
            for (int64_t p = first; p < last; p += panels_at_once) {
                const int n = int(std::min(panels_at_once, last - p));
                t.b = b + p * t.panel_stride + k0 * tile_columns;
                t.soon = t.b + panels_at_once * t.panel_stride;
                for (int64_t tile = 0; tile < high_tiles; tile += 2) {
                    const int deep = int(std::min<int64_t>(2, high_tiles - tile));
                    t.soon_first = far ? int(tile_rows * tile / high_tiles) : 0;
                    t.soon_last = far ? int(tile_rows * (tile + deep) / high_tiles) : 0;
                    const int64_t last_tile = tile + deep - 1, edge_rows = high - last_tile * tile_rows;
                    for (int r = 0; r < deep; ++r) {
                        const int64_t row = top + (tile + r) * tile_rows;
                        t.a[r] = factors + (tile + r) * t.tiles * tile_numbers;
                        t.c0[r] = from.base + row * from.stride + p * tile_columns;
                        t.c[r] = c.base + row * c.stride + p * tile_columns;
                        t.c0_stride[r] = from.stride;
                        t.c_stride[r] = c.stride;
                    }
                    const bool at_edge = edge_rows < tile_rows;
                    float* const to = t.c[deep - 1];
                    if (at_edge) {
                        edge.read(t.c0[deep - 1], from.stride, edge_rows, n);
                        t.c0[deep - 1] = t.c[deep - 1] = edge.sums;
                        t.c0_stride[deep - 1] = t.c_stride[deep - 1] = Edge::stride;
                    }
                    blocks[deep - 1][n - 1](t);
                    if (at_edge) edge.write(to, c.stride, edge_rows, n);
                }
            }
        }
    }
}

}  // namespace gw::amx

#endif
