// The kernel library that the binding has loaded, and what its callers give by address.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace gw {

inline const Kernels* kernels = nullptr;

template <class T = void>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// In the order of contract.Weights, the per-unit parameters last.
inline void set_weights(Weights& weights, const uintptr_t* given, size_t given_count) {
    void** named[] = {&weights.input,      &weights.recurrent,  &weights.input_bias,    &weights.recurrent_bias,
                      &weights.projection, &weights.norm_input, &weights.norm_recurrent};
    constexpr size_t count = sizeof named / sizeof *named;
    for (size_t k = 0; k < given_count; ++k) (k < count ? *named[k] : weights.per_unit[k - count]) = pointer(given[k]);
}

}  // namespace gw
