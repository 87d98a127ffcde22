// The forward pass: a cell over all steps.
#pragma once

#include <cmath>

#include "pack.h"
#include "plan.h"
#include "pool.h"
#include "problem.h"
#include "product.h"
#include "rows.h"
#include "activations.h"

namespace gw {

inline constexpr double norm_epsilon = 1e-5;

// The number of input rows, of any steps, that are multiplied at once, roughly.
inline constexpr int64_t rows_at_once = 48;

// The number of parts of each packed number.
template <class P>
int packed_parts(const Problem& p) {
    return std::is_same_v<P, bf16> && p.factors == Factors::bf16_parts ? 2 : 1;
}

// S is the storage type, P the packed type.
template <class S, class P>
class Forward {
    using T = compute<S>;
    using X = std::conditional_t<std::is_same_v<P, T>, P, S>;  // of the input's rows in its product
    static constexpr int V = width<T>;

public:
    Forward(const Problem& problem, Arena& arena, bool many_runs = false)
        : p(problem), cell(*problem.cell), size(problem), plan(make_plan(problem, arena)) {
        void* block = p.activations;
        if (block == nullptr) block = arena.take<char>(int64_t(activations.place(p, size, nullptr, false)));
        activations.place(p, size, block, p.activations != nullptr);
        *activations.threads = T(p.threads);
        parts = packed_parts<P>(p);
        const int threads = useful_threads(p);
        const int first = cell.accumulators - cell.from_state;
        fused = both_at_once();
        const bool packed = !fused && (many_runs || plan.by_units || !is_short(p));
        const auto matrix = [&](const S** rows, int64_t columns, int64_t k) {
            return Matrix{rows, packed ? pack_transposed<P>(rows, columns, k, parts, threads, arena) : nullptr, parts, k};
        };
        input = matrix(accumulator_rows<S>(p, size.units, 0, cell.from_input, p.weights.input, p.inputs, arena),
                       size.from_input, p.inputs);
        for (int f = 0; f < cell.feedbacks; ++f) {
            const S* from = static_cast<const S*>(p.weights.recurrent) + p.recurrent_column(f);
            recurrent[f] = matrix(accumulator_rows<S>(p, size.units, first, cell.from_state - cell.second_stage, from, p.recurrent_size(), arena),
                                  size.first_stage(), p.state_size(cell.feedback[f]));
        }
        if (cell.second_stage)
            second_stage = matrix(accumulator_rows<S>(p, size.units, cell.accumulators - cell.second_stage, cell.second_stage, p.weights.recurrent, p.recurrent_size(), arena),
                          size.second_stage, p.units);
        if constexpr (std::is_same_v<P, T>)
            if (fused) {
                both = arena.take<P>(size.pre_activations * (p.inputs + recurrent[0].k));
                pack_transposed(both, input.rows, size.pre_activations, p.inputs, 1, recurrent[0].k, threads);
                pack_transposed(both + p.inputs * V, recurrent[0].rows, size.pre_activations, recurrent[0].k, 1, p.inputs, threads);
            }
        if (p.projection) {
            const S** rows = arena.take<const S*>(size.output);
            for (int64_t r = 0; r < size.output; ++r)
                rows[r] = r < p.projection ? static_cast<const S*>(p.weights.projection) + r * p.units : nullptr;
            projection = matrix(rows, size.output, p.units);
            if (fused) projection.packed = pack_transposed<P>(rows, size.output, p.units, parts, threads, arena);
        }
        pack_vectors(arena);
        chunk_rows = std::max(p.batch, rows_at_once);
        pre_activations = arena.take<T>(plan.count * chunk_rows * size.pre_activations);
        const int64_t loops = plan.by_units ? p.threads : plan.count;  // each has its own buffer of input rows
        inputs = arena.take<const X*>(loops * chunk_rows);
        if constexpr (!std::is_same_v<S, X>) converted = arena.take<X>(loops * chunk_rows * size.inputs);
    }

