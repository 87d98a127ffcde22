// Python's view of the core: loads one library of kernels, fills in Problems and runs them. Sizes,
// types and devices are checked in Python (backends/cpu.py) before anything gets here.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;
using namespace gw;

namespace {

const Kernels* kernels = nullptr;

void* symbol(const std::string& library, const char* name) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed
    void* found = handle ? dlsym(handle, name) : nullptr;
    if (found == nullptr) throw std::runtime_error(dlerror());
    return found;
}

template <class T = void>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (address, step, row) and (address, row): strides in elements.
using StepsGiven = std::tuple<uintptr_t, int64_t, int64_t>;
using RowsGiven = std::tuple<uintptr_t, int64_t>;

Steps steps(const StepsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given), std::get<2>(given)}; }
Rows rows(const RowsGiven& given) { return {pointer(std::get<0>(given)), std::get<1>(given)}; }

struct Call {
    Problem problem;
    Storage storage;
};

// In the order of contract.Weights, the per-unit parameters last.
void set_weights(Weights& weights, const std::vector<uintptr_t>& given) {
    void** named[] = {&weights.input,      &weights.recurrent,  &weights.input_bias,    &weights.recurrent_bias,
                      &weights.projection, &weights.norm_input, &weights.norm_recurrent};
    constexpr size_t count = sizeof named / sizeof *named;
    for (size_t k = 0; k < given.size(); ++k) (k < count ? *named[k] : weights.per_unit[k - count]) = pointer(given[k]);
}

template <Rows (Problem::*field)[most_states]>
void set_rows(Call& call, const std::vector<RowsGiven>& given) {
    for (size_t k = 0; k < given.size(); ++k) (call.problem.*field)[k] = rows(given[k]);
}

template <Steps Problem::*field>
void set_steps(Call& call, const StepsGiven& given) {
    call.problem.*field = steps(given);
}

}  // namespace

NB_MODULE(_core, m) {
    m.def("load", [](const std::string& library) {
        kernels = static_cast<const Kernels*>(symbol(library, "gw_kernels"));
    });
    m.def("level", [] { return std::string(kernels->level); });
    m.def("vector_bytes", [] { return kernels->vector_bytes; });
    m.def("cell", [](const std::string& library, const std::string& name) {
        return reinterpret_cast<uintptr_t>(symbol(library, name.c_str()));
    });
    m.def("supports", [](const std::string& feature) {
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (feature == "v2") return bool(__builtin_cpu_supports("x86-64-v2"));
        if (feature == "v3") return bool(__builtin_cpu_supports("x86-64-v3"));
        if (feature == "v4") return bool(__builtin_cpu_supports("x86-64-v4"));
        if (feature == "v4bf16") return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
        return false;
#else
        return feature == "neon";
#endif
    });

    nb::class_<Call>(m, "Call")
        .def("__init__",
             [](Call* call, uintptr_t cell, int storage, int64_t steps, int64_t batch, int64_t inputs, int64_t units,
                int64_t projection, bool reverse, int threads) {
                 new (call) Call{{}, Storage(storage)};
                 Problem& p = call->problem;
                 p.cell = pointer<const Cell>(cell);
                 p.steps = steps;
                 p.batch = batch;
                 p.inputs = inputs;
                 p.units = units;
                 p.projection = projection;
                 p.reverse = reverse;
                 p.threads = threads;
             })
        .def("x", set_steps<&Problem::x>)
        .def("output", set_steps<&Problem::output>)
        .def("reset", set_steps<&Problem::reset>)
        .def("grad_output", set_steps<&Problem::grad_output>)
        .def("grad_x", set_steps<&Problem::grad_x>)
        .def("state", set_rows<&Problem::state>)
        .def("final_state", set_rows<&Problem::final_state>)
        .def("grad_final", set_rows<&Problem::grad_final>)
        .def("grad_state", set_rows<&Problem::grad_state>)
        .def("fed_factor", [](Call& call, const RowsGiven& given) { call.problem.fed_factor = rows(given); })
        .def("zoneout",
             [](Call& call, const std::vector<StepsGiven>& given) {
                 for (size_t k = 0; k < given.size(); ++k) call.problem.zoneout[k] = steps(given[k]);
             })
        .def("weights", [](Call& call, const std::vector<uintptr_t>& given) { set_weights(call.problem.weights, given); })
        .def("grad_weights",
             [](Call& call, const std::vector<uintptr_t>& given) { set_weights(call.problem.grad_weights, given); })
        .def("lengths", [](Call& call, uintptr_t lengths) { call.problem.lengths = pointer<const int64_t>(lengths); })
        .def("trace", [](Call& call, uintptr_t trace) { call.problem.trace = pointer(trace); })
        .def("tape", [](Call& call, uintptr_t tape) { call.problem.tape = pointer(tape); })
        .def("tape_size",
             [](const Call& call) {
                 return std::tuple(kernels->tape_row(call.problem, call.storage), kernels->tape_beside(call.storage));
             })
        .def("order", [](const Call& call, uintptr_t to) { kernels->order(call.problem, pointer<int64_t>(to)); })
        .def("forward", [](const Call& call) { kernels->forward(call.problem, call.storage); },
             nb::call_guard<nb::gil_scoped_release>())
        .def("backward", [](const Call& call) { kernels->backward(call.problem, call.storage); },
             nb::call_guard<nb::gil_scoped_release>());
}
