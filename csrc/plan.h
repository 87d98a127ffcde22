// The plan of a run: the order of the batch's sequences inside the core, and how sequences or units are
// divided among threads.
#pragma once

#include <algorithm>
#include <numeric>

#include "memory.h"
#include "problem.h"
#include "product.h"

namespace gw {

// Whether a run is so short that packing its weights takes longer than reading them as they lie: one sequence of few
// steps, or two of one step. With more sequences each weight that is read serves several rows only if it is packed.
inline bool is_short(const Problem& p) { return p.batch == 1 ? p.steps <= 4 : p.steps * p.batch <= 2; }

struct Share {
    int64_t first, last;  // rows, in the plan's order
};

struct Plan {
    int64_t* order;   // the sequence of each row
    int64_t* length;  // the length of that sequence
    Share* shares;
    int count;      // of shares
    bool by_units;  // one share with all rows; a team divides its units and synchronises at each step
};

// The speed of a product with few rows, relative to one with many. With one row each loaded weight is used
// only once.
inline double speed(double rows) { return std::min(1.0, 0.25 + 0.15 * rows); }

inline int useful_threads(const Problem& p) {
    const double columns = double(p.cell->accumulators) * p.units;
    const double operations = 2.0 * p.steps * p.batch * columns * (p.inputs + p.recurrent_size() + 20);
    return operations < 1e6 ? 1 : p.threads;
}

// Whether to divide the units, with a synchronisation at each step, and not the rows.
inline bool units_pay(const Problem& p, int threads) {
    if (threads == 1 || p.projection || p.weights.norm_input || p.cell->second_stage || p.units < 32 * threads) return false;
    const double step = 2.0 * p.cell->accumulators * p.units * double(p.recurrent_size() + p.inputs) * p.batch;  // operations
    const double nanoseconds = step / 60, meeting = 1500;
    const double shares = std::min<double>(threads, p.batch);
    const double by_rows = nanoseconds / shares / speed(double(p.batch) / shares);
    const double by_units = nanoseconds / threads / speed(double(p.batch)) + meeting;
    return by_units < by_rows;
}

// Divides the rows of the batch into shares.
inline void divide(Plan& plan, const Problem& p, int threads) {
    plan.count = plan.by_units ? 1 : int(std::clamp<int64_t>(p.batch, 1, threads));
    for (int s = 0; s < plan.count; ++s) plan.shares[s] = {p.batch * s / plan.count, p.batch * (s + 1) / plan.count};
}

// The fewest rows of a share.
inline int64_t rows_of_share(const Problem& p) {
    const int threads = useful_threads(p);
    return units_pay(p, threads) ? p.batch : p.batch / std::clamp<int64_t>(p.batch, 1, threads);
}

inline Plan make_plan(const Problem& p, Arena& arena) {
    const int threads = useful_threads(p);
    Plan plan{arena.take<int64_t>(p.batch), arena.take<int64_t>(p.batch), arena.take<Share>(threads), 1, false};
    plan.by_units = units_pay(p, threads);
    divide(plan, p, threads);
    if (p.lengths == nullptr) {
        std::iota(plan.order, plan.order + p.batch, 0);
        std::fill_n(plan.length, p.batch, p.steps);
        return plan;
    }
    // longest first, so that the sequences still running are always the first rows of a share
    int64_t* sorted = arena.take<int64_t>(p.batch);
    std::iota(sorted, sorted + p.batch, 0);
    std::stable_sort(sorted, sorted + p.batch, [&](int64_t a, int64_t b) { return p.lengths[a] > p.lengths[b]; });
    // in turn, so that every share has long and short sequences
    int64_t* next = arena.take<int64_t>(plan.count);
    for (int s = 0; s < plan.count; ++s) next[s] = plan.shares[s].first;
    for (int64_t k = 0, s = 0; k < p.batch; ++k, s = (s + 1) % plan.count) {
        while (next[s] == plan.shares[s].last) s = (s + 1) % plan.count;
        plan.order[next[s]] = sorted[k];
        plan.length[next[s]++] = p.lengths[sorted[k]];
    }
    return plan;
}

// The number of rows of a share that have a step t.
inline int64_t running(const Plan& plan, const Share& share, int64_t t) {
    const int64_t* first = plan.length + share.first;
    const int64_t* last = plan.length + share.last;
    return std::partition_point(first, last, [t](int64_t length) { return length > t; }) - first;
}

}  // namespace gw
