// exp, log, tanh, sigmoid, softplus, maximum, minimum and the like, on vec<float> and vec<double>. There are no
// branches: large inputs are clamped, special results are selected. NaN gives NaN. The functions do not need
// -ffast-math, and are wrong with it.
//
// Largest errors in ulp. Float: over every input where the function varies, and a sample beyond. Double: over
// some millions of inputs.
//
//                      exp    log    tanh   sigmoid  softplus
//   float, FMA         0.89   0.96   2.00    1.97      1.99
//   float, no FMA      1.33   0.96   2.15    1.97      2.21
//   double, FMA        0.86   0.85   2.16    1.95      1.87
//   double, no FMA     1.29   0.85   2.32    2.02      1.97
//
// Subnormal results are as accurate, except sigmoid's: below the smallest normal number it gives 0.
#pragma once

#include <concepts>
#include <limits>

#include "vec.h"

namespace gw {

template <class V>
concept float_vector = std::same_as<V, vec<float>> || std::same_as<V, vec<double>>;

// exp_slope: (c (e^r - 1) - r) / r for |r| <= ln(2) / 2, where c = 3/4 (see exp_parts); -1/4 and 3/8 are
// exact. atanh_rest: (2 atanh s - 2s) / s^3 in powers of s^2, 0 <= s <= 1/3. Both are Remez fits, lowest
// power first, for the least relative error of e^r - 1 and of atanh s, which is given. The last bits of
// float's exp_slope were then searched for the least error of the whole functions.
template <class T>
struct constants;

template <>
struct constants<float> {
    using bits = uint32_t;
    static constexpr int mantissa_bits = 23, exponent_bias = 127;
    // exp: 0 below, infinity above. sigmoid: below the smallest normal number.
    static constexpr float exp_low = -104, exp_high = 89, sigmoid_low = -87.33654f;
    // ln 2 as a sum; the first part is so short that its product with any exponent is exact.
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 1.4286068e-06f;
    static constexpr float exp_slope[] = {  // 2^-25.7
        -0.25f, 0.375f, 0.1249991f, 0.031249795f, 0.006274877f, 0.0010455352f};
    static constexpr float atanh_rest[] = {  // 2^-33.0
        0.66666675f, 0.3999895f, 0.28615215f, 0.21443817f, 0.2424564f};
};

template <>
struct constants<double> {
    using bits = uint64_t;
    static constexpr int mantissa_bits = 52, exponent_bias = 1023;
    static constexpr double exp_low = -746, exp_high = 710, sigmoid_low = -708.396418532264;
    static constexpr double ln2_high = 0x1.62e42fefa2p-1, ln2_low = 7.371002565167799e-13;
    static constexpr double exp_slope[] = {  // 2^-55.1
        -0.25, 0.375, 0.12500000000000008, 0.031249999999964518, 0.0062499999999891896, 0.0010416666690604422,
        0.0001488095242084745, 1.86011369457197e-05, 2.0667926237278837e-06, 2.0716808009755836e-07,
        1.883431370814115e-08};
    static constexpr double atanh_rest[] = {  // 2^-59.4
        0.6666666666666631, 0.40000000000156266, 0.2857142854794686, 0.22222223965156185, 0.1818174405637214,
        0.15386557596562833, 0.13300999266742145, 0.12105914223871664, 0.08340740420770713, 0.1701756796182785};
};

template <class V>
using element = std::remove_cvref_t<decltype(V{}[0])>;
template <class V>
using bits_of = vec<typename constants<element<V>>::bits>;
template <class V>
using signed_bits_of = vec<std::make_signed_t<typename constants<element<V>>::bits>>;

// Choices ------------------------------------------------------------------------------------------

// GCC 12 compiles a comparison to one max or min instruction only where it does not know the number.
template <float_vector V>
GW_INLINE V unknown(element<V> number) {
    V x = splat(number);
#if defined(__x86_64__) && !defined(__clang__) && GW_VECTOR_BYTES <= GW_REGISTER_BYTES
    asm("" : "+v"(x));
#endif
    return x;
}

// The comparison is false for a NaN, so the NaN stays.
template <float_vector V>
GW_INLINE V at_least(V x, element<V> low) {
    const V lows = unknown<V>(low);
    return lows > x ? lows : x;
}
template <float_vector V>
GW_INLINE V at_most(V x, element<V> high) {
    const V highs = unknown<V>(high);
    return highs < x ? highs : x;
}

template <float_vector V>
GW_INLINE V relu(V x) {
    return at_least(x, 0);
}
template <float_vector V>
GW_INLINE V maximum(V a, V b) {
    const V y = a > b ? a : b;
    return a == a ? y : a;
}
template <float_vector V>
GW_INLINE V minimum(V a, V b) {
    const V y = a < b ? a : b;
    return a == a ? y : a;
}
template <float_vector V>
GW_INLINE V greater(V a, V b) {
    return a > b ? splat(element<V>(1)) : V{};
}

// The gradient of relu's argument x. Like torch's, it is dy where x is NaN.
template <float_vector V>
GW_INLINE V relu_backward(V dy, V x) {
    return x <= V{} ? V{} : dy;
}

// Parts --------------------------------------------------------------------------------------------

template <float_vector V>
GW_INLINE V absolute(V x) {
    return bits_as<V>(bits_as<bits_of<V>>(x) & ~bits_as<bits_of<V>>(-V{}));
}
template <float_vector V>
GW_INLINE V with_sign_of(V x, V magnitude) {
    return bits_as<V>(bits_as<bits_of<V>>(magnitude) | (bits_as<bits_of<V>>(x) & bits_as<bits_of<V>>(-V{})));
}

template <float_vector V, int terms>
GW_INLINE V polynomial(V x, const element<V> (&coefficients)[terms]) {
    V y = splat(coefficients[terms - 1]);
#pragma GCC unroll 16
    for (int i = terms - 2; i >= 0; --i) y = y * x + coefficients[i];
    return y;
}

// Adding this number rounds a small x to an integer n and leaves n + exponent_bias in the low bits.
template <class T>
inline constexpr T rounder = T(3ull << (constants<T>::mantissa_bits - 1)) + constants<T>::exponent_bias;

template <float_vector V>
GW_INLINE V power_of_two(bits_of<V> exponent) {
    return bits_as<V>(exponent << constants<element<V>>::mantissa_bits);
}

// e^x = 2^n (1 + rest / c), and `exponent` holds n + exponent_bias in its low bits. For tanh and sigmoid,
// which then work with c e^x: the sums c + c e^x and 2c + c (e^x - 1) start from 3/4 and 3/2, where half
// a unit in the last place is the smaller part of the number. From 1 and 2 their errors pass 2 ulp.
template <class T>
inline constexpr T c = T(0.75);

template <float_vector V>
struct exponential {
    V rest;
    bits_of<V> exponent;
};

template <float_vector V>
GW_INLINE exponential<V> exp_parts(V x) {
    using T = element<V>;
    using C = constants<T>;
    const V shifted = x * T(1.4426950408889634) + rounder<T>;
    const V n = shifted - rounder<T>;
    const V r = (x - n * C::ln2_high) - n * C::ln2_low;
    return {r + r * polynomial(r, C::exp_slope), bits_as<bits_of<V>>(shifted)};
}

// f - log(1 + f), between sqrt(1/2) - 1 and 1: log(1 + f) = 2 atanh s and 2s = f - s f
template <float_vector V>
GW_INLINE V log1p_rest(V f) {
    const V s = f / (2 + f), square = s * s;
    return s * (f - square * polynomial(square, constants<element<V>>::atanh_rest));
}

// Functions ----------------------------------------------------------------------------------------

template <float_vector V>
GW_INLINE V exp(V x) {
    using T = element<V>;
    using C = constants<T>;
    const auto [rest, exponent] = exp_parts(at_least(at_most(x, C::exp_high), C::exp_low));
    // 2^n as two factors, because 2^n alone may overflow or underflow.
    const bits_of<V> first = (exponent + C::exponent_bias) >> 1, second = exponent + C::exponent_bias - first;
    return (rest * (1 / c<T>) + 1) * power_of_two<V>(first) * power_of_two<V>(second);
}

template <float_vector V>
GW_INLINE V log(V x) {
    using T = element<V>;
    using C = constants<T>;
    using limits = std::numeric_limits<T>;
    using whole = std::make_signed_t<typename C::bits>;
    constexpr int lift = C::mantissa_bits + 1;
    const auto subnormal = x < limits::min();
    const auto bits = bits_as<signed_bits_of<V>>(subnormal ? x * T(1ull << lift) : x);
    // x = 2^k (1 + f), 1 + f between sqrt(1/2) and sqrt(2)
    const signed_bits_of<V> exponent = (bits - std::bit_cast<whole>(T(0.7071067811865476))) >> C::mantissa_bits;
    const V f = bits_as<V>(bits - (exponent << C::mantissa_bits)) - 1;
    const V k = bits_as<V>(exponent + std::bit_cast<whole>(rounder<T>)) -
                (subnormal ? splat(rounder<T> + lift) : splat(rounder<T>));
    const V y = k * C::ln2_high + (f + (k * C::ln2_low - log1p_rest(f)));
    const V edge = x == 0 ? splat(-limits::infinity()) : splat(limits::quiet_NaN());
    return x > 0 ? (x == limits::infinity() ? x : y) : edge;
}

// From this x on 1 + e^-x and (e^x - 1) / (e^x + 1) round to 1.
inline constexpr int saturation = 40;

// h / (h + 2), h = e^2|x| - 1
template <float_vector V>
GW_INLINE V tanh(V x) {
    using T = element<V>;
    const V size = at_most(absolute(x), saturation / 2);
    const auto [rest, exponent] = exp_parts(size + size);
    const V scale = power_of_two<V>(exponent);
    const V h = rest * scale + (scale * c<T> - c<T>);
    return with_sign_of(x, h / (h + 2 * c<T>));
}

// 1 / (1 + e^-x). For very negative x 2^n overflows; the result is set to zero.
template <float_vector V>
GW_INLINE V sigmoid(V x) {
    using T = element<V>;
    const auto [rest, exponent] = exp_parts(-at_most(x, saturation));
    const V scale = power_of_two<V>(exponent);
    const V y = c<T> / (rest * scale + (scale * c<T> + c<T>));
    return x < constants<T>::sigmoid_low ? V{} : y;
}

// max(x, 0) + log(1 + e^-|x|)
template <float_vector V>
GW_INLINE V softplus(V x) {
    const V e = exp(-absolute(x));
    return e + (relu(x) - log1p_rest(e));
}

}  // namespace gw
