// The thread pool: every share once, teams that meet thousands of times, a member that is late, callers
// side by side and inside one another, and a forked child; built with OpenMP, that its threads are the
// ones that work. Prints each failure, then the counts.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <vector>

#include "pool.h"

using gw::Pool, gw::Team;

static std::atomic<int> passed{0}, failed{0};

static void expect(bool right, const char* what) {
    (right ? passed : failed).fetch_add(1);
    if (!right) std::printf("FAILED %s\n", what);
}

// Plain numbers, so that a share given twice or read too early is also a data race.
static bool each_share_once(int shares, int threads) {
    std::vector<int> done(size_t(shares), 0);
    Pool::get().run(shares, threads, [&](int share) { ++done[size_t(share)]; });
    for (int count : done)
        if (count != 1) return false;
    return true;
}

static void shares() {
    for (int threads : {1, 2, 3, 4, 8, 5})
        for (int count : {0, 1, 2, 3, 7, 64, 1000}) expect(each_share_once(count, threads), "each share is done once");
    bool right = true;
    for (int round = 0; round < 3000; ++round) right = each_share_once(3, 2 + round % 3) && right;
    expect(right, "each share is done once, time after time");
}

// Sums that go round: at each step every member reads what all others wrote at the step before. A member
// that is slow at step `slow` dissolves the team; the first one then goes on for all.
static int team_of(int threads, int steps, int slow) {
    std::vector<uint64_t> before(8, 1), after(8, 0);
    int size = 0, reached = 0;
    Pool::get().run_together(threads, [&](int member, Team& team) {
        const int members = team.size();
        if (member == 0) size = members;
        bool together = true;
        for (int step = 0; step < steps; ++step) {
            std::vector<uint64_t>&from = step % 2 ? after : before, &to = step % 2 ? before : after;
            for (int part = 0; part < 8; ++part)
                if (!together || part % members == member) {
                    uint64_t sum = uint64_t(part);
                    for (uint64_t x : from) sum = sum * 31 + x;
                    to[size_t(part)] = sum;
                }
            if (member == members - 1 && step == slow) std::this_thread::sleep_for(std::chrono::milliseconds(3));
            if (together && !team.meet(member)) {
                if (member > 0) return;
                together = false;
            }
            if (member == 0) reached = step + 1;
        }
    });
    std::vector<uint64_t> alone(8, 1), next(8);
    for (int step = 0; step < steps; ++step, alone = next)
        for (int part = 0; part < 8; ++part) {
            uint64_t sum = uint64_t(part);
            for (uint64_t x : alone) sum = sum * 31 + x;
            next[size_t(part)] = sum;
        }
    expect(reached == steps && (steps % 2 ? after : before) == alone, "a team's steps are those of one thread");
    return size;
}

// The greatest team in some tries: right after a late one the pool goes without for a while.
static int greatest_team(int threads, int steps, int slow = -1) {
    int greatest = 0;
    for (int trial = 0; trial < 30 && greatest < 2; ++trial) {
        greatest = std::max(greatest, team_of(threads, steps, slow));
        if (greatest < 2) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return greatest;
}

static void teams() {
    expect(team_of(1, 100, -1) == 1, "one thread is a team of one");
    int gathered = 0;
    for (int threads : {2, 4})
        for (int steps : {1, 2, 7, 5000}) gathered += greatest_team(threads, steps) > 1;
    for (int round = 0; round < 300; ++round) team_of(2 + round % 3, 20, -1);
    std::printf("%d of 8 teams had two members or more\n", gathered);
    expect(gathered > 0, "some team comes together");
}

static void late_members() {
    for (int slow : {0, 1, 500})
        if (greatest_team(2, 1000, slow) > 1) {
            int size = team_of(2, 100, -1);
            expect(size == 1 || size == 2, "after a late member a run goes on");
        }
}

static void callers_side_by_side() {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([&, caller] {
            for (int round = 0; round < 400; ++round) {
                if (!each_share_once(5, 3)) ++wrong;
                if (round % 20 == caller) team_of(3, 50, -1);
            }
        });
    for (std::thread& caller : callers) caller.join();
    expect(wrong == 0, "callers side by side get their shares");
}

static void callers_inside() {
    std::vector<int> sums(16, 0);
    Pool::get().run(16, 4, [&](int share) {
        Pool::get().run(5, 4, [&](int inner) { sums[size_t(share)] += inner; });
    });
    bool right = true;
    for (int sum : sums) right = right && sum == 10;
    expect(right, "a call inside a share is done there");
    std::atomic<int> inner{0};
    Pool::get().run_together(3, [&](int member, Team& team) {
        Pool::get().run(7, 3, [&](int) { ++inner; });
        if (!team.meet(member)) return;
        if (member == 0) expect(inner >= 7 * team.size(), "a call inside a team is done there");
    });
}

#ifdef _OPENMP
static void on_open_mp() {
    std::mutex guard;
    std::set<std::thread::id> theirs;
#pragma omp parallel num_threads(2)
    {
        const std::lock_guard hold(guard);
        theirs.insert(std::this_thread::get_id());
    }
    bool shared = false;  // in some round: after a late thread others serve for a while
    for (int round = 0; round < 300 && !shared; ++round) {
        std::set<std::thread::id> ours;
        Pool::get().run(64, 2, [&](int) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
            const std::lock_guard hold(guard);
            ours.insert(std::this_thread::get_id());
        });
        shared = ours.size() > 1 && std::includes(theirs.begin(), theirs.end(), ours.begin(), ours.end());
        if (!shared) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    expect(shared, "the threads are OpenMP's");
    bool right = true;
#pragma omp parallel num_threads(2)
    {
        const bool each = each_share_once(9, 4);
        const std::lock_guard hold(guard);
        right = right && each;
    }
    expect(right, "calls from inside OpenMP's threads get their shares");
}
#endif

static void in_a_child() {
    expect(each_share_once(100, 4), "the parent's pool works before the fork");
    for (int round = 0; round < 5; ++round) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(30);  // a child that hangs is ended
            bool right = each_share_once(100, 4) && each_share_once(1000, 2);
            team_of(2, 200, -1);
            _exit(right && failed == 0 ? 0 : 1);
        }
        int status = -1;
        waitpid(child, &status, 0);
        expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child has a pool of its own");
        expect(each_share_once(100, 4), "the parent's pool works after the fork");
    }
}

int main(int count, char**) {
#ifdef _OPENMP
    on_open_mp();
#endif
    shares();
    teams();
    late_members();
    callers_side_by_side();
    callers_inside();
    if (count == 1) in_a_child();  // with an argument: not under a sanitizer that can't follow a fork
    std::printf("%d passed, %d failed\n", passed.load(), failed.load());
    std::fflush(stdout);
    _exit(failed != 0);  // the pool's threads are still waiting
}