    // Called after the problem's batch has become smaller than at the beginning, or larger again.
    void resize() { divide(plan, p, useful_threads(p)); }

    void run() {
        if (plan.by_units) {
            Pool::get().run_together(p.threads, [this](int member, Team& team) { TimeLoop(*this, 0, member, team).go(); });
        } else {
            Pool::get().run(plan.count, useful_threads(p), [this](int share) {
                Team alone(1);
                TimeLoop(*this, share, 0, alone).go();
            });
        }
    }

private:
    // Weights as the columns of a matrix: a pointer to each column, and the packed matrix or null.
    struct Matrix {
        const S* const* rows;
        const P* packed;
        int parts;
        int64_t k;

        // Columns [first, last), both multiples of V. An unpacked matrix is multiplied as a whole.
        template <class Rows>
        void multiply(int64_t count, const Rows& a, int64_t first, int64_t last, Block<const T> start, Block<T> to) const {
            if (packed)
                product<P>(count, a, k, packed, parts, first / V, last / V, start, to);
            else
                product_unpacked<T>(count, a, k, rows, last, start, to);
        }
    };

    // Whether one product computes the input's and the recurrent part. It needs accumulators that all have both
    // parts, inputs and units that fit in the cache together, and a step with enough rows to fill the tiles.
    bool both_at_once() const {
        return std::is_same_v<P, T> && cell.from_input == cell.accumulators && cell.from_state == cell.accumulators &&
               cell.feedbacks == 1 && !cell.second_stage && !p.weights.norm_input && !p.recurrent_input.base && p.inputs + p.output_size() <= k_block * 5 / 4 &&
               p.batch / plan.count >= tile_rows;
    }

    // The biases that the pre-activations start from, the norm weights and the per-unit parameters, in padded rows.
    void pack_vectors(Arena& arena) {
        bias = arena.take<T>(size.pre_activations);
        zeros = arena.take<T>(std::max(size.pre_activations, size.output));
        std::fill_n(bias, size.pre_activations, T(0));
        std::fill_n(zeros, std::max(size.pre_activations, size.output), T(0));
        for (int a = 0; a < cell.accumulators; ++a) {
            T* to = bias + a * size.units;
            const int64_t from = cell.gate[a] * p.units;
            const auto add = [](auto x, auto y) { return x + y; };
            if (p.weights.input_bias && a < cell.from_input)
                update_row<T>(to, p.units, add, static_cast<const S*>(p.weights.input_bias) + from);
            if (p.weights.recurrent_bias && a >= cell.accumulators - cell.from_state)
                update_row<T>(to, p.units, add, static_cast<const S*>(p.weights.recurrent_bias) + from);
        }
        for (int k = 0; k < cell.params; ++k) params[k] = padded_row(p.weights.per_unit[k], arena);
        if (!p.weights.norm_input) return;
        norm_weight_input = norm_weights(p.weights.norm_input, 0, cell.from_input, arena);
        norm_weight_recurrent = norm_weights(p.weights.norm_recurrent, cell.accumulators - cell.from_state, cell.from_state, arena);
    }

    T* padded_row(const void* from, Arena& arena) {
        T* to = arena.take<T>(size.units);
        std::fill_n(to, size.units, T(0));
        copy_row(to, static_cast<const S*>(from), p.units);
        return to;
    }

    T* norm_weights(const void* from, int first, int count, Arena& arena) {
        T* to = arena.take<T>(count * size.units);
        std::fill_n(to, count * size.units, T(0));
        for (int a = 0; a < count; ++a)
            copy_row(to + a * size.units, static_cast<const S*>(from) + cell.gate[first + a] * p.units, p.units);
        return to;
    }

