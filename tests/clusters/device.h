// The functions of backends/gpu/clusters/device.h on a CPU, so that the loops can be run where there is no
// GPU; those that are more than a line are in device.cpp.
#pragma once

#include <cmath>
#include <cstring>

#include "types.h"

#define GW_INLINE inline
#define GW_KERNEL extern "C" void

namespace gw {

// Numbers ----------------------------------------------------------------------------------------

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float as_float(unsigned bits) { return same_bits<float>(bits); }
inline float wide(float x) { return x; }
inline float wide(bfloat16 x) { return as_float(unsigned(x.bits) << 16); }
inline float wide(half x) { return float(same_bits<_Float16>(x.bits)); }

inline void narrow(float x, float& to) { to = x; }
inline void narrow(float x, half& to) { to.bits = same_bits<unsigned short>(_Float16(x)); }
inline void narrow(float x, bfloat16& to) {
    const unsigned bits = same_bits<unsigned>(x);
    to.bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to even
}
inline unsigned tf32(float x) {
    return std::isfinite(x) ? (same_bits<unsigned>(x) + 0x1000) & ~0x1fffu : same_bits<unsigned>(x);
}

inline float divide(float x, float y) { return x / y; }

// Programs and their threads -------------------------------------------------------------------------

int thread();
int slice();
int tile();
unsigned char* memory();

void copy(Piece* to, const void* from, bool there);
void group();
void copied_but(int later);
template <int later>
void copied() {
    copied_but(later);
}

enum class Kind { bfloat16, half, tf32 };
void multiply(Kind kind, float* sum, const unsigned* a, const unsigned* b);
inline void multiply(bfloat16, float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply(Kind::bfloat16, sum, a, b);
}
inline void multiply(half, float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply(Kind::half, sum, a, b);
}
inline void multiply_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply(Kind::tf32, sum, a, b);
}

void sync();
void meet();
void arrive(unsigned* counter);
void wait(const unsigned* counter, unsigned times);
const float* of_peer(const float* mine, int peer);

// Runs a kernel's programs, all at once, each of them with these words. Gives what went wrong, or null.
const char* launch(void (*kernel)(const long long*), const long long* words, int slices, int tiles, int parts, int shared,
                   int threads);

}  // namespace gw
