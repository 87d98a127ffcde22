// The backward pass through time, by the cell's derived gradient. The gradients of the weights follow, each
// as one product over all steps.
#pragma once

#include "forward.h"
#include "pack.h"
#include "plan.h"
#include "pool.h"
#include "problem.h"
#include "product.h"
#include "rows.h"
#include "activations.h"

namespace gw {

// The number of rows of the input's gradient that are computed at once.
inline constexpr int64_t gradient_rows = 96;

// With at most this many steps of all sequences, weight gradients are computed without packing.
inline constexpr int64_t few_steps = 3;

// S is the storage type, P the packed type.
template <class S, class P>
class Backward {
    using T = compute<S>;
    static constexpr int V = width<T>;

public:
    Backward(const Problem& problem, Arena& arena)
        : p(problem), cell(*p.cell), size(p), arena(arena), plan(make_plan(p, arena)), threads(useful_threads(p)), parts(packed_parts<P>(p)) {
        activations.place(p, size, p.activations, true);
        layer_norm = p.weights.norm_input != nullptr;
        const int64_t all = p.steps * p.batch;
        pre_activations = arena.take<T>(all * size.pre_activations);
        if (layer_norm) {
            raw_input = arena.take<T>(all * size.from_input);
            raw_state = arena.take<T>(all * size.from_state);
        }
        if (p.projection) {
            projected = arena.take<T>(all * size.output);
            unprojected = arena.take<T>(p.batch * size.units);
        }
        for (int k = 0; k < cell.states; ++k) {
            carried[k] = arena.take<T>(p.batch * size.state(k));
            if (p.zoneout[k].base) held[k] = arena.take<T>(p.batch * size.state(k));
        }
        if (cell.second_stage) second_stage_gradient = arena.take<T>(p.batch * size.units);
        if (p.recurrent_factor.base) through = arena.take<T>(p.batch * std::max(size.output, size.units));
        zeros = arena.take<T>(std::max(size.units, size.output));
        std::fill_n(zeros, std::max(size.units, size.output), T(0));
        totals = arena.take<T>(plan.count * size.pre_activations);
        std::fill_n(totals, plan.count * size.pre_activations, T(0));
        pack(arena);
    }

    void run() {
        if (plan.by_units) {
            Pool::get().run_together(p.threads, [this](int member, Team& team) { TimeLoop(*this, 0, member, team).go(); });
        } else {
            Pool::get().run(plan.count, useful_threads(p), [this](int share) {
                Team alone(1);
                TimeLoop(*this, share, 0, alone).go();
            });
        }
        list_rows();
        if (p.grad_x.base) input_gradient();
        weight_gradients();
        vector_gradients();
    }

private:
    // Weights in row order: a pointer to each row, and the packed matrix or null.
    struct Matrix {
        const S* const* rows;
        const P* packed;
        int parts;
        int64_t k, column, n;  // the matrix is columns [column, column + n) of k rows

        template <class Rows>
        void multiply(int64_t count, const Rows& a, int64_t first_panel, int64_t last_panel, Block<const T> start, Block<T> to) const {
            if (packed)
                product<P>(count, a, k, packed, parts, first_panel, last_panel, start, to);
            else
                product_straight_unpacked<T>(count, a, k, rows, column, n, first_panel, last_panel, start, to);
        }
    };

    Matrix matrix(const S* const* rows, int64_t k, int64_t column, int64_t n) {
        const bool packed = plan.by_units || !is_short(p);
        return {rows, packed ? pack_straight<P>(rows, k, parts, column, n, threads, arena) : nullptr, parts, k, column, n};
    }