    // The time loop over one share of the rows, or over one team member's units of all rows.
    class TimeLoop {
    public:
        TimeLoop(Forward& forward, int share, int member, Team& team)
            : f(forward), p(f.p), cell(f.cell), size(f.size), activations(f.activations), share(f.plan.shares[share]), member(member), team(team) {
            const int64_t blocks = (size.units + unit_block - 1) / unit_block, n = team.size();
            own = {std::min(size.units, blocks * member / n * unit_block),
                   std::min(size.units, blocks * (member + 1) / n * unit_block)};
            pre_activations = f.pre_activations + share * f.chunk_rows * size.pre_activations;
            inputs = f.inputs + (share + member) * f.chunk_rows;  // share or member is 0
            converted = f.converted ? f.converted + (share + member) * f.chunk_rows * size.inputs : nullptr;
            together = team.size() > 1;
        }

        void go() {
            const AmxScope tiles;
            for (int64_t row = share.first; row < share.last; ++row)
                if (f.plan.length[row] == 0) begin(row, 0), end(row, 0);
            prepare(0);
            if (together && !team.meet(member)) if (!go_alone()) return;
            for (int64_t done = 0; done < p.steps;) {
                const int64_t until = chunk_end(done);
                const int64_t first = done;
                multiply_inputs(first, until);
                T* at = pre_activations;
                for (; done < until; ++done) {
                    const int64_t rows = running(f.plan, share, time(done));
                    step(time(done), rows, at);
                    prepare(done + 1);
                    at += rows * size.pre_activations;
                    if (together && !team.meet(member)) {
                        if (!go_alone()) return;
                        multiply_inputs(first, until);  // now for all units; the same tiles give the same bits
                    }
                }
            }
            clear_padding();
        }

    private:
        struct Units {
            int64_t first, last;  // of the padded units
        };
        static constexpr int64_t unit_block = 64 / sizeof(T) < V ? V : 64 / sizeof(T);  // members share no cache line

        int64_t time(int64_t done) const { return p.reverse ? p.steps - 1 - done : done; }
        // The slots of a state before and after step t.
        int64_t before(int64_t t) const { return p.reverse ? t + 1 : t; }
        int64_t after(int64_t t) const { return p.reverse ? t : t + 1; }

        // The team is dissolved: its first member continues with all units. Returns whether this is that member.
        bool go_alone() {
            together = false;
            own = {0, size.units};
            return member == 0;
        }

        int64_t chunk_end(int64_t done) const {
            int64_t rows = 0, until = done;
            do {
                rows += running(f.plan, share, time(until));
                ++until;
            } while (until < p.steps && rows + running(f.plan, share, time(until)) <= rows_at_once);
            return until;
        }

        // The input's part of the pre-activations of steps [first, until), all rows one after the other.
        void multiply_inputs(int64_t first, int64_t until) {
            int64_t rows = 0;
            for (int64_t done = first; done < until; ++done) {
                const int64_t t = time(done), n = running(f.plan, share, t);
                for (int64_t r = 0; r < n; ++r, ++rows) {
                    const S* x = static_cast<const S*>(p.x.base) + t * p.x.step + f.plan.order[share.first + r] * p.x.row;
                    if constexpr (std::is_same_v<S, X>) {
                        inputs[rows] = x;
                    } else {
                        copy_row(converted + rows * size.inputs, x, p.inputs);
                        inputs[rows] = converted + rows * size.inputs;
                    }
                    if (size.from_input < size.pre_activations) begin_with_bias(pre_activations + rows * size.pre_activations);
                }
            }
            if (f.fused) return;
            const bool layer_norm = p.weights.norm_input;
            const Block<const T> start{layer_norm ? f.zeros : f.bias, 0};
            multiply(rows, Gathered<X>{inputs}, f.input, cell.from_input, start, pre_activations);
            if (layer_norm) normalise_inputs(first, until);
            if (p.recurrent_input.base) multiply_known_states(first, until);
        }

