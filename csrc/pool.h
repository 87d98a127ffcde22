// Threads that work on one job together with the caller.
//
// If the program has OpenMP, the other threads are OpenMP's, because torch uses them too: after torch's last operation
// they still spin, and would take processors from other threads. Otherwise they are the pool's own threads, which spin
// briefly and then sleep.
//
// The caller takes every share that no thread has claimed. If all members must synchronise at each step (a Team), the
// team consists of the threads that started at once. It dissolves when one of them is late, because on a busy machine
// each synchronisation would cost a time slice. The pool never waits for one of its threads that has not started. OpenMP
// waits for all of its threads, so after one was late the pool's own threads are used for a while.
#pragma once

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <new>
#include <optional>
#include <thread>

namespace gw {

using Clock = std::chrono::steady_clock;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until done() is true or the time is over. Returns done().
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

// Sleeps until done() is true. The thread that makes it true changes `word` and notifies.
template <class Word, class Done>
void sleep(const std::atomic<Word>& word, const Done& done) {
    for (;;) {
        const Word seen = word.load(std::memory_order_acquire);
        if (done()) return;
        word.wait(seen, std::memory_order_acquire);
    }
}

// The threads that run the steps of one job together.
class Team {
public:
    explicit Team(int size) : size_(size) {}

    int size() const { return size_; }

    // Waits for all members. Returns false to all of them, at the same meeting, if the team dissolves: then the first
    // member continues alone, and the others are finished.
    bool meet(int member) {
        if (size_ == 1) return true;
        const uint32_t before = meetings_.load(std::memory_order_relaxed), here = before + 1;
        if (member == 0 && late_) dissolved_.store(here, std::memory_order_relaxed);
        const auto came = Clock::now();
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            meetings_.store(here, std::memory_order_release);
            meetings_.notify_all();
        } else {
            const auto all = [&] { return meetings_.load(std::memory_order_acquire) != before; };
            if (!spin(all, std::chrono::microseconds(50))) sleep(meetings_, all);
        }
        if (member == 0) {
            const auto now = Clock::now();
            const auto waited = now - came;
            late_ |= waited > std::chrono::microseconds(500) && waited > came - left_;
            left_ = now;
        }
        return dissolved_.load(std::memory_order_relaxed) != here;
    }

    bool late() const { return late_; }

private:
    const int size_;
    // Used by the first member only: whether it waited longer than its own work took; when it last left a meeting.
    bool late_ = false;
    Clock::time_point left_ = Clock::now();
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> meetings_{0};
    alignas(64) std::atomic<uint32_t> dissolved_{0};
};

// The threads that help one calling thread. They are kept off its processor: Linux wakes a thread on the processor
// where it slept. The caller often runs there now, and the thread could have to wait until the caller has finished.
class Helpers {
public:
    static Helpers& mine() {
        thread_local Helpers helpers;
        return helpers;
    }

    // Called by a helper when it starts.
    void greet(int helper) {
#if defined(__linux__)
        thread_local const int thread = gettid();
        if (helper < most) threads_[helper].store(thread, std::memory_order_relaxed);
#endif
    }

    // Called by the caller before up to `helpers` threads start.
    void keep_apart(int helpers) {
#if defined(__linux__)
        const int here = sched_getcpu();
        const bool moved = here != here_;
        here_ = here;
        for (int helper = 0; helper < std::min(helpers, most); ++helper) {
            const int thread = threads_[helper].load(std::memory_order_relaxed);
            if (thread == 0) continue;
            if (moved || thread != placed_[helper]) place(thread);
            placed_[helper] = thread;
        }
#endif
    }

private:
#if defined(__linux__)
    void place(int thread) const {
        cpu_set_t allowed;
        if (here_ < 0 || sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
        CPU_CLR(here_, &allowed);
        char task[40];
        std::snprintf(task, sizeof task, "/proc/self/task/%d", thread);
        if (access(task, F_OK) == 0) sched_setaffinity(thread, sizeof allowed, &allowed);  // it may have ended since
    }
#endif

    static constexpr int most = 64;
    std::atomic<int> threads_[most] = {};
    int placed_[most] = {};
    int here_ = -1;
};

// A pause after a failure. It is twice as long after each failure, and half as long after each success. It starts with
// about the time that a failure costs.
class Pause {
public:
    bool over() const { return Clock::now() >= until_; }
    void begin() {
        until_ = Clock::now() + length_;
        length_ = std::min<Clock::duration>(2 * length_, std::chrono::seconds(2));
    }
    void forgive() { length_ = std::max<Clock::duration>(length_ / 2, shortest); }

private:
    static constexpr Clock::duration shortest = std::chrono::milliseconds(2);
    Clock::time_point until_{};
    Clock::duration length_ = shortest;
};

class Pool {
public:
    // forked, for the first call: whether this process is a forked child, which lacks the threads that OpenMP expects.
    static Pool& get(bool forked = false) {
        static Pool* pool = [forked] {
            pthread_atfork(nullptr, nullptr, [] { new (&get()) Pool(false); });
            return new Pool(!forked);  // never destroyed: its threads outlive the statics
        }();
        return *pool;
    }

    // Calls work(share) once for each share, on up to `threads` threads.
    template <class Work>
    void run(int shares, int threads, const Work& work) {
        const auto alone = [&] {
            for (int share = 0; share < shares; ++share) work(share);
        };
        if (shares <= 1 || threads <= 1) return alone();
        const Hold hold(busy_);
        if (!hold.mine) return alone();  // another thread uses the pool, or this thread already does
        std::atomic<int> next{0};
        const auto claim = [&] {
            for (int share; (share = next.fetch_add(1, std::memory_order_relaxed)) < shares;) work(share);
        };
        run_with_others(threads, claim, [&](int) { claim(); });
    }

