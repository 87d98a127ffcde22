#include "kernels.h"

#include "backward.h"
#include "forward.h"
#include "memory.h"

namespace gw {
namespace {

// f(a number of the type that is stored)
template <class F>
auto by_storage(Storage storage, const F& f) {
    switch (storage) {
        case Storage::f64: return f(double());
        case Storage::bf16: return f(bf16());
        default: return f(float());
    }
}

void begin(bool forked) { Pool::get(forked); }

int64_t activations_row(const Problem& p, Storage storage) {
    return by_storage(storage, [&](auto stored) {
        using T = compute<decltype(stored)>;
        return Activations<T>::row(p, Sizes<T>(p));
    });
}

int64_t activations_extra(Storage storage) {
    return by_storage(storage, [](auto stored) { return Activations<compute<decltype(stored)>>::extra; });
}

void forward(const Problem& p, Storage storage) {
    Arena& arena = Arena::mine();
    Arena::Frame frame(arena);
    by_storage(storage, [&](auto stored) { Forward<decltype(stored)>(p, arena).run(); });
}

void backward(const Problem& p, Storage storage) {
    Arena& arena = Arena::mine();
    Arena::Frame frame(arena);
    by_storage(storage, [&](auto stored) { Backward<decltype(stored)>(p, arena).run(); });
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

template <class S>
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
    Forward<S> forward;
};

void* open_stream(const Problem& p, Storage storage) {
    return by_storage(storage, [&](auto stored) -> Stream* { return new StreamOf<decltype(stored)>(p); });
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
    GW_QUOTED(GW_LEVEL), gw::vector_bytes, gw::begin,       gw::activations_row,    gw::activations_extra, gw::forward,
    gw::backward,        gw::order,        gw::open_stream, gw::step_stream, gw::resize_stream, gw::close_stream};