        // The recurrent part of the pre-activations of steps [first, until), where the recurrent input is known.
        void multiply_known_states(int64_t first, int64_t until) {
            if constexpr (std::is_same_v<S, T>) {
                int64_t rows = 0;
                for (int64_t done = first; done < until; ++done) {
                    const int64_t t = time(done), n = running(f.plan, share, t);
                    for (int64_t r = 0; r < n; ++r, ++rows)
                        inputs[rows] = static_cast<const S*>(p.recurrent_input.base) + t * p.recurrent_input.step +
                                       f.plan.order[share.first + r] * p.recurrent_input.row;
                }
                T* to = pre_activations + size.first_from_state();
                multiply(rows, Gathered<X>{inputs}, f.recurrent[0], cell.from_state, {to, size.pre_activations}, to);
            }
        }

        // Starts the accumulators that have only a recurrent part.
        void begin_with_bias(T* row) {
            for (int64_t at = size.from_input; at < size.pre_activations; at += size.units)
                std::copy(f.bias + at + own.first, f.bias + at + own.last, row + at + own.first);
        }

        // Adds rows of a times weights to this member's units of `accumulators` pre-activations.
        template <class Rows>
        void multiply(int64_t rows, const Rows& a, const Matrix& weights, int accumulators, Block<const T> start, T* to) {
            const Block<T> out{to, size.pre_activations};
            if (!together) return weights.multiply(rows, a, 0, accumulators * size.units, start, out);
            for (int64_t at = 0; at < accumulators * size.units; at += size.units)
                weights.multiply(rows, a, at + own.first, at + own.last, start, out);
        }

        void step(int64_t t, int64_t rows, T* at) {
            if (rows == 0) return;
            if (f.fused)
                multiply_both(t, rows, at);
            else if (p.recurrent_input.base == nullptr)
                multiply_states(t, rows, at);
            const StepArgs<T> args = step_args(t, rows, at);
            if (cell.second_stage) multiply_second_stage(args, at);
            const CellTable<T>& run = table<T>(cell);
            (p.activations ? run.step_saving : p.trace ? run.step_tracing : run.step)(args);
            if (p.projection) project(t, rows);
            apply_zoneout(t, rows);
            write_output(t, rows);
            write_history(t, rows);
            write_pre_activations(t, rows, at);
        }

        void multiply_both(int64_t t, int64_t rows, T* at) {
            if constexpr (std::is_same_v<P, T>) {
                const Gathered<P> x{inputs + (at - pre_activations) / size.pre_activations};
                const Strided<T> h{activations.recurrent_input[0].at(before(t), share.first), activations.recurrent_input[0].width};
                const int64_t n = f.recurrent[0].k;
                if (!together)
                    return product_of_two<P>(rows, x, p.inputs, h, n, f.both, 0, size.pre_activations / V, {f.bias, 0}, {at, size.pre_activations});
                for (int64_t to = 0; to < size.pre_activations; to += size.units)
                    product_of_two<P>(rows, x, p.inputs, h, n, f.both, (to + own.first) / V, (to + own.last) / V, {f.bias, 0},
                                      {at, size.pre_activations});
            }
        }

        void multiply_states(int64_t t, int64_t rows, T* at) {
            T* from_state = at + size.first_from_state();
            const bool layer_norm = p.weights.norm_input;
            T* to = layer_norm ? activations.normalised_recurrent + kept_row(t) * size.from_state : from_state;
            for (int k = 0; k < cell.feedbacks; ++k) {
                const History<T>& from = activations.recurrent_input[k];
                const Strided<T> a{from.at(before(t), share.first), from.width};
                if (layer_norm) {
                    const Block<const T> start = k == 0 ? Block<const T>{f.zeros, 0} : Block<const T>{to, size.from_state};
                    f.recurrent[k].multiply(rows, a, 0, size.from_state, start, {to, size.from_state});
                } else {
                    multiply(rows, a, f.recurrent[k], cell.from_state - cell.second_stage, {to, size.pre_activations}, to);
                }
            }
            if (layer_norm)
                for (int64_t r = 0; r < rows; ++r)
                    add_normalised(to + r * size.from_state, &activations.inverse_std_recurrent[kept_row(t) + r], from_state + r * size.pre_activations);
        }