    // Calls work(member, team) on each thread of a team: the threads that start at once, at most `threads`.
    template <class Work>
    void run_together(int threads, const Work& work) {
        const auto alone = [&] {
            Team team(1);
            work(0, team);
        };
        if (threads <= 1) return alone();
        const Hold hold(busy_);
        if (!hold.mine || !teams_.over()) return alone();
        std::atomic<int> come{0};
        std::atomic<Team*> gathered{nullptr};
        const auto join = [&] {
            const int member = come.fetch_add(1, std::memory_order_relaxed) + 1;
            if (member < 1) return;  // too late
            Team* team = nullptr;
            while ((team = gathered.load(std::memory_order_acquire)) == nullptr) relax();
            work(member, *team);
        };
        std::optional<Team> team;
        run_with_others(threads, join, [&](int most) {
            spin([&] { return come.load(std::memory_order_relaxed) == most - 1; }, std::chrono::microseconds(100));
            team.emplace(1 + come.exchange(-(1 << 20), std::memory_order_relaxed));
            gathered.store(&*team, std::memory_order_release);
            work(0, *team);
        });
        if (team->late())
            teams_.begin();
        else if (team->size() == threads)
            teams_.forgive();
    }

private:
    struct Hold {
        explicit Hold(std::atomic_flag& flag) : flag(flag), mine(!flag.test_and_set(std::memory_order_acquire)) {}
        ~Hold() {
            if (mine) flag.clear(std::memory_order_release);
        }
        Hold(const Hold&) = delete;
        std::atomic_flag& flag;
        const bool mine;
    };

    // A forked child has none of its parent's threads. It gets a new pool without OpenMP, which does not notice the fork
    // and would wait for its threads forever.
    explicit Pool(bool with_open_mp) {
        if (!with_open_mp) return;
        number_ = function<int (*)()>("omp_get_thread_num");
        count_ = function<int (*)()>("omp_get_num_threads");
        if (number_ && count_) open_mp_ = function<Parallel>("GOMP_parallel");
        const auto bound = function<int (*)()>("omp_get_proc_bind");
        placed_by_open_mp_ = open_mp_ && bound && bound() != 0;
    }

    template <class Function>
    static Function function(const char* name) {
        return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    }

    // Calls mine(n) on this thread and others() on up to n - 1 other threads at the same time. n is `threads` if there
    // are as many.
    template <class Others, class Mine>
    void run_with_others(int threads, const Others& others, const Mine& mine) {
        helpers_ = &Helpers::mine();
        if (!placed_by_open_mp_) helpers_->keep_apart(threads - 1);
        if (open_mp_ && open_mp_pause_.over()) return on_open_mp(threads, others, mine);
        open(threads - 1, others);
        mine(threads);
        close();
    }

    template <class Others, class Mine>
    void on_open_mp(int threads, const Others& others, const Mine& mine) {
        struct Region {
            const Pool& pool;
            const Others& others;
            const Mine& mine;
            std::atomic<int> begun{0};
            bool all = false;  // they had begun when the caller was done
            Clock::time_point done{};
        } region{*this, others, mine};
        const auto enter = [](void* given) {
            Region& r = *static_cast<Region*>(given);
            if (const int number = r.pool.number_(); number > 0) {
                r.begun.fetch_add(1, std::memory_order_relaxed);
                r.pool.helpers_->greet(number - 1);
                return r.others();
            }
            const int count = r.pool.count_();
            r.mine(count);
            r.all = r.begun.load(std::memory_order_relaxed) == count - 1;
            r.done = Clock::now();
        };
        open_mp_(enter, &region, unsigned(threads), 0);
        if (region.all)
            open_mp_pause_.forgive();
        else if (Clock::now() - region.done > std::chrono::microseconds(500))
            open_mp_pause_.begin();
    }

    template <class Work>
    void open(int workers, const Work& work) {
        for (; workers_ < workers; ++workers_) std::thread([this, index = workers_] { serve(index); }).detach();
        wanted_ = workers;
        context_ = &work;
        enter_ = [](const void* context) { (*static_cast<const Work*>(context))(); };
        door_.store(open_door, std::memory_order_release);
        jobs_.fetch_add(1, std::memory_order_release);
        jobs_.notify_all();
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
                    if (index < wanted_) {
                        helpers_->greet(index);
                        enter_(context_);
                    }
                    if (door_.fetch_sub(1, std::memory_order_acq_rel) == 1) door_.notify_all();
                    break;
                }
        }
    }

    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

    static constexpr uint32_t open_door = 1u << 31;
    Parallel open_mp_ = nullptr;
    bool placed_by_open_mp_ = false;  // OMP_PROC_BIND has it so
    int (*number_)() = nullptr;
    int (*count_)() = nullptr;
    Pause open_mp_pause_, teams_;
    std::atomic_flag busy_;
    int workers_ = 0, wanted_ = 0;
    Helpers* helpers_ = nullptr;  // the caller's
    const void* context_ = nullptr;
    void (*enter_)(const void*) = nullptr;
    alignas(64) std::atomic<uint32_t> jobs_{0};
    alignas(64) std::atomic<uint32_t> door_{0};  // how many workers are inside, and whether more may enter
};

}  // namespace gw