    void pack(Arena& arena) {
        const int first = cell.accumulators - cell.from_state;
        const S** rows = accumulator_rows<S>(p, size.units, first, cell.from_state, p.weights.recurrent, p.recurrent_size(), arena);
        for (int k = 0; k < cell.states; ++k) wants_state |= p.grad_state[k].base != nullptr;
        for (int k = 0; k < cell.feedbacks && (wants_state || p.steps > 1); ++k)
            recurrent[k] = matrix(rows, size.first_stage(), p.recurrent_column(k), p.state_size(cell.feedback[k]));
        if (cell.second_stage) second_stage = matrix(rows + size.first_stage(), size.second_stage, 0, p.units);
        if (p.grad_x.base) {
            rows = accumulator_rows<S>(p, size.units, 0, cell.from_input, p.weights.input, p.inputs, arena);
            input = matrix(rows, size.from_input, 0, p.inputs);
        }
        if (p.projection) {
            rows = arena.take<const S*>(p.projection);
            for (int64_t r = 0; r < p.projection; ++r) rows[r] = static_cast<const S*>(p.weights.projection) + r * p.units;
            projection = matrix(rows, p.projection, 0, p.units);
        }
        for (int k = 0; k < cell.params; ++k) {
            params[k] = arena.take<T>(size.units);
            std::fill_n(params[k], size.units, T(0));
            copy_row(params[k], static_cast<const S*>(p.weights.per_unit[k]), p.units);
            param_gradients[k] = arena.take<T>(plan.count * size.units);
            std::fill_n(param_gradients[k], plan.count * size.units, T(0));
        }
        if (layer_norm) {
            norm_weight_input = norm_weights(p.weights.norm_input, 0, cell.from_input);
            norm_weight_recurrent = norm_weights(p.weights.norm_recurrent, first, cell.from_state);
        }
    }

    T* norm_weights(const void* from, int first, int count) {
        T* to = arena.take<T>(count * size.units);
        std::fill_n(to, count * size.units, T(0));
        for (int a = 0; a < count; ++a)
            copy_row(to + a * size.units, static_cast<const S*>(from) + cell.gate[first + a] * p.units, p.units);
        return to;
    }

    // The backward time loop over one share of the rows, or over one team member's units of all rows.
    class TimeLoop {
    public:
        TimeLoop(Backward& backward, int share_index, int member, Team& team)
            : b(backward), p(b.p), cell(b.cell), size(b.size), activations(b.activations), share(b.plan.shares[share_index]), index(share_index),
              member(member), team(team), together(team.size() > 1) {
            const int64_t blocks = (size.units + unit_block - 1) / unit_block, n = team.size();
            own = {std::min(size.units, blocks * member / n * unit_block),
                   std::min(size.units, blocks * (member + 1) / n * unit_block)};
        }

        void go() {
            const AmxScope tiles;
            for (int64_t row = share.first; row < share.last; ++row)
                if (b.plan.length[row] == 0) begin(row), end(row);
            for (int64_t done = p.steps; done-- > 0;) {
                const int64_t t = time(done), rows = running(b.plan, share, t);
                const int64_t later = done + 1 == p.steps ? 0 : running(b.plan, share, time(done + 1));
                for (int64_t r = later; r < rows; ++r) begin(share.first + r);
                if (!step(t, rows, done == 0)) return;
                const int64_t earlier = done == 0 ? 0 : running(b.plan, share, time(done - 1));
                for (int64_t r = earlier; r < rows; ++r) end(share.first + r);
            }
        }

    private:
        struct Units {
            int64_t first, last;
        };
        static constexpr int64_t unit_block = 64 / sizeof(T) < V ? V : 64 / sizeof(T);

        int64_t time(int64_t done) const { return p.reverse ? p.steps - 1 - done : done; }
        int64_t before(int64_t t) const { return p.reverse ? t + 1 : t; }
        int64_t kept_row(int64_t t) const { return t * p.batch + share.first; }
        T* carried(int k, int64_t row) const { return b.carried[k] + row * size.state(k); }

        Units within(int64_t n) const {
            if (!together) return {0, n};
            return {std::min(own.first, n), std::min(own.last, n)};
        }

        // Returns false where the team is dissolved and this is not its first member. first: whether no step came before it.
        bool step(int64_t t, int64_t rows, bool first) {
            add_given_gradients(t, rows);
            hold_old(t, rows);
            if (p.projection) project_back(t, rows);
            step_back(t, rows);
            add_bias_gradients(t, rows);
            if (b.layer_norm) normalise_backward(t, rows);
            if (first && !b.wants_state) return true;
            if (together && !team.meet(member)) {  // the first member continues with all units
                together = false;
                own = {0, size.units};
                if (member > 0) return false;
            }
            carry(t, rows);
            add_held(rows);
            if (p.reset.base) reset(t, rows);
            return true;
        }

