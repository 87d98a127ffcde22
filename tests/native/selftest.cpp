// The native core against a plain loop over single numbers in double, and its gradients against
// differences of that loop: every cell that is linked in, every option, awkward sizes. Run by
// tests/test_native.py for each width of vectors, under sanitizers and for other machines.
//
//     selftest [n]    every n-th case; prints each failure, then the counts
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "amx.h"
#include "kernels.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"

extern "C" const gw::Kernels gw_kernels;

#define CELLS(each)                                                                              \
    each(rnn_tanh) each(rnn_relu) each(lstm) each(gru) each(peephole) each(both_fed_back) each(stabilised) \
    each(halves) each(of_input_alone)
#define DECLARE(name) extern "C" const gw::Cell gw_cell_##name;
CELLS(DECLARE)

using gw::Cell, gw::Problem, gw::Storage;
using Numbers = std::vector<double>;

// Cells by hand ------------------------------------------------------------------------------------

static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One unit's named values v, in the order of the cell, from the two parts of each gate, x and h, the
// old states s and the unit's parameters p.
using Step = void(const double* x, const double* h, const double* s, const double* p, double* v);

static void rnn_tanh(const double* x, const double* h, const double*, const double*, double* v) { v[0] = std::tanh(x[0] + h[0]); }
static void rnn_relu(const double* x, const double* h, const double*, const double*, double* v) {
    v[0] = std::max(0.0, x[0] + h[0]);
}
static void lstm(const double* x, const double* h, const double* s, const double*, double* v) {
    const double i = sigmoid(x[0] + h[0]), f = sigmoid(x[1] + h[1]), g = std::tanh(x[2] + h[2]), o = sigmoid(x[3] + h[3]);
    const double c = f * s[1] + i * g;
    v[0] = i, v[1] = f, v[2] = g, v[3] = o, v[4] = c, v[5] = o * std::tanh(c);
}
static void gru(const double* x, const double* h, const double* s, const double*, double* v) {
    const double r = sigmoid(x[0] + h[0]), z = sigmoid(x[1] + h[1]), n = std::tanh(x[2] + r * h[2]);
    v[0] = r, v[1] = z, v[2] = n, v[3] = (1 - z) * n + z * s[0];
}
static void peephole(const double* x, const double* h, const double* s, const double* p, double* v) {
    const double i = sigmoid(x[0] + h[0] + p[0] * s[1]), f = sigmoid(x[1] + h[1] + p[1] * s[1]);
    const double g = std::tanh(x[2] + h[2]);
    const double c = f * s[1] + i * g, o = sigmoid(x[3] + h[3] + p[2] * c);
    v[0] = i, v[1] = f, v[2] = g, v[3] = c, v[4] = o, v[5] = o * std::tanh(c);
}
static void both_fed_back(const double* x, const double* h, const double* s, const double*, double* v) {
    const double f = sigmoid(x[0] + h[0]), c = f * s[1] + (1 - f) * std::tanh(x[1] + h[1]);
    v[0] = f, v[1] = c, v[2] = sigmoid(x[2] + h[2]) * std::tanh(c);
}
static void stabilised(const double* x, const double* h, const double* s, const double*, double* v) {
    const double log_f = -std::log1p(std::exp(-x[2] - h[2])), m = std::max(log_f + s[3], x[1] + h[1]);
    const double i = std::exp(x[1] + h[1] - m), f = std::exp(log_f + s[3] - m);
    const double c = f * s[1] + i * std::tanh(x[0] + h[0]), n = f * s[2] + i;
    v[0] = m, v[1] = i, v[2] = f, v[3] = c, v[4] = n, v[5] = sigmoid(x[3] + h[3]) * c / std::max(n, 0.3);
}
static void halves(const double* x, const double* h, const double* s, const double*, double* v) {
    const double f = sigmoid(x[0]);
    v[0] = f, v[1] = f * s[0] + (1 - f) * std::tanh(h[1] + x[2] + h[2]);
}
static void of_input_alone(const double* x, const double*, const double* s, const double*, double* v) {
    const double f = sigmoid(x[0]);
    v[0] = f, v[1] = f * s[0] + (1 - f) * x[1];
}

struct ByHand {
    const Cell* cell;
    Step* step;
    bool projects, smooth;
    const char* name;
};

static bool projects(const std::string& name) { return name != "gru" && name != "halves" && name != "of_input_alone"; }
static bool smooth(const std::string& name) { return name != "rnn_relu" && name != "stabilised"; }

#define BY_HAND(name) {&gw_cell_##name, name, projects(#name), smooth(#name), #name},
static const ByHand cells[] = {CELLS(BY_HAND)};

// A case and its numbers ---------------------------------------------------------------------------

enum Option { reverse, lengths, reset, zero_state, no_bias, projection, norm, zoneout, factor, strided, options };
static const char* const option_names[] = {"reverse", "lengths", "reset", "zero_state", "no_bias",
                                           "projection", "norm", "zoneout", "factor", "strided"};

