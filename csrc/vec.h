// The vector type of all kernels, as wide as the compile flags allow, with full and partial loads and stores
// of float, double and bfloat16.
//
// vec<T> is a GCC/Clang vector, so + - * / < and ?: work on it. Intrinsics are used only for what the vector
// extensions lack: masked memory access and the bfloat16 dot product.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GW_INLINE [[gnu::always_inline]] inline

#if defined(__AVX512F__)
#define GW_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define GW_REGISTER_BYTES 32
#else
#define GW_REGISTER_BYTES 16
#endif

// A test may set another width than the registers have; general code then replaces the intrinsics.
#if !defined(GW_VECTOR_BYTES)
#define GW_VECTOR_BYTES GW_REGISTER_BYTES
#endif

namespace gw {

inline constexpr int vector_bytes = GW_VECTOR_BYTES;

// The upper half of a float.
struct bf16 {
    uint16_t bits;
};

template <class T, int bytes = vector_bytes>
struct vector_of {
    using type [[gnu::vector_size(bytes)]] = T;
};

template <class T>
using vec = typename vector_of<T>::type;

template <class T>
inline constexpr int width = vector_bytes / int(sizeof(T));

// The compute type for values stored as S.
template <class S>
using compute = std::conditional_t<std::is_same_v<S, bf16>, float, S>;

template <class T>
GW_INLINE vec<T> splat(T x) {
    return x - vec<T>{};  // not x + 0, which is not x for -0.0, so that the compiler would keep the addition
}

template <class To, class From>
GW_INLINE To bits_as(From x) {
    return std::bit_cast<To>(x);
}

// bfloat16 -----------------------------------------------------------------------------------------

using bf16_bits = vector_of<uint16_t, vector_bytes / 2>::type;  // as many lanes as vec<float>

// The intrinsics in these two: GCC 12 converts vectors of unequal sizes half by half. With masks, as it
// warns of its own unmasked ones.
GW_INLINE vec<float> widen(bf16_bits x) {
#if defined(__AVX512F__) && GW_VECTOR_BYTES == 64
    const auto lanes = vec<uint32_t>(_mm512_maskz_cvtepu16_epi32(__mmask16(-1), __m256i(x)));
#elif defined(__AVX2__) && GW_VECTOR_BYTES == 32
    const auto lanes = vec<uint32_t>(_mm256_cvtepu16_epi32(__m128i(x)));
#else
    const auto lanes = __builtin_convertvector(x, vec<uint32_t>);
#endif
    return bits_as<vec<float>>(lanes << 16);
}

// Rounds to nearest, ties to even; the result is in the upper half of each lane. Rounding could turn a NaN
// into infinity, so NaNs are truncated instead, with the quiet bit set so that a NaN remains. (The AVX512BF16
// instruction flushes subnormals. This function does not, so that all levels store the same bits.)
GW_INLINE vec<uint32_t> rounded_bits(vec<float> x) {
    const auto bits = bits_as<vec<uint32_t>>(x);
    const vec<uint32_t> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (x == x ? rounded : bits | 0x400000u) & 0xffff0000u;
}

GW_INLINE bf16_bits narrow(vec<float> x) {
    const vec<uint32_t> chosen = rounded_bits(x);
#if defined(__AVX512F__) && GW_VECTOR_BYTES == 64
    return bf16_bits(_mm512_maskz_cvtepi32_epi16(__mmask16(-1), __m512i(chosen >> 16)));
#else
    return __builtin_convertvector(chosen >> 16, bf16_bits);
#endif
}

GW_INLINE float to_float(bf16 x) {
    return std::bit_cast<float>(uint32_t(x.bits) << 16);
}

GW_INLINE bf16 to_bf16(float x) {
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t chosen = x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : bits | 0x400000u;
    return {uint16_t(chosen >> 16)};
}

// Full loads and stores, at any alignment ------------------------------------------------------------

template <class V, class S>
GW_INLINE V load_raw(const S* from) {
    V x;
    __builtin_memcpy(&x, from, sizeof x);
    return x;
}

GW_INLINE vec<float> load(const float* from) { return load_raw<vec<float>>(from); }
GW_INLINE vec<double> load(const double* from) { return load_raw<vec<double>>(from); }
GW_INLINE vec<float> load(const bf16* from) { return widen(load_raw<bf16_bits>(from)); }

GW_INLINE void store(float* to, vec<float> x) { __builtin_memcpy(to, &x, sizeof x); }
GW_INLINE void store(double* to, vec<double> x) { __builtin_memcpy(to, &x, sizeof x); }
GW_INLINE void store(bf16* to, vec<float> x) {
    const bf16_bits narrowed = narrow(x);
    __builtin_memcpy(to, &narrowed, sizeof narrowed);
}

// Partial loads and stores: the first n lanes, 0 <= n <= width; memory beyond is not accessed --------

// The lane numbers are constants, so that the vector stays in a register.
template <class V, class S>
GW_INLINE V load_lanes(const S* from, int n) {
    V x{};
#pragma GCC unroll 64
    for (int lane = 0; lane < int(sizeof(V) / sizeof(S)); ++lane)
        if (lane < n) __builtin_memcpy(reinterpret_cast<char*>(&x) + lane * sizeof(S), from + lane, sizeof(S));
    return x;
}

template <class S, class V>
GW_INLINE void store_lanes(S* to, V x, int n) {
#pragma GCC unroll 64
    for (int lane = 0; lane < int(sizeof(V) / sizeof(S)); ++lane)
        if (lane < n) __builtin_memcpy(to + lane, reinterpret_cast<const char*>(&x) + lane * sizeof(S), sizeof(S));
}

#if defined(__AVX512F__) && GW_VECTOR_BYTES == 64
GW_INLINE vec<float> load(const float* from, int n) {
    return vec<float>(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), from));
}
GW_INLINE vec<double> load(const double* from, int n) {
    return vec<double>(_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), from));
}
GW_INLINE void store(float* to, vec<float> x, int n) {
    _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), __m512(x));
}
GW_INLINE void store(double* to, vec<double> x, int n) {
    _mm512_mask_storeu_pd(to, __mmask8((1u << n) - 1), __m512d(x));
}
#elif defined(__AVX2__) && GW_VECTOR_BYTES == 32
GW_INLINE __m256i first_floats(int n) {
    return __m256i(splat<int32_t>(n) > vec<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
}
GW_INLINE __m256i first_doubles(int n) {
    return __m256i(splat<int64_t>(n) > vec<int64_t>{0, 1, 2, 3});
}
GW_INLINE vec<float> load(const float* from, int n) {
    return vec<float>(_mm256_maskload_ps(from, first_floats(n)));
}
GW_INLINE vec<double> load(const double* from, int n) {
    return vec<double>(_mm256_maskload_pd(from, first_doubles(n)));
}
GW_INLINE void store(float* to, vec<float> x, int n) {
    _mm256_maskstore_ps(to, first_floats(n), __m256(x));
}
GW_INLINE void store(double* to, vec<double> x, int n) {
    _mm256_maskstore_pd(to, first_doubles(n), __m256d(x));
}
#else
GW_INLINE vec<float> load(const float* from, int n) { return load_lanes<vec<float>>(from, n); }
GW_INLINE vec<double> load(const double* from, int n) { return load_lanes<vec<double>>(from, n); }
GW_INLINE void store(float* to, vec<float> x, int n) { store_lanes(to, x, n); }
GW_INLINE void store(double* to, vec<double> x, int n) { store_lanes(to, x, n); }
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__) && GW_VECTOR_BYTES == 64
GW_INLINE vec<float> load(const bf16* from, int n) {
    return widen(bf16_bits(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), from)));
}
GW_INLINE void store(bf16* to, vec<float> x, int n) {
    _mm256_mask_storeu_epi16(to, __mmask16((1u << n) - 1), __m256i(narrow(x)));
}
#else
GW_INLINE vec<float> load(const bf16* from, int n) { return widen(load_lanes<bf16_bits>(from, n)); }
GW_INLINE void store(bf16* to, vec<float> x, int n) { store_lanes(to, narrow(x), n); }
#endif

