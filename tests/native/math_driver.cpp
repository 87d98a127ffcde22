// Each function of csrc/math.h over an array, for tests/test_native_math.py.
#include "../../csrc/math.h"

template <class T>
static void each(const T* x, T* y, int64_t n, auto function) {
    int64_t i = 0;
    for (; i + gw::width<T> <= n; i += gw::width<T>) gw::store(y + i, function(gw::load(x + i)));
    if (i < n) gw::store(y + i, function(gw::load(x + i, int(n - i))), int(n - i));
}

template <class T>
static void each_pair(const T* a, const T* b, T* y, int64_t n, auto function) {
    int64_t i = 0;
    for (; i + gw::width<T> <= n; i += gw::width<T>)
        gw::store(y + i, function(gw::load(a + i), gw::load(b + i)));
    const int rest = int(n - i);
    if (rest > 0) gw::store(y + i, function(gw::load(a + i, rest), gw::load(b + i, rest)), rest);
}

#define UNARY(name, T)                                                                    \
    extern "C" void name##_##T(const T* x, T* y, int64_t n) {                             \
        each(x, y, n, [](gw::vec<T> v) { return gw::name(v); });                          \
    }
#define BINARY(name, T)                                                                   \
    extern "C" void name##_##T(const T* a, const T* b, T* y, int64_t n) {                 \
        each_pair(a, b, y, n, [](gw::vec<T> v, gw::vec<T> w) { return gw::name(v, w); }); \
    }
#define BOTH(kind, name) kind(name, float) kind(name, double)

BOTH(UNARY, exp)
BOTH(UNARY, log)
BOTH(UNARY, tanh)
BOTH(UNARY, sigmoid)
BOTH(UNARY, softplus)
BOTH(UNARY, relu)
BOTH(BINARY, maximum)
BOTH(BINARY, minimum)
BOTH(BINARY, greater)

extern "C" int vector_bytes() { return gw::vector_bytes; }
