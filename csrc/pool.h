// Threads that share a job: the caller takes part, the others are kept waiting for the next one.
//
// A waiting thread spins briefly and then sleeps. Nothing waits for a worker that has not begun: the
// caller takes every share that nobody has claimed. Where shares must meet at each step (a Team) the
// caller starts with those that came at once, and the team dissolves when one is late: on an
// overcommitted machine a meeting would else cost a time slice a step.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace gw {

using Clock = std::chrono::steady_clock;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until done() or until the time is over, and says whether it is done.
template <class Done>
bool spin(const Done& done, Clock::duration time) {
    const auto end = Clock::now() + time;
    do {
        for (int k = 0; k < 32; ++k) {
            if (done()) return true;
            relax();
        }
    } while (Clock::now() < end);
    return done();
}

// Sleeps until done(); whoever makes it so changes `word` and notifies.
template <class Word, class Done>
void sleep(const std::atomic<Word>& word, const Done& done) {
    for (;;) {
        const Word seen = word.load(std::memory_order_acquire);
        if (done()) return;
        word.wait(seen, std::memory_order_acquire);
    }
}

// Those who go through the steps of one job side by side.
class Team {
public:
    explicit Team(int size) : size_(size) {}

    int size() const { return size_; }

    // Waits for all. False, to all of them at the same meeting, if the team is dissolved here: the
    // first member then goes on alone and the others are done.
    bool meet(int member) {
        if (size_ == 1) return true;
        const uint32_t before = meetings_.load(std::memory_order_relaxed), here = before + 1;
        if (member == 0 && late_) dissolved_.store(here, std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            meetings_.store(here, std::memory_order_release);
            meetings_.notify_all();
        } else {
            const auto all = [&] { return meetings_.load(std::memory_order_acquire) != before; };
            const auto came = Clock::now();
            if (!spin(all, std::chrono::microseconds(50))) sleep(meetings_, all);
            if (member == 0 && Clock::now() - came > std::chrono::microseconds(500)) late_ = true;
        }
        return dissolved_.load(std::memory_order_relaxed) != here;
    }

    bool late() const { return late_; }

private:
    const int size_;
    bool late_ = false;  // the first member's own
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> meetings_{0};
    alignas(64) std::atomic<uint32_t> dissolved_{0};
};

class Pool {
public:
    static Pool& get() {
        static Pool* pool = new Pool;  // never destroyed: its threads outlive the statics
        return *pool;
    }

    // work(share) for each of the shares, once, on up to `threads` threads.
    template <class Work>
    void run(int shares, int threads, const Work& work) {
        const auto alone = [&] {
            for (int share = 0; share < shares; ++share) work(share);
        };
        if (shares <= 1 || threads <= 1) return alone();
        std::unique_lock hold(busy_, std::try_to_lock);
        if (!hold) return alone();  // another of the program's threads has the pool
        std::atomic<int> next{0};
        const auto claim = [&] {
            for (int share; (share = next.fetch_add(1, std::memory_order_relaxed)) < shares;) work(share);
        };
        open(threads - 1, claim);
        claim();
        close();
    }

    // work(member, team) on each thread of a team of those that come at once, up to `threads`.
    template <class Work>
    void run_together(int threads, const Work& work) {
        const auto alone = [&] {
            Team team(1);
            work(0, team);
        };
        if (threads <= 1) return alone();
        std::unique_lock hold(busy_, std::try_to_lock);
        if (!hold || Clock::now() < alone_until_) return alone();
        std::atomic<int> come{0};
        std::atomic<Team*> gathered{nullptr};
        const auto join = [&] {
            const int member = come.fetch_add(1, std::memory_order_relaxed) + 1;
            if (member < 1) return;  // too late
            Team* team = nullptr;
            while ((team = gathered.load(std::memory_order_acquire)) == nullptr) relax();
            work(member, *team);
        };
        open(threads - 1, join);
        spin([&] { return come.load(std::memory_order_relaxed) == threads - 1; }, std::chrono::microseconds(100));
        Team team(1 + come.exchange(-(1 << 20), std::memory_order_relaxed));
        gathered.store(&team, std::memory_order_release);
        work(0, team);
        close();
        if (team.late()) {
            alone_until_ = Clock::now() + alone_for_;
            alone_for_ = std::min<Clock::duration>(2 * alone_for_, std::chrono::seconds(2));
        } else if (team.size() == threads) {
            alone_for_ = std::chrono::milliseconds(20);
        }
    }

private:
    Pool() {
        pthread_atfork(nullptr, nullptr, [] { new (&get()) Pool(Forked{}); });
    }

    struct Forked {};
    explicit Pool(Forked) {}  // the child has none of its parent's threads: all is begun anew

    template <class Work>
    void open(int workers, const Work& work) {
        for (; workers_ < workers; ++workers_) {
            std::thread worker([this, index = workers_] { serve(index); });
            handles_.push_back(worker.native_handle());
            worker.detach();
            avoided_ = -1;
        }
        keep_apart();
        wanted_ = workers;
        context_ = &work;
        enter_ = [](const void* context) { (*static_cast<const Work*>(context))(); };
        door_.store(open_door, std::memory_order_release);
        jobs_.fetch_add(1, std::memory_order_release);
        jobs_.notify_all();
    }

    // Keeps the workers off the caller's processor. A thread is woken where it slept, which is often
    // where the caller is now, and there it would wait for the scheduler's next tick, milliseconds.
    void keep_apart() {
#if defined(__linux__)
        const int here = sched_getcpu();
        if (here < 0 || here == avoided_) return;
        avoided_ = here;
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
        CPU_CLR(here, &allowed);
        for (const pthread_t worker : handles_) pthread_setaffinity_np(worker, sizeof allowed, &allowed);
#endif
    }

    void close() {
        const auto empty = [&] { return door_.load(std::memory_order_acquire) == 0; };
        door_.fetch_and(~open_door, std::memory_order_acq_rel);
        if (!spin(empty, std::chrono::microseconds(100))) sleep(door_, empty);
    }

    void serve(int index) {
        for (uint32_t seen = 0;;) {
            const auto called = [&] { return jobs_.load(std::memory_order_acquire) != seen; };
            if (!spin(called, std::chrono::microseconds(50))) sleep(jobs_, called);
            seen = jobs_.load(std::memory_order_acquire);
            uint32_t inside = door_.load(std::memory_order_acquire);
            while (inside & open_door)
                if (door_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {
                    if (index < wanted_) enter_(context_);
                    if (door_.fetch_sub(1, std::memory_order_acq_rel) == 1) door_.notify_all();
                    break;
                }
        }
    }

    static constexpr uint32_t open_door = 1u << 31;
    std::mutex busy_;
    int workers_ = 0, wanted_ = 0, avoided_ = -1;
    std::vector<pthread_t> handles_;
    const void* context_ = nullptr;
    void (*enter_)(const void*) = nullptr;
    Clock::time_point alone_until_{};
    Clock::duration alone_for_ = std::chrono::milliseconds(20);
    alignas(64) std::atomic<uint32_t> jobs_{0};
    alignas(64) std::atomic<uint32_t> door_{0};  // how many workers are inside, and whether more may enter
};

}  // namespace gw
