// Whether this process may use matrix tiles (AMX). The processor must have them, and Linux gives them to a process
// that asks.
#pragma once

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gw::amx {

#if defined(GW_AMX_STAND_IN)

inline bool permitted() { return true; }

#elif defined(__linux__) && defined(__x86_64__)

inline bool processor_has_tiles() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16 and AMX-TILE
}

// Returns 0 if it is granted, which holds for all threads and for forked processes.
inline long request() {
    constexpr int request_component = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_component, tile_data);
}

inline bool permitted(bool (*has)() = processor_has_tiles, long (*ask)() = request) { return has() && ask() == 0; }

#else

inline bool permitted() { return false; }

#endif

}  // namespace gw::amx