        // Adds the gradients that were given for the states after the step. Then the gradients are whole.
        void add_given_gradients(int64_t t, int64_t rows) {
            for (int k = 0; k < cell.states; ++k) {
                const Steps &given = k == 0 ? p.grad_output : p.grad_history[k], &wanted = p.grad_after[k];
                if (given.base == nullptr && wanted.base == nullptr) continue;
                const Units units = within(p.state_size(k));
                const int64_t n = units.last - units.first;
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t row = share.first + r;
                    T* to = carried(k, row) + units.first;
                    if (given.base)
                        update_row<T>(to, n, [](auto x, auto y) { return x + y; },
                                      static_cast<const S*>(given.base) + t * given.step + b.plan.order[row] * given.row + units.first);
                    if (wanted.base)
                        copy_row(static_cast<S*>(wanted.base) + t * wanted.step + b.plan.order[row] * wanted.row + units.first, to, n);
                }
            }
        }

        // Adds the gradients that were given for `count` accumulators from `first` on.
        void add_to_pre_activations(int64_t t, int64_t rows, int first, int count) {
            const Units units = within(p.units);
            for (int a = first; a < first + count; ++a) {
                const Steps& given = p.grad_pre_activations[a];
                if (given.base == nullptr) continue;
                for (int64_t r = 0; r < rows; ++r) {
                    const T* from = static_cast<const T*>(given.base) + t * given.step + b.plan.order[share.first + r] * given.row;
                    T* to = b.pre_activations + (kept_row(t) + r) * size.pre_activations + a * size.units;
                    update_row<T>(to + units.first, units.last - units.first, [](auto x, auto y) { return x + y; }, from + units.first);
                }
            }
        }

        // Zoneout: the gradient of the share that bypassed the cell.
        void hold_old(int64_t t, int64_t rows) {
            for (int k = 0; k < cell.states; ++k) {
                if (p.zoneout[k].base == nullptr) continue;
                const Units units = within(p.state_size(k));
                const int64_t n = units.last - units.first;
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t row = share.first + r;
                    const S* kept = static_cast<const S*>(p.zoneout[k].base) + t * p.zoneout[k].step + b.plan.order[row] * p.zoneout[k].row;
                    T* now = carried(k, row) + units.first;
                    T* held = b.held[k] + row * size.state(k) + units.first;
                    copy_row(held, now, n);
                    update_row<T>(held, n, [](auto x, auto kept) { return x * kept; }, kept + units.first);
                    update_row<T>(now, n, [](auto x, auto kept) { return x * (1 - kept); }, kept + units.first);
                }
            }
        }

        void add_held(int64_t rows) {
            for (int k = 0; k < cell.states; ++k) {
                if (p.zoneout[k].base == nullptr) continue;
                const Units units = within(p.state_size(k));
                for (int64_t r = 0; r < rows; ++r)
                    update_row<T>(carried(k, share.first + r) + units.first, units.last - units.first, [](auto x, auto y) { return x + y; },
                                  b.held[k] + (share.first + r) * size.state(k) + units.first);
            }
        }

        void project_back(int64_t t, int64_t rows) {
            T* projected = b.projected + kept_row(t) * size.output;
            for (int64_t r = 0; r < rows; ++r) std::copy_n(carried(0, share.first + r), size.output, projected + r * size.output);
            b.projection.multiply(rows, Strided<T>{projected, size.output}, 0, size.units / V, {b.zeros, 0},
                                  {b.unprojected + share.first * size.units, size.units});
        }

