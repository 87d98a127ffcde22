// A cell as the time loop uses it: its sizes, its step and the backward pass of its step.
//
// The emitter prints a cell's equations as a struct with two static functions of vectors, `step` and
// `backward`. The templates below turn such a struct into a table of functions that run it over rows and
// units. The time loop calls these once per step, so it is not compiled again for each cell.
#pragma once

#include <cstdint>

#include "math.h"
#include "vec.h"

namespace gw {

inline constexpr int max_states = GW_MAX_STATES;
inline constexpr int max_accumulators = GW_MAX_ACCUMULATORS;
inline constexpr int max_params = GW_MAX_PARAMS;
inline constexpr int max_values = GW_MAX_VALUES;

// Each row is a sequence; each pointer is to the first row. The units of a row are contiguous and padded to
// whole vectors: `padded` numbers for each accumulator, saved value or traced value.
template <class T>
struct StepArgs {
    T* second_stage_input;  // out, of `second_stage_input`: the recurrent input of the second stage; its stride is `padded`
    int64_t rows, first_unit, last_unit, padded;
    const T* pre_activations;  // one for each accumulator and unit
    int64_t pre_activations_stride;
    const T* state[max_states];
    int64_t state_stride[max_states];
    T* next[max_states];
    int64_t next_stride[max_states];
    const T* params[max_params];
    T* saved;
    int64_t saved_stride;
    T* values[max_values];  // the stride of each is `padded`
};

template <class T>
struct BackwardArgs {
    int64_t rows, first_unit, last_unit, padded, units;
    const T* saved;
    int64_t saved_stride;
    const T* state[max_states];
    int64_t state_stride[max_states];
    const T* params[max_params];
    const T* second_stage_gradient;  // of the second stage's recurrent input; its stride is `padded`
    T* gradient[max_states];  // in: of the new state; out: of the old state, without what comes through the pre-activations
    int64_t gradient_stride[max_states];
    T* pre_activations;  // out: the accumulators' gradients, zero in the padding
    int64_t pre_activations_stride;
    T* param_gradients[max_params];  // the gradients are added to these
};

template <class T>
struct CellTable {
    void (*second_stage_input)(const StepArgs<T>&);  // null for a cell of one stage, as is second_stage_backward
    void (*step)(const StepArgs<T>&);
    void (*step_saving)(const StepArgs<T>&);
    void (*step_tracing)(const StepArgs<T>&);
    void (*second_stage_backward)(const BackwardArgs<T>&);  // the gradients of the second stage's accumulators alone
    void (*backward)(const BackwardArgs<T>&);
};

// An accumulator is a pre-activation that the time loop computes for each unit: a whole gate or one of its
// two parts. The order is: input parts, whole gates, recurrent parts. The first `from_input` have the input's
// product, the last `from_state` the recurrent product. The last `second_stage` of these are whole gates whose
// recurrent input is not the previous state but a value of this step; `second_stage_input` computes it.
struct Cell {
    const char* fingerprint;  // of the printed equations that the cell was compiled from
    int gates, accumulators, from_input, from_state, second_stage, states, params, saved, values, feedbacks;
    int gate[max_accumulators];  // each accumulator's gate
    int feedback[max_states];    // the states that the recurrent weights multiply
    int value[max_states];       // the index of each new state among the values
    CellTable<float> in_float;
    CellTable<double> in_double;
};

template <class T>
const CellTable<T>& table(const Cell& cell) {
    if constexpr (sizeof(T) == sizeof(float))
        return cell.in_float;
    else
        return cell.in_double;
}

enum class Keep { nothing, saved, values };

// A pair of vectors. The operations of a step form long dependency chains; two interleaved chains keep the
// processor busy.
template <class T>
struct Two {
    vec<T> a, b;
};

template <class T>
GW_INLINE Two<T> operator+(Two<T> x, Two<T> y) { return {x.a + y.a, x.b + y.b}; }
template <class T>
GW_INLINE Two<T> operator-(Two<T> x, Two<T> y) { return {x.a - y.a, x.b - y.b}; }
template <class T>
GW_INLINE Two<T> operator*(Two<T> x, Two<T> y) { return {x.a * y.a, x.b * y.b}; }
template <class T>
GW_INLINE Two<T> operator/(Two<T> x, Two<T> y) { return {x.a / y.a, x.b / y.b}; }
template <class T>
GW_INLINE Two<T> operator-(Two<T> x) { return {-x.a, -x.b}; }

#define GW_OF_TWO(f)                                                          \
    template <class T>                                                        \
    GW_INLINE Two<T> f(Two<T> x) { return {f(x.a), f(x.b)}; }
#define GW_OF_TWO_AND_TWO(f)                                                  \
    template <class T>                                                        \
    GW_INLINE Two<T> f(Two<T> x, Two<T> y) { return {f(x.a, y.a), f(x.b, y.b)}; }
GW_OF_TWO(exp)
GW_OF_TWO(log)
GW_OF_TWO(tanh)
GW_OF_TWO(sigmoid)
GW_OF_TWO(softplus)
GW_OF_TWO(relu)
GW_OF_TWO_AND_TWO(maximum)
GW_OF_TWO_AND_TWO(minimum)
GW_OF_TWO_AND_TWO(greater)
GW_OF_TWO_AND_TWO(relu_backward)
#undef GW_OF_TWO
#undef GW_OF_TWO_AND_TWO

// Loads, stores and constants of a step's type V.
template <class V>
struct Access {
    template <class T>
    GW_INLINE static V get(const T* from) { return load(from); }
    template <class T>
    GW_INLINE static void put(T* to, V x) { store(to, x); }
    GW_INLINE static V of(double x) { return splat(std::remove_cvref_t<decltype(V{}[0])>(x)); }
};
template <class T>
struct Access<Two<T>> {
    GW_INLINE static Two<T> of(double x) { return {splat(T(x)), splat(T(x))}; }
    GW_INLINE static Two<T> get(const T* from) { return {load(from), load(from + width<T>)}; }
    GW_INLINE static void put(T* to, Two<T> x) { store(to, x.a), store(to + width<T>, x.b); }
};

template <class V>
GW_INLINE V number(double x) {
    return Access<V>::of(x);
}

// Loads the arguments of a step's functions.
template <class Equations, class T, class V>
GW_INLINE void read_step(const StepArgs<T>& t, int64_t row, int64_t u, V* a, V* s, V* p) {
    using at = Access<V>;
    for (int k = 0; k < Equations::accumulators; ++k) a[k] = at::get(t.pre_activations + row * t.pre_activations_stride + k * t.padded + u);
    for (int k = 0; k < Equations::states; ++k)
        if (Equations::uses_state[k]) s[k] = at::get(t.state[k] + row * t.state_stride[k] + u);
    for (int k = 0; k < Equations::params; ++k) p[k] = at::get(t.params[k] + u);
}

template <class Equations, class T, Keep keep, class V>
GW_INLINE void step_at(const StepArgs<T>& t, int64_t row, int64_t u) {
    using at = Access<V>;
    V a[Equations::accumulators], s[Equations::states], p[Equations::params + 1];
    V next[Equations::states], saved[Equations::saved + 1], values[Equations::values];
    read_step<Equations, T, V>(t, row, u, a, s, p);
    Equations::step(a, s, p, next, saved, values);
    for (int k = 0; k < Equations::states; ++k) at::put(t.next[k] + row * t.next_stride[k] + u, next[k]);
    if constexpr (keep == Keep::saved)
        for (int k = 0; k < Equations::saved; ++k) at::put(t.saved + row * t.saved_stride + k * t.padded + u, saved[k]);
    if constexpr (keep == Keep::values)
        for (int k = 0; k < Equations::values; ++k) at::put(t.values[k] + row * t.padded + u, values[k]);
}

template <class Equations, class T>
void second_stage_input_rows(const StepArgs<T>& args) {
    using V = vec<T>;
    const StepArgs<T> t = args;
    for (int64_t row = 0; row < t.rows; ++row)
        for (int64_t u = t.first_unit; u < t.last_unit; u += width<T>) {
            V a[Equations::accumulators], s[Equations::states], p[Equations::params + 1];
            read_step<Equations, T, V>(t, row, u, a, s, p);
            V input;
            Equations::second_stage_input(a, s, p, &input);
            store(t.second_stage_input + row * t.padded + u, input);
        }
}

template <class Equations, class T, Keep keep>
void step_rows(const StepArgs<T>& args) {
    const StepArgs<T> t = args;  // a copy that no store can alias
    for (int64_t row = 0; row < t.rows; ++row) {
        int64_t u = t.first_unit;
        for (; u + 2 * width<T> <= t.last_unit; u += 2 * width<T>) step_at<Equations, T, keep, Two<T>>(t, row, u);
        if (u < t.last_unit) step_at<Equations, T, keep, vec<T>>(t, row, u);
    }
}

template <class T>
GW_INLINE vec<T> first_lanes(vec<T> x, int64_t n) {
    for (int lane = 0; lane < width<T>; ++lane) x[lane] = lane < n ? x[lane] : T(0);
    return x;
}

template <class Equations, class T>
GW_INLINE void read_backward(const BackwardArgs<T>& t, int64_t row, int64_t u, vec<T>* saved, vec<T>* s, vec<T>* p, vec<T>* seed) {
    for (int k = 0; k < Equations::saved; ++k) saved[k] = load(t.saved + row * t.saved_stride + k * t.padded + u);
    for (int k = 0; k < Equations::states; ++k) {
        if (Equations::uses_state[k]) s[k] = load(t.state[k] + row * t.state_stride[k] + u);
        seed[k] = load(t.gradient[k] + row * t.gradient_stride[k] + u);
    }
    for (int k = 0; k < Equations::params; ++k) p[k] = load(t.params[k] + u);
}

template <class Equations, class T>
void second_stage_backward_rows(const BackwardArgs<T>& args) {
    using V = vec<T>;
    const BackwardArgs<T> t = args;
    for (int64_t row = 0; row < t.rows; ++row)
        for (int64_t u = t.first_unit; u < t.last_unit; u += width<T>) {
            V saved[Equations::saved + 1], s[Equations::states], p[Equations::params + 1], seed[Equations::states];
            read_backward<Equations, T>(t, row, u, saved, s, p, seed);
            V da[Equations::second_stage + 1];
            Equations::second_stage_backward(saved, s, p, seed, da);
            for (int k = 0; k < Equations::second_stage; ++k)
                store(t.pre_activations + row * t.pre_activations_stride + (Equations::accumulators - Equations::second_stage + k) * t.padded + u,
                      first_lanes<T>(da[k], t.units - u));
        }
}

template <class Equations, class T>
void backward_rows(const BackwardArgs<T>& args) {
    using V = vec<T>;
    const BackwardArgs<T> t = args;
    for (int64_t row = 0; row < t.rows; ++row)
        for (int64_t u = t.first_unit; u < t.last_unit; u += width<T>) {
            V saved[Equations::saved + 1], s[Equations::states], p[Equations::params + 1], seed[Equations::states + 1];
            V da[Equations::accumulators], ds[Equations::states], dp[Equations::params + 1];
            read_backward<Equations, T>(t, row, u, saved, s, p, seed);
            if constexpr (Equations::second_stage > 0) seed[Equations::states] = load(t.second_stage_gradient + row * t.padded + u);
            Equations::backward(saved, s, p, seed, da, ds, dp);
            const int64_t left = t.units - u;
            if (left < width<T>) {  // the padding must not reach the recurrent product
                for (int k = 0; k < Equations::accumulators; ++k) da[k] = first_lanes<T>(da[k], left);
                for (int k = 0; k < Equations::states; ++k) ds[k] = first_lanes<T>(ds[k], left);
                for (int k = 0; k < Equations::params; ++k) dp[k] = first_lanes<T>(dp[k], left);
            }
            for (int k = 0; k < Equations::accumulators; ++k) store(t.pre_activations + row * t.pre_activations_stride + k * t.padded + u, da[k]);
            for (int k = 0; k < Equations::states; ++k) store(t.gradient[k] + row * t.gradient_stride[k] + u, ds[k]);
            for (int k = 0; k < Equations::params; ++k) {
                T* sum = t.param_gradients[k] + u;
                store(sum, load(sum) + dp[k]);
            }
        }
}

template <class Equations, class T>
constexpr CellTable<T> table_of() {
    CellTable<T> table{nullptr, step_rows<Equations, T, Keep::nothing>, step_rows<Equations, T, Keep::saved>,
                       step_rows<Equations, T, Keep::values>, nullptr, backward_rows<Equations, T>};
    if constexpr (Equations::second_stage > 0) {
        table.second_stage_input = second_stage_input_rows<Equations, T>;
        table.second_stage_backward = second_stage_backward_rows<Equations, T>;
    }
    return table;
}

template <class Equations>
constexpr Cell cell_of(const char* fingerprint) {
    Cell cell{fingerprint,
              Equations::gates,
              Equations::accumulators,
              Equations::from_input,
              Equations::from_state,
              Equations::second_stage,
              Equations::states,
              Equations::params,
              Equations::saved,
              Equations::values,
              Equations::feedbacks,
              {},
              {},
              {},
              table_of<Equations, float>(),
              table_of<Equations, double>()};
    for (int k = 0; k < Equations::accumulators; ++k) cell.gate[k] = Equations::gate[k];
    for (int k = 0; k < Equations::feedbacks; ++k) cell.feedback[k] = Equations::feedback[k];
    for (int k = 0; k < Equations::states; ++k) cell.value[k] = Equations::value_of_state[k];
    return cell;
}

}  // namespace gw
