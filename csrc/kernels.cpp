#include "kernels.h"

#include "backward.h"
#include "forward.h"
#include "memory.h"

namespace gw {
namespace {

// f(a number of the compute type)
template <class F>
auto by_compute_type(Storage storage, const F& f) {
    return storage == Storage::f64 ? f(double()) : f(float());
}

// Without matrix tiles, a product of bfloat16 pairs is faster than one of floats where it reads each weight for one
// or two rows. On Intel's processors it is slower for more rows: they multiply half as many pairs as floats at once.
[[maybe_unused]] bool pairs_pay([[maybe_unused]] const Problem& p) {
#if defined(__AVX512BF16__) && !GW_AMX
    return p.batch <= 2 || !__builtin_cpu_is("intel");
#else
    return GW_BF16_PAIRS;
#endif
}

// From this number of rows of each thread on, three products on tiles are faster than one of floats: by count of the cycles, see
// benchmarks/NOTES.md, and not by measurement.
constexpr int64_t least_rows_of_parts = 8;

// Whether products of floats are on matrix tiles. Weights that are not packed are read as they lie.
[[maybe_unused]] bool on_tiles(const Problem& p, bool many_runs) {
    if (is_short(p) && !many_runs) return false;
    return p.factors == Factors::bf16 || (p.factors == Factors::bf16_parts && rows_of_share(p) >= least_rows_of_parts);
}

// f(a number of the type that is stored, one of the packed type). many_runs: whether its weights are packed for many runs.
template <class F>
auto by_types(const Problem& p, Storage storage, const F& f, [[maybe_unused]] bool many_runs = false) {
    switch (storage) {
        case Storage::f64: return f(double(), double());
        case Storage::bf16:
            if constexpr (GW_AMX)
                return f(bf16(), bf16());
            else if constexpr (GW_BF16_PAIRS)
                return pairs_pay(p) ? f(bf16(), bf16()) : f(bf16(), float());
            else
                return f(bf16(), float());
        default:
            if constexpr (GW_AMX)
                if (on_tiles(p, many_runs)) return f(float(), bf16());
            return f(float(), float());
    }
}

void begin(bool forked) { Pool::get(forked); }

int64_t activations_row(const Problem& p, Storage storage) {
    return by_compute_type(storage, [&](auto number) {
        using T = decltype(number);
        return Activations<T>::row(p, Sizes<T>(p));
    });
}

int64_t activations_extra(Storage storage) {
    return by_compute_type(storage, [](auto number) { return Activations<decltype(number)>::extra; });
}

void forward(const Problem& p, Storage storage) {
    Arena& arena = Arena::mine();
    Arena::Frame frame(arena);
    by_types(p, storage, [&](auto stored, auto packed) { Forward<decltype(stored), decltype(packed)>(p, arena).run(); });
}

void backward(const Problem& given, Storage storage) {
    const Problem p = by_compute_type(storage, [&](auto number) { return Activations<decltype(number)>::planned_as_forward(given); });
    Arena& arena = Arena::mine();
    Arena::Frame frame(arena);
    by_types(p, storage, [&](auto stored, auto packed) { Backward<decltype(stored), decltype(packed)>(p, arena).run(); });
}

void order(const Problem& p, int64_t* to) {
    Arena& arena = Arena::mine();
    Arena::Frame frame(arena);
    std::copy_n(make_plan(p, arena).order, p.batch, to);
}

struct Stream {
    virtual ~Stream() = default;
    virtual void step(const void* x, void* output) = 0;
    virtual void resize(int64_t batch) = 0;
};

template <class S, class P>
struct StreamOf : Stream {
    explicit StreamOf(const Problem& given) : problem(given), frame(arena), forward(problem, arena, true) {}

    void step(const void* x, void* output) override {
        problem.x.base = const_cast<void*>(x);
        problem.output.base = output;
        forward.run();
    }

    void resize(int64_t batch) override {
        problem.batch = batch;
        forward.resize();
    }

    Problem problem;
    Arena arena;
    Arena::Frame frame;
    Forward<S, P> forward;
};

void* open_stream(const Problem& p, Storage storage) {
    return by_types(p, storage, [&](auto stored, auto packed) -> Stream* { return new StreamOf<decltype(stored), decltype(packed)>(p); }, true);
}

void step_stream(void* stream, const void* x, void* output) { static_cast<Stream*>(stream)->step(x, output); }

void resize_stream(void* stream, int64_t batch) { static_cast<Stream*>(stream)->resize(batch); }

void close_stream(void* stream) { delete static_cast<Stream*>(stream); }

}  // namespace
}  // namespace gw

#define GW_TEXT(x) #x
#define GW_QUOTED(x) GW_TEXT(x)

extern "C" [[gnu::visibility("default")]] const gw::Kernels gw_kernels;
const gw::Kernels gw_kernels = {
    GW_QUOTED(GW_LEVEL), gw::vector_bytes, GW_AMX, gw::begin,       gw::activations_row,    gw::activations_extra, gw::forward,
    gw::backward,        gw::order,        gw::open_stream, gw::step_stream, gw::resize_stream, gw::close_stream};