// Sums ---------------------------------------------------------------------------------------------

template <int distance, class V, int... lane>
GW_INLINE V lanes_crossed(V x, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(x, x, (lane ^ distance)...);
}

// Each step adds to every lane the one `distance` away, halving the distance.
template <class T, int distance = width<T> / 2>
GW_INLINE T reduce_add_lanes(vec<T> x) {
    if constexpr (distance == 0)
        return x[0];
    else
        return reduce_add_lanes<T, distance / 2>(
            x + lanes_crossed<distance>(x, std::make_integer_sequence<int, width<T>>{}));
}

GW_INLINE float reduce_add(vec<float> x) { return reduce_add_lanes<float>(x); }
GW_INLINE double reduce_add(vec<double> x) { return reduce_add_lanes<double>(x); }

// Pairs of bfloat16, for the instruction that multiplies two pairs and adds both products to a float. It treats
// subnormals as zeros. Without that instruction the products are computed in floats, unless a test asks for pairs.
#if defined(__AVX512BF16__) && GW_VECTOR_BYTES == 64
#define GW_BF16_PAIRS 1
#elif !defined(GW_BF16_PAIRS)
#define GW_BF16_PAIRS 0
#endif

GW_INLINE void store_pairs(bf16* to, vec<float> first, vec<float> second) {
    const vec<uint32_t> both = rounded_bits(first) >> 16 | rounded_bits(second);
    __builtin_memcpy(to, &both, sizeof both);
}

// acc[l] + first(two) * first(pairs[l]) + second(two) * second(pairs[l])
GW_INLINE vec<float> dot_pair(vec<float> acc, vec<uint32_t> pairs, uint32_t two) {
#if defined(__AVX512BF16__) && GW_VECTOR_BYTES == 64
    return vec<float>(_mm512_dpbf16_ps(__m512(acc), __m512bh(pairs), __m512bh(splat(two))));
#else
    const auto x = splat(two);
    return acc + bits_as<vec<float>>(pairs << 16) * bits_as<vec<float>>(x << 16) +
           bits_as<vec<float>>(pairs & 0xffff0000u) * bits_as<vec<float>>(x & 0xffff0000u);
#endif
}

}  // namespace gw