        // The row of this share's first sequence at step t, in arrays of all steps or, without training, of one.
        int64_t kept_row(int64_t t) const { return (p.activations ? t * p.batch : 0) + share.first; }

        // The recurrent input of the second stage, and its product.
        void multiply_second_stage(const StepArgs<T>& args, T* at) {
            table<T>(cell).second_stage_input(args);
            if (p.recurrent_factor.base)
                for (int64_t r = 0; r < args.rows; ++r)
                    update_row<T>(args.second_stage_input + r * size.units, p.units, [](auto x, auto factor) { return x * factor; },
                                  static_cast<const S*>(p.recurrent_factor.base) + f.plan.order[share.first + r] * p.recurrent_factor.row);
            T* to = at + size.pre_activations - size.second_stage;
            f.second_stage.multiply(args.rows, Strided<T>{args.second_stage_input, size.units}, 0, size.second_stage, {to, size.pre_activations}, {to, size.pre_activations});
        }

        StepArgs<T> step_args(int64_t t, int64_t rows, const T* at) {
            StepArgs<T> args{};
            args.rows = rows;
            args.first_unit = own.first;
            args.last_unit = own.last;
            args.padded = size.units;
            args.pre_activations = at;
            args.pre_activations_stride = size.pre_activations;
            for (int k = 0; k < cell.states; ++k) {
                const History<T>& h = activations.state[k];
                args.state[k] = h.at(before(t), share.first);
                args.next[k] = h.at(after(t), share.first);
                args.state_stride[k] = args.next_stride[k] = h.width;
            }
            if (p.projection) {
                args.next[0] = activations.unprojected + kept_row(t) * size.units;
                args.next_stride[0] = size.units;
            }
            for (int k = 0; k < cell.params; ++k) args.params[k] = f.params[k];
            if (p.activations) args.saved = activations.saved + kept_row(t) * size.saved;
            args.saved_stride = size.saved;
            if (p.trace)
                for (int k = 0; k < cell.values; ++k) args.values[k] = traced(k, t);
            if (cell.second_stage) args.second_stage_input = activations.second_stage_input + kept_row(t) * size.units;
            return args;
        }

        T* traced(int value, int64_t t) const {
            return static_cast<T*>(p.trace) + ((value * p.steps + t) * p.batch + share.first) * size.units;
        }

        void project(int64_t t, int64_t rows) {
            const History<T>& h = activations.state[0];
            f.projection.multiply(rows, Strided<T>{activations.unprojected + kept_row(t) * size.units, size.units}, 0, size.output,
                                  {f.zeros, 0}, {h.at(after(t), share.first), h.width});
        }

        // Zoneout: adds a share of each state's old value.
        void apply_zoneout(int64_t t, int64_t rows) {
            for (int k = 0; k < cell.states; ++k) {
                if (p.zoneout[k].base == nullptr) continue;
                const Units units = within(p.state_size(k));
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t row = share.first + r;
                    const S* share_kept = static_cast<const S*>(p.zoneout[k].base) + t * p.zoneout[k].step +
                                          f.plan.order[row] * p.zoneout[k].row;
                    update_row<T>(activations.state[k].at(after(t), row) + units.first, units.last - units.first,
                                  [](auto now, auto kept, auto old) { return kept * old + (1 - kept) * now; },
                                  share_kept + units.first, activations.state[k].at(before(t), row) + units.first);
                    if (p.trace && !(k == 0 && p.projection))  // a traced state is the one that the next step reads
                        copy_row(traced(cell.value[k], t) + r * size.units + units.first, activations.state[k].at(after(t), row) + units.first,
                                 units.last - units.first);
                }
            }
        }

        // This member's units, without the padding beyond `width`.
        Units within(int64_t n) const {
            if (!together) return {0, n};
            return {std::min(own.first, n), std::min(own.last, n)};
        }

