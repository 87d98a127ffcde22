// Matrix tiles of the processor (AMX): eight registers of 16 rows of 64 bytes, and the product of two of them. A tile
// is 16×32 bfloat16 factors, 32×16 of them in interleaved pairs along k, or 16×16 float sums.
#pragma once

#include <cstdint>

#include "vec.h"

#if GW_VECTOR_BYTES == 64 && (defined(__AMX_BF16__) || defined(GW_AMX_STAND_IN))
#define GW_AMX 1
#else
#define GW_AMX 0
#endif

#if GW_AMX

namespace gw::amx {

struct Config {
    alignas(64) uint8_t bytes[64] = {};
};

// All eight tiles with 16 rows of 64 bytes.
inline constexpr Config full_tiles = [] {
    Config config;
    config.bytes[0] = 1;  // the palette
    for (int tile = 0; tile < 8; ++tile) {
        config.bytes[16 + 2 * tile] = 64;
        config.bytes[48 + tile] = 16;
    }
    return config;
}();

}  // namespace gw::amx

#if defined(GW_AMX_STAND_IN)
#include "amx_stand_in.h"
#else

namespace gw::amx {

// Not the compiler's intrinsics, which take only literal numbers of registers. The operand "m" tells what a load reads.
GW_INLINE void load_config(const Config& from) { asm volatile("ldtilecfg %0" ::"m"(from)); }
GW_INLINE void store_config(Config& to) { asm volatile("sttilecfg %0" : "=m"(to)); }
GW_INLINE void release() { asm volatile("tilerelease"); }

template <int tile>
GW_INLINE void load(const void* from, int64_t stride) {  // in bytes
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile), "m"(*static_cast<const char(*)[]>(from)));
}
template <int tile>
GW_INLINE void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
}
template <int sum, int a, int b>
GW_INLINE void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
}

}  // namespace gw::amx

#endif

#endif

namespace gw {

// A thread's use of tiles. They are configured at its first product. The end of the outermost scope restores the
// configuration that was there before; the tiles' contents are lost, as in any call of a function.
class AmxScope {
#if GW_AMX
public:
    AmxScope() { ++mine().depth; }
    ~AmxScope() {
        Thread& thread = mine();
        if (--thread.depth > 0 || !thread.configured) return;
        thread.configured = false;
        if (thread.before.bytes[0] == 0)
            amx::release();
        else
            amx::load_config(thread.before);
    }
    AmxScope(const AmxScope&) = delete;

    // Called before a product on tiles.
    static void configure() {
        Thread& thread = mine();
        if (thread.configured) return;
        amx::store_config(thread.before);
        amx::load_config(amx::full_tiles);
        thread.configured = true;
    }

private:
    struct Thread {
        int depth = 0;
        bool configured = false;
        amx::Config before;
    };
    static Thread& mine() {
        thread_local Thread thread;
        return thread;
    }
#else
public:
    AmxScope() {}  // without it, a scope would be an unused variable
#endif
};

}  // namespace gw
