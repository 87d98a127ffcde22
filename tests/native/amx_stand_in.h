// The instructions of csrc/amx.h in plain C++, number by number as Intel's manual writes them, for tests on processors
// without matrix tiles. What faults in the processor ends the program.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace gw::amx {

[[noreturn]] inline void fault(const char* what) {
    std::fprintf(stderr, "stand-in for matrix tiles: %s\n", what);
    std::abort();
}

struct Registers {
    Config config;
    alignas(64) uint8_t tile[8][16][64];
};

inline Registers& registers() {
    thread_local Registers mine{};
    return mine;
}

// The number of multiply_add in this process.
inline std::atomic<int64_t> products{0};

inline void load_config(const Config& from) {
    if (from.bytes[0] > 1) fault("a palette that there is not");
    Registers& mine = registers();
    std::memset(static_cast<void*>(&mine), 0, sizeof mine);
    if (from.bytes[0] == 1) mine.config = from;
}

inline void store_config(Config& to) { to = registers().config; }

inline void release() { load_config(Config{}); }

inline Registers& configured() {
    Registers& mine = registers();
    if (std::memcmp(mine.config.bytes, full_tiles.bytes, sizeof full_tiles.bytes) != 0) fault("used without their configuration");
    return mine;
}

template <int number>
void load(const void* from, int64_t stride) {
    static_assert(0 <= number && number < 8);
    for (int64_t row = 0; row < 16; ++row)
        std::memcpy(configured().tile[number][row], static_cast<const char*>(from) + row * stride, 64);
}

template <int number>
void store(void* to, int64_t stride) {
    static_assert(0 <= number && number < 8);
    for (int64_t row = 0; row < 16; ++row)
        std::memcpy(static_cast<char*>(to) + row * stride, configured().tile[number][row], 64);
}

// Subnormals as zeros.
inline vec<float> flushed(vec<float> x) {
    const auto bits = bits_as<vec<uint32_t>>(x);
    const vec<uint32_t> none{};
    return bits_as<vec<float>>((bits & 0x7f800000u) == none ? bits & 0x80000000u : bits);
}

// TDPBF16PS: for each row of a, the sums of the even and of the odd k, each multiply-add rounded once; then both
// together, and that to the row of sums.
template <int sum, int a, int b>
void multiply_add() {
    static_assert(sum != a && sum != b && a != b);
    auto& tile = configured().tile;
    for (int row = 0; row < 16; ++row) {
        vec<float> even{}, odd{};
        for (int pair = 0; pair < 16; ++pair) {
            uint32_t two;
            std::memcpy(&two, tile[a][row] + 4 * pair, 4);
            const auto with = load_raw<vec<uint32_t>>(tile[b][pair]);
            const auto half = [](auto bits) { return flushed(bits_as<vec<float>>(bits)); };
            even = flushed(even + half(splat(two << 16)) * half(with << 16));
            odd = flushed(odd + half(splat(two & 0xffff0000u)) * half(with & 0xffff0000u));
        }
        const vec<float> both = flushed(even + odd);
        gw::store(reinterpret_cast<float*>(tile[sum][row]), flushed(flushed(load_raw<vec<float>>(tile[sum][row])) + both));
    }
    products.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace gw::amx

extern "C" [[gnu::used, gnu::visibility("default")]] inline long long gw_tile_products() { return gw::amx::products.load(); }