        void write_output(int64_t t, int64_t rows) {
            const Units units = within(p.output_size());
            if (units.last == units.first) return;
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t row = share.first + r;
                S* to = static_cast<S*>(p.output.base) + t * p.output.step + f.plan.order[row] * p.output.row;
                if constexpr (std::is_same_v<S, T>) {
                    copy_row(to + units.first, activations.state[0].at(after(t), row) + units.first, units.last - units.first);
                } else {  // the recurrent input is the output as it is stored
                    T* from = activations.state[0].at(after(t), row);
                    copy_row(to + units.first, from + units.first, units.last - units.first);
                    copy_row(from + units.first, to + units.first, units.last - units.first);
                }
            }
        }

        void write_history(int64_t t, int64_t rows) {
            for (int k = 1; k < cell.states; ++k) {
                if (p.history[k].base == nullptr) continue;
                const Units units = within(p.units);
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t row = share.first + r;
                    S* to = static_cast<S*>(p.history[k].base) + t * p.history[k].step + f.plan.order[row] * p.history[k].row;
                    copy_row(to + units.first, activations.state[k].at(after(t), row) + units.first, units.last - units.first);
                }
            }
        }

        void write_pre_activations(int64_t t, int64_t rows, const T* at) {
            const Units units = within(p.units);
            for (int a = 0; a < cell.accumulators; ++a) {
                if (p.pre_activations[a].base == nullptr) continue;
                for (int64_t r = 0; r < rows; ++r) {
                    T* to = static_cast<T*>(p.pre_activations[a].base) + t * p.pre_activations[a].step + f.plan.order[share.first + r] * p.pre_activations[a].row;
                    copy_row(to + units.first, at + r * size.pre_activations + a * size.units + units.first, units.last - units.first);
                }
            }
        }

        // Prepares the step after `done` steps: ends finished sequences, starts new ones, applies resets, and
        // computes the recurrent input.
        void prepare(int64_t done) {
            const int64_t all = share.last - share.first;
            const int64_t was = done == 0 ? 0 : running(f.plan, share, time(done - 1));
            const int64_t is = done == p.steps ? 0 : running(f.plan, share, time(done));
            if (done > 0)
                for (int64_t r = is; r < was; ++r) end(share.first + r, after(time(done - 1)));
            if (done == p.steps) return;
            const int64_t t = time(done);
            for (int64_t r = was; r < is; ++r) begin(share.first + r, before(t));
            if (all == 0) return;
            for (int64_t r = 0; r < is; ++r) {
                const int64_t row = share.first + r;
                if (p.reset.base && static_cast<const uint8_t*>(p.reset.base)[t * p.reset.step + f.plan.order[row] * p.reset.row])
                    for (int k = 0; k < cell.states; ++k) {
                        const Units units = within(p.state_size(k));
                        std::fill(activations.state[k].at(before(t), row) + units.first, activations.state[k].at(before(t), row) + units.last, T(0));
                    }
                if (p.recurrent_factor.base) update_recurrent_input(row, before(t));
            }
        }

        void update_recurrent_input(int64_t row, int64_t slot) {
            for (int k = 0; k < cell.feedbacks; ++k) {
                const Units units = within(p.state_size(cell.feedback[k]));
                T* to = activations.recurrent_input[k].at(slot, row) + units.first;
                copy_row(to, activations.state[cell.feedback[k]].at(slot, row) + units.first, units.last - units.first);
                update_row<T>(to, units.last - units.first, [](auto x, auto factor) { return x * factor; },
                              static_cast<const S*>(p.recurrent_factor.base) + f.plan.order[row] * p.recurrent_factor.row + p.recurrent_column(k) + units.first);
            }
        }

        void begin(int64_t row, int64_t slot) {
            for (int k = 0; k < cell.states; ++k) {
                const Units units = within(p.state_size(k));
                T* to = activations.state[k].at(slot, row);
                if (p.state[k].base == nullptr)
                    std::fill(to + units.first, to + units.last, T(0));
                else
                    copy_row(to + units.first, static_cast<const S*>(p.state[k].base) + f.plan.order[row] * p.state[k].row + units.first,
                             units.last - units.first);
            }
        }

        void end(int64_t row, int64_t slot) {
            for (int k = 0; k < cell.states; ++k) {
                const Units units = within(p.state_size(k));
                copy_row(static_cast<S*>(p.final_state[k].base) + f.plan.order[row] * p.final_state[k].row + units.first,
                         activations.state[k].at(slot, row) + units.first, units.last - units.first);
            }
        }

        // Sets the output beyond each sequence's length to zero.
        void clear_padding() {
            const Units units = within(p.output_size());
            for (int64_t row = share.first; row < share.last; ++row)
                for (int64_t t = f.plan.length[row]; t < p.steps; ++t) {
                    S* from = static_cast<S*>(p.output.base) + t * p.output.step + f.plan.order[row] * p.output.row;
                    std::memset(from + units.first, 0, size_t(units.last - units.first) * sizeof(S));
                }
        }

        // Normalises one row of products in place. Returns one over its standard deviation.
        T normalise(T* row, int accumulators) {
            T mean = 0, square = 0;
            const T count = T(accumulators * p.units);
            for (int a = 0; a < accumulators; ++a) mean += sum_of(row + a * size.units, [](auto x) { return x; });
            mean /= count;
            for (int a = 0; a < accumulators; ++a)
                square += sum_of(row + a * size.units, [mean](auto x) { return (x - mean) * (x - mean); });
            const T inverse_std = T(1) / std::sqrt(square / count + T(norm_epsilon));
            for (int64_t k = 0; k < accumulators * size.units; k += V)
                store(row + k, (load(row + k) - mean) * inverse_std);
            return inverse_std;
        }

        template <class F>
        T sum_of(const T* row, const F& of) {
            vec<T> sum{};
            int64_t k = 0;
            for (; k + V <= p.units; k += V) sum += of(load(row + k));
            T rest = 0;
            for (; k < p.units; ++k) rest += of(row[k]);
            return reduce_add(sum) + rest;
        }

        void add_normalised(T* normalised, T* inverse_std, T* pre_activations) {
            *inverse_std = normalise(normalised, cell.from_state);
            for (int64_t k = 0; k < size.from_state; k += V)
                store(pre_activations + k, load(pre_activations + k) + load(f.norm_weight_recurrent + k) * load(normalised + k));
        }

        void normalise_inputs(int64_t first, int64_t until) {
            T* row = pre_activations;
            for (int64_t done = first; done < until; ++done) {
                const int64_t t = time(done), n = running(f.plan, share, t);
                for (int64_t r = 0; r < n; ++r, row += size.pre_activations) {
                    const T inverse_std = normalise(row, cell.from_input);
                    if (p.activations) {
                        std::copy(row, row + size.from_input, activations.normalised_input + (kept_row(t) + r) * size.from_input);
                        activations.inverse_std_input[kept_row(t) + r] = inverse_std;
                    }
                    for (int64_t k = 0; k < size.from_input; k += V)
                        store(row + k, load(f.norm_weight_input + k) * load(row + k) + load(f.bias + k));
                }
            }
        }

        Forward& f;
        const Problem& p;
        const Cell& cell;
        const Sizes<T>& size;
        const Activations<T>& activations;
        const Share share;
        const int member;
        Team& team;
        bool together;
        Units own;
        T* pre_activations;
        const X** inputs;
        X* converted;
    };

    const Problem& p;
    const Cell& cell;
    Sizes<T> size;
    Plan plan;
    Activations<T> activations;
    Matrix input, recurrent[max_states], second_stage, projection;
    int parts;
    bool fused;
    P* both = nullptr;  // the input weights and the recurrent weights, packed for one product
    T *bias, *zeros, *params[max_params], *norm_weight_input = nullptr, *norm_weight_recurrent = nullptr;
    int64_t chunk_rows;
    T* pre_activations;
    const X** inputs;
    X* converted = nullptr;
};

}  // namespace gw
