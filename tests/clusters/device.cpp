// A chip's programs and threads on a CPU: each program in a thread of the system's, its threads in fibers
// that take turns where they wait for each other. What a chip leaves undefined is made to be seen: shared
// memory and what is being copied to hold NaN, copies land when they are waited for and no sooner, the
// fibers' order changes, and threads that wait for different things end the run.
#include "device.h"

#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace gw {
namespace {

enum class State { runs, syncs, meets, multiplies, done };

struct Copy {
    Piece* to;
    const void* from;
    bool there;
};

// What a thread of a warp brings to a product.
struct Operands {
    float* sum;
    const unsigned *a, *b;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state = State::runs;
    Operands operands;
    std::vector<std::vector<Copy>> groups{1};  // the last is not yet closed
};

// Programs of a cluster meet here.
struct Cluster {
    int parts;
    std::vector<unsigned char*> memory;
    std::atomic<int> arrived{0};
};

std::atomic<bool> failed{false};
std::string failure;

void fail(const char* why) {
    if (!failed.exchange(true)) failure = why;
}

struct Program {
    int slice, tile;
    Cluster& cluster;
    unsigned char* memory;
    std::vector<Fiber> fibers;
    size_t shared;
    ucontext_t scheduler;
    int current = 0, met = 0;
};

thread_local Program* program;

Fiber& fiber() { return program->fibers[program->current]; }

// Gives way until what this thread waits for has come.
[[gnu::noinline]] void wait_as(State state) {
    fiber().state = state;
    swapcontext(&fiber().context, &program->scheduler);
    if (failed) throw 0;
}

// The places of a thread's words, as the instruction set has them: word w of a holds, of the row
// g + 8 (w % 2), the numbers from 2 q + 8 (w / 2) on (of float32: the number q + 4 (w / 2)); word w of b those
// of the column g; of sums, k is the row g + 8 (k / 2) and the column 2 q + k % 2.
template <int numbers, class Read>
void multiply_warp(Fiber* lanes, Read read) {
    constexpr int each = numbers / 8;
    float a[16][numbers], b[8][numbers];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, q = lane % 4;
        for (int n = 0; n < each; ++n) {
            for (int w = 0; w < 4; ++w) a[g + 8 * (w % 2)][q * each + numbers / 2 * (w / 2) + n] = read(lanes[lane].operands.a[w], n);
            for (int w = 0; w < 2; ++w) b[g][q * each + numbers / 2 * w + n] = read(lanes[lane].operands.b[w], n);
        }
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int k = 0; k < 4; ++k) {
            const int row = lane / 4 + 8 * (k / 2), column = lane % 4 * 2 + k % 2;
            double sum = lanes[lane].operands.sum[k];
            for (int n = 0; n < numbers; ++n) sum += double(a[row][n]) * b[column][n];
            lanes[lane].operands.sum[k] = float(sum);
        }
}

// The last thread of a warp that comes works it out for all.
template <int numbers, class Read>
void multiply_together(float* sum, const unsigned* a, const unsigned* b, Read read) {
    Fiber* lanes = &program->fibers[thread() / 32 * 32];
    fiber().operands = {sum, a, b};
    int there = 1;
    for (int lane = 0; lane < 32; ++lane) there += lanes[lane].state == State::multiplies;
    if (there < 32) return wait_as(State::multiplies);
    multiply_warp<numbers>(lanes, read);
    for (int lane = 0; lane < 32; ++lane) lanes[lane].state = State::runs;
}
void (*kernel)(const long long*);
const long long* words;

void run_fiber() {
    try {
        kernel(words);
    } catch (int) {  // another program failed
    }
    fiber().state = State::done;
    swapcontext(&fiber().context, &program->scheduler);
}