struct Case {
    const ByHand* by_hand;
    Storage storage;
    int64_t T, B, I, H;
    unsigned chosen;
    int threads;
    gw::Factors factors = gw::Factors::as_stored;

    const Cell& cell() const { return *by_hand->cell; }
    bool has(Option option) const { return chosen >> option & 1; }
    int64_t P() const { return has(projection) ? (H + 1) / 2 : 0; }
    int64_t size(int state) const { return state == 0 && P() ? P() : H; }
    int64_t fed() const {
        int64_t sum = 0;
        for (int f = 0; f < cell().feedbacks; ++f) sum += size(cell().feedback[f]);
        return sum;
    }
    std::string text() const {
        static const char* const storages[] = {"float", "double", "bf16"};
        std::string text = std::string(by_hand->name) + " " + storages[int(storage)];
        for (auto [name, number] : {std::pair{"T", T}, {"B", B}, {"I", I}, {"H", H}, {"threads", int64_t(threads)}})
            text += std::string(" ") + name + "=" + std::to_string(number);
        static const char* const of_products[] = {"", " bf16 factors", " factors in parts"};
        text += of_products[int(factors)];
        for (int option = 0; option < options; ++option)
            if (has(Option(option))) text += std::string(" ") + option_names[option];
        return text;
    }
};

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint64_t bits() {  // splitmix64
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    double number() { return double(bits() >> 11) * 0x1p-52 - 1; }  // from -1 to 1
    int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }

private:
    uint64_t state_;
};

static float from_bf16(uint16_t bits) {
    const uint32_t whole = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &whole, 4);
    return x;
}

