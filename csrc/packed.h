// The layout of packed weights, and the rows that they are multiplied with.
//
// Weights are packed in panels of one vector's width: [columns / V][K][V]; in bfloat16 [columns / V][K / 2][V][2],
// which on 32 rows of k is also the layout of a matrix tile. A float may be packed as two bfloat16 parts, its rounded
// value and the rest; a panel then has the first parts of all k, and after them the second ones.
#pragma once

#include <cstdint>
#include <type_traits>

#include "amx.h"
#include "vec.h"

namespace gw {

template <class T>
int64_t panels(int64_t columns) {
    return (columns + width<T> - 1) / width<T>;
}

template <class T>
int64_t padded(int64_t columns) {
    return panels<T>(columns) * width<T>;
}

// P is the packed type: the type of the sums, or bf16 in interleaved pairs along k.
template <class P>
inline constexpr int group = std::is_same_v<P, bf16> ? 2 : 1;

// A packed column of k numbers is padded with zeros to a multiple of this.
template <class P>
inline constexpr int64_t length_unit = std::is_same_v<P, bf16> && GW_AMX ? 32 : group<P>;

// The length of each part of a packed column of k numbers.
template <class P>
int64_t packed_length(int64_t k) {
    return (k + length_unit<P> - 1) / length_unit<P> * length_unit<P>;
}

// The second part of x, whose first part is x in bfloat16. An infinite x has none.
GW_INLINE vec<float> second_part(vec<float> x) {
    const vec<float> rest = x - bits_as<vec<float>>(rounded_bits(x));
    return rest - rest == vec<float>{} ? rest : vec<float>{};
}

// Rows of A with one stride, and rows at any address.
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

}  // namespace gw