// Lets the threads of a program take turns until all are done.
void run_program(Program& own) {
    program = &own;
    for (Fiber& each : own.fibers) {
        constexpr size_t size = 64 * 1024;
        each.stack = std::make_unique<char[]>(size);
        getcontext(&each.context);
        each.context.uc_stack.ss_sp = each.stack.get();
        each.context.uc_stack.ss_size = size;
        makecontext(&each.context, run_fiber, 0);
    }
    auto all = [&](State state) {
        for (Fiber& each : own.fibers)
            if (each.state != state) return false;
        return true;
    };
    const int threads = int(own.fibers.size());  // a power of two
    int turn = 0;
    while (!all(State::done)) {
        bool ran = false;
        for (int n = 0; n < threads; ++n) {
            own.current = n ^ turn;
            if (fiber().state != State::runs) continue;
            ran = true;
            swapcontext(&own.scheduler, &fiber().context);
        }
        turn = (turn + 93) % threads;
        if (ran) continue;
        if (all(State::meets)) {
            const int times = ++own.met * own.cluster.parts;
            ++own.cluster.arrived;
            while (own.cluster.arrived < times && !failed) std::this_thread::yield();
        } else if (!all(State::syncs)) {
            fail("the threads of a program wait for different things");
        }
        for (Fiber& each : own.fibers)
            if (each.state != State::done) each.state = State::runs;
    }
    std::memset(own.memory, 0xff, own.shared);  // nobody reads it any more
}

}  // namespace

int thread() { return program->current; }
int slice() { return program->slice; }
int tile() { return program->tile; }
unsigned char* memory() { return program->memory; }

void copy(Piece* to, const void* from, bool there) {
    if (uintptr_t(to) % 16 || (there && uintptr_t(from) % 16)) fail("a copy of bytes that are not aligned");
    std::memset(to, 0xff, 16);
    fiber().groups.back().push_back({to, from, there});
}
void group() { fiber().groups.emplace_back(); }
void copied_but(int later) {
    auto& groups = fiber().groups;
    for (size_t g = 0; g + 1 + later < groups.size(); ++g) {
        for (const Copy& each : groups[g]) {
            std::memset(each.to, 0, 16);
            if (each.there) std::memcpy(each.to, each.from, 16);
        }
        groups[g].clear();
    }
}

void multiply(Kind kind, float* sum, const unsigned* a, const unsigned* b) {
    if (kind == Kind::bfloat16)
        multiply_together<16>(sum, a, b, [](unsigned word, int n) { return as_float(n ? word & 0xffff0000u : word << 16); });
    else if (kind == Kind::half)
        multiply_together<16>(sum, a, b, [](unsigned word, int n) { return wide(half{(unsigned short)(word >> 16 * n)}); });
    else
        multiply_together<8>(sum, a, b, [](unsigned word, int) { return as_float(word & ~0x1fffu); });
}

void sync() { wait_as(State::syncs); }
void meet() { wait_as(State::meets); }

void arrive(unsigned* counter) {
    sync();
    if (thread() == 0) reinterpret_cast<std::atomic<unsigned>*>(counter)->fetch_add(1);
}
void wait(const unsigned* counter, unsigned times) {
    if (thread() == 0)
        while (reinterpret_cast<const std::atomic<unsigned>*>(counter)->load() < times && !failed) std::this_thread::yield();
    sync();
}

const float* of_peer(const float* mine, int peer) {
    const auto place = reinterpret_cast<const unsigned char*>(mine) - memory();
    return reinterpret_cast<const float*>(program->cluster.memory[peer] + place);
}

const char* launch(void (*of)(const long long*), const long long* given, int slices, int tiles, int parts, int shared,
                   int threads) {
    kernel = of, words = given, failed = false;
    std::vector<std::vector<Piece>> memories(slices * tiles, std::vector<Piece>((shared + 15) / 16));
    std::vector<std::unique_ptr<Cluster>> clusters;
    std::vector<std::unique_ptr<Program>> programs;
    for (int p = 0; p < slices * tiles; ++p) {
        if (p % parts == 0) clusters.push_back(std::make_unique<Cluster>()), clusters.back()->parts = parts;
        unsigned char* memory = reinterpret_cast<unsigned char*>(memories[p].data());
        std::memset(memory, 0xff, shared);
        clusters.back()->memory.push_back(memory);
        programs.emplace_back(new Program{p % slices, p / slices, *clusters.back(), memory, std::vector<Fiber>(threads), size_t(shared)});
    }
    std::vector<std::thread> running;
    for (auto& each : programs) running.emplace_back(run_program, std::ref(*each));
    for (std::thread& each : running) each.join();
    return failed ? failure.c_str() : nullptr;
}

}  // namespace gw