static uint16_t to_bf16_bits(float x) {  // finite numbers, to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class S>
S stored(double x) {
    if constexpr (std::is_same_v<S, gw::bf16>)
        return {x != x ? uint16_t(0x7fff) : to_bf16_bits(float(x))};
    else
        return S(x);
}
static double read(float x) { return x; }
static double read(double x) { return x; }
static double read(gw::bf16 x) { return from_bf16(x.bits); }

static double rounded_as(Storage storage, double x) {
    switch (storage) {
        case Storage::f32: return read(stored<float>(x));
        case Storage::bf16: return read(stored<gw::bf16>(x));
        default: return x;
    }
}

// What has a gradient: x, the initial states, then the weights in the order of gw::Weights.
enum Leaf { leaf_x, leaf_state };
struct Given {
    std::vector<Numbers> leaves;
    std::vector<int64_t> lengths;
    std::vector<uint8_t> reset;  // T×B
    Numbers factor;              // B×F
    std::vector<Numbers> zoneout;  // by state, T×B×size

    Numbers seed_output;  // the loss is the results times these
    std::vector<Numbers> seed_final;
};

enum WeightName { w_input, w_recurrent, w_input_bias, w_recurrent_bias, w_projection, w_norm_input, w_norm_recurrent, w_per_unit };
static size_t leaf_of(const Case& c, int weight) { return size_t(leaf_state + c.cell().states + weight); }

static Given numbers(const Case& c, uint64_t seed) {
    Random random(seed);
    const Storage drawn_as = c.factors == gw::Factors::bf16 ? Storage::bf16 : c.storage;  // so that fewer factors are rounded
    const auto draw = [&](int64_t count, double scale, double middle = 0.0) {
        Numbers numbers(static_cast<size_t>(count));
        for (double& x : numbers) x = rounded_as(drawn_as, middle + scale * random.number());
        return numbers;
    };
    const Cell& cell = c.cell();
    const int64_t gates = cell.gates * c.H;
    Given g;
    g.leaves.push_back(draw(c.T * c.B * c.I, 1.5));
    for (int k = 0; k < cell.states; ++k) g.leaves.push_back(c.has(zero_state) ? Numbers() : draw(c.B * c.size(k), 0.8));
    g.leaves.push_back(draw(gates * c.I, 1.5 / std::sqrt(double(c.I))));
    g.leaves.push_back(draw(gates * c.fed(), 1.2 / std::sqrt(double(c.fed()))));
    for (int k = 0; k < 2; ++k) g.leaves.push_back(c.has(no_bias) ? Numbers() : draw(gates, 0.5));
    g.leaves.push_back(draw(c.P() * c.H, 1.2 / std::sqrt(double(c.H))));
    for (int k = 0; k < 2; ++k) g.leaves.push_back(c.has(norm) ? draw(gates, 0.5, 1.0) : Numbers());
    for (int k = 0; k < cell.params; ++k) g.leaves.push_back(draw(c.H, 0.8));

    for (int64_t b = 0; b < c.B; ++b) g.lengths.push_back(c.has(lengths) ? (b == 1 ? 0 : random.below(c.T + 1)) : c.T);
    for (int64_t k = 0; k < c.T * c.B; ++k) g.reset.push_back(c.has(reset) && random.below(4) == 0 ? uint8_t(1) : uint8_t(0));
    g.factor = c.has(factor) ? draw(c.B * c.fed(), 1.0, 1.0) : Numbers();
    for (int k = 0; k < cell.states && c.has(zoneout); ++k) {
        const int64_t n = c.size(k);
        g.zoneout.push_back(draw(c.T * c.B * n, 0.5, 0.5));
        if (c.has(strided))  // one row for all, whose strides are 0
            for (int64_t at = n; at < c.T * c.B * n; ++at) g.zoneout[k][at] = g.zoneout[k][at - n];
    }
    g.seed_output = draw(c.T * c.B * c.size(0), 1.0);
    for (int k = 0; k < cell.states; ++k) g.seed_final.push_back(draw(c.B * c.size(k), 1.0));
    return g;
}

struct Results {
    Numbers output;              // T×B×size, zero beyond a sequence's end
    std::vector<Numbers> final;  // B×size
    std::vector<Numbers> trace;  // by value, T×B×H, likewise
};

// The plain loop -----------------------------------------------------------------------------------

// The parts of one sequence's gates: a product, normalised where there is a gain, and the bias.
static Numbers part(const double* x, int64_t n, const Numbers& weight, int64_t rows, const Numbers& gain, const Numbers& bias) {
    Numbers sums(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < n; ++k) sums[r] += weight[r * n + k] * x[k];
    if (!gain.empty()) {
        double mean = 0, variance = 0;
        for (double s : sums) mean += s / double(rows);
        for (double s : sums) variance += (s - mean) * (s - mean) / double(rows);
        for (int64_t r = 0; r < rows; ++r) sums[r] = gain[r] * (sums[r] - mean) / std::sqrt(variance + 1e-5);
    }
    for (int64_t r = 0; r < rows && !bias.empty(); ++r) sums[r] += bias[r];
    return sums;
}

static Results plain(const Case& c, const Given& g) {
    const Cell& cell = c.cell();
    const int64_t gates = cell.gates * c.H;
    const auto weight = [&](int name) -> const Numbers& { return g.leaves[leaf_of(c, name)]; };
    Results results;
    results.output.assign(c.T * c.B * c.size(0), 0);
    results.trace.assign(cell.values, Numbers(c.T * c.B * c.H));
    for (int k = 0; k < cell.states; ++k) results.final.emplace_back(c.B * c.size(k));
    for (int64_t b = 0; b < c.B; ++b) {
        std::vector<Numbers> state;
        for (int k = 0; k < cell.states; ++k) {
            const Numbers& from = g.leaves[leaf_state + k];
            const int64_t n = c.size(k);
            state.push_back(from.empty() ? Numbers(n) : Numbers(&from[b * n], &from[b * n] + n));
        }
        for (int64_t done = 0; done < g.lengths[b]; ++done) {
            const int64_t t = c.has(reverse) ? g.lengths[b] - 1 - done : done, at = t * c.B + b;
            if (g.reset[at])
                for (Numbers& s : state) s.assign(s.size(), 0);
            Numbers fed;
            for (int f = 0; f < cell.feedbacks; ++f) {
                const Numbers& s = state[cell.feedback[f]];
                fed.insert(fed.end(), s.begin(), s.end());
            }
            for (size_t k = 0; k < g.factor.size() / c.B; ++k) fed[k] *= g.factor[b * c.fed() + k];
            const Numbers from_x = part(&g.leaves[leaf_x][at * c.I], c.I, weight(w_input), gates, weight(w_norm_input), weight(w_input_bias));
            const Numbers from_h = part(fed.data(), c.fed(), weight(w_recurrent), gates, weight(w_norm_recurrent), weight(w_recurrent_bias));

            std::vector<Numbers> next(cell.states, Numbers(c.H));
            for (int64_t u = 0; u < c.H; ++u) {
                double x[32], h[32], s[8] = {}, p[16], v[64];
                for (int k = 0; k < cell.gates; ++k) x[k] = from_x[k * c.H + u], h[k] = from_h[k * c.H + u];
                for (int k = 0; k < cell.states; ++k) s[k] = k == 0 && c.P() ? NAN : state[k][u];
                for (int k = 0; k < cell.params; ++k) p[k] = weight(w_per_unit + k)[u];
                c.by_hand->step(x, h, s, p, v);
                for (int k = 0; k < cell.states; ++k) next[k][u] = v[cell.value[k]];
                for (int k = 0; k < cell.values; ++k) results.trace[k][at * c.H + u] = v[k];
            }
            if (c.P()) next[0] = part(next[0].data(), c.H, weight(w_projection), c.P(), {}, {});
            for (int k = 0; k < cell.states; ++k) {
                const int64_t n = c.size(k);
                for (int64_t u = 0; u < n && c.has(zoneout); ++u) {
                    const double kept = g.zoneout[k][at * n + u];
                    next[k][u] = kept * state[k][u] + (1 - kept) * next[k][u];
                    if (n == c.H && !(k == 0 && c.P())) results.trace[cell.value[k]][at * n + u] = next[k][u];
                }
            }
            for (int64_t u = 0; u < c.size(0); ++u) results.output[at * c.size(0) + u] = next[0][u];
            if (c.storage == Storage::bf16)  // what is fed back is what was put out
                for (double& x : next[0]) x = rounded_as(c.storage, x);
            state = next;
        }
        for (int k = 0; k < cell.states; ++k) std::copy(state[k].begin(), state[k].end(), &results.final[k][b * c.size(k)]);
    }
    return results;
}

static double loss(const Case& c, const Given& g) {
    const Results results = plain(c, g);
    double sum = 0;
    for (size_t k = 0; k < results.output.size(); ++k) sum += results.output[k] * g.seed_output[k];
    for (size_t s = 0; s < results.final.size(); ++s)
        for (size_t k = 0; k < results.final[s].size(); ++k) sum += results.final[s][k] * g.seed_final[s][k];
    return sum;
}

// The core -----------------------------------------------------------------------------------------

// Numbers as the core is given them: T×B×n, or with T = 1 B×n. Strided ones lie by sequence, with gaps.
template <class S>
class Array {
public:
    Array(const Case& c, int64_t T, int64_t n)
        : T_(T), B_(c.B), n_(n), gap_(c.has(strided) ? 3 : 0), cells_(std::max<int64_t>(1, T * c.B * (n + gap_) - gap_)) {
        row = c.has(strided) ? T * (n + gap_) : n;
        step = c.has(strided) ? n + gap_ : c.B * n;
        for (S& x : cells_) x = stored<S>(mark);
    }
    Array(const Case& c, int64_t T, int64_t n, const Numbers& from, const std::vector<int64_t>* lengths = nullptr) : Array(c, T, n) {
        each([&](int64_t t, int64_t b, int64_t k, S& x) {
            const bool beyond = lengths && t >= (*lengths)[b];
            x = stored<S>(beyond ? NAN : from[(t * B_ + b) * n_ + k]);
        });
    }

    Numbers numbers() {
        Numbers to(static_cast<size_t>(T_ * B_ * n_));
        each([&](int64_t t, int64_t b, int64_t k, S& x) { to[(t * B_ + b) * n_ + k] = read(x); });
        return to;
    }
    bool gaps_kept() {
        std::vector<bool> ours(cells_.size());
        each([&](int64_t, int64_t, int64_t, S& x) { ours[&x - cells_.data()] = true; });
        for (size_t k = 0; k < cells_.size(); ++k)
            if (!ours[k] && read(cells_[k]) != mark) return false;
        return true;
    }
    gw::Steps steps() { return {cells_.data(), step, row}; }
    gw::Rows rows() { return {cells_.data(), row}; }

    int64_t row, step;

private:
    static constexpr double mark = 7;
    template <class F>
    void each(const F& f) {
        for (int64_t t = 0; t < T_; ++t)
            for (int64_t b = 0; b < B_; ++b)
                for (int64_t k = 0; k < n_; ++k) f(t, b, k, cells_[t * step + b * row + k]);
    }
    int64_t T_, B_, n_, gap_;
    std::vector<S> cells_;
};

template <class T>
T* all_ones(std::vector<T>& numbers) {  // NaNs: what is read before it is written shows
    if (!numbers.empty()) std::memset(numbers.data(), 0xff, numbers.size() * sizeof(T));
    return numbers.data();
}

static void spoil_working_memory() {
    constexpr int64_t bytes = 4 << 20;
    gw::Arena& arena = gw::Arena::mine();
    gw::Arena::Frame frame(arena);
    std::memset(arena.take<char>(bytes), 0xff, bytes);
}

template <class S>
class Native {
    using T = gw::compute<S>;

public:
    Native(const Case& c, const Given& g) : c(c), g(g), x(c, c.T, c.I, g.leaves[leaf_x], &g.lengths) {
        const Cell& cell = c.cell();
        p.cell = &cell;
        p.steps = c.T, p.batch = c.B, p.inputs = c.I, p.units = c.H, p.projection = c.P();
        p.reverse = c.has(reverse);
        p.threads = c.threads;
        p.factors = c.factors;
        p.x = x.steps();
        for (int k = 0; k < cell.states; ++k) {
            const int64_t n = c.size(k);
            const Numbers& initial = g.leaves[leaf_state + k];
            states.emplace_back(c, 1, n, initial.empty() ? Numbers(c.B * n) : initial);
            zoneouts.emplace_back(c, c.T, n, c.has(zoneout) ? g.zoneout[k] : Numbers(c.T * c.B * n), &g.lengths);
            zoneout_rows.emplace_back();
            for (int64_t u = 0; u < n && c.has(zoneout) && c.T * c.B > 0; ++u) zoneout_rows[k].push_back(stored<S>(g.zoneout[k][u]));
        }
        for (int k = 0; k < cell.states; ++k) {
            if (!c.has(zero_state)) p.state[k] = states[k].rows();
            if (c.has(zoneout)) p.zoneout[k] = c.has(strided) ? gw::Steps{zoneout_rows[k].data(), 0, 0} : zoneouts[k].steps();
        }
        for (size_t leaf = leaf_of(c, 0); leaf < g.leaves.size(); ++leaf) {
            weights.emplace_back();
            for (double w : g.leaves[leaf]) weights.back().push_back(stored<S>(w));
        }
        p.weights = pointers(weights);
        if (c.has(lengths)) p.lengths = g.lengths.data();
        if (c.has(reset)) p.reset = {const_cast<uint8_t*>(g.reset.data()), c.B, 1};
        for (double f : g.factor) factors.push_back(stored<S>(f));
        if (c.has(factor)) p.recurrent_factor = {factors.data(), c.fed()};
    }

    bool by_units() {
        gw::Arena& arena = gw::Arena::mine();
        gw::Arena::Frame frame(arena);
        return gw::make_plan(p, arena).by_units;
    }
    bool by_rows() {
        gw::Arena& arena = gw::Arena::mine();
        gw::Arena::Frame frame(arena);
        return gw::make_plan(p, arena).count > 1;
    }

    enum class Keep { nothing, trace, activations };
    Results forward(Keep keep) {
        const Cell& cell = c.cell();
        const int64_t lanes = gw_kernels.vector_bytes / int64_t(sizeof(T)), wide = (c.H + lanes - 1) / lanes * lanes;
        Array<S> output(c, c.T, c.size(0));
        std::vector<Array<S>> finals;
        for (int k = 0; k < cell.states; ++k) finals.emplace_back(c, 1, c.size(k));
        for (int k = 0; k < cell.states; ++k) p.final_state[k] = finals[k].rows();
        p.output = output.steps();
        std::vector<T> trace(keep == Keep::trace ? cell.values * c.T * c.B * wide : 0);
        p.trace = keep == Keep::trace ? all_ones(trace) : nullptr;
        if (keep == Keep::activations) activations.resize((c.T + 1) * c.B * gw_kernels.activations_row(p, c.storage) + gw_kernels.activations_extra(c.storage));
        p.activations = keep == Keep::activations ? all_ones(activations) : nullptr;
        spoil_working_memory();
        gw_kernels.forward(p, c.storage);
        Results results;
        results.output = output.numbers();
        gaps_kept = gaps_kept && output.gaps_kept();
        for (Array<S>& f : finals) results.final.push_back(f.numbers()), gaps_kept = gaps_kept && f.gaps_kept();
        if (keep != Keep::trace) return results;
        std::vector<int64_t> order(c.B + 1);
        gw_kernels.order(p, order.data());
        for (int k = 0; k < cell.values; ++k) {
            results.trace.emplace_back(c.T * c.B * c.H);
            for (int64_t t = 0; t < c.T; ++t)
                for (int64_t r = 0; r < c.B; ++r)
                    for (int64_t u = 0; u < c.H && t < g.lengths[order[r]]; ++u)
                        results.trace[k][(t * c.B + order[r]) * c.H + u] = read(trace[((k * c.T + t) * c.B + r) * wide + u]);
        }
        return results;
    }

    // The same a step at a time, where nothing differs between the steps.
    static bool streams(const Case& c) {
        return c.T > 0 && !(c.chosen & (1u << reverse | 1u << lengths | 1u << reset | 1u << zoneout));
    }
    Results stream() {
        const Cell& cell = c.cell();
        const auto stored_all = [](const Numbers& from) {
            std::vector<S> to;
            for (double number : from) to.push_back(stored<S>(number));
            return to;
        };
        std::vector<std::vector<S>> state;
        Problem one = p;
        one.steps = 1;
        one.trace = one.activations = nullptr;
        one.x = {nullptr, c.B * c.I, c.I};
        one.output = {nullptr, c.B * c.size(0), c.size(0)};
        for (int k = 0; k < cell.states; ++k) {
            const Numbers& initial = g.leaves[leaf_state + k];
            state.push_back(stored_all(initial.empty() ? Numbers(c.B * c.size(k)) : initial));
            one.state[k] = one.final_state[k] = {state[k].data(), c.size(k)};
        }
        Results results;
        void* stream = gw_kernels.open_stream(one, c.storage);
        std::vector<S> output(c.B * c.size(0));
        for (int64_t t = 0; t < c.T; ++t) {
            const double* from = g.leaves[leaf_x].data() + t * c.B * c.I;
            const std::vector<S> now = stored_all(Numbers(from, from + c.B * c.I));
            gw_kernels.step_stream(stream, now.data(), output.data());
            for (S number : output) results.output.push_back(read(number));
        }
        gw_kernels.close_stream(stream);
        for (const auto& numbers : state) {
            results.final.emplace_back();
            for (S number : numbers) results.final.back().push_back(read(number));
        }
        return results;
    }

    // The gradients of the leaves, after a forward run that kept a activations.
    std::vector<Numbers> backward() {
        const Cell& cell = c.cell();
        Array<S> seed(c, c.T, c.size(0), g.seed_output, &g.lengths), grad_x(c, c.T, c.I);
        std::vector<Array<S>> seeds, grads;
        for (int k = 0; k < cell.states; ++k) {
            seeds.emplace_back(c, 1, c.size(k), g.seed_final[k]);
            grads.emplace_back(c, 1, c.size(k));
        }
        for (int k = 0; k < cell.states; ++k) {
            p.grad_final[k] = seeds[k].rows();
            if (!c.has(zero_state)) p.grad_state[k] = grads[k].rows();
        }
        p.grad_output = seed.steps();
        p.grad_x = grad_x.steps();
        std::vector<std::vector<S>> grad_weights;
        for (const auto& w : weights) grad_weights.emplace_back(w.size());
        p.grad_weights = pointers(grad_weights);
        spoil_working_memory();
        gw_kernels.backward(p, c.storage);
        std::vector<Numbers> gradients{grad_x.numbers()};
        gaps_kept = gaps_kept && grad_x.gaps_kept();
        for (int k = 0; k < cell.states; ++k) {
            gradients.push_back(c.has(zero_state) ? Numbers() : grads[k].numbers());
            gaps_kept = gaps_kept && grads[k].gaps_kept();
        }
        for (const auto& w : grad_weights) {
            gradients.emplace_back();
            for (S number : w) gradients.back().push_back(read(number));
        }
        return gradients;
    }

    bool gaps_kept = true;

private:
    static gw::Weights pointers(std::vector<std::vector<S>>& from) {
        const auto at = [&](int k) -> void* { return from[k].empty() ? nullptr : from[k].data(); };
        gw::Weights w{at(w_input), at(w_recurrent), at(w_input_bias), at(w_recurrent_bias), at(w_projection), at(w_norm_input), at(w_norm_recurrent), {}};
        for (size_t k = w_per_unit; k < from.size(); ++k) w.per_unit[k - w_per_unit] = at(int(k));
        return w;
    }

    const Case& c;
    const Given& g;
    Problem p;
    Array<S> x;
    std::vector<Array<S>> states, zoneouts;
    std::vector<std::vector<S>> weights, zoneout_rows;
    std::vector<S> factors;
    std::vector<T> activations;
};

// Comparing ----------------------------------------------------------------------------------------

static int passed = 0, failed = 0, in_rows = 0, in_units = 0, teams = 0;

// Another library's configuration of this thread's tiles, which the core must restore, and whether it did.
#if GW_AMX
static const gw::amx::Config of_others = [] {
    gw::amx::Config config = gw::amx::full_tiles;
    config.bytes[48] = 3;  // rows of the first tile
    return config;
}();

static void configure_as_others() { gw::amx::load_config(of_others); }
static bool configured_as(const gw::amx::Config& config) {
    gw::amx::Config now;
    gw::amx::store_config(now);
    return std::memcmp(now.bytes, config.bytes, sizeof now.bytes) == 0;
}
static bool configured_as_others() { return configured_as(of_others); }

// Whether the threads that helped the caller have released their tiles.
static bool released_by_helpers() {
    bool released = true;
    gw::Pool::get().run_together(4, [&](int member, gw::Team&) {
        if (member > 0 && !configured_as({})) released = false;
    });
    return released;
}
#else
static void configure_as_others() {}
static bool configured_as_others() { return true; }
static bool released_by_helpers() { return true; }
#endif

struct Complaint {
    std::string text;

    void about(const std::string& what, size_t at, double got, double want) {
        if (!text.empty()) return;
        char line[160];
        std::snprintf(line, sizeof line, ": %s[%zu] is %.9g, not %.9g", what.c_str(), at, got, want);
        text = line;
    }

    // To a share of the greatest number, or of 1.
    void unless_near(const std::string& what, const Numbers& got, const Numbers& want, double tolerance) {
        double most = 1;
        for (double x : want) most = std::max(most, std::fabs(x));
        if (got.size() != want.size()) return about(what + ".size", 0, double(got.size()), double(want.size()));
        for (size_t k = 0; k < want.size(); ++k)
            if (!(std::fabs(got[k] - want[k]) <= tolerance * most)) return about(what, k, got[k], want[k]);
    }

    void unless_near(const std::string& what, const Results& got, const Results& want, double tolerance) {
        unless_near(what + " output", got.output, want.output, tolerance);
        for (size_t k = 0; k < want.final.size(); ++k) unless_near(what + " state " + std::to_string(k), got.final[k], want.final[k], tolerance);
        for (size_t k = 0; k < got.trace.size(); ++k) unless_near(what + " value " + std::to_string(k), got.trace[k], want.trace[k], tolerance);
    }

    // By the length of the difference too: a few numbers that are wrong among many would be one share only.
    void unless_alike(const std::string& what, const Numbers& got, const Numbers& want, double tolerance) {
        double square = 0, of = 0;
        for (size_t k = 0; k < want.size(); ++k) square += (got[k] - want[k]) * (got[k] - want[k]), of += want[k] * want[k];
        if (!(square <= tolerance * tolerance * (of + 0.01))) about(what + " length of the difference", 0, std::sqrt(square), 0);
    }
};

// The loss's slope along a direction through the leaves, by central differences.
static double slope(const Case& c, const Given& g, const std::vector<Numbers>& direction, double step) {
    double difference = 0;
    for (double side : {step, -step}) {
        Given moved = g;
        for (size_t leaf = 0; leaf < direction.size(); ++leaf)
            for (size_t k = 0; k < direction[leaf].size(); ++k) moved.leaves[leaf][k] += side * direction[leaf][k];
        difference += loss(c, moved) / (2 * side);
    }
    return difference;
}

static void compare_slope(const Case& c, const Given& g, const std::vector<Numbers>& gradients, const std::vector<Numbers>& direction,
                          const std::string& what, size_t at, Complaint& complaint) {
    double along = 0;
    for (size_t leaf = 0; leaf < direction.size(); ++leaf)
        for (size_t k = 0; k < direction[leaf].size(); ++k) along += gradients[leaf][k] * direction[leaf][k];
    const auto is = [&](double slope, double tolerance) { return std::fabs(along - slope) <= tolerance * std::max(1.0, std::fabs(slope)); };
    const double found = slope(c, g, direction, 1e-5);
    if (is(found, 2e-6)) return;
    if (!c.by_hand->smooth && is(slope(c, g, direction, 1e-8), 1e-4)) return;  // there was a corner within the step
    complaint.about("gradient " + what, at, along, found);
}

// Gradients against differences: of single numbers of each leaf, along a direction in each, or in all.
static void compare_differences(const Case& c, const Given& g, const std::vector<Numbers>& gradients, bool one_by_one, Complaint& complaint) {
    Random random(gradients.size());
    std::vector<Numbers> everywhere(gradients.size());
    for (size_t leaf = 0; leaf < gradients.size(); ++leaf) {
        const size_t count = gradients[leaf].size();
        for (size_t k = 0; k < count; ++k) everywhere[leaf].push_back(random.number() / std::sqrt(double(count)));
        if (!one_by_one || count == 0) continue;
        std::vector<Numbers> direction(gradients.size());
        direction[leaf] = everywhere[leaf];
        compare_slope(c, g, gradients, direction, std::to_string(leaf) + " along a direction", 0, complaint);
        for (size_t at : {size_t(0), count - 1, size_t(random.below(int64_t(count))), size_t(random.below(int64_t(count)))}) {
            direction[leaf].assign(count, 0);
            direction[leaf][at] = 1;
            compare_slope(c, g, gradients, direction, std::to_string(leaf), at, complaint);
        }
    }
    if (!one_by_one) compare_slope(c, g, gradients, everywhere, "along a direction", 0, complaint);
}

// Waits until a team comes at once, so that a run by units most likely has one.
// On a busy machine it gives up: then fewer of those runs do.
static void gather_team(int threads) {
    static int sleeps = 400;
    for (; sleeps > 0; --sleeps) {
        int size = 0;
        gw::Pool::get().run_together(threads, [&](int member, gw::Team& team) {
            if (member == 0) size = team.size();
        });
        if (size > 1) {
            ++teams;
            return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
}

template <class S>
void check(const Case& c, uint64_t seed) {
    using Run = Native<S>;
    constexpr bool is_double = std::is_same_v<S, double>, is_bf16 = std::is_same_v<S, gw::bf16>;
    const bool rounded = is_bf16 || c.factors == gw::Factors::bf16, parts = c.factors == gw::Factors::bf16_parts;
    const double near = is_double ? 1e-12 : rounded ? (c.has(norm) ? 8e-2 : 4e-2) : parts ? 4e-4 : 2e-5;
    Given g = numbers(c, seed);
    Complaint complaint;
    Run native(c, g);
    const bool by_units = native.by_units();
    const auto ready = [&] {
        if (by_units) gather_team(c.threads);
    };
    in_units += by_units;
    in_rows += native.by_rows();

    const Results want = plain(c, g);
    configure_as_others();
    ready();
    complaint.unless_near("forward", native.forward(Run::Keep::nothing), want, near);
    complaint.unless_near("traced", native.forward(Run::Keep::trace), want, near);
    ready();
    complaint.unless_near("taped", native.forward(Run::Keep::activations), want, near);
    if (Run::streams(c)) complaint.unless_near("streamed", native.stream(), want, near);
    ready();
    const std::vector<Numbers> gradients = native.backward();
    const bool large = c.T * c.B * c.H * (c.I + c.H) > 40000;
    if constexpr (is_double) compare_differences(c, g, gradients, !large, complaint);
    // rounded factors may take the equations over a corner; factors in parts run the same code and do not
    const bool comparable = !(c.factors == gw::Factors::bf16 && !c.by_hand->smooth);
    if ((!is_double || large) && comparable) {
        Case other = c;
        other.storage = Storage::f64;
        other.factors = gw::Factors::as_stored;
        other.threads = 1;
        Native<double> alone(other, g);
        alone.forward(Native<double>::Keep::activations);
        const std::vector<Numbers> expected = alone.backward();
        // a bfloat16 state's rounding takes it over a corner of the equations here and there
        const double alike = is_double ? 1e-11 : rounded ? (c.by_hand->smooth ? 5e-2 : 4e-1) : parts ? 1e-3 : 1e-4;
        for (size_t leaf = 0; leaf < gradients.size(); ++leaf) {
            complaint.unless_alike("gradient " + std::to_string(leaf), gradients[leaf], expected[leaf], alike);
            if (!rounded) complaint.unless_near("gradient " + std::to_string(leaf), gradients[leaf], expected[leaf], alike);
        }
    }
    if (!native.gaps_kept) complaint.text += ": wrote between the rows";
    if (!configured_as_others()) complaint.text += ": left tiles configured";
    if (complaint.text.empty()) {
        ++passed;
    } else {
        ++failed;
        std::printf("FAILED %s%s\n", c.text().c_str(), complaint.text.c_str());
    }
}

// The cases ----------------------------------------------------------------------------------------

static const int64_t sizes[][4] = {  // T, B, I, H
    {4, 3, 3, 5}, {1, 1, 1, 1}, {3, 2, 2, 3}, {5, 5, 9, 8}, {6, 7, 4, 17}, {7, 13, 5, 33}, {2, 50, 3, 9}, {9, 1, 3, 31},
    {12, 6, 17, 24}, {3, 2, 270, 6}, {2, 3, 4, 70}, {0, 2, 3, 4}, {3, 0, 3, 4}, {1, 4, 16, 16}, {1, 2, 5, 6}, {2, 1, 7, 13}, {4, 1, 6, 70}, {5, 1, 70, 9}};
static const int64_t for_rows[][4] = {{10, 9, 20, 40}, {20, 4, 33, 50}, {40, 8, 20, 35}, {5, 60, 10, 64}};
static const int64_t for_units[][4] = {{10, 1, 20, 128}, {6, 2, 3, 141}, {4, 3, 280, 150}, {4, 8, 20, 160}};

static int every = 1, drawn = 0;

static void run(Case c) {
    const uint64_t seed = uint64_t(drawn) + 1;
    if (drawn++ % every) return;
    if (!c.by_hand->projects) c.chosen &= ~(1u << projection);
    if (c.cell().from_input != c.cell().gates || c.cell().from_state != c.cell().gates) c.chosen &= ~(1u << norm);
    switch (c.storage) {
        case Storage::f32: return check<float>(c, seed);
        case Storage::f64: return check<double>(c, seed);
        case Storage::bf16: return check<gw::bf16>(c, seed);
    }
}

int main(int count, char** arguments) {
    std::setvbuf(stdout, nullptr, _IOLBF, 1024);
    if (count > 1) every = std::max(1, std::atoi(arguments[1]));
    Random random(2026);
    size_t turn = 0;
    struct Kind {
        Storage storage;
        gw::Factors factors = gw::Factors::as_stored;
    };
    const auto run_all = [&](const std::vector<Kind>& kinds) {
        for (const ByHand& by_hand : cells)
            for (const Kind& kind : kinds) {
                const auto on = [&](const int64_t (&size)[4], unsigned chosen, int threads) {
                    run({&by_hand, kind.storage, size[0], size[1], size[2], size[3], chosen, threads, kind.factors});
                };
                for (const auto& size : sizes) on(size, 0, 1);
                for (int option = 0; option < options; ++option)
                    for (int k = 0; k < 2; ++k) on(sizes[turn++ % std::size(sizes)], 1u << option, 1);
                for (int k = 0; k < 24; ++k) on(sizes[turn++ % std::size(sizes)], unsigned(random.bits() & random.bits()), 1);
                for (const auto& size : for_rows)
                    for (int threads : {2, 4}) on(size, unsigned(random.bits() & random.bits()), threads);
                for (const auto& size : for_units)
                    for (int threads : {2, 4})
                        on(size, unsigned(random.bits()) & ~(1u << projection | 1u << norm), threads);
            }
    };
    run_all({{Storage::f64}, {Storage::f32}, {Storage::bf16}});
    if (gw_kernels.tiles) run_all({{Storage::f32, gw::Factors::bf16}, {Storage::f32, gw::Factors::bf16_parts}});
    std::printf("level %s, %d-byte vectors; shared by rows: %d, by units: %d, with %d teams\n", gw_kernels.level,
                gw_kernels.vector_bytes, in_rows, in_units, teams);
#if GW_AMX
    std::printf("%lld products of tiles\n", static_cast<long long>(gw::amx::products.load()));
#endif
    std::printf("%d passed, %d failed\n", passed, failed);
    if (!released_by_helpers()) std::printf("a helper left tiles configured\n"), ++failed;
    return failed != 0;
}
