// The language's operations on a number, with NaN where torch has it.
#pragma once

#include "device.h"

namespace gw {

template <class V>
GW_INLINE V number(double x) {
    return V(x);
}

GW_INLINE float exp(float x) { return expf(x); }
GW_INLINE float log(float x) { return logf(x); }
GW_INLINE float tanh(float x) { return tanhf(x); }
GW_INLINE float sigmoid(float x) { return divide(1.0f, 1.0f + expf(-x)); }
GW_INLINE float maximum(float a, float b) { return a > b || a != a ? a : b; }
GW_INLINE float minimum(float a, float b) { return a < b || a != a ? a : b; }
GW_INLINE float relu(float x) { return maximum(x, 0.0f); }
GW_INLINE float softplus(float x) { return maximum(x, 0.0f) + log1pf(expf(-fabsf(x))); }
GW_INLINE float greater(float a, float b) { return a > b ? 1.0f : 0.0f; }
GW_INLINE float relu_backward(float dy, float x) { return x <= 0.0f ? 0.0f : dy; }

}  // namespace gw