        void step_back(int64_t t, int64_t rows) {
            BackwardArgs<T> args{};
            args.rows = rows;
            args.first_unit = own.first;
            args.last_unit = own.last;
            args.padded = size.units;
            args.units = p.units;
            args.saved = activations.saved + kept_row(t) * size.saved;
            args.saved_stride = size.saved;
            for (int k = 0; k < cell.states; ++k) {
                args.state[k] = activations.state[k].at(before(t), share.first);
                args.state_stride[k] = args.gradient_stride[k] = size.state(k);
                args.gradient[k] = carried(k, share.first);
            }
            if (p.projection) {
                args.gradient[0] = b.unprojected + share.first * size.units;
                args.gradient_stride[0] = size.units;
            }
            for (int k = 0; k < cell.params; ++k) {
                args.params[k] = b.params[k];
                args.param_gradients[k] = b.param_gradients[k] + index * size.units;
            }
            args.pre_activations = b.pre_activations + kept_row(t) * size.pre_activations;
            args.pre_activations_stride = size.pre_activations;
            if (rows == 0) return;
            if (cell.second_stage) {
                table<T>(cell).second_stage_backward(args);
                add_to_pre_activations(t, rows, cell.accumulators - cell.second_stage, cell.second_stage);
                args.second_stage_gradient = through_second_stage(args);
            }
            table<T>(cell).backward(args);  // it computes those of the second stage again
            add_to_pre_activations(t, rows, 0, cell.accumulators);
        }

        // The gradient of the second stage's recurrent input, through its product.
        const T* through_second_stage(const BackwardArgs<T>& args) {
            T* to = b.second_stage_gradient + share.first * size.units;
            const Strided<T> a{args.pre_activations + size.pre_activations - size.second_stage, size.pre_activations};
            b.second_stage.multiply(args.rows, a, 0, size.units / V, {b.zeros, 0}, {to, size.units});
            for (int64_t r = 0; p.recurrent_factor.base && r < args.rows; ++r)
                update_row<T>(to + r * size.units, p.units, [](auto x, auto factor) { return x * factor; },
                              static_cast<const S*>(p.recurrent_factor.base) + b.plan.order[share.first + r] * p.recurrent_factor.row);
            return to;
        }

        // The biases' gradients: the pre-activations' gradients, summed over all steps and sequences.
        void add_bias_gradients(int64_t t, int64_t rows) {
            T* total = b.totals + index * size.pre_activations;
            const T* from = b.pre_activations + kept_row(t) * size.pre_activations;
            for (int64_t at = 0; at < size.pre_activations; at += size.units)
                for (int64_t c = at + own.first; c < at + own.last; c += V) {
                    vec<T> sum = load(total + c);
                    for (int64_t r = 0; r < rows; ++r) sum += load(from + r * size.pre_activations + c);
                    store(total + c, sum);
                }
        }

        // The gradients of the states before the step: those through the pre-activations, and those of the other equations.
        void carry(int64_t t, int64_t rows) {
            const Strided<T> a = b.from_state(kept_row(t));
            if (p.projection)  // no equation has the projected state: all its gradient comes through the pre-activations
                for (int64_t r = 0; r < rows; ++r) std::fill_n(carried(0, share.first + r), size.output, T(0));
            for (int f = 0; f < cell.feedbacks; ++f) {
                const int k = cell.feedback[f];
                const int64_t stride = size.state(k);
                const int64_t first = together ? own.first / V : 0, last = together ? own.last / V : stride / V;
                T* to = carried(k, share.first);
                if (p.recurrent_factor.base == nullptr) {
                    b.recurrent[f].multiply(rows, a, first, last, {to, stride}, {to, stride});
                } else {
                    T* through = b.through + share.first * std::max(size.output, size.units);
                    b.recurrent[f].multiply(rows, a, first, last, {b.zeros, 0}, {through, stride});
                    const Units units = within(p.state_size(k));
                    const S* factors = static_cast<const S*>(p.recurrent_factor.base) + p.recurrent_column(f);
                    for (int64_t r = 0; r < rows; ++r) {
                        const S* factor = factors + b.plan.order[share.first + r] * p.recurrent_factor.row;
                        update_row<T>(to + r * stride + units.first, units.last - units.first,
                                      [](auto x, auto y, auto factor) { return x + y * factor; },
                                      through + r * stride + units.first, factor + units.first);
                    }
                }
            }
        }

        void reset(int64_t t, int64_t rows) {
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t row = share.first + r;
                if (!static_cast<const uint8_t*>(p.reset.base)[t * p.reset.step + b.plan.order[row] * p.reset.row]) continue;
                for (int k = 0; k < cell.states; ++k) {
                    const Units units = within(p.state_size(k));
                    std::fill(carried(k, row) + units.first, carried(k, row) + units.last, T(0));
                }
            }
        }

        void begin(int64_t row) {
            for (int k = 0; k < cell.states; ++k) {
                const Units units = within(size.state(k));
                std::fill(carried(k, row) + units.first, carried(k, row) + units.last, T(0));
                const Units real = within(p.state_size(k));
                if (p.grad_final[k].base)
                    copy_row(carried(k, row) + real.first, static_cast<const S*>(p.grad_final[k].base) + b.plan.order[row] * p.grad_final[k].row + real.first,
                             real.last - real.first);
            }
        }

        void end(int64_t row) {
            for (int k = 0; k < cell.states; ++k) {
                if (p.grad_state[k].base == nullptr) continue;
                const Units units = within(p.state_size(k));
                copy_row(static_cast<S*>(p.grad_state[k].base) + b.plan.order[row] * p.grad_state[k].row + units.first, carried(k, row) + units.first,
                         units.last - units.first);
            }
        }

        // The products' gradients, from the gradients of what layer normalisation made of them.
        void normalise_backward(int64_t t, int64_t rows) {
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t row = kept_row(t) + r;
                const T* from = b.pre_activations + row * size.pre_activations;
                undo(b.raw_input + row * size.from_input, from, b.norm_weight_input, activations.normalised_input + row * size.from_input,
                     activations.inverse_std_input[row], cell.from_input);
                undo(b.raw_state + row * size.from_state, from + size.first_from_state(), b.norm_weight_recurrent,
                     activations.normalised_recurrent + row * size.from_state, activations.inverse_std_recurrent[row], cell.from_state);
            }
        }

        void undo(T* to, const T* from, const T* norm_weight, const T* normalised, T inverse_std, int accumulators) {
            const int64_t n = accumulators * size.units;  // norm weights are zero in the padding
            vec<T> sum{}, along{};
            for (int64_t k = 0; k < n; k += V) {
                const vec<T> x = load(from + k) * load(norm_weight + k);
                store(to + k, x);
                sum += x;
                along += first_lanes<T>(x * load(normalised + k), p.units - k % size.units);
            }
            const T count = T(accumulators * p.units), mean = reduce_add(sum) / count, slope = reduce_add(along) / count;
            for (int64_t k = 0; k < n; k += V)
                store(to + k, first_lanes<T>((load(to + k) - mean - load(normalised + k) * slope) * inverse_std, p.units - k % size.units));
        }

        Backward& b;
        const Problem& p;
        const Cell& cell;
        const Sizes<T>& size;
        const Activations<T>& activations;
        const Share share;
        const int index, member;
        Team& team;
        bool together;
        Units own;
    };

    // The gradients of the input's products, and of the recurrent ones: a part of the pre-activations' gradients, or what
    // layer normalisation made of them.
    Strided<T> from_input(int64_t row) const {
        return layer_norm ? Strided<T>{raw_input + row * size.from_input, size.from_input} : Strided<T>{pre_activations + row * size.pre_activations, size.pre_activations};
    }
    Strided<T> from_state(int64_t row) const {
        return layer_norm ? Strided<T>{raw_state + row * size.from_state, size.from_state}
                      : Strided<T>{pre_activations + row * size.pre_activations + size.first_from_state(), size.pre_activations};
    }

    // Lists every step of every sequence: the rows of the products over time.
    struct Step {
        int64_t t, row;
    };

    void list_rows() {
        steps = arena.take<Step>(p.steps * p.batch);
        count = 0;
        for (int64_t t = 0; t < p.steps; ++t)
            for (int s = 0; s < plan.count; ++s)
                for (int64_t r = 0, n = running(plan, plan.shares[s], t); r < n; ++r) steps[count++] = {t, plan.shares[s].first + r};
    }

    S* x_row(const Steps& x, Step s) const { return static_cast<S*>(x.base) + s.t * x.step + plan.order[s.row] * x.row; }

    void input_gradient() {
        const int64_t items = (count + gradient_rows - 1) / gradient_rows;
        Pool::get().run(int(items), threads, [this](int item) {
            const AmxScope tiles;
            Arena& mine = Arena::mine();
            Arena::Frame frame(mine);
            const int64_t first = item * gradient_rows, n = std::min(gradient_rows, count - first);
            const T** rows = mine.take<const T*>(n);
            T* to = mine.take<T>(n * size.inputs);
            T* start = mine.take<T>(size.inputs);
            std::fill_n(start, size.inputs, T(0));
            for (int64_t k = 0; k < n; ++k) rows[k] = from_input(steps[first + k].t * p.batch + steps[first + k].row).base;
            input.multiply(n, Gathered<T>{rows}, 0, size.inputs / V, {start, 0}, {to, size.inputs});
            for (int64_t k = 0; k < n; ++k) copy_row(x_row(p.grad_x, steps[first + k]), to + k * size.inputs, p.inputs);
        });
        for (int64_t row = 0; row < p.batch; ++row)
            for (int64_t t = plan.length[row]; t < p.steps; ++t) std::memset(x_row(p.grad_x, {t, row}), 0, size_t(p.inputs) * sizeof(S));
    }

    // The right factor of a weight's gradient, which is the sum over all steps of pre-activation gradients (a
    // column) times b's row of `columns` numbers. to: the destination of each row of the gradient.
    template <class B>
    struct Side {
        int64_t columns;
        B b;
        S* const* to;
    };
    template <class B>
    Side(int64_t, B, S* const*) -> Side<B>;

    // The gradients of several weights that have the left factor a in common.
    template <class A, class... B>
    void outer_sum(int64_t rows, const A& a, const Side<B>&... side) {
        if (rows == 0) return;
        if (count <= few_steps) return (outer_few(rows, a, side), ...);
        const P* packed[] = {pack_side(side)...};
        const int64_t items = pieces(rows), block = padded<T>((rows + items - 1) / items);
        Pool::get().run(int(items), threads, [&](int item) {
            const int64_t first = std::min(rows, block * item), n = std::min(rows, first + block) - first;
            if (n > 0) outer_block(first, n, a, packed, side...);
        });
    }

    // outer_sum for so few steps that packing is not worth while.
    template <class A, class B>
    void outer_few(int64_t rows, const A& a, const Side<B>& side) {
        decltype(a(Step{})) from[few_steps];
        decltype(side.b(Step{})) with[few_steps];
        for (int64_t k = 0; k < count; ++k) from[k] = a(steps[k]), with[k] = side.b(steps[k]);
        for (int64_t r = 0; r < rows; ++r) {
            if (side.to[r] == nullptr) continue;
            for (int64_t c = 0; c < side.columns; c += V) {
                const int n = int(std::min<int64_t>(V, side.columns - c));
                vec<T> sum{};
                for (int64_t k = 0; k < count; ++k)
                    sum += splat(from[k][r]) * (n == V ? load(with[k] + c) : load(with[k] + c, n));
                if (n == V)
                    store(side.to[r] + c, sum);
                else
                    store(side.to[r] + c, sum, n);
            }
        }
    }

    // The right factor, packed in panels for each stretch of k_block steps.
    template <class B>
    const P* pack_side(const Side<B>& side) {
        const int64_t wide = padded<T>(side.columns), stretches = (count + k_block - 1) / k_block;
        P* packed = arena.take<P>(stretches * k_block * wide * parts);
        Pool::get().run(int(stretches), threads, [&, packed](int stretch) {
            const int64_t at = stretch * k_block, k = std::min(k_block, count - at);
            decltype(side.b(Step{})) rows[k_block];
            for (int64_t j = 0; j < k; ++j) rows[j] = side.b(steps[at + j]);
            for (int64_t c = 0; c < side.columns; c += V)
                pack_columns<P>(packed + (at * wide + c * packed_length<P>(k)) * parts, rows, k, parts, c, int(std::min<int64_t>(V, side.columns - c)));
        });
        return packed;
    }

    template <class A, class... B>
    void outer_block(int64_t first, int64_t rows, const A& a, const P* const* packed, const Side<B>&... side) {
        const AmxScope tiles;
        Arena& mine = Arena::mine();
        Arena::Frame frame(mine);
        constexpr int sides = sizeof...(B);
        const int64_t wide[] = {padded<T>(side.columns)...};
        T* sum[sides];
        for (int i = 0; i < sides; ++i) {
            sum[i] = mine.take<T>(rows * wide[i]);
            std::fill_n(sum[i], rows * wide[i], T(0));
        }
        T* transposed = mine.take<T>(padded<T>(rows) * k_block);
        const T** from = mine.take<const T*>(k_block + V);
        for (int64_t at = 0; at < count; at += k_block) {
            const int64_t k = std::min(k_block, count - at);
            for (int64_t j = 0; j < k; ++j) from[j] = a(steps[at + j]) + first;
            for (int64_t j = k; j < k + V; ++j) from[j] = nullptr;
            transpose_rows(transposed, from, k, rows);
            for (int i = 0; i < sides; ++i)
                product<P>(rows, Strided<T>{transposed, k_block}, k, packed[i] + at * wide[i] * parts, parts, 0, wide[i] / V, {sum[i], wide[i]}, {sum[i], wide[i]});
        }
        int i = 0;
        ((put_rows(first, rows, sum[i], wide[i], side), ++i), ...);
    }

    template <class B>
    static void put_rows(int64_t first, int64_t rows, const T* sum, int64_t wide, const Side<B>& side) {
        for (int64_t r = 0; r < rows; ++r)
            if (S* row = side.to[first + r]) copy_row(row, sum + r * wide, side.columns);
    }

    // Transposes k rows: to[r][j] = from[j][r].
    static void transpose_rows(T* to, const T* const* from, int64_t k, int64_t rows) {
        for (int64_t j = 0; j < k; j += V)
            for (int64_t r = 0; r < rows; r += V) {
                vec<T> x[V];
                const int n = int(std::min<int64_t>(V, rows - r));
#pragma GCC unroll 16
                for (int i = 0; i < V; ++i) x[i] = from[j + i] == nullptr ? vec<T>{} : n == V ? load(from[j + i] + r) : load(from[j + i] + r, n);
                transpose<T>(x);
#pragma GCC unroll 16
                for (int i = 0; i < V; ++i) store(to + (r + i) * k_block + j, x[i]);
            }
    }

    // The destination of each accumulator's rows in a gradient of G·H rows.
    S** rows_of(void* gradient, int first, int accumulators, int64_t columns, int64_t column) {
        S** to = arena.take<S*>(accumulators * size.units);
        for (int a = 0; a < accumulators; ++a)
            for (int64_t u = 0; u < size.units; ++u)
                to[a * size.units + u] =
                    u < p.units ? static_cast<S*>(gradient) + (cell.gate[first + a] * p.units + u) * columns + column : nullptr;
        return to;
    }

    int64_t pieces(int64_t rows) const {
        const int64_t most = 256;
        return threads * ((rows + most * threads - 1) / (most * threads));
    }

    void weight_gradients() {
        const Weights& g = p.grad_weights;
        const auto row_of = [this](Step s) { return s.t * p.batch + s.row; };
        const auto of_input = [&](Step s) { return from_input(row_of(s)).base; };
        const auto of_state = [&](Step s) { return from_state(row_of(s)).base; };
        const auto x = [&] {
            return Side{p.inputs, [this](Step s) { return static_cast<const S*>(x_row(p.x, s)); },
                        rows_of(g.input, 0, cell.from_input, p.inputs, 0)};
        };
        const auto recurrent_input = [&](int f) {
            return Side{p.state_size(cell.feedback[f]), [this, f](Step s) { return static_cast<const T*>(activations.recurrent_input[f].at(p.reverse ? s.t + 1 : s.t, s.row)); },
                        rows_of(g.recurrent, cell.accumulators - cell.from_state, cell.from_state - cell.second_stage, p.recurrent_size(), p.recurrent_column(f))};
        };
        const bool alike = !layer_norm && !cell.second_stage && cell.from_input == cell.accumulators && cell.from_state == cell.accumulators;
        if (g.input && g.recurrent && alike && cell.feedbacks == 1) {
            outer_sum(size.pre_activations, of_input, x(), recurrent_input(0));
        } else {
            if (g.input) outer_sum(size.from_input, of_input, x());
            for (int f = 0; f < cell.feedbacks && g.recurrent; ++f) outer_sum(size.first_stage(), of_state, recurrent_input(f));
        }
        if (g.recurrent && cell.second_stage)
            outer_sum(size.second_stage, [&](Step s) { return of_state(s) + size.first_stage(); },
                      Side{p.units, [&](Step s) { return static_cast<const T*>(activations.second_stage_input + row_of(s) * size.units); },
                           rows_of(g.recurrent, cell.accumulators - cell.second_stage, cell.second_stage, p.recurrent_size(), 0)});
        if (g.projection) {
            S** to = arena.take<S*>(p.projection);
            for (int64_t r = 0; r < p.projection; ++r) to[r] = static_cast<S*>(g.projection) + r * p.units;
            outer_sum(p.projection, [&](Step s) { return projected + row_of(s) * size.output; },
                      Side{p.units, [&](Step s) { return static_cast<const T*>(activations.unprojected + row_of(s) * size.units); }, to});
        }
    }

    // The gradients of biases, norm weights and per-unit parameters: sums over all steps.
    void vector_gradients() {
        const Weights& g = p.grad_weights;
        T* sum = arena.take<T>(size.pre_activations);
        add_shares(totals, size.pre_activations);
        scatter(g.input_bias, totals, 0, cell.from_input);
        scatter(g.recurrent_bias, totals + size.first_from_state(), cell.accumulators - cell.from_state, cell.from_state);
        if (g.norm_input) norm_weight_gradient(g.norm_input, activations.normalised_input, 0, cell.from_input, sum);
        if (g.norm_recurrent)
            norm_weight_gradient(g.norm_recurrent, activations.normalised_recurrent, cell.accumulators - cell.from_state, cell.from_state, sum);
        for (int k = 0; k < cell.params; ++k) {
            if (g.per_unit[k] == nullptr) continue;
            add_shares(param_gradients[k], size.units);
            copy_row(static_cast<S*>(g.per_unit[k]), param_gradients[k], p.units);
        }
    }

    // Adds each share's n sums, which lie one after the other, to those of the first share.
    void add_shares(T* first, int64_t n) {
        for (int s = 1; s < plan.count; ++s)
            for (int64_t c = 0; c < n; c += V) store(first + c, load(first + c) + load(first + s * n + c));
    }

    void norm_weight_gradient(void* to, const T* normalised, int first, int accumulators, T* sum) {
        const int64_t wide = accumulators * size.units;
        std::fill_n(sum, wide, T(0));
        for (int64_t k = 0; k < count; ++k) {
            const int64_t row = steps[k].t * p.batch + steps[k].row;
            const T* from = pre_activations + row * size.pre_activations + first * size.units;
            for (int64_t c = 0; c < wide; c += V) store(sum + c, load(sum + c) + load(from + c) * load(normalised + row * wide + c));
        }
        scatter(to, sum, first, accumulators);
    }

    void scatter(void* to, const T* from, int first, int accumulators) {
        if (to == nullptr) return;
        for (int a = 0; a < accumulators; ++a)
            copy_row(static_cast<S*>(to) + cell.gate[first + a] * p.units, from + a * size.units, p.units);
    }

    const Problem& p;
    const Cell& cell;
    Sizes<T> size;
    Arena& arena;
    Plan plan;
    int threads, parts;
    Activations<T> activations;
    bool layer_norm;
    T *totals, *pre_activations, *raw_input = nullptr, *raw_state = nullptr, *projected = nullptr, *unprojected = nullptr, *through = nullptr, *second_stage_gradient = nullptr, *zeros;
    T *carried[max_states], *held[max_states], *params[max_params], *param_gradients[max_params];
    T *norm_weight_input = nullptr, *norm_weight_recurrent = nullptr;
    bool wants_state = false;  // whether the gradient of an initial state is wanted
    Matrix recurrent[max_states], second_stage, input, projection;
    Step* steps;
    int64_t count;
};

}  // namespace gw
